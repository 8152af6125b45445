"""Clocks, turns and statistics."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext

import pytest
import torch

from internimage.bench import timing
from internimage.bench.timing import Candidate, Sample


def test_a_slow_candidate_gets_few_runs_and_keeps_its_first():
    counts = {"fast": 0, "slow": 0}

    def run(name):
        counts[name] += 1
        time.sleep(2e-3)

    candidates = [Candidate(n, lambda n=n: run(n), seldom=n == "slow") for n in counts]
    samples = timing.in_turns(candidates, seconds=0.2, rounds=2)
    assert len(samples["slow"]) == timing.SELDOM_RUNS < len(samples["fast"])
    assert all(2e-3 <= sample.wall < 1 for kept in samples.values() for sample in kept)


def test_rounds_end_when_everything_has_enough_runs(monkeypatch):
    monkeypatch.setattr(timing, "MOST_RUNS", 5)
    samples = timing.in_turns([Candidate("run", lambda: time.sleep(1e-3))], seconds=60)
    assert 5 <= len(samples["run"]) <= 5 + timing.LONGEST_BURST


def test_pairs_run_in_turns_and_what_is_around_is_not_timed():
    order = []

    @contextmanager
    def around():
        time.sleep(0.05)
        yield
        time.sleep(0.05)

    candidates = [Candidate(n, lambda n=n: order.append(n), around, warm=2 if n == "b" else 1) for n in "ab"]
    samples = timing.paired_samples(candidates, pairs=2)
    assert "".join(order) == "abb" + "abba"
    assert all(len(s) == 2 and min(x.wall for x in s) < 0.02 for s in samples.values())


def test_the_ratio_is_the_median_over_pairs():
    slow = [Sample(2.0, 1.0), Sample(30.0, 2.0), Sample(6.0, 3.0)]
    fast = [Sample(1.0, 1.0), Sample(1.0, 1.0), Sample(2.0, 1.0)]
    assert timing.median_ratio(slow, fast) == 3.0
    assert timing.median_ratio(slow, fast, "cpu") == 2.0


def test_figures_lie_where_they_should():
    found = timing.figures([Sample(ms / 1e3, 0) for ms in (5, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)])
    assert (found.min_ms, found.median_ms, found.runs) == (1, 6, 11)
    assert (found.p10_ms, found.p90_ms) == (pytest.approx(2), pytest.approx(10))
    alone = timing.figures([Sample(0.002, 0)])
    assert alone.min_ms == alone.median_ms == alone.p10_ms == alone.p90_ms == 2


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), timing.threads(1):
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_a_card_is_timed_between_two_events_behind_a_flush(monkeypatch):
    told = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            told.append("record")

        def synchronize(self):
            told.append("wait")

        def elapsed_time(self, end):
            return 2.5

    class Buffer:
        def zero_(self):
            told.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    sizes = []
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: sizes.append(size) or Buffer())
    clock = timing.cuda_clock(torch.device("cuda"))
    sample = clock(Candidate("run", lambda: told.append("run")))
    assert told == ["flush", "record", "run", "record", "wait"] and sample.wall == 2.5e-3
    assert sizes == [timing.FLUSH_BYTES] and timing.FLUSH_BYTES > 2 * 50 * 2**20  # twice the L2 cache of an H100


def test_a_device_has_its_clock():
    assert timing.clock_of(torch.device("cpu")) is timing.cpu_clock
