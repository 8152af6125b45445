"""What the loop needs to know to train anything; recipes of tasks extend it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypeVar


class Rates(NamedTuple):
    """Learning rates for the recipe's own batch size: the highest, the last, and the first of the warm-up."""

    lr: float
    min_lr: float
    warmup_lr: float


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How anything is trained; everything random follows from ``seed`` and the number of the step.

    Attributes:
        name: of the recipe.
        epochs: how often each picture is seen.
        batch_size: images of one optimizer step, over all processes and all accumulated parts of it.
        lr, min_lr, warmup_lr: the highest learning rate, the one at the end of a cosine, and the one the warm-up starts
            from; the last two are the same for every parameter, whatever its layer.
        warmup_epochs: may be a fraction; they count as epochs of the schedule. 0 starts at ``lr``.
        rates_for_batch: the three rates are stated for a batch of so many images and grow with the batch; None takes
            them as they are.
        schedule: "cosine" to ``min_lr``, "linear" to 1 % of ``lr``, or "step": times ``decay_rate`` every
            ``decay_epochs``.
        optimizer: "adamw" with ``betas`` and ``eps``, "sgd" with Nesterov's ``momentum``, or "muon" of timm with both:
            steps of matrices and kernels are made orthogonal, about as long as AdamW's; vectors and biases go by
            NAdamW. It learns more in a step, and wants whole matrices: strategies that shard them refuse it.
        weight_decay: of matrices and kernels; vectors and biases have none.
        clip_grad: the largest norm of all gradients together; None is without limit.
        ema_decay: how much of the average of the weights stays at each step; 0 keeps no average.
        ema_warmup: average at most ``(1 + n) / (10 + n)`` at step n, which forgets the initial values early.
        dtype: of the computation, "float32", "bfloat16" or "float16"; the weights stay float32.
        layer_decay: each block learns so much slower than the next; None gives all layers the same rate.
        dcn_lr_mul: multiplies the rate of what predicts sampling offsets; only together with ``layer_decay``.
        frozen_levels: levels of the backbone, 0 to 3, that do not learn. The stem does.
        grad_checkpointing: compute blocks twice to keep fewer activations.
        seed: another seed, another run.

    Raises:
        ValueError: a value means nothing; the message says which and what fits.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    min_lr: float = 1e-6
    warmup_lr: float = 1e-6
    warmup_epochs: float = 1.0
    rates_for_batch: int | None = None
    schedule: str = "cosine"
    decay_epochs: float = 30.0
    decay_rate: float = 0.1
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.05
    clip_grad: float | None = 5.0
    ema_decay: float = 0.0
    ema_warmup: bool = False
    dtype: str = "float32"
    layer_decay: float | None = None
    dcn_lr_mul: float | None = None
    frozen_levels: tuple[int, ...] = ()
    grad_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, _RULES)
        for name in ("min_lr", "warmup_lr"):
            if getattr(self, name) > self.lr:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at most lr, {self.lr}; set both")
        if self.dcn_lr_mul is not None and self.layer_decay is None:
            raise ValueError(
                f"dcn_lr_mul is {self.dcn_lr_mul} without layer_decay; the two go together, as released: set "
                "layer_decay (1.0 for the same rate in all layers), or dcn_lr_mul to None"
            )

    @property
    def rates(self) -> Rates:
        """The learning rates that the optimizer gets, for this batch size."""
        factor = 1.0 if self.rates_for_batch is None else self.batch_size / self.rates_for_batch
        return Rates(self.lr * factor, self.min_lr * factor, self.warmup_lr * factor)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """The fields that are not as in ``other``, written by ``dataclasses.asdict``: "epochs is 20, was 10".

        Where the pictures lie does not count: they may have moved, and a fingerprint tells them apart.
        """
        mine = asdict(self)
        names = sorted((mine.keys() | other.keys()) - _PLACES)
        return [f"{key} is {mine.get(key)}, was {other.get(key)}" for key in names if mine.get(key) != other.get(key)]


_PLACES = {"data", "subject"}
_Recipe = TypeVar("_Recipe", bound=TrainingRecipe)


def lasting(recipe: _Recipe, epochs: int) -> _Recipe:
    """The recipe for another number of epochs; a shorter run warms up for a shorter time, in proportion.

    Otherwise a run of few epochs would end within its warm-up, having learnt next to nothing.
    """
    warmup_epochs = min(recipe.warmup_epochs, recipe.warmup_epochs * epochs / recipe.epochs)
    return replace(recipe, epochs=epochs, warmup_epochs=warmup_epochs)


Rule = tuple[Callable[[Any], bool], str]


def check(recipe: object, rules: dict[str, Rule]) -> None:
    """Raise ValueError for the first field that breaks its rule: "epochs is 0, expected an integer >= 1"."""
    for name, (fits, expected) in rules.items():
        value = getattr(recipe, name)
        if not fits(value):
            raise ValueError(f"{name} is {value!r}, expected {expected}")


def integer(least: int) -> Rule:
    """An int, at least so much."""
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least, f"an integer >= {least}"


def number(low: float, high: float = math.inf, expected: str = "") -> Rule:
    """A finite number from ``low`` to ``high``, both included."""
    words = f"a number >= {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
    return lambda v: _is_number(v) and low <= v <= high, expected or words


def one_of(names: Iterable[str]) -> Rule:
    """One of these strings."""
    names = tuple(names)
    return lambda v: isinstance(v, str) and v in names, f"one of {', '.join(map(repr, names))}"


def none_or(rule: Rule) -> Rule:
    """None, or what a rule asks for."""
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or None"


def tuple_of(rule: Rule, length: int | None = None, expected: str = "") -> Rule:
    """A tuple, each entry by a rule."""
    words = expected or f"a tuple, each entry {rule[1]}"
    return lambda v: isinstance(v, tuple) and length in (None, len(v)) and all(map(rule[0], v)), words


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


FLAG: Rule = (lambda v: isinstance(v, bool), "True or False")
POSITIVE: Rule = (lambda v: _is_number(v) and v > 0, "a number above 0")
SHARE_BELOW_ONE: Rule = (lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 to below 1")
_LEVEL: Rule = (lambda v: integer(0)[0](v) and v <= 3, "a level, 0 to 3")
_FRACTION: Rule = (lambda v: _is_number(v) and 0 < v <= 1, "a number above 0, at most 1")

_RULES: dict[str, Rule] = {
    "epochs": integer(1),
    "batch_size": integer(1),
    "lr": POSITIVE,
    "min_lr": number(0),
    "warmup_lr": number(0),
    "warmup_epochs": number(0),
    "rates_for_batch": none_or(integer(1)),
    "schedule": one_of(("cosine", "linear", "step")),
    "decay_epochs": POSITIVE,
    "decay_rate": _FRACTION,
    "optimizer": one_of(("adamw", "sgd", "muon")),
    "betas": tuple_of(SHARE_BELOW_ONE, 2, "two numbers from 0 to below 1"),
    "eps": POSITIVE,
    "momentum": (lambda v: _is_number(v) and 0 < v < 1, "a number between 0 and 1"),
    "weight_decay": number(0),
    "clip_grad": none_or(POSITIVE),
    "ema_decay": SHARE_BELOW_ONE,
    "ema_warmup": FLAG,
    "dtype": one_of(("float32", "bfloat16", "float16")),
    "layer_decay": none_or(_FRACTION),
    "dcn_lr_mul": none_or(number(0)),
    "frozen_levels": tuple_of(_LEVEL, None, "a tuple of levels, 0 to 3"),
    "grad_checkpointing": FLAG,
    "seed": integer(0),
}
