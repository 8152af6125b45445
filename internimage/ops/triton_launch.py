"""From tensors to a running Triton kernel, with as little Python as possible on the way.

The first call of a class compiles a kernel through Triton's own road and keeps what it returned, with everything that
is the same for the whole class. Later calls look that up and launch it.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import tuning
from .triton_settings import WIDEST_VECTOR, Setting, candidates, next_power_of_2, pieces_of, vector_of

COMPILER_OPTIONS = {"enable_fp_fusion": True}  # said aloud: Triton's own default is about to change
INT32_ADDRESSES = 2**31  # elements that a 32-bit address reaches


class Kernel(NamedTuple):
    """A kernel by the module that holds it, which is imported by the first launch."""

    module: str
    name: str

    @property
    def forward(self) -> bool:
        return self.name == "forward_kernel"

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module, __package__), self.name)


class Problem(NamedTuple):
    """One call, as the kernels see it.

    ``strips`` strips of ``length`` outputs in each of ``images`` images, with ``groups`` rows an output.
    ``constants()`` are what is compiled in; they, and the dtypes of all tensors, must follow from ``call`` and from the
    dtype of the first. ``zeroed`` is a tensor that launches add to: a measurement leaves it at zero.
    """

    kernel: Kernel
    call: Hashable
    tensors: tuple[Tensor, ...]
    sizes: tuple
    images: int
    strips: int
    length: int
    groups: int
    depth: int
    taps: int
    reach: int
    constants: Callable[[], dict[str, Any]]
    zeroed: Tensor | None = None

    @property
    def rows(self) -> int:
        """Of all images."""
        return self.images * self.strips * self.length * self.groups

    def parts(self, rows: int) -> tuple[int, int]:
        """Parts that a strip is cut in for programs of so many rows, and the number of programs."""
        parts = -(-self.length // rows)
        return parts, parts * self.groups * self.strips * self.images


class Launch(NamedTuple):
    """A compiled kernel, the rows that a program of it takes, and the constants it was compiled with."""

    compiled: Any
    rows: int
    constants: tuple


_launches: dict[tuple, Launch] = {}


def launch(problem: Problem) -> None:
    """Run a kernel on the card that holds the tensors, on its current stream."""
    tensors = problem.tensors
    first = tensors[0]
    pointers = [tensor.data_ptr() for tensor in tensors]
    aligned = not any(pointer & 15 for pointer in pointers) or tuple(pointer & 15 == 0 for pointer in pointers)
    crowd = problem.rows.bit_length() >> 1
    short = problem.reach < INT32_ADDRESSES
    key = (problem.kernel, problem.call, first.dtype, first.device, aligned, crowd, short, tuning.generation)
    known = _launches.get(key)
    with on_device(first.device):
        if known is None:
            known = _first_launch(problem)
            if known.compiled is not None and short:
                _launches[key] = known
            return
        parts, programs = problem.parts(known.rows)
        known.compiled[(programs, 1, 1)](*tensors, parts, *problem.sizes, *known.constants)


def on_device(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes ``device`` the current one, where it is not."""
    if device.type != "cuda" or torch.cuda.current_device() == device.index:
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def _first_launch(problem: Problem) -> Launch:
    """Launch by Triton's own road, with the setting that was measured or may be measured now."""
    settings = settings_of(problem)
    measure = _seconds(problem) if _can_measure(problem.tensors[0]) else None
    setting = Setting(*tuning.setting_for(class_of(problem), settings, measure))
    if problem.zeroed is not None and measure is not None and tuning.asked():
        problem.zeroed.zero_()
    return _launch_with(problem, setting)


def _launch_with(problem: Problem, setting: Setting) -> Launch:
    kernel = problem.kernel.load()
    constants = constants_of(problem, setting)
    parts, programs = problem.parts(setting.rows)
    arguments = (*problem.tensors, parts, *problem.sizes)
    compiled = kernel[(programs, 1, 1)](*arguments, **constants, num_warps=setting.warps, **COMPILER_OPTIONS)
    if not hasattr(compiled, "__getitem__"):  # the interpreter compiles nothing
        return Launch(None, setting.rows, ())
    return Launch(compiled, setting.rows, tuple(constants[name] for name in kernel.arg_names[len(arguments) :]))


def settings_of(problem: Problem) -> Sequence[Setting]:
    """The settings that fit a problem, the one to take unmeasured first."""
    return candidates(problem.depth, _vector_of(problem), _size_of(problem), problem.rows, problem.kernel.forward)


def constants_of(problem: Problem, setting: Setting) -> dict[str, Any]:
    """All that is compiled into the kernel."""
    import triton.language as tl

    pieces = pieces_of(problem.depth, _vector_of(problem), setting)
    constants = {
        "D": problem.depth,
        "P": problem.taps,
        "SUM": tl.float64 if problem.tensors[0].dtype == torch.float64 else tl.float32,
        "INDEX": tl.int32 if problem.reach < INT32_ADDRESSES else tl.int64,
        "PIECES": pieces.pieces,
        "WIDTH": pieces.width,
        "ROWS": setting.rows,
    }
    last = {"UNROLL": setting.unroll} if problem.kernel.forward else {"TAPS": next_power_of_2(problem.taps)}
    return problem.constants() | constants | last


def _size_of(problem: Problem) -> int:
    """Bytes of a channel where it is read, or where its gradient is added up."""
    size = problem.tensors[0].element_size()
    return size if problem.kernel.forward else max(size, 4)


def _vector_of(problem: Problem) -> int:
    """Channels that a thread reads or adds up at once; before sm_90 a card adds one number at a time."""
    size = _size_of(problem)
    scalar = not problem.kernel.forward and capability() < 90
    return vector_of(problem.depth, size, size if scalar else WIDEST_VECTOR)


def capability() -> int:
    """Of the current card, 90 for 9.0; that in the interpreter, too."""
    from triton import knobs, runtime

    return 90 if knobs.runtime.interpret else runtime.driver.active.get_current_target().arch


def class_of(problem: Problem) -> str:
    """Names the class of calls that share a launch setting, with the card and what compiles for it."""
    import triton

    first = problem.tensors[0]
    card = f"{torch.cuda.get_device_name(first.device)} triton {triton.__version__}" if first.is_cuda else "no card"
    dtype = str(first.dtype).removeprefix("torch.")
    operator = problem.kernel.module.split(".")[1]
    crowd = problem.rows.bit_length() >> 1
    kind = "softmax" if problem.constants()["SOFTMAX"] else "weights"
    return (
        f"{operator} {problem.kernel.name} | {card} | {dtype} depth {problem.depth} taps {problem.taps} {kind} "
        f"rows 4**{crowd}"
    )


def _can_measure(first: Tensor) -> bool:
    return first.is_cuda and not torch.cuda.is_current_stream_capturing()


def _seconds(problem: Problem) -> Callable[[tuple[int, ...]], float]:
    """How long a launch takes with a setting; infinite where it does not compile or fit."""

    def seconds(setting: tuple[int, ...]) -> float:
        from triton.testing import do_bench

        try:
            found = _launch_with(problem, Setting(*setting))
            parts, programs = problem.parts(found.rows)
            run, arguments = found.compiled[(programs, 1, 1)], (*problem.tensors, parts, *problem.sizes)
            return do_bench(lambda: run(*arguments, *found.constants), warmup=5, rep=30, return_mode="median") / 1e3
        except Exception:  # whatever the compiler or the driver thinks of a setting, another one may do
            return math.inf

    return seconds
