"""What an InternImage is made of: the configuration, its rules, and the released sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import TypeGuard

from ..layers.activation import ACTIVATIONS
from ..layers.norm import NORMS


@dataclass(frozen=True, kw_only=True)
class InternImageConfig:
    """What an InternImage is made of; field names are those of the released configurations.

    Args:
        channels: of the first of four levels, even; each further level doubles them.
        depths: blocks of each level.
        groups: of the DCNv3 of each level; each divides the channels of its level.
        in_chans: channels of the image.
        mlp_ratio: hidden over outer channels of the MLP.
        drop_rate: dropout after the stem and in the MLPs.
        drop_path_rate: stochastic depth of the last block.
        drop_path_type: "linear" grows the rate from 0 at the first block, "uniform" gives every block the same.
        act_layer: "GELU", "ReLU" or "SiLU".
        norm_layer: "LN" or "BN" in stem, downsampling and the depthwise branch of DCNv3; elsewhere it is always LN.
        layer_scale: initial value of the learned scales of the residual branches; None is without them.
        offset_scale: multiplies the taps and the learned offsets of DCNv3.
        post_norm: normalise after the branch instead of before it.
        res_post_norm: normalise before and after; without effect beside ``layer_scale`` or ``post_norm``.
        dw_kernel_size: odd kernel of the depthwise branch of DCNv3; None is 3.
        level2_post_norm: a norm follows the blocks ``level2_post_norm_block_ids`` of the third level.
        center_feature_scale: DCNv3 blends in the feature at the pixel itself.
        remove_center: DCNv3 leaves out the middle tap.
        use_clip_projector: the attention-pooled head of H and G instead of the convolutional one.
        use_metadata: a branch for date and place beside that head, as in the iNaturalist model.
        cls_scale: hidden over last channels of the convolutional head.
        core_op: "DCNv3", or "DCNv4" for FlashInternImage, whose blocks know nothing of ``center_feature_scale``
            and ``remove_center``, and whose ``dw_kernel_size`` of None is no depthwise branch.
        dcn_output_bias: whether the last projection of DCNv4 has a bias.
        mlp_fc2_bias: whether the second layer of the MLPs has a bias; with DCNv3 it always has.
        use_dcn_v4_op: run DCNv3 on the operator of DCNv4, with the same weights and numbers; a switch of the released
            detectors.

    Raises:
        ValueError: a value, or two together, mean nothing; the message says which and what fits.
    """

    channels: int = 64
    depths: tuple[int, int, int, int] = (4, 4, 18, 4)
    groups: tuple[int, int, int, int] = (4, 8, 16, 32)
    in_chans: int = 3
    mlp_ratio: float = 4.0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    drop_path_type: str = "linear"
    act_layer: str = "GELU"
    norm_layer: str = "LN"
    layer_scale: float | None = None
    offset_scale: float = 1.0
    post_norm: bool = False
    res_post_norm: bool = False
    dw_kernel_size: int | None = None
    level2_post_norm: bool = False
    level2_post_norm_block_ids: tuple[int, ...] | None = None
    center_feature_scale: bool = False
    remove_center: bool = False
    use_clip_projector: bool = False
    use_metadata: bool = False
    cls_scale: float = 1.5
    core_op: str = "DCNv3"
    dcn_output_bias: bool = False
    mlp_fc2_bias: bool = False
    use_dcn_v4_op: bool = False

    def __post_init__(self) -> None:
        for name in ("depths", "groups", "level2_post_norm_block_ids"):
            value = getattr(self, name)
            if isinstance(value, Iterable) and not isinstance(value, str):  # JSON and YAML know lists only
                object.__setattr__(self, name, tuple(value))
        for name, (fits, expected) in _RULES.items():
            if not fits(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {expected}")
        for level, groups in enumerate(self.groups):
            if self.level_channels(level) % groups:
                raise ValueError(
                    f"level {level} has {self.level_channels(level)} channels, which groups={groups} does not divide; "
                    f"the channels of the four levels are {', '.join(str(self.level_channels(i)) for i in range(4))}"
                )
        if self.use_dcn_v4_op and self.core_op == "DCNv4":
            raise ValueError("use_dcn_v4_op=True is a switch of DCNv3; core_op='DCNv4' has that operator anyway")
        ids = self.level2_post_norm_block_ids or ()
        if self.level2_post_norm and ids and max(ids) >= self.depths[2]:
            raise ValueError(
                f"level2_post_norm_block_ids is {ids}, but depths={self.depths} gives the third level blocks 0 to "
                f"{self.depths[2] - 1}; pass the ids of some of these, or level2_post_norm=False"
            )

    def level_channels(self, level: int) -> int:
        """Channels of a level, 0 to 3."""
        return self.channels * 2**level

    def drop_path_rates(self) -> list[list[float]]:
        """The stochastic depth of each block, level by level."""
        total = sum(self.depths)
        rates = [
            self.drop_path_rate * (1.0 if self.drop_path_type == "uniform" else i / max(total - 1, 1))
            for i in range(total)
        ]
        starts = [sum(self.depths[:level]) for level in range(4)]
        return [rates[start : start + depth] for start, depth in zip(starts, self.depths, strict=True)]

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names :func:`internimage.create_model` takes as overrides."""
        return tuple(field.name for field in fields(cls))


