"""How DCNv4 packs offsets and masks into one tensor.

For each output pixel and group in turn: ``P`` offsets (x, y), then ``P`` mask values; behind the last group as many
unused numbers as make the whole a multiple of 8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require_tensors
from ..geometry import Geometry


def packed_channels(geometry: Geometry) -> int:
    """Numbers for each output pixel, the unused ones included."""
    return -(-3 * geometry.groups * geometry.taps // 8) * 8


def pack_offset_mask(offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """The tensors of DCNv3 as DCNv4 wants them.

    Args:
        offset: (N, H_out, W_out, groups*P*2). mask: (N, H_out, W_out, groups*P).

    Returns:
        (N, H_out, W_out, K) with zeros behind the last group.

    Raises:
        ValueError: the two do not fit each other or ``groups``.
    """
    require_tensors(offset=offset, mask=mask)
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups is {groups!r}, expected an int >= 1")
    fits = offset.dim() == mask.dim() == 4 and offset.shape[:3] == mask.shape[:3] and not mask.shape[-1] % groups
    if not fits or offset.shape[-1] != 2 * mask.shape[-1]:
        raise ValueError(
            f"offset has shape {tuple(offset.shape)} and mask {tuple(mask.shape)}, expected "
            f"(N, H_out, W_out, groups*P*2) and (N, H_out, W_out, groups*P) with groups={groups}"
        )
    packed = torch.cat((offset.unflatten(-1, (groups, -1)), mask.unflatten(-1, (groups, -1))), -1).flatten(-2)
    return F.pad(packed, (0, -packed.shape[-1] % 8))


def unpack(offset_mask: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Views of the offsets (N, H_out, W_out, G, P*2) and of the mask (N, H_out, W_out, G, P)."""
    taps = geometry.taps
    groups = offset_mask[..., : 3 * geometry.groups * taps].unflatten(-1, (geometry.groups, 3 * taps))
    return groups[..., : 2 * taps], groups[..., 2 * taps :]


def views(offset_mask: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The same outside autograd and graphs, in half the time."""
    n, h, w, _ = offset_mask.shape
    *outer, last = offset_mask.stride()
    groups, taps = geometry.groups, geometry.taps
    strides = (*outer, 3 * taps * last, last)
    start = offset_mask.storage_offset()
    offset = offset_mask.as_strided((n, h, w, groups, 2 * taps), strides, start)
    return offset, offset_mask.as_strided((n, h, w, groups, taps), strides, start + 2 * taps * last)
