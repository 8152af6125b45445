"""How property tests run, and how the native kernels are made to share their work without threads."""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager

import pytest

from internimage.ops import native

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # on a card the cases of the Triton kernels run without it
    pass
else:  # The same examples each time in CI; new ones on a desk, where what failed is remembered.
    settings.register_profile("desk", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("ci", settings.get_profile("desk"), derandomize=True, database=None)
    on_a_desk = os.environ.get("CI") != "true" and "INTERNIMAGE_REQUIRE_KERNEL" not in os.environ
    settings.load_profile("desk" if on_a_desk else "ci")

RANGE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
PARALLEL_FOR = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
)


@pytest.fixture
def shared_in_parts():
    """``with shared_in_parts(3):`` the kernels' work is cut as for three threads, and done one part after the other."""

    @contextmanager
    def share(parts: int):
        def parallel_for(begin, end, grain, function, context):
            cuts = [begin + (end - begin) * part // parts for part in range(parts + 1)]
            for first, last in zip(cuts, cuts[1:], strict=False):
                if first < last:
                    RANGE(function)(first, last, context)
            return 0

        callback = PARALLEL_FOR(parallel_for)
        native.library().internimage_set_parallel_for(callback)
        try:
            yield
        finally:
            native._lend_threads(native.library())

    return share


@pytest.fixture
def instruction_set():
    """Switches the kernels to a lower instruction set, for one test."""
    best = native.instruction_set()
    yield lambda name: native.library().internimage_set_instruction_set(name.encode())
    native.library().internimage_set_instruction_set(best.encode())
