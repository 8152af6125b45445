"""Pictures of a data set, prepared for a model, a batch at a time; read by worker processes where asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..classifier import as_picture
from ..data.dataset import PictureDataset, Sample
from ..data.loaders import make_loader
from ..data.order import Share
from ..data.pictures import PictureError
from ..data.shard_stream import EvaluationStream
from ..data.shards import Shards, sample_of
from ..data.transforms import Preprocessing
from ..processes import Processes


class Prepared(NamedTuple):
    """Pictures (n, C, S, S) with their positions (n,) and labels (n,), and the positions of unreadable ones."""

    indices: Tensor
    images: Tensor
    labels: Tensor
    extras: tuple[Tensor, ...]
    unreadable: tuple[tuple[int, str], ...]


class Listed:
    """What has ``samples()`` alone, such as pictures or paths in a list, found by position."""

    def __init__(self, data: Any) -> None:
        self.class_names, self._samples = data.class_names, list(data.samples())
        self.labels = torch.tensor([label for _, label in self._samples], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """The path of a picture, else its number."""
        source = self._samples[index][0]
        return source if isinstance(source, str) else f"picture {index}"

    def read(self, index: int) -> Sample:
        """Picture and class."""
        source, label = self._samples[index]
        return Sample(as_picture(source), label)


Data = PictureDataset | Shards


def as_data(data: Any) -> Data:
    """The data set itself where it is read by position or as a stream; else its samples, listed."""
    return data if hasattr(data, "read") or isinstance(data, Shards) else Listed(data)


def prepared_batches(
    data: Data, preprocessing: Preprocessing, pending: Tensor, batch_size: int, workers: int, processes: Processes
) -> tuple[int, Iterator[Prepared]]:
    """The pictures of this process, and how many batches the process with the most of them has.

    Args:
        pending: positions of the pictures that are left, ascending. Each process takes every ``world_size``-th of them;
            of shards it takes whole ones.
    """
    rank, world_size = processes.rank, processes.world_size
    if isinstance(data, Shards):
        stream = _ChosenOfShards(data, preprocessing, pending, batch_size, Share(rank, world_size))
        return stream.batches, iter(make_loader(stream, workers, 2, processes.device, batch_size=None))
    mine = pending[rank::world_size].tolist()
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    chosen = _Chosen(data, preprocessing)
    steps = -(-len(pending) // (world_size * batch_size))
    return steps, iter(make_loader(chosen, workers, 2, processes.device, batch_sampler=batches))


class _Chosen(Dataset):
    """Prepares a list of pictures; lives in the workers."""

    def __init__(self, data: PictureDataset, preprocessing: Preprocessing) -> None:
        self.data, self.preprocessing = data, preprocessing

    def __getitems__(self, indices: list[int]) -> Prepared:
        return _prepared(indices, self.data.read, self.preprocessing)


class _ChosenOfShards(EvaluationStream):
    """Prepares what comes out of tar shards, and passes over what is not pending."""

    def __init__(
        self, shards: Shards, preprocessing: Preprocessing, pending: Tensor, batch_size: int, share: Share
    ) -> None:
        super().__init__(shards, preprocessing, batch_size, share, "skip", 0)
        self.preprocessing = preprocessing
        self.pending = torch.zeros(len(shards), dtype=torch.bool)
        self.pending[pending] = True

    def _load(self, raw: list[tuple[int, Any]], size: int) -> Prepared:  # type: ignore[override]
        contents = {index: sample for index, sample in raw if self.pending[index]}
        names = self.shards.class_names
        return _prepared(list(contents), lambda index: sample_of(contents[index], names), self.preprocessing)


def _prepared(indices: list[int], read: Callable[[int], Sample], preprocessing: Preprocessing) -> Prepared:
    """Read, prepare and stack; what cannot be read is noted."""
    samples: list[tuple[int, Sample, Tensor]] = []
    unreadable: list[tuple[int, str]] = []
    for index in indices:
        try:
            sample = read(index)
            samples.append((index, sample, preprocessing(sample.picture)))
        except PictureError as error:
            unreadable.append((index, str(error)))
    extras = zip(*(sample.extras for _, sample, _ in samples), strict=True)
    return Prepared(
        indices=torch.tensor([index for index, _, _ in samples], dtype=torch.int64),
        images=torch.stack([image for _, _, image in samples]) if samples else torch.empty(0),
        labels=torch.tensor([sample.label for _, sample, _ in samples], dtype=torch.int64),
        extras=tuple(torch.stack(vectors) for vectors in extras),
        unreadable=tuple(unreadable),
    )
