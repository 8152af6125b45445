"""When the Triton backends of all operators take a call. Triton itself is imported by the first launch.

With ``TRITON_INTERPRET=1`` the same kernels run, slowly, on the CPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys

import torch

from .dispatch import Call, constant_while_tracing


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
    if device_type == "cuda" and torch.version.hip:
        return "this torch is built for ROCm; the kernels are made for CUDA"
    if device_type == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if device_type == "cuda" and not (sys.platform == "win32" or _c_compiler()):
        return "Triton needs a C compiler for its driver (gcc or clang, or name one in CC)"
    return None


def _c_compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
