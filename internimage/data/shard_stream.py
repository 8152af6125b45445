"""Which samples of tar shards a step takes, and the streams that read them in that order.

What a step takes follows from the seed and the step, as for other data sets. Shards are dealt out to the processes and,
in each, to a fixed number of lanes; a lane is read from front to back through a shuffle buffer, and micro-batch ``j``
comes from lane ``j % lanes``. Because the number of samples in each shard is known, the order that the buffer gives is
known before anything is read, and a run that begins at a later step reads only the shards that it still needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from .batches import PADDING, Loaded, Transform, changed_at, collated, failed, padded
from .dataset import Sample
from .order import Place, Share
from .pictures import PictureError
from .seeds import mixed
from .shards import Shards, complete_shard, sample_of

LANES = 8
_WORTH = 0.9  # of the steps that fewer lanes would make of the same shards
SHUFFLE_BUFFER = 1000  # samples that wait in each lane for their turn


class ShardOrder:
    """Which samples each step takes; what does not fill a step is left out, other samples each epoch.

    Args:
        lanes: at most so many streams a process. Workers read each shard once where their number divides
            ``self.lanes``; else several read the same shard, and the batches are the same all the same.
        buffer: samples that a lane shuffles among.

    Raises:
        ValueError: there are fewer shards than processes, or not enough samples for a step.
    """

    def __init__(
        self,
        shards: Shards,
        batch_size: int,
        seed: int,
        share: Share,
        *,
        lanes: int = LANES,
        buffer: int = SHUFFLE_BUFFER,
    ) -> None:
        if lanes < 1 or buffer < 1:
            raise ValueError(f"lanes is {lanes} and buffer {buffer}, expected 1 or more of each")
        if len(shards.urls) < share.world_size:
            raise ValueError(
                f"there are {len(shards.urls)} shards for {share.world_size} processes, expected one for each or more; "
                "write more and smaller shards"
            )
        self.shards, self.batch_size, self.seed, self.share, self.buffer = shards, batch_size, seed, share, buffer
        self.size = share.micro_batch_size(batch_size)
        most = min(lanes, len(shards.urls) // share.world_size)
        steps = {number: self._steps(number) for number in range(1, most + 1)}
        self.lanes = max(number for number in steps if steps[number] >= _WORTH * max(steps.values()))
        self.steps_per_epoch = steps[self.lanes]
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"{len(shards):,} samples in {len(shards.urls)} shards do not fill a step of batch_size {batch_size} "
                f"on {share.world_size} processes; take a smaller batch_size, or shards of equal size"
            )

    def _steps(self, lanes: int) -> int:
        """Steps that even the lane with the smallest shards has samples for."""
        each = len(self.shards.urls) // (self.share.world_size * lanes)
        fewest = sum(sorted(self.shards.counts)[:each])
        return lanes * (fewest // self.size) // self.share.accumulation

    def lane(self, epoch: int, lane: int) -> tuple[list[int], np.ndarray]:
        """The shards of a lane of this process, and the order of all samples in them, counted through."""
        streams = self.share.world_size * self.lanes
        each = len(self.shards.urls) // streams
        generator = np.random.default_rng(mixed(self.seed, epoch))
        first = (self.share.rank * self.lanes + lane) * each
        chosen = generator.permutation(len(self.shards.urls))[first : first + each].tolist()
        count = sum(self.shards.counts[shard] for shard in chosen)
        generator = np.random.default_rng(mixed(self.seed, epoch, self.share.rank, lane))
        turns = np.arange(count) + generator.uniform(0, self.buffer, count)  # a sample waits for at most so many others
        return chosen, np.argsort(turns, kind="stable")


class TrainingStream(IterableDataset):
    """The micro-batches of one process, of which each worker yields its own."""

    def __init__(self, order: ShardOrder, transform: Transform, first_step: int, last_step: int, bad: str) -> None:
        self.order, self.transform, self.bad = order, transform, bad
        self.first_step, self.last_step = first_step, last_step

    def __iter__(self) -> Iterator[Loaded]:
        accumulation = self.order.share.accumulation
        each = self.order.steps_per_epoch * accumulation
        worker, workers = _worker()
        first = self.first_step * accumulation
        mine = range(first + worker, self.last_step * accumulation, workers)
        for epoch, numbers in groupby(mine, lambda number: number // each):
            yield from self._epoch(epoch, [number - epoch * each for number in numbers])

    def _epoch(self, epoch: int, numbers: list[int]) -> Iterator[Loaded]:
        order, lanes = self.order, self.order.lanes
        readers = {lane: self._reader(epoch, lane, numbers) for lane in {number % lanes for number in numbers}}
        for number in numbers:
            step, micro = divmod(number, order.share.accumulation)
            position = step * order.batch_size + order.share.number(micro) * order.size
            raw = [next(readers[number % lanes]) for _ in range(order.size)]
            yield self._load(raw, [Place(epoch, position + i, index) for i, (index, _) in enumerate(raw)])

    def _reader(self, epoch: int, lane: int, numbers: list[int]) -> Iterator[tuple[int, Any]]:
        shards, order = self.order.lane(epoch, lane)
        turns = [number // self.order.lanes for number in numbers if number % self.order.lanes == lane]
        wanted = np.concatenate([order[turn * self.order.size : (turn + 1) * self.order.size] for turn in turns])
        return read_lane(self.order.shards, shards, wanted)

    def _load(self, raw: list[tuple[int, Any]], places: list[Place]) -> Loaded:
        """A batch, in which a bad picture is replaced by the next readable one of the same batch."""
        reasons: list[str] = []
        try:
            samples = _decoded(raw, self.order.shards.class_names, self.bad, reasons)
        except ValueError as error:
            return failed(error)
        if not any(samples):
            return failed(PictureError(f"none of {len(raw)} pictures in a row can be read, the last: {reasons[-1]}"))
        chosen = [next(s for s in samples[i:] + samples[:i] if s is not None) for i in range(len(samples))]
        changed = [
            (changed_at(place, sample, self.transform, self.order.seed), sample)
            for place, sample in zip(places, chosen, strict=True)
        ]
        return collated(changed, [place.picture for place in places], reasons)


class EvaluationStream(IterableDataset):
    """The batches of one process, which reads every ``world_size``-th shard; of them each worker yields its own."""

    def __init__(
        self, shards: Shards, transform: Transform, batch_size: int, share: Share, bad: str, first_batch: int
    ) -> None:
        self.shards, self.transform, self.batch_size, self.bad = shards, transform, batch_size, bad
        self.chosen = list(range(share.rank, len(shards.urls), share.world_size))
        counts = [sum(shards.counts[rank :: share.world_size]) for rank in range(share.world_size)]
        self.slots, self.own, self.first_batch = max(counts), counts[share.rank], first_batch
        self.batches = max(0, -(-self.slots // batch_size) - first_batch)

    def __iter__(self) -> Iterator[Loaded]:
        worker, workers = _worker()
        starts = [(self.first_batch + i) * self.batch_size for i in range(worker, self.batches, workers)]
        ranges = [(start, min(start + self.batch_size, self.slots)) for start in starts]
        wanted = [np.arange(start, min(end, self.own)) for start, end in ranges]
        reader = read_lane(self.shards, self.chosen, np.concatenate([np.arange(0), *wanted]))
        for (start, end), real in zip(ranges, wanted, strict=True):
            yield self._load([next(reader) for _ in real], end - start)

    def _load(self, raw: list[tuple[int, Any]], size: int) -> Loaded:
        reasons: list[str] = []
        try:
            samples = _decoded(raw, self.shards.class_names, self.bad, reasons)
        except ValueError as error:
            return failed(error)
        missing = size - len(raw)
        indices = [index for index, _ in raw] + [PADDING] * missing
        return padded(samples + [None] * missing, indices, self.transform, reasons)


def _decoded(
    raw: list[tuple[int, Any]], class_names: tuple[str, ...], bad: str, reasons: list[str]
) -> list[Sample | None]:
    """The samples of a batch, None where a picture cannot be read, which is noted unless ``bad`` is "raise"."""
    samples: list[Sample | None] = []
    for _, contents in raw:
        try:
            samples.append(sample_of(contents, class_names))
        except PictureError as error:
            if bad == "raise":
                raise
            samples.append(None)
            reasons.append(str(error))
    return samples


def read_lane(shards: Shards, chosen: list[int], wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Samples in the order of ``wanted``, which are positions in the chosen shards, one after the other.

    Shards of which nothing is wanted are not opened, and samples that are not wanted are not kept.

    Yields:
        The index of the sample among all shards, and its parts as bytes by key, or the PictureError that stands for it.
    """
    counts = [shards.counts[shard] for shard in chosen]
    keep = np.zeros(sum(counts), dtype=bool)
    keep[wanted] = True
    stream = _kept(shards, chosen, keep)
    waiting: dict[int, tuple[int, Any]] = {}
    for position in wanted.tolist():
        while position not in waiting:
            found, *sample = next(stream)
            waiting[found] = (sample[0], sample[1])
        yield waiting.pop(position)


def _kept(shards: Shards, chosen: list[int], keep: np.ndarray) -> Iterator[tuple[int, int, Any]]:
    """Position in the lane, index among all shards, and contents of what is to be kept."""
    starts = np.concatenate([[0], np.cumsum(shards.counts)])
    position = 0
    for shard in chosen:
        count = shards.counts[shard]
        mine = keep[position : position + count]
        if mine.any():
            last = int(mine.nonzero()[0][-1])
            for number, contents in enumerate(complete_shard(shards.urls[shard], count)):
                if mine[number]:
                    yield position + number, int(starts[shard]) + number, contents
                if number == last:
                    break
        position += count


def _worker() -> tuple[int, int]:
    """Which worker this is, of how many."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
