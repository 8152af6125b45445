"""Timing that survives a shared machine: one thread, the candidates in turns, the minimum or the median of pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

BURST_SECONDS, LONGEST_BURST = 5e-3, 50


@dataclass(frozen=True)
class Candidate:
    """Something to time. ``around`` is entered outside the timed part; a ``seldom`` one is slow and gets few runs."""

    name: str
    run: Callable[[], object]
    around: Callable[[], AbstractContextManager] = nullcontext
    seldom: bool = False


@dataclass(frozen=True)
class Sample:
    """One run: seconds on the clock, and seconds of processor time of this thread."""

    wall: float
    cpu: float


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes on the calling thread only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_times(candidates: Sequence[Candidate], seconds: float, rounds: int = 3) -> dict[str, float]:
    """The least seconds that one run of each candidate took.

    In every round each candidate runs some times in a row, so that all see the same minutes of the machine and each
    finds its data where a run of its own left them. Rounds go on until ``seconds`` are over, at least ``rounds``.
    """
    best, bursts = {}, {}
    for candidate in candidates:  # warms up, too
        best[candidate.name] = _timed(candidate).wall
        bursts[candidate.name] = min(LONGEST_BURST, 1 + int(BURST_SECONDS / best[candidate.name]))
    end, done = time.perf_counter() + seconds, 0
    while done < rounds or time.perf_counter() < end:
        for candidate in candidates:
            if candidate.seldom and done >= rounds:
                continue
            for _ in range(bursts[candidate.name]):
                best[candidate.name] = min(best[candidate.name], _timed(candidate).wall)
        done += 1
    return best


def paired_samples(candidates: Sequence[Candidate], pairs: int) -> dict[str, list[Sample]]:
    """``pairs`` runs of each candidate after a warm-up, in turns, every other turn in reverse order."""
    samples: dict[str, list[Sample]] = {candidate.name: [] for candidate in candidates}
    for candidate in candidates:
        _timed(candidate)
    for turn in range(pairs):
        for candidate in candidates if turn % 2 == 0 else candidates[::-1]:
            samples[candidate.name].append(_timed(candidate))
    return samples


def median_ratio(samples: Sequence[Sample], baseline: Sequence[Sample], clock: str = "wall") -> float:
    """Median over the pairs of sample / baseline, on the clock ("wall") or in processor time ("cpu")."""
    pairs = zip(samples, baseline, strict=True)
    return statistics.median(getattr(sample, clock) / getattr(other, clock) for sample, other in pairs)


def _timed(candidate: Candidate) -> Sample:
    with candidate.around():
        wall, cpu = time.perf_counter(), time.thread_time()
        result = candidate.run()
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    del result  # freeing it is not part of the run
    return Sample(wall, cpu)
