"""The loop: fetch, forward, backward, clip, step, average, save, evaluate. It knows nothing of what is learned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .checkpoint import TrainingState
from .ema import WeightAverage
from .optim import freeze_levels, make_optimizer
from .recipe import TrainingRecipe
from .schedule import make_scheduler


class Task(Protocol):
    """What is learned: a model, its data, its loss and its measure."""

    device: torch.device
    steps_per_epoch: int
    fingerprint: str  # tells the data from other data

    @property
    def model(self) -> nn.Module: ...

    def batch(self, step: int) -> Any:
        """The batch of a step: a function of ``step`` and of torch's default generator, which the loop seeds."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of a batch."""

    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Figures of merit after an epoch on data that is not trained on, in percent; empty when there is none."""


class Watcher(Protocol):
    """Hears how it goes."""

    def stepped(self, state: TrainingState, loss: float) -> None: ...

    def finished_epoch(self, state: TrainingState) -> None: ...


def new_state(task: Task, plan: TrainingRecipe) -> TrainingState:
    """The state before the first step."""
    average = WeightAverage(task.model, plan.ema_decay) if plan.ema_decay else None
    freeze_levels(task.model, plan.frozen_levels)
    optimizer = make_optimizer(task.model, plan)
    return TrainingState(plan=plan, data=task.fingerprint, model=task.model, optimizer=optimizer, average=average)


def fit(
    task: Task,
    state: TrainingState,
    checkpoint: Path,
    watcher: Watcher,
    should_stop: Callable[[], bool] = lambda: False,
    save_every_s: float = 120.0,
) -> bool:
    """Train until the plan is done or ``should_stop()``; the state is saved in both cases, and now and then before.

    Reseeds torch's default generator at every step, so that a resumed run equals an uninterrupted one bit for bit.

    Returns:
        Whether the plan is done.

    Raises:
        FloatingPointError: the loss is not finite; the checkpoint stays as it was.
    """
    total = state.plan.epochs * task.steps_per_epoch
    saved = time.monotonic()
    started = saved - state.seconds
    while state.step < total:
        if should_stop():
            state.save(checkpoint)
            return False
        loss = train_step(task, state)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {state.step}; try a smaller --lr or --dtype float32")
        state.running_loss, state.seconds = state.running_loss + loss, time.monotonic() - started
        watcher.stepped(state, loss)
        if state.step % task.steps_per_epoch == 0:
            _finish_epoch(task, state)
            watcher.finished_epoch(state)
        if time.monotonic() - saved > save_every_s:
            state.save(checkpoint)
            saved = time.monotonic()
    state.save(checkpoint)
    return True


def train_step(task: Task, state: TrainingState) -> float:
    """One step; returns its loss."""
    plan, model = state.plan, state.model.train()
    torch.manual_seed(plan.seed * 1_000_003 + state.step)
    make_scheduler(state.optimizer, plan, task.steps_per_epoch).step_update(state.step)
    batch = task.batch(state.step)
    with torch.autocast(task.device.type, getattr(torch, plan.dtype), enabled=plan.dtype != "float32"):
        loss = task.loss(model, batch)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if plan.clip_grad is not None:
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip_grad)
    state.optimizer.step()
    if state.average is not None:
        state.average.update(model, state.step)
    state.step += 1
    return loss.item()


def _finish_epoch(task: Task, state: TrainingState) -> None:
    """Add a row to the history."""
    epoch = state.step // task.steps_per_epoch
    row = {
        "epoch": epoch,
        "step": state.step,
        "lr": max(group["lr"] for group in state.optimizer.param_groups),
        "train_loss": state.running_loss / task.steps_per_epoch,
        **task.evaluate(state.best_model(), epoch),
        "seconds": round(state.seconds, 1),
    }
    state.history.append(row)
    state.running_loss = 0.0
