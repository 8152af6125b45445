"""The loop: fetch, forward, backward, clip, step, average, save, evaluate. It knows nothing of what is learned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.order import Share
from ..data.seeds import mixed
from ..devices import moved
from .checkpoint import Checkpoints
from .nan_guard import first_bad_gradient, first_bad_layer
from .state import TrainingState

_MOST_SKIPPED = 40  # steps on end; each halves the loss scale, and by then it is below a ten-millionth
_STREAM = 4  # sets these random numbers apart from those of the data


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run goes on; what it learns is the recipe's, but what is random or normalised is so in each micro-batch.

    Attributes:
        accumulation: micro-batches of each process for one optimizer step.
        save_every_s: seconds between two checkpoints, or more where saving would take over a tenth of the time;
            ``save_every_steps`` counts steps instead where it is not 0.
        evaluate_every: epochs between two evaluations; the last epoch is always evaluated.
    """

    accumulation: int = 1
    save_every_s: float = 120.0
    save_every_steps: int = 0
    evaluate_every: int = 1


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a finished step tells.

    ``losses`` are those of this process, by name, with their ``total``; ``grad_norm`` is of all gradients before
    clipping; ``images`` are those of all processes.
    """

    number: int
    losses: dict[str, float]
    lr: float
    grad_norm: float
    images: int
    seconds: float


class Watcher(Protocol):
    """Hears how it goes, in the first process."""

    def stepped(self, state: TrainingState, step: Step) -> None: ...

    def finished_epoch(self, state: TrainingState) -> None: ...

    def improved(self, state: TrainingState, which: str, weights: dict[str, Tensor]) -> None:
        """``weights`` of the "model" or of the "average" have the best score so far."""


@dataclass
class _Clock:
    """When this sitting began and the last checkpoint was written, and the seconds that took."""

    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    saving_s: float = 0.0


def fit(
    state: TrainingState,
    checkpoints: Checkpoints,
    watchers: list[Watcher],
    conduct: Conduct | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train until the recipe is done or some process wants to stop; the state is saved in both cases, and now and then.

    Torch's default generator is seeded before every forward pass by the step, and batches are a function of the step:
    a resumed run equals an uninterrupted one bit for bit.

    Returns:
        Whether the recipe is done.

    Raises:
        FloatingPointError: a loss or the gradients are not finite; the state before that step is saved.
    """
    conduct = conduct or Conduct()
    clock, before = _Clock(), state.seconds
    share = Share(state.processes.rank, state.processes.world_size, conduct.accumulation)
    batches = state.task.batches(state.step, state.total_steps, share)
    watchers = watchers if state.processes.is_first else []
    while state.step < state.total_steps:
        if any(state.processes.any_of(should_stop())):
            _save(state, checkpoints, clock)
            return False
        began = time.monotonic()
        micro_batches = list(islice(batches, conduct.accumulation))
        losses, norm = train_step(state, micro_batches, share, checkpoints)
        state.seconds = before + time.monotonic() - clock.started
        step = Step(
            number=state.step,
            losses=losses,
            lr=_highest_rate(state),
            grad_norm=norm,
            images=sum(map(state.task.images_in, micro_batches)) * state.processes.world_size,
            seconds=time.monotonic() - began,
        )
        for watcher in watchers:
            watcher.stepped(state, step)
        if state.step % state.task.steps_per_epoch == 0:
            finish_epoch(state, watchers, conduct)
        if state.step < state.total_steps and _is_due(state, conduct, clock):
            _save(state, checkpoints, clock)
    _save(state, checkpoints, clock)
    return True


def train_step(
    state: TrainingState, micro_batches: list[Any], share: Share, checkpoints: Checkpoints
) -> tuple[dict[str, float], float]:
    """One optimizer step; returns the parts of its loss, with their total, and the norm of the gradients."""
    strategy, recipe = state.strategy, state.recipe
    state.scheduler.step_update(state.step)
    strategy.module.train()
    buffers = [(buffer, buffer.clone()) for buffer in strategy.module.buffers()]  # statistics change on the way
    losses: dict[str, float] = {}
    for index, batch in enumerate(micro_batches):
        seed_for(state, share, index)
        with strategy.exchange(last=index == len(micro_batches) - 1):
            with strategy.autocast():
                parts = state.task.loss(strategy.module, moved(batch, state.processes.device))
            total = sum(parts.values(), start=torch.zeros((), device=state.processes.device)) / len(micro_batches)
            for name, part in {**parts, "total": total * len(micro_batches)}.items():
                losses[name] = losses.get(name, 0.0) + float(part.detach()) / len(micro_batches)
            if any(state.processes.any_of(not math.isfinite(losses["total"]))):
                totals = state.processes.gather(losses["total"])
                what = f"the loss is {next(total for total in totals if not math.isfinite(total))}"
                _give_up(state, what, micro_batches[: index + 1], share, checkpoints, buffers)
            strategy.backward(total)
    norm = strategy.step(recipe.clip_grad)
    state.skipped = 0 if math.isfinite(norm) else state.skipped + 1
    if state.skipped and (not strategy.skips() or state.skipped > _MOST_SKIPPED):
        at_any_scale = f", as in the {_MOST_SKIPPED} steps before, at whatever loss scale" if strategy.skips() else ""
        what = f"the norm of the gradients is {norm}{at_any_scale}"
        _give_up(state, what, micro_batches, share, checkpoints, buffers, backward=True)
    if state.average is not None:
        state.average.update(strategy.named_tensors(), state.step)
    for name, value in losses.items():
        state.losses[name] = state.losses.get(name, 0.0) + value
    state.step += 1
    return losses, norm


