"""What each process holds of a run under each strategy, in bytes; the step itself is traced in :mod:`.memory`."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from typing import Any

from torch import nn

from ..models import create_model
from ..recipes.training import TrainingRecipe
from ..train.optim import freeze_levels
from ..train.strategies.base import WHOLE
from .memory import Peak, Step, step_peak

_FLOAT32 = 4
_SHARDED_WEIGHTS = ("fsdp2", "deepspeed-3")
CAN_OFFLOAD = ("fsdp2", "deepspeed-1", "deepspeed-2", "deepspeed-3")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, how, and on how many processes.

    Attributes:
        model: a name of :func:`internimage.list_models`; ``changes`` are fields of its configuration, as pairs.
        batch_size: images of one optimizer step, over all processes and all accumulated parts of it.
        image_size: their sides, in pixels.
        dtype: of the computation; weights are float32.
        optimizer: "adamw", "sgd" or "muon".
        average: whether a running average of the weights is kept.
        checkpointing: whether blocks keep their inputs only for the backward pass.
        frozen_levels: those that do not learn.
        device: "cuda" or "cpu": their autocasts differ.
        strategy: one of ``strategies.STRATEGIES``.
    """

    model: str
    batch_size: int
    image_size: int
    changes: tuple[tuple[str, Any], ...] = ()
    num_classes: int | None = None
    dtype: str = "float32"
    optimizer: str = "adamw"
    average: bool = False
    checkpointing: bool = False
    frozen_levels: tuple[int, ...] = ()
    accumulation: int = 1
    processes: int = 1
    strategy: str = "single"
    offload: bool = False
    device: str = "cuda"

    def __post_init__(self) -> None:
        parts = self.processes * self.accumulation
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size is {self.batch_size}, which {self.processes} processes with accumulation "
                f"{self.accumulation} do not share evenly; expected a multiple of {parts}"
            )
        if self.offload and self.strategy not in CAN_OFFLOAD:
            raise ValueError(f"strategy {self.strategy} cannot offload; those that can: {', '.join(CAN_OFFLOAD)}")
        if self.strategy == "single" and self.processes > 1:
            raise ValueError(f"strategy single is for one process, there are {self.processes}; try ddp")
        if self.optimizer == "muon" and self.strategy not in WHOLE:
            raise ValueError(f"optimizer muon goes with strategies {' and '.join(WHOLE)}, not with {self.strategy}")

    @property
    def micro_batch_size(self) -> int:
        """Images that a process looks at together."""
        return self.batch_size // (self.processes * self.accumulation)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Bytes of one process, on its device and, where offloaded, in the memory of the host.

    ``activations`` is what forward and backward pass hold on top of the rest; ``buffers`` is what the strategy gathers
    and exchanges; ``evaluation`` is the whole copy of the weights that is made for an evaluation, when activations,
    gradients and most buffers are gone.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    buffers: int
    evaluation: int
    host: int

    @property
    def total(self) -> int:
        """The most that is held at a time on the device."""
        lasting = self.weights + self.optimizer + self.average
        return lasting + max(self.gradients + self.activations + self.buffers, self.evaluation)


def setting_of(recipe: TrainingRecipe, **changes: object) -> Setting:
    """The setting of a recipe of classification, at its largest images."""
    fields = {
        "model": recipe.model,  # type: ignore[attr-defined]
        "changes": (
            ("in_chans", recipe.channels),  # type: ignore[attr-defined]
            ("drop_path_rate", recipe.drop_path_rate),  # type: ignore[attr-defined]
            *recipe.model_changes.items(),  # type: ignore[attr-defined]
        ),
        "batch_size": recipe.batch_size,
        "image_size": max(recipe.image_sizes),  # type: ignore[attr-defined]
        "dtype": recipe.dtype,
        "optimizer": recipe.optimizer,
        "average": recipe.ema_decay > 0,
        "checkpointing": recipe.grad_checkpointing,
        "frozen_levels": recipe.frozen_levels,
    }
    return Setting(**{**fields, **changes})


@dataclass(frozen=True)
class _Sizes:
    """How many numbers a model has: all, those that learn, those outside blocks, those of the largest block and so on.

    ``small`` counts those in parameters that DeepSpeed's third stage keeps whole.
    """

    all: int
    learning: int
    outside: int
    block: int
    small: int
    buffers: int


def budget(setting: Setting, largest: int = 0) -> Budget:
    """What a process holds; it takes seconds, as the step is run, though without memory.

    Args:
        largest: take the activations from those of one image and of so many, on the straight line between: no less than
            they are, and the same two steps do for every micro-batch.
    """
    sizes, peak = _sizes(setting), _peak(setting, largest)
    share = 1 if setting.strategy in ("single", "ddp") else setting.processes
    whole, part, learning = _FLOAT32 * sizes.all, _FLOAT32 * sizes.all // share, _FLOAT32 * sizes.learning
    local = part if setting.strategy in _SHARDED_WEIGHTS else whole
    states = (2 if setting.optimizer == "adamw" else 1) * learning // share
    master = learning // share if setting.strategy.startswith("deepspeed") else 0  # it steps on a copy of its shard
    gradients, activations, buffers = _passing(setting, sizes, peak)
    statistics = _FLOAT32 * sizes.buffers
    average = local + statistics if setting.average else 0
    copied = setting.average or setting.strategy in _SHARDED_WEIGHTS
    on_device = {
        "weights": local + statistics,
        "gradients": gradients,
        "optimizer": states + master,
        "average": average,
    }
    host = _offloaded(setting, sizes) if setting.offload else ()
    away = sum(on_device[name] for name in host)
    if setting.offload and setting.strategy in ("deepspeed-1", "deepspeed-2"):
        # shards of gradients are summed up in one place of the host and stepped by in another
        away += (1 if "gradients" in host else 2) * learning // share
    kept = {name: 0 if name in host else size for name, size in on_device.items()}
    return Budget(**kept, activations=activations, buffers=buffers, evaluation=whole if copied else 0, host=away)


