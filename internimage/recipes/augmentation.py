"""How pictures are changed and mixed while training, as settings; ``data`` does it."""

from __future__ import annotations

from dataclasses import dataclass

from .training import POSITIVE, Rule, check, integer, none_or, number, one_of, tuple_of

_SHARE = number(0, 1)
_LOW_HIGH = (
    lambda v: tuple_of(POSITIVE, 2)[0](v) and v[0] <= v[1],
    "two numbers above 0, the smaller one first",
)


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How each picture read from a file is changed; the default is what all released classifiers were trained with.

    Attributes:
        scale, ratio: of the part cut out of the picture: its share of the area, and its width over its height.
        flip: the probability of mirroring left and right.
        auto_augment: timm's words for RandAugment and the like; None for none.
        color_jitter: how far brightness, contrast and saturation go; without effect beside ``auto_augment``.
        erase, erase_mode, erase_count: how often rectangles are erased, with what ("pixel" noise, one "rand" colour, or
            "const" black), and how many.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float | None = 0.4
    erase: float = 0.25
    erase_mode: str = "pixel"
    erase_count: int = 1

    def __post_init__(self) -> None:
        check(self, _TRANSFORM_RULES)


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How two pictures become one, Mixup or CutMix; the default mixes nothing.

    Attributes:
        mixup, cutmix: alpha of the beta distribution that the shares are drawn from; 0 for none of it.
        cutmix_minmax: smallest and largest side of what CutMix pastes, as shares of the side, instead of ``cutmix``.
        prob: of mixing at all. ``switch_prob``: of CutMix rather than Mixup where both are on.
        mode: what draws its own share: the whole "batch", each "pair", or each picture ("elem").
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    cutmix_minmax: tuple[float, float] | None = None
    prob: float = 1.0
    switch_prob: float = 0.5
    mode: str = "batch"

    def __post_init__(self) -> None:
        check(self, _MIXING_RULES)

    def __bool__(self) -> bool:
        """Whether anything is mixed."""
        return self.prob > 0 and (self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None)


_TRANSFORM_RULES: dict[str, Rule] = {
    "scale": (lambda v: _LOW_HIGH[0](v) and v[1] <= 1, "two shares above 0, at most 1, the smaller one first"),
    "ratio": _LOW_HIGH,
    "flip": _SHARE,
    "auto_augment": (lambda v: v is None or (isinstance(v, str) and bool(v)), "timm's words, or None"),
    "color_jitter": none_or(number(0)),
    "erase": _SHARE,
    "erase_mode": one_of(("pixel", "rand", "const")),
    "erase_count": integer(1),
}
_MIXING_RULES: dict[str, Rule] = {
    "mixup": number(0),
    "cutmix": number(0),
    "cutmix_minmax": none_or((lambda v: _LOW_HIGH[0](v) and v[1] <= 1, _TRANSFORM_RULES["scale"][1])),
    "prob": _SHARE,
    "switch_prob": _SHARE,
    "mode": one_of(("batch", "pair", "elem")),
}
