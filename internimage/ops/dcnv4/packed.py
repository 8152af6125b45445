"""How DCNv4 packs offsets and masks into one tensor.

For each output pixel and group in turn: ``P`` offsets (x, y), then ``P`` mask values; behind the last group as many
unused numbers as make the whole a multiple of 8.
"""

from __future__ import annotations

from torch import Tensor

from ..geometry import Geometry


def packed_channels(geometry: Geometry) -> int:
    """Numbers for each output pixel, the unused ones included."""
    return -(-3 * geometry.groups * geometry.taps // 8) * 8


def unpack(offset_mask: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Views of the offsets (N, H_out, W_out, G, P*2) and of the mask (N, H_out, W_out, G, P)."""
    taps = geometry.taps
    groups = offset_mask[..., : 3 * geometry.groups * taps].unflatten(-1, (geometry.groups, 3 * taps))
    return groups[..., : 2 * taps], groups[..., 2 * taps :]
