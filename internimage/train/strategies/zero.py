"""Optimizer states, gradients and parameters in shards, one in each process: DeepSpeed's ZeRO, stages 1 to 3."""

from __future__ import annotations

import importlib.util
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ...processes import Processes, join_alone
from ...recipes.training import TrainingRecipe
from .loss_scale import LossScale
from .whole import filled, on_first, outline

BUCKET = 50_000_000
"""Numbers that are exchanged at a time; in stage 3 twice as many parameters are whole at a time."""


class Zero:
    """The strategies "deepspeed-1", "deepspeed-2" and "deepspeed-3".

    Stage 1 shards the optimizer's states, stage 2 gradients too, stage 3 parameters too. The optimizer is the recipe's
    own, of PyTorch.

    Args:
        offload: optimizer states and its step, and in stage 3 the shards of parameters, are in the memory of the host.

    Raises:
        ValueError: DeepSpeed is not installed, or ``compile`` is asked for.
    """

    def __init__(self, stage: int, processes: Processes, offload: bool = False, compile: bool = False) -> None:
        self.name, self.stage, self.processes, self.offload = f"deepspeed-{stage}", stage, processes, offload
        self.module: nn.Module
        self.optimizer: Optimizer
        if compile:
            raise ValueError(f"strategy {self.name} does not compile models; leave out --compile, or take fsdp2")
        if importlib.util.find_spec("deepspeed") is None:
            line = "pip install 'internimage-torch[deepspeed]'"
            raise ValueError(f"strategy {self.name} needs deepspeed; type: {line}, or take --strategy fsdp2")

    def prepare(
        self, model: nn.Module, make_optimizer: Callable[[nn.Module], Optimizer], recipe: TrainingRecipe
    ) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        self.scale = LossScale() if recipe.dtype == "float16" else None
        deepspeed = _imported(self.processes.device)
        # names that DeepSpeed calls PyTorch by; the successors of some are younger than the oldest torch we take
        warnings.filterwarnings("ignore", "`torch.distributed.*` is deprecated", FutureWarning)
        join_alone(self.processes)
        os.environ.setdefault("LOCAL_RANK", str(self.processes.local_rank))  # of a launcher; alone there is none
        deepspeed.init_distributed(dist_backend=dist.get_backend())
        self.outline = outline(model)
        model = model.to(self.processes.device)
        self.optimizer = make_optimizer(model)
        with _rates_of_zero(self.optimizer):  # DeepSpeed makes the states by a step, which would decay the weights
            self.engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=self.optimizer,
                config=_config(self.stage, self.offload, recipe, bucket_of(model)),
            )
        self.model, self.module, self.zero = model, self.engine, self.engine.optimizer
        self._begin_states()

    def exchange(self, last: bool) -> AbstractContextManager:
        """See :class:`~internimage.train.strategies.base.Strategy`; stages 2 and 3 exchange every micro-batch."""
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def autocast(self) -> AbstractContextManager:
        """For float16; the engine does bfloat16 in its forward pass."""
        return nullcontext() if self.scale is None else torch.autocast(self.processes.device.type, torch.float16)

    def backward(self, loss: Tensor) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        if self.scale is not None:
            self.zero.override_loss_scale(self.scale.value)
        self.engine.backward(loss)

    def step(self, clip_grad: float | None) -> float:
        """See :class:`~internimage.train.strategies.base.Strategy`; the engine clips as the recipe says."""
        self.engine.step()
        if self.scale is not None:
            self.scale.update(overflowed=self.zero.overflow)
        if self.zero.overflow:  # it made no step, and keeps the norm of the one before
            return math.nan
        return float(self.engine.get_global_grad_norm())

    def skips(self) -> bool:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return self.scale is not None

    def named_tensors(self) -> dict[str, Tensor]:
        """See :class:`~internimage.train.strategies.base.Strategy`; in stage 3 flat shards, all of one length."""
        if self.stage < 3:
            return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        spread: Iterator[tuple[str, Any]] = self.model.named_parameters()
        parameters = {name: self._shard_held(parameter) for name, parameter in spread}
        return {**parameters, **dict(self.model.named_buffers())}

    def _shard_held(self, parameter: Any) -> Tensor:
        """What this process holds in stage 3; behind the last number of a parameter stands anything, NaN too."""
        shard = parameter.ds_tensor.detach()
        ours = min(max(parameter.ds_numel - self.processes.rank * shard.numel(), 0), shard.numel())
        if ours < shard.numel():
            shard[ours:].zero_()
        return shard

    def full(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        return on_first(self.processes, self._gathered(tensors))

    def _gathered(self, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """One whole tensor after the other, on the device, in every process."""
        parameters = dict(self.model.named_parameters())
        for name, part in parts.items():
            part = part.to(self.processes.device)
            if self.stage == 3 and name in parameters:
                part = self._whole(part, parameters[name])
            yield name, part

    def _whole(self, part: Tensor, parameter: Any) -> Tensor:
        """From the flat shards of all processes, the last of which is padded."""
        flat = part.new_empty(self.processes.world_size * part.numel())
        dist.all_gather_into_tensor(flat, part.contiguous())
        return flat[: parameter.ds_numel].view(parameter.ds_shape)

    def _shard_of(self, whole: Tensor, length: int) -> Tensor:
        """The flat shard of this process."""
        flat = whole.new_zeros(self.processes.world_size * length)
        flat[: whole.numel()] = whole.flatten()
        return flat[self.processes.rank * length :][:length]

    @torch.no_grad()
    def load_parts(self, into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        sharded = {name for name, _ in self.model.named_parameters()} if self.stage == 3 else set()
        for name, part in into.items():
            whole = tensors[name]
            part.copy_(self._shard_of(whole, part.numel()) if name in sharded else whole)

    @contextmanager
    def swapped(self, tensors: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """See :class:`~internimage.train.strategies.base.Strategy`; a whole copy for the time being."""
        yield filled(self.outline, dict(self._gathered(tensors)))

    def evaluated(self) -> nn.Module:
        """See :class:`~internimage.train.strategies.base.Strategy`; a whole copy where parameters are in shards."""
        if self.stage < 3:
            return self.model.eval()
        return filled(self.outline, dict(self._gathered(self.named_tensors())))

    def state(self) -> dict[str, Any]:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        model, states = self.full(self.named_tensors()), {}
        steps = {key: value.detach().to("cpu", copy=True) for key, value in self._counters().items()}
        for name, parameter in self._learning():
            whole = {key: safe_get_full_optimizer_state(parameter, key) for key in self._keys()}
            if self.processes.is_first and whole:
                states[name] = {key: value.detach().to("cpu", copy=True) for key, value in whole.items()}
                states[name].update({key: value.clone() for key, value in steps.items()})
        scaler = self.scale.state_dict() if self.scale else {}
        return {"model": model, "optimizer": states, "scaler": scaler} if self.processes.is_first else {}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """See :class:`~internimage.train.strategies.base.Strategy`."""
        self.load_parts(self.named_tensors(), state["model"])
        if self.scale is not None:
            self.scale.load_state_dict(state["scaler"])
        for name, parameter in self._learning():
            self._set(parameter, state["model"][name], None)
            for key, value in state["optimizer"].get(name, {}).items():
                if key in self._keys():
                    self._set(parameter, value, key)
        for contents in list(state["optimizer"].values())[:1]:
            for key, counter in self._every_counter():
                counter.copy_(contents[key])
        if self.stage == 3:
            self.zero.checkpoint_event_prologue()
            self.zero.checkpoint_event_epilogue()  # small parameters, which every process keeps whole, are gathered

    def _set(self, parameter: Any, whole: Tensor, key: str | None) -> None:
        """The master copy of a parameter, or its state of a name, in the shard of this process."""
        from deepspeed import utils

        whole = whole.to(self.processes.device)
        if self.stage < 3 and key is None:
            utils.safe_set_full_fp32_param(parameter, whole)
        elif self.stage < 3:
            utils.safe_set_full_optimizer_state(parameter, whole, key)
        elif key is None:
            utils.safe_set_local_fp32_param(parameter, self._shard_of(whole, parameter.ds_tensor.numel()))
        else:
            part = self._shard_of(whole, parameter.ds_tensor.numel())
            utils.safe_set_local_optimizer_state(parameter, part, key)

    def _learning(self) -> list[tuple[str, Any]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    @torch.no_grad()
    def _begin_states(self) -> None:
        """Zeros for all states, as before the first step, so that they can be read and set at any time."""
        for flat in self._flats():
            state = self.optimizer.state[flat]
            if isinstance(self.optimizer, torch.optim.SGD):
                state["momentum_buffer"] = torch.zeros_like(flat)
                continue
            state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(flat), torch.zeros_like(flat)
        if self.stage < 3:
            self.zero._lazy_init_hp_params_optimizer_state()

    def _flats(self) -> list[Tensor]:
        """What the optimizer knows: shards of many parameters joined."""
        return self.zero.single_partition_of_fp32_groups if self.stage < 3 else self.zero.fp32_partitioned_groups_flat

    def _keys(self) -> list[str]:
        """Names of the states that are as large as the parameters."""
        return ["momentum_buffer"] if isinstance(self.optimizer, torch.optim.SGD) else ["exp_avg", "exp_avg_sq"]

    def _every_counter(self) -> list[tuple[str, Tensor]]:
        states = [self.optimizer.state[flat] for flat in self._flats()]
        return [(key, value) for state in states for key, value in state.items() if key == "step"]

    def _counters(self) -> dict[str, Tensor]:
        """Steps done; the same for all parameters."""
        return dict(self._every_counter())


def _imported(device: torch.device) -> Any:
    """DeepSpeed, for this kind of device."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if device.type == "cpu":  # gloo does it without a kernel that takes a compiler, and 100 seconds of it
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _rates_of_zero(optimizer: Optimizer) -> Iterator[None]:
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    yield
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def bucket_of(model: nn.Module) -> int:
    """:data:`BUCKET`, or the whole model where that is smaller: DeepSpeed reserves what it is told, an even number."""
    numbers = sum(parameter.numel() for parameter in model.parameters())
    return min(BUCKET, numbers + numbers % 2)


def _config(stage: int, offload: bool, recipe: TrainingRecipe, bucket: int) -> dict[str, Any]:
    """DeepSpeed's own configuration. The loop divides losses and says when a step is due, so batches count as one."""
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if stage == 3:
        live = {"stage3_max_live_parameters": 2 * bucket, "stage3_max_reuse_distance": 2 * bucket}
        zero |= {"stage3_prefetch_bucket_size": bucket, **live}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    if offload and stage == 3:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.clip_grad or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {
            "enabled": recipe.dtype == "bfloat16",  # its scaler for float16 would undo the scale after the clipping
            "dtype": recipe.dtype,
            "lower_precision_safe_modules": [],  # parameters and gradients travel in float32, as with ddp
        },
        "steps_per_print": 10**12,
    }
