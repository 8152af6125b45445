"""The sizes of the maps that attention samples from."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

Sizes = tuple[tuple[int, int], ...]


def as_sizes(spatial_shapes: Tensor | Sequence[Sequence[int]]) -> Sizes:
    """((H, W), ...) of all levels; a tensor (L, 2) is read to the host."""
    pairs = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    try:
        sizes = tuple((_whole(h), _whole(w)) for h, w in pairs)
    except (TypeError, ValueError):
        sizes = ()
    if not sizes or any(h < 0 or w < 0 for h, w in sizes):
        raise ValueError(
            f"spatial_shapes is {spatial_shapes!r}, expected a (height, width) for each of one or more levels, in "
            "whole numbers"
        )
    return sizes


def _whole(side: int) -> int:
    """An int, or a number of a graph that is being traced, which stays one."""
    return side if isinstance(side, (int, torch.SymInt)) else operator.index(side)


def in_a_row(sizes: Sizes) -> list[int]:
    """[H, W, H, W, ...], as the registered operator takes them."""
    return [side for size in sizes for side in size]


def in_pairs(sides: list[int]) -> Sizes:
    """The inverse of :func:`in_a_row`."""
    return tuple(zip(sides[::2], sides[1::2], strict=True))
