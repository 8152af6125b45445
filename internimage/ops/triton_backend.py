"""What the Triton backends of all operators share on the host. Triton itself is imported by the first call.

With ``TRITON_INTERPRET=1`` the same kernels run, slowly, on the CPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .dispatch import Call, constant_while_tracing

COMPILER_OPTIONS = {"enable_fp_fusion": True}  # said aloud: Triton's own default is about to change
INT32_ADDRESSES = 2**31  # elements that a 32-bit address reaches


def automatic(call: Call) -> bool:
    """Picked without being named on a card, not in the interpreter."""
    return call.device_type == "cuda"


def why_not(call: Call) -> list[str]:
    """Reasons to refuse ``call``."""
    if call.device_type not in ("cpu", "cuda"):
        return [f"the tensors are on {call.device_type}"]
    if call.device_type == "cpu" and not _interpreted():
        return ["the tensors are on cpu (there only in Triton's interpreter: start Python with TRITON_INTERPRET=1)"]
    missing = _missing(call.device_type)
    return [missing] if missing else []


@constant_while_tracing
def _interpreted() -> bool:
    """Whether the kernels run, or would run, in Triton's interpreter."""
    pieces = sys.modules.get(f"{__package__}.triton_bilinear")
    if pieces is not None:
        return pieces.INTERPRETED
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


def constants_of(input: Tensor, output: Tensor, lanes: Sequence[Tensor], taps: int, softmax: bool) -> dict[str, Any]:
    """What every kernel has compiled in: groups, channels, taps, types, and the widths of its blocks.

    Args:
        input, output: (N, ..., C), packed.
        lanes: (rows, G, numbers), rows and groups at any distance: offsets, masks, and their gradients.
    """
    import triton.language as tl

    groups = lanes[0].shape[1]
    depth = input.shape[-1] // groups
    furthest = max(input.numel(), output.numel(), *map(_reach, lanes))
    return {
        "G": groups,
        "D": depth,
        "P": taps,
        "SOFTMAX": softmax,
        "SUM": tl.float64 if input.dtype == torch.float64 else tl.float32,
        "INDEX": tl.int32 if furthest < INT32_ADDRESSES else tl.int64,
        "BLOCK_D": _next_power_of_2(depth),
        "BLOCK_TAPS": _next_power_of_2(taps),
    }


def _reach(tensor: Tensor) -> int:
    """Elements from the first to the last, or a few more."""
    (rows, groups, numbers), (row, group, _) = tensor.shape, tensor.stride()
    return rows * row + groups * group + numbers


def _next_power_of_2(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def launch(kernel: Any, setting: Any, *tensors: Tensor, rows: int, **arguments: Any) -> None:
    """Run ``kernel`` on the card that holds the tensors, one program for each block of rows."""
    run = kernel[(-(-rows // setting.kwargs["BLOCK_ROWS"]),)]
    with torch.cuda.device_of(tensors[0]):
        run(*tensors, rows=rows, **arguments, **setting.all_kwargs(), **COMPILER_OPTIONS)


def zeros_for_sums(input: Tensor) -> Tensor:
    """Zeros shaped like ``input``, in which its gradient is summed up: float32 for the half types."""
    dtype = input.dtype if input.dtype == torch.float64 else torch.float32
    return torch.zeros(input.shape, dtype=dtype, device=input.device)


def alert_not_deterministic() -> None:
    """What torch's own operators say under ``torch.use_deterministic_algorithms(True)``."""
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "the backward pass on backend 'triton' does not have a deterministic implementation, but you set "
        "torch.use_deterministic_algorithms(True). Turn it off, warn only (warn_only=True), or move to the CPU, "
        "where backend 'cpu' is deterministic."
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, stacklevel=2)
