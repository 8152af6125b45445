"""How fast each parameter learns and decays, told from its name alone: the two rules of the released trainers.

Both number the blocks of the backbone from the stem on and let early ones learn slower. Names are those of this
package, behind any prefix: ``backbone.stem.conv1.weight``, ``backbone.levels.2.blocks.7.dcn.offset.bias``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

NamedTensors = Iterable[tuple[str, Tensor]]

_STEM = re.compile(r"(?:^|\.)stem\.")
_BLOCK = re.compile(r"(?:^|\.)levels\.(\d+)\.blocks\.(\d+)\.")
_END_OF_LEVEL = re.compile(r"(?:^|\.)levels\.([012])\.(?:norm|downsample)\.")
_DCN_OFFSETS = ("offset", "attention_weights", "center_feature_scale_proj", "alpha_beta")


class Pace(NamedTuple):
    """What multiplies the learning rate of a parameter, and its weight decay."""

    lr_scale: float
    weight_decay: float


def classification_paces(
    parameters: NamedTensors,
    weight_decay: float,
    layer_decay: float | None = None,
    dcn_lr_mul: float | None = None,
) -> dict[str, Pace]:
    """The rule of the released classification trainer.

    The last block of the last level learns at the full rate, each block before it ``layer_decay`` slower. The stem goes
    with the first block; norm and downsampling of a level with the first block of the next. All else learns at the full
    rate: the head, the last norm, and also ``levels.2.post_norms``.

    Args:
        parameters: of the whole model, whose blocks are counted, by name; of the tensors only ``ndim`` matters.
        weight_decay: of tensors with two or more dimensions that are no bias.
        layer_decay: None gives every layer the full rate, and then ``dcn_lr_mul`` has no effect.
        dcn_lr_mul: multiplies the rate of what predicts offsets; not of ``mask``, unless one layer predicts both.
    """
    parameters = list(parameters)
    names = [name for name, _ in parameters]
    scales = dict.fromkeys(names, 1.0) if layer_decay is None else _layer_scales(names, layer_decay)
    if layer_decay is not None and dcn_lr_mul is not None:
        for name in names:
            if any(word in name for word in _DCN_OFFSETS):
                scales[name] *= dcn_lr_mul
    return {
        name: Pace(scales[name], 0.0 if tensor.ndim <= 1 or name.endswith(".bias") else weight_decay)
        for name, tensor in parameters
    }


def _layer_scales(names: Iterable[str], layer_decay: float) -> dict[str, float]:
    places = {name: _place(name) for name in names}
    blocks = sorted({(int(block[1]), int(block[2])) for block in map(_BLOCK.search, places) if block})
    scales = {block: layer_decay**exponent for exponent, block in enumerate(reversed(blocks))}
    return {name: 1.0 if place is None else scales.get(place, 1.0) for name, place in places.items()}


def _place(name: str) -> tuple[int, int] | None:
    """The block (level, index) that a parameter learns with; None is none of them."""
    if _STEM.search(name):
        return 0, 0
    if block := _BLOCK.search(name):
        return int(block[1]), int(block[2])
    if end := _END_OF_LEVEL.search(name):
        return int(end[1]) + 1, 0
    return None


_DENSE_BLOCK = re.compile(r"^backbone\.levels\.(\d+)\.(?:blocks|post_norms)\.(\d+)\.")
_DENSE_END = re.compile(r"^backbone\.levels\.(\d+)\.(?:norm|downsample)\.")
_DENSE_UNDECAYED = ("norm", "relative_position", "sampling_offsets")
_FIRST_IN_SEGMENTERS = tuple(
    f"decode_head.{name}" for name in ("mask_embed", "cls_embed", "level_embed", "query_embed", "query_feat")
)


def dense_prediction_paces(
    parameters: NamedTensors,
    weight_decay: float,
    *,
    depths: Sequence[int],
    num_layers: int,
    layer_decay_rate: float = 1.0,
    offset_lr_scale: float = 1.0,
    segmentation: bool = False,
) -> dict[str, Pace]:
    """The rule of the released detection and segmentation trainers: another numbering than for classification.

    Layer 0 is the stem, layer 1 the first block; ``levels.2.post_norms.k`` goes with block k. The norm and downsampling
    of a level go with the first block of the next, the last norm with the first block of its own level. Neck and heads
    are the last layer, ``num_layers + 1``, which learns at the full rate; each layer before it
    ``layer_decay_rate`` slower. Where ``num_layers`` is not the number of blocks, the numbers stay as they are.

    Args:
        parameters: names, backbone ones beginning with ``backbone.``, and tensors; of those only ``ndim`` matters.
        weight_decay: of tensors with two or more dimensions, unless the name says bias, norm, relative position or
            sampling offset.
        depths: blocks of each level.
        offset_lr_scale: multiplies the rate of ``sampling_offsets`` and ``reference_points`` of deformable attention,
            in the backbone alone with ``segmentation``, and of ``offset_mask`` of DCNv4, but never of DCNv3's offsets.
        segmentation: whether queries and their embeddings in ``decode_head`` learn as slowly as the stem.
    """
    last = num_layers + 1
    paces = {}
    for name, tensor in parameters:
        scale = layer_decay_rate ** (last - _dense_layer(name, depths, last, segmentation))
        if _has_scaled_offsets(name, segmentation):
            scale *= offset_lr_scale
        spared = tensor.ndim <= 1 or name.endswith(".bias") or any(word in name for word in _DENSE_UNDECAYED)
        paces[name] = Pace(scale, 0.0 if spared else weight_decay)
    return paces


def _dense_layer(name: str, depths: Sequence[int], last: int, segmentation: bool) -> int:
    if name.startswith("backbone.stem.") or "level_embeds" in name:
        return 0
    if segmentation and name.startswith((*_FIRST_IN_SEGMENTERS, "backbone.cb_modules.0.stem.")):
        return 0
    if block := _DENSE_BLOCK.search(name):
        return 1 + int(block[2]) + sum(depths[: int(block[1])])
    if end := _DENSE_END.search(name):
        return 1 + sum(depths[: min(int(end[1]), 2) + 1])
    return last


def _has_scaled_offsets(name: str, segmentation: bool) -> bool:
    words = ("sampling_offsets", "reference_points", "offset_mask.")
    return any(word in name for word in words) and (name.startswith("backbone.") or not segmentation)
