"""How numbers of offsets and masks lie in memory, as the kernels want to know it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor


class Lanes(NamedTuple):
    """Numbers of all rows, those of a group side by side: their tensor, and how far rows and groups are apart."""

    tensor: Tensor
    row: int
    group: int


def lanes_of(tensor: Tensor, groups: int) -> Lanes:
    """(N, H, W, G*K) or (N, H, W, G, K) as lanes; copied only where rows are not evenly apart."""
    shape, stride = tensor.shape, tensor.stride()
    row, group = stride[2], stride[3] if len(shape) == 5 else shape[3] // groups
    if stride[-1] == 1 and stride[1] == shape[2] * row and stride[0] == shape[1] * stride[1]:
        return Lanes(tensor, row, group)
    rows = tensor.flatten(0, 2)
    rows = rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()
    return Lanes(rows, rows.stride(0), rows.stride(1) if len(shape) == 5 else group)


def reach_of(lanes: Iterable[Lanes], rows: int, groups: int, channels: int) -> int:
    """How far numbers of one image are apart at most: in the lanes of its rows, and in its output."""
    return max(rows * channels, *(rows * lane.row + groups * lane.group for lane in lanes))
