"""Timing that survives a shared machine: candidates in turns, and every run kept for any statistic."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

BURST_SECONDS, LONGEST_BURST = 5e-3, 50
SELDOM_RUNS = 2  # of a slow candidate, its first included
FLUSH_BYTES = 2**28  # several times the largest L2 cache of a card
MOST_RUNS = 3000


@dataclass(frozen=True)
class Candidate:
    """Something to time. ``around`` is entered outside the timed part; a ``seldom`` one is slow and gets few runs.

    ``warm`` runs come first where pairs are timed: a compiled network records its CUDA graphs in its second and third.
    """

    name: str
    run: Callable[[], object]
    around: Callable[[], AbstractContextManager] = nullcontext
    seldom: bool = False
    warm: int = 1


@dataclass(frozen=True)
class Sample:
    """One run: seconds it took (on a card: of the card), and seconds of processor time of this thread."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Figures:
    """Milliseconds of one run, over ``runs`` of them."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    runs: int


Clock = Callable[[Candidate], Sample]


def cpu_clock(candidate: Candidate) -> Sample:
    """Run the candidate once on the CPU."""
    with candidate.around():
        wall, cpu = time.perf_counter(), time.thread_time()
        result = candidate.run()
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    del result  # freeing it is not part of the run
    return Sample(wall, cpu)


def cuda_clock(device: torch.device, flush: bool = True) -> Clock:
    """A clock for a card, which takes the time between two events around the run.

    With ``flush`` a buffer larger than the L2 cache is zeroed before each run, so that inputs come from memory as they
    do in a network, and so that the host has queued the run before the card begins with it.
    """
    buffer = torch.empty(FLUSH_BYTES if flush else 1, dtype=torch.uint8, device=device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def clock(candidate: Candidate) -> Sample:
        with torch.cuda.device(device), candidate.around():
            buffer.zero_()
            begin.record()
            cpu = time.thread_time()
            result = candidate.run()
            cpu = time.thread_time() - cpu
            end.record()
            end.synchronize()
        del result
        return Sample(begin.elapsed_time(end) / 1e3, cpu)

    return clock


def clock_of(device: torch.device) -> Clock:
    """The clock for what runs on ``device``."""
    return cuda_clock(device) if device.type == "cuda" else cpu_clock


@contextmanager
def threads(count: int = 1) -> Iterator[None]:
    """PyTorch computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_turns(
    candidates: Sequence[Candidate], seconds: float, rounds: int = 3, clock: Clock = cpu_clock
) -> dict[str, list[Sample]]:
    """Runs of each candidate.

    In every round each candidate runs some times in a row, so that all see the same minutes of the machine and each
    finds its data where a run of its own left them. Rounds go on until ``seconds`` are over, at least ``rounds``.
    """
    samples: dict[str, list[Sample]] = {}
    bursts = {}
    for candidate in candidates:
        first = clock(candidate)  # warms up, too; it counts for slow ones only
        samples[candidate.name] = [first] if candidate.seldom else []
        again = clock(candidate) if first.wall < BURST_SECONDS * LONGEST_BURST else first
        bursts[candidate.name] = min(LONGEST_BURST, 1 + int(BURST_SECONDS / max(again.wall, 1e-9)))
    end, done = time.perf_counter() + seconds, 0
    while done < rounds or time.perf_counter() < end:
        waiting = [c for c in candidates if len(samples[c.name]) < (SELDOM_RUNS if c.seldom else MOST_RUNS)]
        for candidate in waiting:
            runs = 1 if candidate.seldom else bursts[candidate.name]
            samples[candidate.name] += [clock(candidate) for _ in range(runs)]
        if not waiting:
            break
        done += 1
    return samples


def best_seconds(run: Callable[[], object], seconds: float, clock: Clock = cpu_clock) -> float:
    """The least that one run took."""
    return min(sample.wall for sample in in_turns([Candidate("run", run)], seconds, clock=clock)["run"])


def paired_samples(candidates: Sequence[Candidate], pairs: int, clock: Clock = cpu_clock) -> dict[str, list[Sample]]:
    """``pairs`` runs of each candidate after its warm-up, in turns, every other turn in reverse order."""
    samples: dict[str, list[Sample]] = {candidate.name: [] for candidate in candidates}
    for candidate in candidates:
        for _ in range(candidate.warm):
            clock(candidate)
    for turn in range(pairs):
        for candidate in candidates if turn % 2 == 0 else candidates[::-1]:
            samples[candidate.name].append(clock(candidate))
    return samples


def figures(samples: Sequence[Sample]) -> Figures:
    """Median, tenth and ninetieth percentile, and the least."""
    ms = sorted(1e3 * sample.wall for sample in samples)
    return Figures(statistics.median(ms), _percentile(ms, 0.1), _percentile(ms, 0.9), ms[0], len(ms))


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest, as far as ``share`` lies between them."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median_ratio(samples: Sequence[Sample], baseline: Sequence[Sample], clock: str = "wall") -> float:
    """Median over the pairs of sample / baseline, on the clock ("wall") or in processor time ("cpu")."""
    pairs = zip(samples, baseline, strict=True)
    return statistics.median(getattr(sample, clock) / max(getattr(other, clock), 1e-9) for sample, other in pairs)