def finish_epoch(state: TrainingState, watchers: list[Watcher], conduct: Conduct) -> None:
    """Evaluate model and average, add a row to the history, and offer what is better than before. Collective."""
    task, epoch = state.task, state.step // state.task.steps_per_epoch
    row = {"epoch": epoch, "step": state.step, "lr": _highest_rate(state)}
    parts = state.losses if len(state.losses) > 2 else {"total": state.losses["total"]}  # one part is the total
    for name, value in parts.items():
        mean = state.processes.sum(torch.tensor(value / task.steps_per_epoch, dtype=torch.float64))
        row["train_loss" if name == "total" else f"train_{name}"] = float(mean) / state.processes.world_size
    state.losses = {}
    better: list[str] = []
    if epoch % conduct.evaluate_every == 0 or state.step == state.total_steps:
        row.update(_measured(state, state.strategy.evaluated()))
        better += _note_best(state, row, "model", task.score)
        if state.average is not None:
            with state.strategy.swapped(state.average.tensors) as model:
                row.update({f"ema_{key}": value for key, value in _measured(state, model).items()})
            better += _note_best(state, row, "average", f"ema_{task.score}")
    state.history.append({**row, "seconds": round(state.seconds, 1)})
    for watcher in watchers:
        watcher.finished_epoch(state)
    for which in better:
        weights = full_weights(state, which)
        for watcher in watchers:
            watcher.improved(state, which, weights)


def _measured(state: TrainingState, model: nn.Module) -> dict[str, float]:
    """What the task finds, of the very model that is saved: statistics of batch norm are those of the first process."""
    state.processes.take_from_first(model.buffers())
    return state.task.evaluate(model, state.processes)


def full_weights(state: TrainingState, which: str) -> dict[str, Tensor]:
    """Whole tensors of the "model" or of the "average", on the CPU of the first process; {} elsewhere. Collective."""
    if which == "average" and state.average is not None:
        return state.strategy.full(state.average.tensors)
    return state.strategy.full(state.strategy.named_tensors())


def _highest_rate(state: TrainingState) -> float:
    """Of all parameter groups: with layer decay the first of them is the slowest."""
    return max(group["lr"] for group in state.strategy.optimizer.param_groups)


def _note_best(state: TrainingState, row: Mapping[str, float], which: str, key: str) -> list[str]:
    """``[which]`` where the row holds the best score so far."""
    if key not in row or row[key] <= state.best.get(which, -math.inf):
        return []
    state.best[which] = row[key]
    return [which]


def seed_for(state: TrainingState, share: Share, index: int) -> None:
    """Seed torch's default generators for a micro-batch: dropout, drop path, changes made on the device."""
    torch.manual_seed(mixed(_STREAM, state.recipe.seed, state.step, share.number(index)))


def _is_due(state: TrainingState, conduct: Conduct, clock: _Clock) -> bool:
    """Whether to save now; the first process decides by its clock."""
    if conduct.save_every_steps:
        return state.step % conduct.save_every_steps == 0
    pause = max(conduct.save_every_s, 9 * clock.saving_s)  # gigabytes on a slow disk: minutes
    late = state.processes.is_first and time.monotonic() - clock.saved > pause
    return any(state.processes.any_of(late))


def _save(state: TrainingState, checkpoints: Checkpoints, clock: _Clock | None = None) -> None:
    """Write a checkpoint; nobody leaves before it is whole, as launchers soon kill the others once one has ended."""
    began = time.monotonic()
    contents, failed = state.contents(), None
    if state.processes.is_first:
        try:
            checkpoints.save(contents)
        except OSError as error:
            failed = error
    if any(state.processes.any_of(failed is not None)):
        raise failed or OSError("the first process cannot write its checkpoint")
    if clock:
        clock.saved = time.monotonic()
        clock.saving_s = clock.saved - began


def _give_up(
    state: TrainingState,
    what: str,
    micro_batches: list[Any],
    share: Share,
    checkpoints: Checkpoints,
    buffers: list[tuple[Tensor, Tensor]],
    backward: bool = False,
) -> None:
    """Name the layer, save what was before this step, and stop; ``buffers`` come with their values of then.

    Collective: the processes look at as many micro-batches, until one of them has found something; with ``backward``
    at their gradients too.
    """
    layers: list[str] = []
    _put_back(buffers)  # else the statistics of a batch norm would be named for what the batch did to them
    for index, batch in enumerate(micro_batches):
        for look in (first_bad_layer, first_bad_gradient) if backward else (first_bad_layer,):
            seed_for(state, share, index)
            found = look(state.strategy, state.task, moved(batch, state.processes.device))
            layers = layers or [name for name in state.processes.gather(found) if name]
        if layers:
            break
    _put_back(buffers)
    where = layers[0] if layers else "no layer alone"
    _save(state, checkpoints)
    raise FloatingPointError(
        f"{what} at step {state.step + 1}, first in {where}; the state before it is saved in {checkpoints.folder}; "
        "try a smaller --lr, or --dtype float32"
    )


def _put_back(buffers: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, before in buffers:
        buffer.copy_(before)
