"""One process, or a copy of the model in each of many that exchange gradients: by Accelerate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...processes import Processes
from ...recipes.training import TrainingRecipe
from ..optimizer_state import load_states, states_by_name

_PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class Accelerated:
    """The strategies "single" and "ddp".

    Raises:
        ImportError: Accelerate is not installed.
    """

    def __init__(self, name: str, processes: Processes, compile: bool = False) -> None:
        self.name, self.processes, self.compile = name, processes, compile
        self.module: nn.Module
        self.optimizer: Optimizer

    def prepare(
        self, model: nn.Module, make_optimizer: Callable[[nn.Module], Optimizer], recipe: TrainingRecipe
    ) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        self.accelerator = _accelerator(self.processes, recipe.dtype)
        self.model = model.to(self.processes.device)
        if self.compile:
            self.model.compile()
        self.own_optimizer = make_optimizer(self.model)
        self.module = self._replicated(self.model)
        self.optimizer = self.accelerator.prepare(self.own_optimizer)

    def _replicated(self, model: nn.Module) -> nn.Module:
        if self.name == "single":
            return model
        # kernels of depthwise convolutions, whose second side is 1: other strides, the same place in memory
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its successor is too new
            return self.accelerator.prepare(model)

    def exchange(self, last: bool) -> AbstractContextManager:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return nullcontext() if last or self.name == "single" else self.accelerator.no_sync(self.module)

    def autocast(self) -> AbstractContextManager:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return self.accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        self.accelerator.backward(loss)

    def step(self, clip_grad: float | None) -> float:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), clip_grad or math.inf))
        if math.isfinite(norm) or self.skips():
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def skips(self) -> bool:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return self.accelerator.scaler is not None

    def named_tensors(self) -> dict[str, Tensor]:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return self.model.state_dict()

    def full(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        if not self.processes.is_first:
            return {}
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_parts(self, into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        for name, part in into.items():
            part.copy_(tensors[name])

    @contextmanager
    def swapped(self, tensors: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        own = {name: tensor.clone() for name, tensor in self.named_tensors().items()}
        self.load_parts(self.named_tensors(), tensors)
        try:
            yield self.evaluated()
        finally:
            self.load_parts(self.named_tensors(), own)

    def evaluated(self) -> nn.Module:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return self.model.eval()

    def state(self) -> dict[str, Any]:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        if not self.processes.is_first:
            return {}
        scaler = self.accelerator.scaler
        return {
            "model": self.full(self.named_tensors()),
            "optimizer": states_by_name(self.model, self.own_optimizer),
            "scaler": {} if scaler is None else scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        self.load_parts(self.named_tensors(), state["model"])
        load_states(self.model, self.own_optimizer, state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def _accelerator(processes: Processes, dtype: str) -> Any:
    """Accelerate's object for these processes; it keeps one state a program, which an earlier run may have set."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    if dtype == "float16" and processes.device.type == "cpu":
        raise ValueError("dtype float16 wants a card to train on; on the CPU take bfloat16 or float32")
    AcceleratorState._reset_state()
    # as released: statistics of batch norm stay those of each process, hence not broadcast
    replicas = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(
        cpu=processes.device.type == "cpu", mixed_precision=_PRECISIONS[dtype], kwargs_handlers=[replicas]
    )
