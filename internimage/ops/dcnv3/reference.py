"""DCNv3 in differentiable PyTorch: the definition of right, and beside it the form that exports.

N images, H W input size, G groups, D channels per group, C = G*D, P taps, L = H_out*W_out output pixels. Offset and
mask may have an axis for the groups, (N, H_out, W_out, G, P*2) and (N, H_out, W_out, G, P).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bilinear import sum_by_grid_sample, sum_of_corners, working_dtype
from ..geometry import Geometry


def why_not(call) -> list[str]:
    """Takes everything."""
    return []


def sampling_locations(offset: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Where each tap samples, in input pixels: x and y, each (N, H_out, W_out, G, P)."""
    n, h_out, w_out = offset.shape[:3]
    offset = offset.reshape(n, h_out, w_out, geometry.groups, geometry.taps, 2)
    taps = torch.tensor(geometry.tap_positions(), device=offset.device, dtype=offset.dtype)  # (P, 2) as (x, y)
    origin_y, origin_x = geometry.origin()
    rows = torch.arange(h_out, device=offset.device, dtype=offset.dtype) * geometry.stride[0] + origin_y
    columns = torch.arange(w_out, device=offset.device, dtype=offset.dtype) * geometry.stride[1] + origin_x
    x = columns.view(1, 1, w_out, 1, 1) + (offset[..., 0] + taps[:, 0]) * geometry.offset_scale
    y = rows.view(1, h_out, 1, 1, 1) + (offset[..., 1] + taps[:, 1]) * geometry.offset_scale
    return x, y


def dcnv3(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool = False) -> Tensor:
    """The formula with four explicit corners; see :func:`~internimage.ops.bilinear.sum_of_corners`.

    Shapes as in :func:`internimage.ops.dcnv3`; with ``softmax`` the mask holds logits.
    """
    n, h, w, c = input.shape
    h_out, w_out = offset.shape[1:3]
    groups, taps, depth = geometry.groups, geometry.taps, c // geometry.groups
    dtype = working_dtype(input.dtype)
    mask = mask.to(dtype).reshape(n, h_out, w_out, groups, taps)
    mask = mask.softmax(-1) if softmax else mask
    lanes = (*sampling_locations(offset.to(dtype), geometry), mask)
    x, y, weight = (lane.permute(0, 3, 1, 2, 4).reshape(n * groups, h_out * w_out, taps) for lane in lanes)
    values = input.to(dtype).reshape(n, h * w, groups, depth).transpose(1, 2).reshape(n * groups, h * w, depth)
    output = sum_of_corners(values, (h, w), x, y, weight)
    return output.view(n, groups, h_out * w_out, depth).transpose(1, 2).reshape(n, h_out, w_out, c).to(input.dtype)


def export_form(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool = False) -> Tensor:
    """The same function through one ``grid_sample``; see :func:`~internimage.ops.bilinear.sum_by_grid_sample`."""
    n, h, w, c = input.shape
    h_out, w_out = offset.shape[1:3]
    groups, taps, depth = geometry.groups, geometry.taps, c // geometry.groups
    dtype = working_dtype(input.dtype)
    offset, mask = offset.to(dtype), mask.to(dtype)
    # (N, H_out, W_out, G*P*2) -> two of (N*G, H_out, W_out, P) without ever holding five axes
    offset = offset.reshape(n, h_out * w_out, groups, taps * 2).transpose(1, 2)
    offset = offset.reshape(n * groups, h_out * w_out, taps, 2)
    offset_x, offset_y = (part.reshape(n * groups, h_out, w_out, taps) for part in offset.unbind(-1))
    tap_x, tap_y = torch.tensor(geometry.tap_positions(), device=input.device, dtype=dtype).unbind(-1)
    origin_y, origin_x = geometry.origin()
    rows = torch.arange(h_out, device=input.device, dtype=dtype) * geometry.stride[0] + origin_y
    columns = torch.arange(w_out, device=input.device, dtype=dtype) * geometry.stride[1] + origin_x
    x = (columns.view(1, 1, w_out, 1) + (offset_x + tap_x) * geometry.offset_scale).flatten(1, 2)
    y = (rows.view(1, h_out, 1, 1) + (offset_y + tap_y) * geometry.offset_scale).flatten(1, 2)
    mask = mask.reshape(n, h_out * w_out, groups, taps).transpose(1, 2)
    mask = (mask.softmax(-1) if softmax else mask).reshape(n * groups, h_out * w_out, taps)
    values = input.to(dtype).reshape(n, h * w, groups, depth).permute(0, 2, 3, 1).reshape(n * groups, depth, h, w)
    output = sum_by_grid_sample(values, x, y, mask).reshape(n, groups * depth, h_out * w_out)
    return output.transpose(1, 2).reshape(n, h_out, w_out, c).to(input.dtype)
