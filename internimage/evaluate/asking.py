"""Asks a classifier about every picture of a data set: alone or as one of several processes, at once or in goes."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..classifier import Classifier
from ..data.dataset import fingerprint as data_fingerprint
from ..data.shards import Shards
from ..devices import check_numbers
from ..processes import Processes
from .answers import Answers, Batch, judge
from .classes import ClassMatch
from .pictures import Data, Prepared, prepared_batches
from .state import checksum_of, load_answers, save_answers, state_file

_EXCHANGE_EVERY = 8  # batches, where there are several processes; each exchange is a wait for the slowest
_SAVE_EVERY_S = 30.0


def ask_about_all(
    classifier: Classifier,
    data: Data,
    match: ClassMatch,
    *,
    batch_size: int,
    workers: int = 0,
    processes: Processes | None = None,
    resume: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda count: None,
) -> Answers:
    """Collective: every process asks about its share of the pictures and learns the answers of all.

    Of the pictures that are left, each process takes every ``world_size``-th, of shards every ``world_size``-th shard;
    none is asked about twice. The processes exchange their answers the same number of times, whether they have pictures
    left or not.

    Args:
        resume: keep the answers in this file, or folder, and go on from what it holds.
        should_stop: asked after each batch, or a few; what is answered by then is kept and returned.
        progress: called with the number of pictures that came in.

    Raises:
        ValueError: ``resume`` is of another model or other data, or the model gives no numbers.
    """
    processes = processes or Processes(device=classifier.device)
    keeper = _Keeper(resume, classifier, data, match) if resume is not None and processes.is_first else None
    answers = processes.gather(Answers.none(len(data)) if keeper is None else keeper.load(len(data)))[0]
    progress(len(data) - len(answers.pending))
    pending = answers.pending
    steps, batches = prepared_batches(data, classifier.preprocessing, pending, batch_size, workers, processes)
    exchange = _Exchange(processes, answers, progress)
    every = 1 if processes.world_size == 1 else _EXCHANGE_EVERY
    try:
        for step, batch in enumerate(itertools.islice(itertools.chain(batches, itertools.repeat(None)), steps), 1):
            if batch is not None:
                exchange.fresh.append(_ask(classifier, batch, match, exchange))
            if step % every == 0 or step == steps:
                stop = exchange.run(should_stop())
                if keeper is not None and keeper.is_due():
                    keeper.save(answers)
                if stop:
                    break
    finally:
        if keeper is not None:
            keeper.save(answers)
    return answers


class _Exchange:
    """Collects the batches of this process and hands them round."""

    def __init__(self, processes: Processes, answers: Answers, progress: Callable[[int], None]) -> None:
        self.processes, self.answers, self.progress = processes, answers, progress
        self.fresh: list[Batch] = []
        self.model_seconds = 0.0
        self.started = time.perf_counter()

    def run(self, stop: bool) -> bool:
        """Collective: enter the new answers of all processes; returns whether some process wants to stop."""
        told = self.processes.gather((self.fresh, self.model_seconds, stop))
        for fresh, _, _ in told:
            for batch in fresh:
                self.answers.take(batch)
                self.progress(len(batch.indices) + len(batch.unreadable))
        now = time.perf_counter()
        self.answers.seconds += now - self.started
        self.answers.model_seconds += max(seconds for _, seconds, _ in told)
        self.fresh, self.model_seconds, self.started = [], 0.0, now
        return any(stop for _, _, stop in told)


def _ask(classifier: Classifier, batch: Prepared, match: ClassMatch, exchange: _Exchange) -> Batch:
    """What the model says to a batch."""
    if not len(batch.indices):
        nothing = torch.empty(0)
        return judge(batch.indices, torch.empty(0, len(match.names)), nothing.long(), batch.unreadable)
    started = time.perf_counter()
    logits = _logits(classifier, batch)
    _wait_for(logits.device)
    exchange.model_seconds += time.perf_counter() - started
    check_numbers(logits, classifier.dtype)
    return judge(batch.indices, *match.of(logits, batch.labels), batch.unreadable)


@torch.inference_mode()
def _logits(classifier: Classifier, batch: Prepared) -> Tensor:
    inputs = (batch.images, *(batch.extras if classifier.takes_metadata else ()))
    return classifier.model(*(tensor.to(classifier.device, classifier.dtype, non_blocking=True) for tensor in inputs))


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class _Keeper:
    """Keeps the answers in a file."""

    def __init__(self, path: str | Path, classifier: Classifier, data: Data, match: ClassMatch) -> None:
        self.path = state_file(path)
        self.about = {
            "weights": checksum_of(classifier.model),
            "data": data.fingerprint if isinstance(data, Shards) else data_fingerprint(data),
            "preprocessing": str(dataclasses.asdict(classifier.preprocessing)),
            "dtype": str(classifier.dtype).removeprefix("torch."),
            "outputs": f"{len(match.names)} matched by {match.how}",
        }
        self.saved = time.monotonic()

    def load(self, pictures: int) -> Answers:
        return load_answers(self.path, self.about, pictures)

    def is_due(self) -> bool:
        return time.monotonic() - self.saved > _SAVE_EVERY_S

    def save(self, answers: Answers) -> None:
        save_answers(self.path, answers, self.about)
        self.saved = time.monotonic()
