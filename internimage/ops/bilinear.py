"""Weighted sums of bilinear samples in differentiable PyTorch: what the reference forms of all operators are made of.

B maps (images times groups), H W their size, D channels, Q outputs with P samples each. Positions are in pixels.
Samples outside a map, and samples at NaN or infinite positions, contribute nothing, to the output as to every gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Coordinates, weights and sums are float32 for the half types, else the dtype itself."""
    return dtype if dtype == torch.float64 else torch.float32


def sum_of_corners(values: Tensor, size: tuple[int, int], x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Four explicit corners. The gradient of a position on a grid line is that of the cell ``floor`` picks.

    Args:
        values: (B, H*W, D). size: (H, W). x, y, weight: (B, Q, P).

    Returns:
        (B, Q, D).
    """
    h, w = size
    output = values.new_zeros(*x.shape[:2], values.shape[-1])
    if h * w == 0:
        return output
    inside = (x > -1) & (y > -1) & (x < w) & (y < h)  # false for NaN
    # torch.where twice: the first keeps NaN out of the arithmetic, the second keeps its gradient at zero
    x, y = torch.where(inside, x, 0.0), torch.where(inside, y, 0.0)
    x0, y0 = x.detach().floor(), y.detach().floor()
    right, lower = x - x0, y - y0
    corners = (
        (0, 0, (1 - right) * (1 - lower)),
        (1, 0, right * (1 - lower)),
        (0, 1, (1 - right) * lower),
        (1, 1, right * lower),
    )
    for step_x, step_y, share in corners:
        column, row = x0.long() + step_x, y0.long() + step_y
        valid = inside & (column >= 0) & (column < w) & (row >= 0) & (row < h)
        index = torch.where(valid, row * w + column, 0)
        share = torch.where(valid, share, 0.0) * torch.where(valid, weight, 0.0)
        for p in range(x.shape[-1]):
            corner = values.gather(1, index[..., p, None].expand(-1, -1, values.shape[-1]))
            corner = torch.where(valid[..., p, None], corner, 0.0)  # a NaN in a map stays where it is sampled
            output = output + share[..., p, None] * corner
    return output


def sum_by_grid_sample(values: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """The same through one ``grid_sample``, nothing above rank 4: for ONNX, Core ML and the like.

    Equal to :func:`sum_of_corners` except for the gradient of a position exactly on a grid line.

    Args:
        values: (B, D, H, W). x, y, weight: (B, Q, P).

    Returns:
        (B, D, Q).
    """
    h, w = values.shape[-2:]
    near = (x > -1) & (y > -1) & (x < w) & (y < h)  # false for NaN; all others go where every corner is outside
    x, y = torch.where(near, x, -2.0), torch.where(near, y, -2.0)
    grid = torch.stack(((x * 2 + 1) / w - 1, (y * 2 + 1) / h - 1), -1)
    sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (sampled * weight.unsqueeze(1)).sum(-1)
