"""DCNv3 in differentiable PyTorch: the definition of right, and beside it the form that exports.

N images, H W input size, G groups, D channels per group, C = G*D, P taps, L = H_out*W_out output pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Geometry


def why_not(call) -> list[str]:
    """Takes everything."""
    return []


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Coordinates, weights and sums are float32 for the half types, else the dtype itself."""
    return dtype if dtype == torch.float64 else torch.float32


def sampling_locations(offset: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Where each tap samples, in input pixels: x and y, each (N, H_out, W_out, G, P)."""
    n, h_out, w_out = offset.shape[:3]
    offset = offset.reshape(n, h_out, w_out, geometry.groups, geometry.taps, 2)
    taps = offset.new_tensor(geometry.tap_positions())  # (P, 2) as (x, y)
    origin_y, origin_x = geometry.origin()
    rows = torch.arange(h_out, device=offset.device, dtype=offset.dtype) * geometry.stride[0] + origin_y
    columns = torch.arange(w_out, device=offset.device, dtype=offset.dtype) * geometry.stride[1] + origin_x
    x = columns.view(1, 1, w_out, 1, 1) + (offset[..., 0] + taps[:, 0]) * geometry.offset_scale
    y = rows.view(1, h_out, 1, 1, 1) + (offset[..., 1] + taps[:, 1]) * geometry.offset_scale
    return x, y


def dcnv3(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool = False) -> Tensor:
    """The formula with four explicit corners.

    Shapes as in :func:`internimage.ops.dcnv3`; with ``softmax`` the mask holds logits. The offset gradient on a grid
    line is that of the cell ``floor`` picks. Samples at NaN or infinite positions contribute nothing, to the
    output as to every gradient.
    """
    n, h, w, c = input.shape
    h_out, w_out = offset.shape[1:3]
    groups, taps, depth = geometry.groups, geometry.taps, c // geometry.groups
    dtype = working_dtype(input.dtype)
    mask = mask.to(dtype).reshape(n, h_out, w_out, groups, taps)
    mask = mask.softmax(-1) if softmax else mask
    x, y = sampling_locations(offset.to(dtype), geometry)
    inside = (x > -1) & (y > -1) & (x < w) & (y < h)  # false for NaN
    # torch.where twice: the first keeps NaN out of the arithmetic, the second keeps its gradient at zero
    x, y = torch.where(inside, x, 0.0), torch.where(inside, y, 0.0)
    x0, y0 = x.detach().floor(), y.detach().floor()
    right, lower = x - x0, y - y0
    values = input.to(dtype).reshape(n, h * w, groups, depth).transpose(1, 2)  # (N, G, H*W, D)
    output = values.new_zeros(n, groups, h_out * w_out, depth)
    corners = (
        (0, 0, (1 - right) * (1 - lower)),
        (1, 0, right * (1 - lower)),
        (0, 1, (1 - right) * lower),
        (1, 1, right * lower),
    )
    for step_x, step_y, weight in corners:
        column, row = x0.long() + step_x, y0.long() + step_y
        valid = inside & (column >= 0) & (column < w) & (row >= 0) & (row < h)
        index = torch.where(valid, row * w + column, 0)
        index = index.reshape(n, h_out * w_out, groups, taps).transpose(1, 2)  # (N, G, L, P)
        weight = torch.where(valid, weight, 0.0) * torch.where(valid, mask, 0.0)
        weight = weight.reshape(n, h_out * w_out, groups, taps).transpose(1, 2)
        valid = valid.reshape(n, h_out * w_out, groups, taps).transpose(1, 2)
        for p in range(taps):
            picked = index[..., p, None].expand(-1, -1, -1, depth)
            corner = values.gather(2, picked) if h * w else values.new_zeros(picked.shape)
            corner = torch.where(valid[..., p, None], corner, 0.0)  # a NaN in the input stays where it is sampled
            output = output + weight[..., p, None] * corner
    return output.transpose(1, 2).reshape(n, h_out, w_out, c).to(input.dtype)


def export_form(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool = False) -> Tensor:
    """The same function through one ``grid_sample`` with no intermediate above rank 4, for ONNX, Core ML and the like.

    Equal to :func:`dcnv3` except for the offset gradient exactly on a grid line.
    """
    n, h, w, c = input.shape
    h_out, w_out = offset.shape[1:3]
    groups, taps, depth = geometry.groups, geometry.taps, c // geometry.groups
    dtype = working_dtype(input.dtype)
    offset, mask = offset.to(dtype), mask.to(dtype)
    # (N, H_out, W_out, G*P*2) -> (N*G, L, P, 2) without ever holding five axes
    offset = offset.reshape(n, h_out * w_out, groups, taps * 2).transpose(1, 2)
    offset = offset.reshape(n * groups, h_out * w_out, taps, 2)
    tap_x, tap_y = torch.tensor(geometry.tap_positions(), device=input.device, dtype=dtype).unbind(-1)
    origin_y, origin_x = geometry.origin()
    rows = torch.arange(h_out, device=input.device, dtype=dtype) * geometry.stride[0] + origin_y
    columns = torch.arange(w_out, device=input.device, dtype=dtype) * geometry.stride[1] + origin_x
    x = columns.repeat(h_out).reshape(1, -1, 1) + (offset[..., 0] + tap_x) * geometry.offset_scale
    y = rows.repeat_interleave(w_out).reshape(1, -1, 1) + (offset[..., 1] + tap_y) * geometry.offset_scale
    near = (x > -1) & (y > -1) & (x < w) & (y < h)  # false for NaN; all others go where every corner is outside
    x, y = torch.where(near, x, -2.0), torch.where(near, y, -2.0)
    grid = torch.stack(((x * 2 + 1) / w - 1, (y * 2 + 1) / h - 1), -1)
    values = input.to(dtype).reshape(n, h * w, groups, depth).permute(0, 2, 3, 1).reshape(n * groups, depth, h, w)
    sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    mask = mask.reshape(n, h_out * w_out, groups, taps).transpose(1, 2)
    mask = mask.softmax(-1) if softmax else mask
    mask = mask.reshape(n * groups, 1, h_out * w_out, taps)
    output = (sampled * mask).sum(-1).reshape(n, groups * depth, h_out * w_out)
    return output.transpose(1, 2).reshape(n, h_out, w_out, c).to(input.dtype)
