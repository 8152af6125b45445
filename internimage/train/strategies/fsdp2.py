"""Parameters, gradients and optimizer states in shards, one in each process: PyTorch's ``fully_shard`` (FSDP2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ...processes import Processes, join_alone
from ...recipes.training import TrainingRecipe
from ..optimizer_state import names_of
from .loss_scale import LossScale
from .whole import filled, on_first, outline


class Fsdp2:
    """The strategy "fsdp2": each block is gathered when it is used, and its gradients are summed into shards at once.

    Computing in half types is done by casting the gathered parameters, not by autocast: half the traffic, and the maps
    between layers are of that type too. Batch norms stay float32.

    Args:
        offload: shards, and the optimizer's step, are in the memory of the host.
        compile: ``torch.compile`` each block.

    """

    name = "fsdp2"

    def __init__(self, processes: Processes, offload: bool = False, compile: bool = False) -> None:
        self.processes, self.offload, self.compile = processes, offload, compile
        self.module: nn.Module
        self.optimizer: Optimizer

    def prepare(
        self, model: nn.Module, make_optimizer: Callable[[nn.Module], Optimizer], recipe: TrainingRecipe
    ) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        self.scale = LossScale() if recipe.dtype == "float16" else None
        join_alone(self.processes)
        self.outline = outline(model)
        self.mesh = init_device_mesh(self.processes.device.type, (self.processes.world_size,))
        self._shard(model, recipe.dtype)
        self.module = model
        self.optimizer = make_optimizer(model)

    def _shard(self, model: nn.Module, dtype: str) -> None:
        """Batch norms, then blocks, then what is left of the model, each a unit that is gathered as one."""
        low = None if dtype == "float32" else getattr(torch, dtype)
        # gradients are summed in float32: eight bits would lose what many processes add
        mixed = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
        for norm in [part for part in model.modules() if isinstance(part, _BatchNorm)] if low else []:
            self._shard_one(norm, MixedPrecisionPolicy(param_dtype=torch.float32, output_dtype=low))
        for block in blocks(model):
            if self.compile:
                block.compile()
            self._shard_one(block, mixed)
        self._shard_one(model, replace(mixed, output_dtype=torch.float32))

    def _shard_one(self, unit: nn.Module, policy: MixedPrecisionPolicy) -> None:
        pinned = self.processes.device.type != "cpu"  # memory that a card reads from directly
        offload = CPUOffloadPolicy(pin_memory=pinned) if self.offload else OffloadPolicy()
        fully_shard(unit, mesh=self.mesh, reshard_after_forward=True, mp_policy=policy, offload_policy=offload)

    def exchange(self, last: bool) -> AbstractContextManager:
        """Gradients are exchanged with every micro-batch: waiting with them would mean to keep whole ones."""
        return nullcontext()

    def autocast(self) -> AbstractContextManager:
        """None is needed: parameters and input are cast as they are used."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        (loss if self.scale is None else loss * self.scale.value).backward()

    def step(self, clip_grad: float | None) -> float:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        gradients = [_local(p.grad) for p in self.module.parameters() if p.grad is not None]
        square = nn.utils.get_total_norm(gradients).double().square()
        scale = 1.0 if self.scale is None else self.scale.value
        norm = math.sqrt(float(self.processes.sum(square))) / scale
        factor = 1.0 if clip_grad is None or norm <= clip_grad else clip_grad / (norm + 1e-6)
        if factor != scale:
            torch._foreach_mul_(gradients, factor / scale)
        if math.isfinite(norm):
            self.optimizer.step()
        if self.scale is not None:
            self.scale.update(overflowed=not math.isfinite(norm))
        self.optimizer.zero_grad()
        return norm

    def skips(self) -> bool:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return self.scale is not None

    def named_tensors(self) -> dict[str, Tensor]:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return {name: _local(tensor) for name, tensor in self.module.state_dict().items()}

    def full(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return on_first(self.processes, self._gathered(tensors))

    def _gathered(self, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """One whole tensor after the other, on the device, in every process."""
        own = self.module.state_dict()
        for name, part in parts.items():
            yield name, self._whole(part, own[name])

    def _whole(self, part: Tensor, like: Tensor) -> Tensor:
        """From the shards of a tensor that is spread as ``like`` is."""
        part = part.to(self.processes.device)
        if not isinstance(like, DTensor):
            return part
        shape, strides = like.shape, like.stride()
        return DTensor.from_local(part, self.mesh, like.placements, shape=shape, stride=strides).full_tensor()

    @torch.no_grad()
    def load_parts(self, into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        for name, part in into.items():
            whole = tensors[name]
            part.copy_(self._shard_of(whole) if part.shape != whole.shape else whole)

    def _shard_of(self, whole: Tensor) -> Tensor:
        """The rows that this process holds: as many as in the others, fewer or none in the last."""
        chunks, rank = whole.chunk(self.processes.world_size), self.processes.rank
        return chunks[rank] if rank < len(chunks) else whole[:0]

    @contextmanager
    def swapped(self, tensors: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """See :class:`~internimage.train.strategies.base.Strategy`; a whole copy for the time being."""
        yield filled(self.outline, dict(self._gathered(tensors)))

    def evaluated(self) -> nn.Module:
        """See :class:`~internimage.train.strategies.base.Strategy`; a whole copy, for as long as somebody holds it."""
        return filled(self.outline, dict(self._gathered(self.named_tensors())))

    def state(self) -> dict[str, Any]:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        model, optimizer = self.full(self.named_tensors()), self._optimizer_state()
        scaler = self.scale.state_dict() if self.scale else {}
        return {"model": model, "optimizer": optimizer, "scaler": scaler} if self.processes.is_first else {}

    def _optimizer_state(self) -> dict[str, dict[str, Any]]:
        """Whole states by the parameters' names, in the first process."""
        states: dict[str, dict[str, Any]] = {}
        for name, parameter in self._parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, DTensor):
                    value = self._whole(value.to_local(), value)
                if self.processes.is_first:
                    copied = value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
                    states.setdefault(name, {})[key] = copied
        return states

    def load(self, state: Mapping[str, Any]) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        self.load_parts(self.named_tensors(), state["model"])
        if self.scale is not None:
            self.scale.load_state_dict(state["scaler"])
        contents = self.optimizer.state_dict()
        contents["state"] = {
            index: {key: self._spread(value, parameter) for key, value in state["optimizer"][name].items()}
            for index, (name, parameter) in enumerate(self._parameters())
            if name in state["optimizer"]
        }
        self.optimizer.load_state_dict(contents)

    def _spread(self, value: Any, parameter: DTensor) -> Any:
        """A whole state spread as its parameter is; counters stay as they are."""
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value.clone() if isinstance(value, Tensor) else value
        part = self._shard_of(value).to(_local(parameter).device).clone()
        shape, strides = parameter.shape, parameter.stride()
        return DTensor.from_local(part, self.mesh, parameter.placements, shape=shape, stride=strides)

    def _parameters(self) -> list[tuple[str, Any]]:
        """Names and parameters as the optimizer numbers them."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return list(zip(names_of(self.module, self.optimizer), parameters, strict=True))


def blocks(model: nn.Module) -> list[nn.Module]:
    """What is gathered at a time: entries of the innermost ``ModuleList``, norms and the like left to the whole."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    entries = [entry for each in lists for entry in each if next(entry.children(), None) is not None]
    return [entry for entry in entries if not any(isinstance(part, nn.ModuleList) for part in entry.modules())]


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
