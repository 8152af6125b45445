"""What a data set is to everything that reads one: a length, classes, and a picture for each index."""

from __future__ import annotations

import zlib
from typing import NamedTuple, Protocol

from PIL import Image
from torch import Tensor


class Sample(NamedTuple):
    """A picture, its class and what else the model is given: nothing, or vectors such as date and place."""

    picture: Image.Image
    label: int
    extras: tuple[Tensor, ...] = ()


class PictureDataset(Protocol):
    """Labelled pictures that can be read in any order.

    ``class_names[i]`` is what label ``i`` is called; ``labels`` is (N,), int64. ``name`` says which picture an index
    is, in words, and ``read`` raises :class:`~internimage.data.pictures.PictureError` where it cannot be read.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int) -> Sample: ...


def fingerprint(dataset: PictureDataset) -> str:
    """Tells one list of pictures from another: "1,281,167 pictures of 1000 classes, checksum 1a2b3c4d".

    Labels and class names count, and the names of the files where the data set keeps them; no picture is read.
    """
    checksum = zlib.crc32(dataset.labels.numpy().tobytes())
    checksum = zlib.crc32("\0".join(dataset.class_names).encode("utf-8", "surrogateescape"), checksum)
    names = getattr(dataset, "names", None)
    if names is not None:
        checksum = zlib.crc32(names.packed.numpy().tobytes(), checksum)
    return f"{len(dataset):,} pictures of {len(dataset.class_names)} classes, checksum {checksum:08x}"
