"""The learning rate as a function of the step, so that nothing of it is kept to resume."""

from __future__ import annotations

from typing import Any

import torch
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler

from ..recipes.training import TrainingRecipe

_LAST_OF_LINEAR = 0.01  # of the highest rate


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: TrainingRecipe, steps_per_epoch: int) -> Scheduler:
    """The schedule of a recipe; call ``step_update(step)`` before each step, counted from 0, and nothing else.

    The rate climbs linearly from ``warmup_lr`` over the warm-up, which is part of the schedule: when it ends, a cosine
    has already come as far as the warm-up is long. Each parameter group falls from a rate of its own; ``min_lr`` and
    ``warmup_lr`` are the same for all. Parts of a step that are accumulated do not count.

    Args:
        optimizer: of :func:`~internimage.train.optim.make_optimizer`; the rates of its groups are set.
        steps_per_epoch: optimizer steps.
    """
    total, warmup = recipe.epochs * steps_per_epoch, int(recipe.warmup_epochs * steps_per_epoch)
    shared: dict[str, Any] = {
        "warmup_t": warmup,
        "warmup_lr_init": recipe.rates.warmup_lr,
        "t_in_epochs": False,
    }
    if recipe.schedule == "linear":
        return LinearLRScheduler(optimizer, t_initial=total, **shared)
    if recipe.schedule == "step":
        decay_steps = max(1, int(recipe.decay_epochs * steps_per_epoch))
        return StepLRScheduler(
            optimizer, decay_t=decay_steps, decay_rate=recipe.decay_rate, warmup_prefix=False, **shared
        )
    return CosineLRScheduler(optimizer, t_initial=total, lr_min=recipe.rates.min_lr, **shared)


class LinearLRScheduler(Scheduler):
    """A warm-up, then a straight line down to 1 % of the highest rate, which timm has no schedule for."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        t_initial: int,
        warmup_t: int = 0,
        warmup_lr_init: float = 0.0,
        t_in_epochs: bool = True,
    ) -> None:
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=t_in_epochs)
        self.t_initial, self.warmup_t, self.warmup_lr_init = t_initial, warmup_t, warmup_lr_init

    def _get_lr(self, t: int) -> list[float]:
        if t < self.warmup_t:
            return [self.warmup_lr_init + t * (rate - self.warmup_lr_init) / self.warmup_t for rate in self.base_values]
        done = (t - self.warmup_t) / max(self.t_initial - self.warmup_t, 1)
        return [rate * (1 - (1 - _LAST_OF_LINEAR) * min(done, 1.0)) for rate in self.base_values]
