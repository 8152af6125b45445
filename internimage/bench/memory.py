"""Peak memory: what PyTorch allocates while something runs, and what the process holds at its largest."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

_PROCESS = Path("/proc/self")
_TOO_LARGE = ("allocate memory", "not enough memory", "calculation overflowed", "out of memory")
"""What PyTorch says where there is not enough; only cards have an exception of their own for it."""


def peak_allocation(run: Callable[[], object], device: torch.device | None = None) -> int:
    """Bytes that PyTorch's allocator of ``device`` (the CPU unless given) holds at most during ``run`` above before.

    Memory that libraries take past the allocator is not in it; :func:`peak_resident` sees that too.
    """
    if device is not None and device.type == "cuda":
        return _peak_on_card(run, device)
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = run()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    held = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["args"]["Ev Idx"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def _peak_on_card(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run()
    torch.cuda.synchronize(device)
    del result
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def enough_for(what: str) -> Iterator[None]:
    """ValueError, in one line, where ``what`` needs more memory than there is."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in _TOO_LARGE):
            raise
        raise ValueError(f"there is not enough memory here to time {what}; choose smaller --shapes") from error


@contextmanager
def quiet() -> Iterator[None]:
    """The profiler's C++ tells of its starts and stops, and of absent GPUs, on standard error; errors still raise."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def peak_resident(run: Callable[[], object]) -> int | None:
    """Bytes of memory this process holds at most during ``run`` above what it held before; None where Linux is not."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or memory freed earlier would hide what is taken now
        (_PROCESS / "clear_refs").write_text("5")  # the high-water mark starts again at what is held now
        before = _status("VmRSS")
        result = run()
        del result
        return _status("VmHWM") - before
    except (OSError, AttributeError, TypeError):
        return None


def _status(key: str) -> int:
    line = next(line for line in (_PROCESS / "status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024
