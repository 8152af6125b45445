"""Pictures of a data set, prepared for a model, a batch at a time; read by worker processes where asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..classifier import as_picture
from ..data.pictures import PictureError
from ..data.transforms import Preprocessing


class Pictures(Protocol):
    """Pictures with their classes, each found by its position."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Image.Image, int, Any]:
        """Picture, class and what else goes with it; PictureError where the picture cannot be read."""


class Prepared(NamedTuple):
    """Pictures (n, C, S, S) with their positions (n,) and labels (n,), and the positions of unreadable ones."""

    indices: Tensor
    images: Tensor
    labels: Tensor
    extras: Any
    unreadable: tuple[tuple[int, str], ...]


class Listed:
    """What has ``samples()`` alone, such as pictures or paths in a list, found by position."""

    def __init__(self, data: Any) -> None:
        self.class_names, self._samples = data.class_names, list(data.samples())

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, index: int) -> tuple[Image.Image, int, None]:
        """Picture and class."""
        source, label = self._samples[index]
        return as_picture(source), label, None


def found_by_position(data: Any) -> Pictures:
    """The data set itself where it has ``read``; else its samples, listed."""
    return data if hasattr(data, "read") else Listed(data)


def prepared_batches(
    data: Pictures, indices: Sequence[int], preprocessing: Preprocessing, batch_size: int, workers: int, pin: bool
) -> Iterator[Prepared]:
    """The pictures at ``indices``, in that order."""
    if not indices:
        return iter(())
    loader = DataLoader(
        _Chosen(data, indices, preprocessing),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_join,
        pin_memory=pin,
    )
    return iter(loader)


class _Chosen(Dataset):
    def __init__(self, data: Pictures, indices: Sequence[int], preprocessing: Preprocessing) -> None:
        self.data, self.indices, self.preprocessing = data, indices, preprocessing

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor | None, int, Any, str]:
        index = self.indices[position]
        try:
            picture, label, extras = self.data.read(index)
            return index, self.preprocessing(picture), label, extras, ""
        except PictureError as error:
            return index, None, -1, None, str(error)


def _join(items: list[tuple[int, Tensor | None, int, Any, str]]) -> Prepared:
    good = [item for item in items if item[1] is not None]
    images = [image for _, image, *_ in good if image is not None]
    return Prepared(
        indices=torch.tensor([item[0] for item in good], dtype=torch.int64),
        images=torch.stack(images) if images else torch.empty(0),
        labels=torch.tensor([item[2] for item in good], dtype=torch.int64),
        extras=_join_extras([item[3] for item in good]),
        unreadable=tuple((index, reason) for index, image, _, _, reason in items if image is None),
    )


def _join_extras(extras: list[Any]) -> tuple[Tensor, ...] | None:
    """Tensors that go with each picture, such as date and place, stacked; None where there are none."""
    if not extras or not isinstance(extras[0], tuple) or not extras[0]:
        return None
    return tuple(torch.stack([torch.as_tensor(part) for part in parts]) for parts in zip(*extras, strict=True))
