"""Multi-scale deformable attention in differentiable PyTorch: the definition of right, and the form that exports.

N images, S pixels of all levels, M heads, D channels per head, Q queries, L levels, P points. Values are (N, S, M*D),
locations (N, Q, M, L*P*2), weights (N, Q, M, L*P).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..bilinear import sum_by_grid_sample, sum_of_corners, working_dtype
from .levels import Sizes


def why_not(call) -> list[str]:
    """Takes everything."""
    return []


def four_corners(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, softmax: bool = False) -> Tensor:
    """The formula with four explicit corners; see :func:`~internimage.ops.bilinear.sum_of_corners`; (N, Q, M*D)."""
    n, _, c = values.shape
    _, queries, heads, _ = weights.shape
    output = values.new_zeros(n * heads, queries, c // heads, dtype=working_dtype(values.dtype))
    if not any(h * w for h, w in sizes):
        output = output + _nothing(values, locations, weights)
    for size, start, x, y, weight in _by_level(locations, weights, sizes, softmax, output.dtype):
        level = values[:, start : start + size[0] * size[1]].to(output.dtype).unflatten(-1, (heads, -1))
        output = output + sum_of_corners(level.transpose(1, 2).flatten(0, 1), size, x, y, weight)
    return output.unflatten(0, (n, heads)).transpose(1, 2).reshape(n, queries, c).to(values.dtype)


def export_form(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, softmax: bool = False) -> Tensor:
    """The same with a ``grid_sample`` a level; see :func:`~internimage.ops.bilinear.sum_by_grid_sample`."""
    n, _, c = values.shape
    _, queries, heads, _ = weights.shape
    output = values.new_zeros(n * heads, c // heads, queries, dtype=working_dtype(values.dtype))
    if not any(h * w for h, w in sizes):
        output = output + _nothing(values, locations, weights)
    for size, start, x, y, weight in _by_level(locations, weights, sizes, softmax, output.dtype):
        level = values[:, start : start + size[0] * size[1]].to(output.dtype).transpose(1, 2)
        level = level.reshape(n * heads, c // heads, *size)
        output = output + sum_by_grid_sample(level, x, y, weight)
    return output.reshape(n, c, queries).transpose(1, 2).to(values.dtype)


def _nothing(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Zero, and all three have their gradient: where every level is empty nothing else would give them one."""
    return values[:, :0].sum() + locations[..., :0].sum() + weights[..., :0].sum()


def _by_level(
    locations: Tensor, weights: Tensor, sizes: Sizes, softmax: bool, dtype: torch.dtype
) -> Iterator[tuple[tuple[int, int], int, Tensor, Tensor, Tensor]]:
    """For each level that has pixels: its size, its first pixel, and x, y (pixels) and weight, each (N*M, Q, P)."""
    n, queries, heads, lanes = weights.shape
    points = lanes // len(sizes)
    weights = weights.to(dtype).softmax(-1) if softmax else weights.to(dtype)
    weights = weights.transpose(1, 2).reshape(n * heads, queries, lanes)
    locations = locations.to(dtype).transpose(1, 2).reshape(n * heads, queries, lanes, 2)
    start = 0
    for index, (height, width) in enumerate(sizes):
        if height * width:
            here = slice(index * points, (index + 1) * points)
            x, y = locations[:, :, here].unbind(-1)
            yield (height, width), start, x * width - 0.5, y * height - 0.5, weights[:, :, here]
        start += height * width
