"""Forward and backward on the GPU: prepares the tensors and launches the Triton kernels.

Triton is imported by the first call. With ``TRITON_INTERPRET=1`` the same kernels run, slowly, on the CPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import warnings
from typing import Any

import torch
from torch import Tensor

from ..dispatch import Call, constant_while_tracing
from ..geometry import Geometry
from ..layout import by_group


def why_not(call: Call) -> list[str]:
    """Reasons to refuse ``call``."""
    if call.device_type not in ("cpu", "cuda"):
        return [f"input is on {call.device_type}"]
    if call.device_type == "cpu" and not _interpreted():
        return ["input is on cpu (there only in Triton's interpreter: start Python with TRITON_INTERPRET=1)"]
    missing = _missing(call.device_type)
    return [missing] if missing else []


@constant_while_tracing
def _interpreted() -> bool:
    """Whether the kernels run, or would run, in Triton's interpreter."""
    kernels = sys.modules.get(f"{__package__}.triton_kernels")
    if kernels is not None:
        return kernels.INTERPRETED
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


@constant_while_tracing
def _missing(device_type: str) -> str | None:
    """What this machine lacks for Triton there, or None."""
    return _look_around(device_type)


@functools.cache
def _look_around(device_type: str) -> str | None:
    if not importlib.util.find_spec("triton"):
        return "Triton is not installed"
    if device_type == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if device_type == "cuda" and not (sys.platform == "win32" or _c_compiler()):
        return "Triton needs a C compiler for its driver (gcc or clang, or name one in CC)"
    return None


def _c_compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def forward(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool = False) -> Tensor:
    """Shapes as in :func:`internimage.ops.dcnv3`; with ``softmax`` the mask holds logits.

    Offset and mask may have an axis for the groups, (N, H_out, W_out, G, P*2) and (N, H_out, W_out, G, P).
    """
    from . import triton_kernels as kernels

    output = input.new_empty(*offset.shape[:3], input.shape[-1])
    if output.numel() == 0:
        return output
    input, offset, mask = input.contiguous(), by_group(offset, geometry.groups), by_group(mask, geometry.groups)
    sizes, constants = arguments(input, offset, mask, output.shape, geometry, softmax)
    setting = kernels.forward_setting(constants["D"], geometry.taps)
    launch = kernels.forward_kernel[_grid(sizes, setting)]
    with torch.cuda.device_of(input):
        launch(input, offset, mask, output, **sizes, **constants, **setting.all_kwargs(), **COMPILER_OPTIONS)
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    geometry: Geometry,
    softmax: bool = False,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, offset and mask, the last two written ``into`` tensors where they are given.

    The order in which that of the input is summed up varies.
    """
    from . import triton_kernels as kernels

    grad_input = torch.zeros(input.shape, dtype=_sum_dtype(input.dtype), device=input.device)
    grad_offset, grad_mask = into or (offset.new_empty(offset.shape), mask.new_empty(mask.shape))
    if grad_output.numel() == 0:
        return grad_input.to(input.dtype), grad_offset.zero_(), grad_mask.zero_()
    _alert_not_deterministic()
    grad_output, input = grad_output.contiguous(), input.contiguous()
    offset, mask, *of = (by_group(tensor, geometry.groups) for tensor in (offset, mask, grad_offset, grad_mask))
    sizes, constants = arguments(input, offset, mask, grad_output.shape, geometry, softmax)
    setting = kernels.backward_setting(constants["D"], geometry.taps)
    launch = kernels.backward_kernel[_grid(sizes, setting)]
    with torch.cuda.device_of(input):
        launch(
            grad_output, input, offset, mask, grad_input, *of,
            grad_offset_row=of[0].stride(0), grad_mask_row=of[1].stride(0),
            GRAD_OFFSET_GROUP=of[0].stride(1), GRAD_MASK_GROUP=of[1].stride(1),
            **sizes, **constants, **setting.all_kwargs(), **COMPILER_OPTIONS,
        )  # fmt: skip
    return grad_input.to(input.dtype), grad_offset, grad_mask


def arguments(
    input: Tensor, offset: Tensor, mask: Tensor, output_shape: torch.Size, geometry: Geometry, softmax: bool
) -> tuple[dict[str, int], dict[str, Any]]:
    """What both kernels take beside their tensors: the sizes, and the constants that are compiled in.

    Args:
        input: (N, H, W, C). offset, mask: (N*H_out*W_out, G, numbers), rows and groups at any distance.
        output_shape: (N, H_out, W_out, C).
    """
    from . import triton_kernels as kernels

    n, h_out, w_out, c = output_shape
    pixels, taps, (kernel_h, kernel_w) = n * h_out * w_out, geometry.taps, geometry.kernel_size
    sizes = {"rows": pixels * geometry.groups, "h": input.shape[1], "w": input.shape[2], "h_out": h_out, "w_out": w_out}
    sizes |= {"offset_row": offset.stride(0), "mask_row": mask.stride(0)}
    furthest = max(input.numel(), pixels * max(c, 3 * geometry.groups * taps + 7, offset.stride(0), mask.stride(0)))
    origin_y, origin_x = geometry.origin()
    constants = {
        "G": geometry.groups,
        "D": c // geometry.groups,
        "P": taps,
        "KERNEL_H": kernel_h,
        "CENTER": (kernel_h * kernel_w) // 2 if geometry.remove_center else -1,
        "STRIDE_H": geometry.stride[0],
        "STRIDE_W": geometry.stride[1],
        "DILATION_H": geometry.dilation[0],
        "DILATION_W": geometry.dilation[1],
        "ORIGIN_Y": origin_y,
        "ORIGIN_X": origin_x,
        "SCALE": geometry.offset_scale,
        "OFFSET_GROUP": offset.stride(1),
        "MASK_GROUP": mask.stride(1),
        "SOFTMAX": softmax,
        "SUM": kernels.tl.float64 if input.dtype == torch.float64 else kernels.tl.float32,
        "INDEX": kernels.tl.int32 if furthest < _INT32_ADDRESSES else kernels.tl.int64,
        "BLOCK_D": _next_power_of_2(c // geometry.groups),
        "BLOCK_TAPS": _next_power_of_2(taps),
    }
    return sizes, constants


COMPILER_OPTIONS = {"enable_fp_fusion": True}  # said aloud: Triton's own default is about to change
_INT32_ADDRESSES = 2**31  # elements that a 32-bit address reaches


def _grid(sizes: dict[str, int], setting: Any) -> tuple[int]:
    """One program for each block of rows."""
    return (-(-sizes["rows"] // setting.kwargs["BLOCK_ROWS"]),)


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _next_power_of_2(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _alert_not_deterministic() -> None:
    """What torch's own operators say under ``torch.use_deterministic_algorithms(True)``."""
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "the backward of dcnv3 on backend 'triton' does not have a deterministic implementation, but you set "
        "torch.use_deterministic_algorithms(True). Turn it off, warn only (warn_only=True), or move to the CPU, "
        "where backend 'cpu' is deterministic."
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, stacklevel=2)
