"""Loads the C++ kernels: one small library for every Python and torch, called through ctypes.

Its loops run on torch's own threads: the library is handed torch's ``parallel_for`` when it is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import torch

from ..dispatch import constant_while_tracing

STORAGE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""``enum Storage`` of ``problem.h``."""

SUFFIX = ".dll" if sys.platform == "win32" else ".so"
PATH = Path(__file__).with_name("_kernels" + SUFFIX)
_TORCH_LIBRARY = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")


class DeformableProblem(ctypes.Structure):
    """Mirrors ``struct DeformableProblem`` of ``problem.h``: pointers, sizes and geometry of one call."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("input", "offset", "mask")),
        *((name, ctypes.c_void_p) for name in ("input_bias", "offset_bias", "mask_bias", "output")),
        *((name, ctypes.c_void_p) for name in ("grad_output", "grad_input", "grad_offset", "grad_mask", "levels")),
        *((name, ctypes.c_int64) for name in ("storage", "offset_storage", "bias_storage")),
        *((name, ctypes.c_int64) for name in ("softmax", "remove_center")),
        *((name, ctypes.c_int64) for name in ("n", "h", "w", "h_out", "w_out", "groups", "depth")),
        *((name, ctypes.c_int64) for name in ("level_count", "points", "kernel_h", "kernel_w", "stride_h", "stride_w")),
        *((name, ctypes.c_int64) for name in ("dilation_h", "dilation_w")),
        *((name, ctypes.c_int64) for name in ("offset_row", "offset_group", "mask_row", "mask_group")),
        *((name, ctypes.c_int64) for name in ("grad_offset_row", "grad_offset_group", "grad_mask_row")),
        *((name, ctypes.c_int64) for name in ("grad_mask_group", "offset_bias_group", "mask_bias_group")),
        *((name, ctypes.c_double) for name in ("origin_y", "origin_x", "offset_scale")),
    ]


class FusedProblem(ctypes.Structure):
    """Mirrors ``struct FusedProblem`` of ``problem.h``: one fused pass for inference."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("input", "output", "residual", "weight", "bias")),
        *((name, ctypes.c_void_p) for name in ("scale", "norm_weight", "norm_bias")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("pass_", "storage", "parameters", "gelu", "rows", "channels")),
        *((name, ctypes.c_int64) for name in ("h", "w", "h_out", "w_out")),
        *(
            (name, ctypes.c_int64)
            for name in ("kernel_h", "kernel_w", "stride_h", "stride_w", "padding_h", "padding_w")
        ),
    ]


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why it cannot be used."""
    if not PATH.exists():
        return "the native kernel was not built (no C++ compiler when the package was installed)"
    try:
        library = ctypes.CDLL(str(PATH))
        _declare(library)
    except OSError as error:
        return f"the native kernel does not load: {error}"
    except AttributeError as error:
        return f"the native kernel is of another version, build it again ({error})"
    if library.internimage_bytes_passed() != ctypes.sizeof(DeformableProblem) * 65536 + ctypes.sizeof(FusedProblem):
        return "the native kernel is of another version, build it again (pip install, or in a clone make clean)"
    _lend_threads(library)
    return library


def _declare(library: ctypes.CDLL) -> None:
    for name in ("internimage_deformable_forward", "internimage_deformable_backward"):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.POINTER(DeformableProblem)], None
    library.internimage_fused.argtypes, library.internimage_fused.restype = [ctypes.POINTER(FusedProblem)], None
    library.internimage_instruction_set.restype = ctypes.c_char_p
    library.internimage_bytes_passed.restype = ctypes.c_int64


def _lend_threads(library: ctypes.CDLL) -> None:
    """Hand over torch's parallel_for; without it (another torch layout) the kernels run on the calling thread."""
    try:
        torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / _TORCH_LIBRARY))
        library.internimage_set_parallel_for(ctypes.cast(torch_library.torch_parallel_for, ctypes.c_void_p))
    except (OSError, AttributeError):
        pass


def library() -> ctypes.CDLL:
    """The loaded library; call only where :func:`load_error` is None."""
    loaded = _load()
    assert isinstance(loaded, ctypes.CDLL), loaded
    return loaded


@constant_while_tracing
def load_error() -> str | None:
    """Why the kernels cannot be used here, or None."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def instruction_set() -> str:
    """The instruction set the kernels run with on this machine, such as ``"avx512"``."""
    return library().internimage_instruction_set().decode()
