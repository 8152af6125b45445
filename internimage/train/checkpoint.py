"""What a resumed run needs, as one object and one file."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .ema import WeightAverage
from .plan import TrainingPlan

_FORMAT = "internimage training state 1"


@dataclass(kw_only=True)
class TrainingState:
    """Everything that changes while training. ``step`` counts finished steps; ``history`` has a row an epoch."""

    plan: TrainingPlan
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    running_loss: float = 0.0
    seconds: float = 0.0

    def best_model(self) -> nn.Module:
        """The averaged model where there is one."""
        return self.model if self.average is None else self.average.model

    def save(self, path: str | Path) -> None:
        """Write to a temporary name beside ``path`` and rename, so that a file of that name is always whole."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        torch.save({"format": _FORMAT, "plan": asdict(self.plan), **self._contents()}, temporary)
        os.replace(temporary, path)

    def load(self, path: str | Path) -> None:
        """Continue from a file of :meth:`save`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no such file, or was written under another plan; the message says what differs.
        """
        saved = read_state(path)
        differences = self.plan.differences(saved["plan"])
        if differences:
            raise ValueError(
                f"{path} was trained otherwise ({'; '.join(differences)}); resume with the same recipe and options, "
                "or start afresh in another --output"
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.model.load_state_dict(saved["average"])
        self.step, self.history = saved["step"], saved["history"]
        self.running_loss, self.seconds = saved["running_loss"], saved["seconds"]

    def _contents(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "step": self.step,
            "history": self.history,
            "running_loss": self.running_loss,
            "seconds": self.seconds,
        }


def read_state(path: str | Path) -> dict[str, Any]:
    """The contents of a file of :meth:`TrainingState.save`; nothing in it is executed."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; start without --resume")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for what is no file of its own
        raise ValueError(f"{path} is not a training checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a training checkpoint of internimage; those are named checkpoint.pt")
    return saved
