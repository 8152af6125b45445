"""The sizes of the maps that attention samples from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Sizes = tuple[tuple[int, int], ...]


def as_sizes(spatial_shapes: Tensor | Sequence[Sequence[int]]) -> Sizes:
    """((H, W), ...) of all levels; a tensor (L, 2) is read to the host."""
    pairs = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    try:
        sizes = tuple((int(h), int(w)) for h, w in pairs)
    except (TypeError, ValueError):
        sizes = ()
    if not sizes or min(map(min, sizes)) < 0:
        raise ValueError(
            f"spatial_shapes is {spatial_shapes!r}, expected a (height, width) for each of one or more levels"
        )
    return sizes
