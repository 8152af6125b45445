"""What worker processes do: read and change the pictures of a batch, and hand it over with what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from .dataset import PictureDataset, Sample
from .order import Place
from .pictures import PictureError
from .seeds import seeded

Transform = Callable[[Image.Image], Tensor]
Inputs = Tensor | tuple[Tensor, ...]  # images (N, C, S, S), or those and the extras of each, such as (N, 4) and (N, 3)

PADDING = -1  # the label of what stands in for no picture, or for one that cannot be read
MAX_IN_A_ROW = 50  # bad pictures that are replaced before something else must be wrong, as in the released code
BAD_POLICIES = ("skip", "raise")
NO_PICTURE = Image.new("RGB", (64, 64))
_STREAM = 1  # sets the random numbers of transforms apart from those of mixing


class Loaded(NamedTuple):
    """What a worker hands over: tensors, the reasons for what it left out, and what it failed with, if it did."""

    inputs: Inputs
    labels: Tensor
    indices: Tensor
    skipped: tuple[str, ...] = ()
    failure: str | None = None


class TrainingPictures(Dataset):
    """A batch for a list of places; lives in the workers."""

    def __init__(self, dataset: PictureDataset, transform: Transform, seed: int, bad: str) -> None:
        self.dataset, self.transform, self.seed, self.bad = dataset, transform, seed, bad

    def __getitems__(self, places: list[Place]) -> Loaded:
        reasons: list[str] = []
        try:
            samples = [(place, self._readable(place.picture, reasons)) for place in places]
        except PictureError as error:
            return failed(error)
        changed = [(changed_at(place, sample, self.transform, self.seed), sample) for place, sample in samples]
        return collated(changed, [place.picture for place in places], reasons)

    def _readable(self, index: int, reasons: list[str]) -> Sample:
        """The picture at ``index``, or the next one that can be read."""
        for ahead in range(MAX_IN_A_ROW):
            try:
                return self.dataset.read((index + ahead) % len(self.dataset))
            except PictureError as error:
                if self.bad == "raise":
                    raise
                reasons.append(str(error))
        raise too_many_bad(reasons)


class EvaluationPictures(Dataset):
    """A batch for a list of indices, -1 for padding; lives in the workers."""

    def __init__(self, dataset: PictureDataset, transform: Transform, bad: str) -> None:
        self.dataset, self.transform, self.bad = dataset, transform, bad

    def __getitems__(self, indices: list[int]) -> Loaded:
        samples: list[Sample | None] = []
        reasons: list[str] = []
        for index in indices:
            try:
                samples.append(self.dataset.read(index) if index != PADDING else None)
            except PictureError as error:
                if self.bad == "raise":
                    return failed(error)
                reasons.append(str(error))
                samples.append(None)
        return padded(samples, indices, self.transform, reasons)


def changed_at(place: Place, sample: Sample, transform: Transform, seed: int) -> Tensor:
    """The picture changed as its place in the run says."""
    with seeded(_STREAM, seed, place.epoch, place.position):
        return transform(sample.picture)


def collated(changed: list[tuple[Tensor, Sample]], indices: list[int], reasons: list[str]) -> Loaded:
    """Stack pictures, labels and extras."""
    images = default_collate([tensor for tensor, _ in changed])
    labels = torch.tensor([sample.label for _, sample in changed])
    extras = tuple(torch.stack(rows) for rows in zip(*(sample.extras for _, sample in changed), strict=True))
    return Loaded((images, *extras) if extras else images, labels, torch.tensor(indices), tuple(reasons))


def padded(samples: list[Sample | None], indices: list[int], transform: Transform, reasons: list[str]) -> Loaded:
    """As :func:`collated`, with zeros and label -1 where there is no sample."""
    there = next((sample for sample in samples if sample is not None), None)
    missing = Sample(NO_PICTURE, PADDING, () if there is None else tuple(map(torch.zeros_like, there.extras)))
    full = [sample or missing for sample in samples]
    changed = [(_blank(transform) if s is missing else transform(s.picture), s) for s in full]
    kept = [PADDING if sample is missing else index for sample, index in zip(full, indices, strict=True)]
    return collated(changed, kept, reasons)


def _blank(transform: Transform) -> Tensor:
    """Zeros in the shape that ``transform`` gives."""
    return torch.zeros_like(transform(NO_PICTURE))


def failed(error: Exception) -> Loaded:
    """An error as data: raised by the process that asked, without the worker's traceback."""
    nothing = torch.empty(0)
    return Loaded(nothing, nothing, nothing, failure=str(error))


def too_many_bad(reasons: list[str]) -> PictureError:
    """When replacing a picture was given up."""
    return PictureError(f"{MAX_IN_A_ROW} pictures in a row cannot be read, the last one {reasons[-1]}")


def check_bad(bad: str) -> None:
    """ValueError for an unknown policy."""
    if bad not in BAD_POLICIES:
        raise ValueError(f"bad is {bad!r}, expected 'skip' or 'raise'")
