"""Pictures of a data set, prepared for a model, a batch at a time; read by worker processes where asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..classifier import as_picture
from ..data.dataset import PictureDataset, Sample
from ..data.loaders import make_loader
from ..data.pictures import PictureError
from ..data.transforms import Preprocessing


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


def found_by_position(data: Any) -> PictureDataset:
    """The data set itself where it has ``read``; else its samples, listed."""
    return data if hasattr(data, "read") else Listed(data)


def prepared_batches(
    data: PictureDataset,
    indices: Sequence[int],
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> Iterator[Prepared]:
    """The pictures at ``indices``, in that order."""
    if not len(indices):
        return iter(())
    chosen = _Chosen(data, preprocessing)
    batches = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
    return iter(make_loader(chosen, workers, 2, device, batch_sampler=batches))


class _Chosen(Dataset):
    """Prepares a list of pictures; lives in the workers."""

    def __init__(self, data: PictureDataset, preprocessing: Preprocessing) -> None:
        self.data, self.preprocessing = data, preprocessing

    def __getitems__(self, indices: list[int]) -> Prepared:
        samples: list[tuple[int, Sample, Tensor]] = []
        unreadable: list[tuple[int, str]] = []
        for index in indices:
            try:
                sample = self.data.read(index)
                samples.append((index, sample, self.preprocessing(sample.picture)))
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
