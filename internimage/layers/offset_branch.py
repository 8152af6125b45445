"""What offsets and masks are predicted from: one pixel for each output pixel, in the middle of its kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.checks import output_size_of
from ..ops.geometry import Geometry
from .convolution import ChannelsLastConv2d


def depthwise_branch(channels: int, kernel: tuple[int, int], geometry: Geometry) -> ChannelsLastConv2d:
    """A depthwise convolution whose kernels have the same middles as those of a deformable one.

    Raises:
        ValueError: the middle of a kernel at the border is too far inside, or the maps differ in size for any input.
    """
    padding = branch_padding(kernel, geometry)
    if min(padding) < 0:
        least = tuple(2 * (half - p) + 1 for half, p in zip(geometry.half_extent(), geometry.padding, strict=True))
        raise ValueError(
            f"with kernel_size={geometry.kernel_size}, padding={geometry.padding}, dilation={geometry.dilation} a "
            f"depthwise kernel of {kernel} does not reach the border; pass dw_kernel_size={least} or more padding"
        )
    for axis, name in enumerate(("height", "width")):
        growth = 2 * geometry.padding[axis] - geometry.dilation[axis] * (geometry.kernel_size[axis] - 1)
        dw_growth = 2 * padding[axis] - (kernel[axis] - 1)
        if abs(growth - dw_growth) >= geometry.stride[axis]:
            raise ValueError(
                f"with kernel_size={geometry.kernel_size}, padding={geometry.padding}, dilation={geometry.dilation} "
                f"the {name} changes by {growth} before the stride, in the depthwise branch (kernel {kernel}) by "
                f"{dw_growth}: their sizes never fit; pass another dw_kernel_size, odd for odd kernels, even for even"
            )
    return ChannelsLastConv2d(channels, channels, kernel, geometry.stride, padding, groups=channels)


def middle_pixels(x: Tensor, geometry: Geometry) -> Tensor:
    """The pixels of (N, H, W, C) in the middle of each kernel, (N, H_out, W_out, C); zero outside the map."""
    height, width = x.shape[1:3]
    size, (down, across) = geometry.output_size(height, width), geometry.stride
    if size == (height, width) and (down, across) == (1, 1):
        return x
    shifts = [h - p for h, p in zip(geometry.half_extent(), geometry.padding, strict=True)]
    if min(shifts) < 0:  # the padding is wider than half a kernel
        rows, columns = (max(0, -shift) for shift in shifts)
        x = F.pad(x, (0, 0, columns, columns, rows, rows))
    top, left = (max(0, shift) for shift in shifts)
    return x[:, top : top + (size[0] - 1) * down + 1 : down, left : left + (size[1] - 1) * across + 1 : across]


def check_blend(geometry: Geometry) -> None:
    """ValueError unless the output of every map has its size, as a blend of the two wants."""
    growths = [
        2 * padding - dilation * (kernel - 1)
        for padding, dilation, kernel in zip(geometry.padding, geometry.dilation, geometry.kernel_size, strict=True)
    ]
    if geometry.stride != (1, 1) or any(growths):
        raise ValueError(
            f"center_feature_scale blends the output with the input, so both must be of one size; kernel_size="
            f"{geometry.kernel_size}, stride={geometry.stride}, padding={geometry.padding}, dilation="
            f"{geometry.dilation} change it"
        )


def blend(output: Tensor, values: Tensor, shares: Tensor) -> Tensor:
    """Each group of ``output`` (N, H, W, C) moved towards that of ``values`` by its share, ``shares`` (N, H, W, G)."""
    sizes = (shares.shape[-1], -1)
    grouped, target = output.unflatten(-1, sizes), values.to(output.dtype).unflatten(-1, sizes)
    return torch.lerp(grouped, target, shares.to(output.dtype).unsqueeze(-1)).flatten(-2)


def check_size(x: Tensor, kernel: tuple[int, int] | None, geometry: Geometry) -> None:
    """ValueError unless (N, H, W, C) is large enough, and a depthwise branch gives a pixel for each output pixel."""
    expected = output_size_of(x, geometry)
    if kernel is None:
        return
    height, width = x.shape[1:3]
    branch = Geometry(kernel, geometry.stride, branch_padding(kernel, geometry)).output_size(height, width)
    if branch != expected:
        raise ValueError(
            f"an input of {height}x{width} gives offsets of {branch} but an output of {expected}; choose padding so "
            "that the operator and the depthwise kernel agree"
        )


def branch_padding(kernel: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """The padding with which depthwise kernels have the same middles as those of the operator; may be below zero."""
    shifts = [p - half for p, half in zip(geometry.padding, geometry.half_extent(), strict=True)]
    return (kernel[0] - 1) // 2 + shifts[0], (kernel[1] - 1) // 2 + shifts[1]
