"""What a data set is to everything that reads one: a length, classes, and a picture for each index."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple, Protocol

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


class Subset:
    """Some pictures of a data set, such as the part that is held out; its indices count from 0 again."""

    def __init__(self, dataset: PictureDataset, indices: Tensor) -> None:
        self.dataset, self.indices = dataset, indices

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the whole data set."""
        return self.dataset.class_names

    @property
    def labels(self) -> Tensor:
        """(N,), int64."""
        return self.dataset.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """What the picture is called in the whole data set."""
        return self.dataset.name(int(self.indices[index]))

    def read(self, index: int) -> Sample:
        """One picture."""
        return self.dataset.read(int(self.indices[index]))


def check_every_class(dataset: PictureDataset) -> None:
    """ValueError that names classes without a picture: nothing could be learned of them."""
    counts = dataset.labels.bincount(minlength=len(dataset.class_names))
    empty = [dataset.class_names[index] for index in (counts == 0).nonzero().flatten().tolist()]
    if empty:
        more = f" and {len(empty) - 1:,} more" if len(empty) > 1 else ""
        raise ValueError(f"class {empty[0]!r}{more} of {len(counts):,} has no picture; leave it out, or add pictures")


def fingerprint(dataset: Any) -> str:
    """Tells one list of pictures from another: "1,281,167 pictures of 1000 classes, checksum 1a2b3c4d".

    Of a :class:`PictureDataset` or of shards. Labels and class names count, and the names of files where there are any;
    no picture is read.
    """
    own = getattr(dataset, "fingerprint", None)
    if own is not None:
        return own
    checksum = zlib.crc32(dataset.labels.numpy().tobytes())
    checksum = zlib.crc32("\0".join(dataset.class_names).encode("utf-8", "surrogateescape"), checksum)
    if isinstance(dataset, Subset):
        checksum = zlib.crc32(dataset.indices.numpy().tobytes(), checksum)
        names = getattr(dataset.dataset, "names", None)
    else:
        names = getattr(dataset, "names", None)
    if names is not None:
        checksum = zlib.crc32(names.packed.numpy().tobytes(), checksum)
    return f"{len(dataset):,} pictures of {len(dataset.class_names)} classes, checksum {checksum:08x}"
