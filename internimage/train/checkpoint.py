"""What a resumed run needs, as one object and one file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import write_through
from .ema import WeightAverage
from .recipe import TrainingRecipe

_FORMAT = "internimage training state 1"


@dataclass(kw_only=True)
class TrainingState:
    """Everything that changes while training, and what it was started with.

    ``data`` tells the data apart from other data; ``step`` counts finished steps; ``history`` has a row an epoch;
    ``running_loss`` is the sum of the losses of this epoch; ``seconds`` is the time spent so far.
    """

    plan: TrainingRecipe
    data: str
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
        """Write a file that :meth:`load` reads."""
        with write_through(path) as temporary:
            torch.save({"format": _FORMAT, **self._contents()}, temporary)

    def load(self, path: str | Path) -> None:
        """Continue from a file of :meth:`save`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no such file, or was written under another plan or on other data; the message says what
                differs.
        """
        saved = read_state(path)
        differences = self.plan.differences(saved["plan"])
        if saved["data"] != self.data:
            differences.append(f"the data is {self.data}, was {saved['data']}")
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
            "plan": asdict(self.plan),
            "data": self.data,
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