def is_integer(value: object, minimum: int) -> TypeGuard[int]:
    """Whether ``value`` is an int, no bool, and at least ``minimum``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_number(value: object, low: float = -math.inf, high: float = math.inf) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return math.isfinite(value) and low <= value <= high


def _are_integers(value: object, minimum: int) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(is_integer(v, minimum) for v in value)


def _is_positive(value: object) -> bool:
    return _is_number(value, 0) and value != 0


_Rule = tuple[Callable[[object], bool], str]


def _one_of(names: Iterable[str]) -> _Rule:
    names = tuple(names)
    return lambda value: isinstance(value, str) and value in names, f"one of {', '.join(map(repr, names))}"


_FOUR: _Rule = (lambda v: _are_integers(v, 1) and len(v) == 4, "four integers >= 1, one a level")
_BOOL: _Rule = (lambda v: isinstance(v, bool), "True or False")
_POSITIVE: _Rule = (_is_positive, "a number above 0")

_RULES: dict[str, _Rule] = {
    "channels": (
        lambda v: is_integer(v, 2) and v % 2 == 0,
        "an even integer >= 2: the stem starts with half of them",
    ),
    "depths": _FOUR,
    "groups": _FOUR,
    "in_chans": (lambda v: is_integer(v, 1), "an integer >= 1"),
    "mlp_ratio": _POSITIVE,
    "drop_rate": (lambda v: _is_number(v, 0, 1), "a number from 0 to 1"),
    "drop_path_rate": (lambda v: _is_number(v, 0, 1), "a number from 0 to 1"),
    "drop_path_type": _one_of(("linear", "uniform")),
    "act_layer": _one_of(ACTIVATIONS),
    "norm_layer": _one_of(NORMS),
    "layer_scale": (lambda v: v is None or _is_number(v), "a number, or None for no scales"),
    "offset_scale": (_is_number, "a finite number"),
    "post_norm": _BOOL,
    "res_post_norm": _BOOL,
    "dw_kernel_size": (
        lambda v: v is None or (is_integer(v, 1) and v % 2 == 1),
        "an odd integer >= 1, or None for 3: an even kernel would change the size of the map",
    ),
    "level2_post_norm": _BOOL,
    "level2_post_norm_block_ids": (lambda v: v is None or _are_integers(v, 0), "integers >= 0, or None"),
    "center_feature_scale": _BOOL,
    "remove_center": _BOOL,
    "use_clip_projector": _BOOL,
    "use_metadata": _BOOL,
    "cls_scale": _POSITIVE,
    "core_op": _one_of(("DCNv3", "DCNv4")),
    "dcn_output_bias": _BOOL,
    "mlp_fc2_bias": _BOOL,
    "use_dcn_v4_op": _BOOL,
}


_BASE = InternImageConfig()
_LARGE = replace(_BASE, post_norm=True, layer_scale=1e-5)
_HUGE = replace(_BASE, dw_kernel_size=5, level2_post_norm=True, center_feature_scale=True, use_clip_projector=True)

SIZES: dict[str, InternImageConfig] = {
    "internimage_femto": replace(
        _BASE,
        channels=32,
        depths=(2, 3, 3, 1),
        groups=(2, 4, 8, 16),
        in_chans=1,
        mlp_ratio=2.0,
        norm_layer="BN",
        cls_scale=1.0,
    ),
    "internimage_t": _BASE,
    "internimage_s": replace(_LARGE, channels=80, depths=(4, 4, 21, 4), groups=(5, 10, 20, 40)),
    "internimage_b": replace(_LARGE, channels=112, depths=(4, 4, 21, 4), groups=(7, 14, 28, 56)),
    "internimage_l": replace(_LARGE, channels=160, depths=(5, 5, 22, 5), groups=(10, 20, 40, 80), offset_scale=2.0),
    "internimage_xl": replace(_LARGE, channels=192, depths=(5, 5, 24, 5), groups=(12, 24, 48, 96), offset_scale=2.0),
    "internimage_h": replace(
        _HUGE,
        channels=320,
        depths=(6, 6, 32, 6),
        groups=(10, 20, 40, 80),
        res_post_norm=True,
        level2_post_norm_block_ids=(5, 11, 17, 23, 29),
    ),
    "internimage_g": replace(
        _HUGE,
        channels=512,
        depths=(2, 2, 48, 4),
        groups=(16, 32, 64, 128),
        post_norm=True,
        level2_post_norm_block_ids=(5, 11, 17, 23, 29, 35, 41, 47),
    ),
}
SIZES |= {
    "internimage_h_meta": replace(SIZES["internimage_h"], use_metadata=True),
    "flash_internimage_t": replace(SIZES["internimage_t"], core_op="DCNv4"),
    "flash_internimage_s": replace(SIZES["internimage_s"], core_op="DCNv4", dw_kernel_size=3),
    "flash_internimage_b": replace(SIZES["internimage_b"], core_op="DCNv4", dw_kernel_size=3, offset_scale=0.5),
    "flash_internimage_l": replace(
        SIZES["internimage_l"], core_op="DCNv4", dw_kernel_size=3, dcn_output_bias=True, mlp_fc2_bias=True
    ),
}
"""Architecture only; drop path, resolution and learning rate belong to recipes."""
