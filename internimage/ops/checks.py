"""What every operator asks of its tensors before a backend sees them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .geometry import Geometry

HALF_DTYPES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALF_DTYPES)


def require_tensors(**tensors: object) -> None:
    """Raise ValueError for what is no tensor."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}, expected a torch.Tensor")


def in_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the dtype of the active autocast region; float64 is left alone, as torch does."""
    device_type = tensors[0].device.type
    if not torch.is_autocast_enabled(device_type) or any(tensor.dtype == torch.float64 for tensor in tensors):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(tensor.to(dtype) for tensor in tensors)


def require_alike(first: str, /, *, finer: str = "", **tensors: Tensor) -> None:
    """All of a floating dtype that there is a kernel for, on one device, like the tensor named ``first``.

    The one named ``finer`` may be float32 beside half types.
    """
    like = tensors[first]
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}, expected float32, float64, float16 or bfloat16")
        is_finer = name == finer and tensor.dtype == torch.float32 and like.dtype in HALF_DTYPES
        if tensor.device != like.device or (tensor.dtype != like.dtype and not is_finer):
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, expected {like.dtype} on {like.device} like {first}"
            )


def require_axes(axes: tuple[str, ...], **tensors: Tensor) -> None:
    """As many axes as there are names in ``axes``."""
    words = {3: "three", 4: "four", 5: "five", 6: "six"}[len(axes)]
    for name, tensor in tensors.items():
        if tensor.dim() != len(axes):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {words} axes: ({', '.join(axes)})")


def size_of_row(size: Sequence[int], pixels: int) -> tuple[int, int]:
    """``size`` as (H, W) of a map whose ``pixels`` stand in one row; no numpy numbers and no tensors."""
    sides = tuple(size) if isinstance(size, Sequence) else ()
    whole = all(isinstance(side, (int, torch.SymInt)) and side >= 0 for side in sides)
    if len(sides) != 2 or not whole or sides[0] * sides[1] != pixels:
        raise ValueError(f"size is {size!r}, expected (height, width) of the {pixels} pixels of input, as ints")
    return sides


def output_size_of(input: Tensor, geometry: Geometry) -> tuple[int, int]:
    """(H_out, W_out) of a channels-last input (N, H, W, C) that the geometry fits."""
    _, h, w, c = input.shape
    if c < 1 or c % geometry.groups:
        raise ValueError(f"input has {c} channels, expected a positive multiple of groups={geometry.groups}")
    if h < 1 or w < 1:
        raise ValueError(f"input has shape {tuple(input.shape)}, expected a height and width of at least 1")
    h_out, w_out = geometry.output_size(h, w)
    if h_out < 1 or w_out < 1:
        raise ValueError(
            f"input of {h}x{w} is too small for kernel_size={geometry.kernel_size}, dilation={geometry.dilation}, "
            f"padding={geometry.padding}: the output would be {h_out}x{w_out}"
        )
    return h_out, w_out
