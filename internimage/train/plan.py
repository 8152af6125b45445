"""What the loop needs to know to train anything; recipes of tasks extend it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """AdamW with a linear warm-up and a cosine down to ``final_lr``, on an average of the weights.

    ``warmup_epochs`` may be a fraction. ``clip_grad`` is the largest norm of all gradients together, None for no limit.
    ``ema_decay`` is how much of the average stays at each step; 0 keeps no average. ``dtype`` is "float32", or
    "bfloat16" for autocast. Everything random follows from ``seed`` and the number of the step.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    final_lr: float = 1e-6
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    clip_grad: float | None = 5.0
    ema_decay: float = 0.0
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("warmup_epochs", 0), ("weight_decay", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr is {self.lr}, expected a number above 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}, expected 0 to below 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}, expected 'float32' or 'bfloat16'")

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0: a function of the step, so that nothing is kept to resume."""
        warmup, total = round(self.warmup_epochs * steps_per_epoch), self.epochs * steps_per_epoch
        if step < warmup:
            return self.lr * (step + 1) / warmup
        progress = (step - warmup) / max(total - warmup, 1)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2

    def differences(self, other: dict[str, Any]) -> list[str]:
        """The fields that are not as in ``other``, written by ``dataclasses.asdict``: "epochs is 20, was 10"."""
        mine = asdict(self)
        names = sorted(mine.keys() | other.keys())
        return [f"{key} is {mine.get(key)}, was {other.get(key)}" for key in names if mine.get(key) != other.get(key)]