def _passing(setting: Setting, sizes: _Sizes, peak: Peak) -> tuple[int, int, int]:
    """What comes and goes within a step: gradients, activations, buffers.

    Where a first micro-batch makes its gradients as its activations go, the two together are less than their sum; the
    difference is taken from the activations.
    """
    strategy, learning = setting.strategy, _FLOAT32 * sizes.learning
    accumulated = setting.accumulation > 1
    activations = peak.without_gradients if accumulated else max(peak.fresh - learning, 0)
    bucket = _FLOAT32 * _bucket(sizes)
    if strategy == "single":
        return learning, activations, 0
    if strategy == "ddp":  # they are parts of its buckets, which stay; those of a micro-batch before the last are not
        return learning, peak.without_gradients, learning if accumulated else 0
    if strategy == "deepspeed-1":
        return learning, activations, bucket
    shard = learning // setting.processes
    if strategy == "deepspeed-2":  # at the end of the step or pass a second shard: what is stepped by, or added
        second = shard if accumulated else max(shard - peak.without_gradients, 0)
        return shard, peak.without_gradients, bucket + second
    if strategy == "deepspeed-3":
        small = _FLOAT32 * sizes.small  # kept whole
        live = min(2 * bucket, _FLOAT32 * sizes.all - small)
        return shard, peak.without_gradients, 2 * bucket + small + live
    return shard, *_fsdp2(setting, sizes, peak)


def _fsdp2(setting: Setting, sizes: _Sizes, peak: Peak) -> tuple[int, int]:
    """Activations and buffers: what is outside the blocks is whole during the backward pass, with its gradients.

    These are exchanged last, in float32, when the activations and the whole weights are gone.
    """
    compute = 4 if setting.dtype == "float32" else 2
    outside, block = compute * sizes.outside, compute * sizes.block
    during = peak.without_gradients + 2 * outside + 2 * block
    at_the_end = outside + _FLOAT32 * sizes.outside
    return peak.without_gradients, max(during, at_the_end) - peak.without_gradients


def _offloaded(setting: Setting, sizes: _Sizes) -> tuple[str, ...]:
    """What lies in the memory of the host."""
    if setting.strategy in _SHARDED_WEIGHTS:
        return ("weights", "gradients", "optimizer", "average")
    return ("optimizer", "gradients") if setting.strategy == "deepspeed-2" else ("optimizer",)


def _bucket(sizes: _Sizes) -> int:
    from ..train.strategies.zero import BUCKET

    return min(BUCKET, sizes.all)


def _model(setting: Setting) -> nn.Module:
    """Without memory; the compiled kernel is the one whose passes save what those of cards save."""
    model = create_model(
        setting.model, num_classes=setting.num_classes, device="meta", backend="cpu", **dict(setting.changes)
    )
    freeze_levels(model, setting.frozen_levels)
    return model


@lru_cache(maxsize=8)
def _sizes_of(key: Setting) -> _Sizes:
    from ..train.strategies.fsdp2 import blocks

    model = _model(key)
    counts = [parameter.numel() for parameter in model.parameters()]
    in_blocks = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks(model)]
    return _Sizes(
        all=sum(counts),
        learning=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        outside=sum(counts) - sum(in_blocks),
        block=max(in_blocks, default=0),
        small=sum(count for count in counts if count < 100_000),
        buffers=sum(buffer.numel() for buffer in model.buffers()),
    )


def _sizes(setting: Setting) -> _Sizes:
    return _sizes_of(_alone(setting, batch_size=1))


def _alone(setting: Setting, **changes: object) -> Setting:
    """What of a setting the network itself depends on."""
    plain = dict(processes=1, accumulation=1, strategy="single", offload=False, average=False, optimizer="adamw")
    return replace(setting, **{**plain, **changes})  # type: ignore[arg-type]


def _peak(setting: Setting, largest: int) -> Peak:
    whole = setting.strategy == "fsdp2" and setting.dtype != "float32"
    size = setting.micro_batch_size
    if size in (1, largest) or not largest:
        return _peak_of(_alone(setting, batch_size=size), whole)
    one, most = (_peak_of(_alone(setting, batch_size=n), whole) for n in (1, largest))
    along = (size - 1) / (largest - 1)
    return Peak(*(round(low + (high - low) * along) for low, high in zip(astuple(one), astuple(most), strict=True)))


@lru_cache(maxsize=64)
def _peak_of(setting: Setting, whole: bool) -> Peak:
    step = Step(
        batch_size=setting.batch_size,
        image_size=setting.image_size,
        dtype=setting.dtype,
        checkpointing=setting.checkpointing,
        device=setting.device,
        whole=whole,
    )
    return step_peak(_model(setting), step)
