"""How long a call of an operator keeps the host: ``python -m internimage.bench.host_time``.

On a card: the time until the call returns, without waiting for the card, above that of an empty Triton kernel. Without
a card the same Python runs up to the point where the driver would be called, which is the part that this package
answers for.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..ops import dcnv3, dcnv4, ms_deform_attn, triton_backend, triton_launch

CALLS, ROUND = 2000, 50  # calls for a median; calls between two synchronisations, far fewer than a card queues


def measure(calls: int = CALLS) -> dict[str, Any]:
    """Median microseconds of one eager call without gradients.

    Returns:
        ``card``: its name, or None; ``empty_launch``: microseconds of an empty Triton kernel, None without a card;
        ``above_empty``: for each operator the microseconds above that (without a card: up to the driver).
    """
    card = torch.cuda.is_available()
    device = "cuda" if card else "cpu"
    with torch.no_grad(), _as_it_is() if card else _without_a_driver():
        empty = _median(_empty_launch(), calls) if card else None
        times = {name: _median(call, calls) for name, call in _calls(device).items()}
    return {
        "card": torch.cuda.get_device_name() if card else None,
        "empty_launch": empty,
        "above_empty": {name: microseconds - (empty or 0.0) for name, microseconds in times.items()},
    }


def _calls(device: str) -> dict[str, Callable[[], Any]]:
    """Small calls, so that a card is never what the host waits for."""

    def half(*size: int) -> torch.Tensor:
        return torch.rand(size, device=device).half()

    input, offset, mask, packed = half(1, 7, 7, 64), half(1, 7, 7, 72), half(1, 7, 7, 36), half(1, 7, 7, 112)
    value, locations, weights = half(1, 80, 4, 16), half(1, 9, 4, 2, 4, 2), half(1, 9, 4, 2, 4)
    sizes = ((8, 8), (4, 4))
    return {
        "dcnv3": lambda: dcnv3(input, offset, mask, groups=4, backend="triton"),
        "dcnv4": lambda: dcnv4(input, packed, groups=4, backend="triton"),
        "ms_deform_attn": lambda: ms_deform_attn(value, sizes, locations, weights, backend="triton"),
    }


def _empty_launch() -> Callable[[], Any]:
    import triton

    @triton.jit
    def nothing():
        pass

    return lambda: nothing[(1,)]()


def _median(call: Callable[[], Any], calls: int) -> float:
    """Microseconds."""
    for _ in range(20):  # compiles, and fills every cache on the way
        call()
    seconds = []
    for index in range(calls):
        if index % ROUND == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e6


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


class _Nothing:
    """Stands for a compiled kernel that any launch is done with at once."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments: None


@contextmanager
def _without_a_driver() -> Iterator[None]:
    """Backend "triton" takes tensors of the CPU, and its launches end before the driver."""
    before = triton_launch._first_launch, triton_backend._interpreted
    triton_launch._first_launch = lambda problem: triton_launch.Launch(_Nothing(), 64, (0,) * 20)
    triton_backend._interpreted = lambda: True
    known = dict(triton_launch._launches)
    triton_launch._launches.clear()
    try:
        yield
    finally:
        triton_launch._first_launch, triton_backend._interpreted = before
        triton_launch._launches.clear()
        triton_launch._launches.update(known)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
