"""Where the time of a network goes: milliseconds of one run by kind of work, as the profiler of PyTorch sees it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from torch.profiler import ProfilerActivity, profile, record_function

from ..ops import fused, native
from .memory import quiet

PRODUCTS, OPERATOR, CONVOLUTIONS = "matrix products", "operator", "convolutions"
POINTWISE, MOVES, REST = "norms and activations", "casts and copies", "Python and the rest"
KINDS = (PRODUCTS, OPERATOR, CONVOLUTIONS, POINTWISE, MOVES, REST)
RUNS = 5
_OURS = "internimage::"
_WORDS = (
    (OPERATOR, ("grid_sampler", f"{_OURS}deformable", "internimage::dcnv", "internimage::ms_deform")),
    (CONVOLUTIONS, ("conv", f"{_OURS}depthwise")),
    (PRODUCTS, ("mm", "linear", "matmul", "dot_product", f"{_OURS}product")),
    (MOVES, ("copy", "clone", "::to", "contiguous", "cat", "fill", "zero", "roll", "index")),
    (POINTWISE, ("norm", "gelu", "relu", "softmax", "aten::add", "aten::mul", "sigmoid", "pool", "mean", _OURS)),
)
"""Parts of the names of operators, for each kind of work; the first that fits decides."""


def shares(run: Callable[[], object], runs: int = RUNS) -> dict[str, float]:
    """Milliseconds of one run by kind of work.

    Kernels keep the time that the profiler saw, and what is left up to the median of unwatched runs is Python, dispatch
    and the rest. Work of our C++ kernels is named by what they are called for.
    """
    run()
    seconds = statistics.median(_timed(run) for _ in range(runs))
    with named_kernels(), quiet(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(runs):
            run()
    found = dict.fromkeys(KINDS, 0.0)
    for event in profiled.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total / 1e3 / runs
    found[REST] = 0.0
    kernels = sum(found.values())
    scale = min(1.0, 1e3 * seconds / kernels) if kernels else 1.0
    found = {kind: ms * scale for kind, ms in found.items()}
    found[REST] = max(0.0, 1e3 * seconds - sum(found.values()))
    return found


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def kind_of(name: str) -> str:
    """The kind of work of an operator, by its name."""
    for kind, words in _WORDS:
        if any(word in name for word in words):
            return kind
    return REST


@contextmanager
def named_kernels() -> Iterator[None]:
    """Calls of our C++ library appear in the profile, under names that start with ``internimage::``."""
    if native.load_error():
        yield
        return
    library = native.library()
    with ExitStack() as stack:
        for name, function in list(vars(library).items()):
            if name.startswith("internimage_") and getattr(function, "argtypes", None):
                stack.enter_context(mock.patch.object(library, name, _watched(name, function)))
        yield


def _watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside a range of the profiler."""

    def call(*arguments: Any) -> Any:
        with record_function(_OURS + _purpose(name, arguments)):
            return function(*arguments)

    return call


def _purpose(name: str, arguments: tuple[Any, ...]) -> str:
    """What a function of the library is called for: of the fused passes, one is a convolution."""
    name = name.removeprefix("internimage_")
    if name == "fused" and arguments and getattr(arguments[0], "pass_", None) == getattr(fused, "_DEPTHWISE", -1):
        return "depthwise"
    return name
