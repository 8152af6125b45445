"""A run between two steps: everything that changes while it goes on, and how it becomes a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from ..processes import Processes
from ..recipes.training import TrainingRecipe
from .ema import WeightAverage
from .optim import freeze_levels, make_optimizer
from .schedule import make_scheduler
from .strategies import Strategy
from .strategies.base import WHOLE
from .task import Task


@dataclass(kw_only=True)
class TrainingState:
    """Where a run stands.

    Attributes:
        step: finished optimizer steps.
        losses: sums over the steps of this epoch, by name; ``total`` is what was learned from.
        history: a row an epoch.
        best: the best score so far, of the model ("model") and of the average ("average").
        seconds: spent so far, over all sittings.
        parameters: how many numbers the model has, whatever of it this process holds.
        skipped: steps on end whose gradients were not finite, in float16.
    """

    recipe: TrainingRecipe
    task: Task
    strategy: Strategy
    scheduler: Any
    average: WeightAverage | None
    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    parameters: int = 0
    skipped: int = 0

    @property
    def processes(self) -> Processes:
        """Those that run it."""
        return self.strategy.processes

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.recipe.epochs * self.task.steps_per_epoch

    def contents(self) -> dict[str, Any]:
        """What a checkpoint holds; {} in all processes but the first. Collective."""
        engine = self.strategy.state()
        average = {} if self.average is None else self.strategy.full(self.average.tensors)
        losses = self.processes.gather(dict(self.losses))
        if not self.processes.is_first:
            return {}
        return {
            "recipe": asdict(self.recipe),
            "data": self.task.fingerprint,
            **engine,
            "average": average,
            "step": self.step,
            "losses": losses,
            "history": list(self.history),
            "best": dict(self.best),
            "seconds": self.seconds,
        }

    def load(self, contents: Mapping[str, Any], source: object = "the checkpoint") -> None:
        """Continue from the contents of a checkpoint. Collective; every process has them.

        Raises:
            ValueError: they are of another recipe or other data; the message says what differs.
        """
        differences = self.recipe.differences(contents["recipe"])
        if contents["data"] != self.task.fingerprint:
            differences.append(f"the data is {self.task.fingerprint}, was {contents['data']}")
        if differences:
            raise ValueError(
                f"{source} was trained otherwise ({'; '.join(differences)}); resume with the same recipe and options, "
                "or start afresh in another --output"
            )
        self.strategy.load(contents)
        if self.average is not None:
            self.strategy.load_parts(self.average.tensors, contents["average"])
        self.step, self.seconds = contents["step"], contents["seconds"]
        self.losses, self.best = self._own_losses(contents["losses"]), dict(contents["best"])
        self.history = [dict(row) for row in contents["history"]]

    def _own_losses(self, losses: list[dict[str, float]]) -> dict[str, float]:
        """What this process had summed up; the mean of all where there were more or fewer processes."""
        if len(losses) == self.processes.world_size:
            return dict(losses[self.processes.rank])
        return {name: sum(each[name] for each in losses) / len(losses) for name in losses[0]}


def new_state(task: Task, recipe: TrainingRecipe, strategy: Strategy) -> TrainingState:
    """The state before the first step. Collective.

    Raises:
        ValueError: the strategy does not go with the recipe.
    """
    if recipe.optimizer == "muon" and strategy.name not in WHOLE:
        raise ValueError(
            f"optimizer muon needs whole matrices, which strategy {strategy.name} shards; take --strategy ddp, or "
            "--set optimizer=adamw with rates for it"
        )
    torch.manual_seed(recipe.seed)
    model = _made_once(task, strategy.processes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    freeze_levels(model, recipe.frozen_levels)
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    strategy.prepare(model, lambda module: make_optimizer(module, recipe, task.paces(module)), recipe)
    average = None
    if recipe.ema_decay:
        average = WeightAverage(strategy.named_tensors(), recipe.ema_decay, recipe.ema_warmup)
    scheduler = make_scheduler(strategy.optimizer, recipe, task.steps_per_epoch)
    return TrainingState(
        recipe=recipe, task=task, strategy=strategy, scheduler=scheduler, average=average, parameters=parameters
    )


def _made_once(task: Task, processes: Processes) -> nn.Module:
    """The model, on the device; the others take it from the first process, or a machine would hold many copies of it.

    Random values are drawn and files are read on the host, which has less memory for each process than cards have.
    """
    if processes.is_first:
        model = task.make_model()
        task.load_pretrained(model)
        model = model.to(processes.device)
    else:
        with torch.device("meta"):
            model = task.make_model()
        model = model.to_empty(device=processes.device)
    processes.take_from_first([*(parameter.detach() for parameter in model.parameters()), *model.buffers()])
    return model
