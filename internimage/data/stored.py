"""Pictures that lie somewhere as encoded bytes, with their names, labels and class names."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .dataset import Sample
from .pictures import PictureError, decode


class Names(Sequence[str]):
    """Many names in one tensor: a list of millions of strings would be copied into every worker, bit by bit."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.packed = torch.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), dtype=torch.uint8)
        self.ends = torch.tensor([len(name) for name in encoded], dtype=torch.int64).cumsum(0)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):  # of one index: nobody here asks for more
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index else 0
        return self.packed[start : int(self.ends[index])].numpy().tobytes().decode("utf-8", "surrogateescape")


class StoredPictures:
    """A list of pictures; what reads the bytes of one is up to the subclass.

    Args:
        names: where each picture is, below or inside ``place``.
        labels: (N,), int64, positions in ``class_names``.
        extras: tensors (N, ...) of what else the model is given.

    Raises:
        ValueError: there are no pictures, or a label is out of range.
    """

    def __init__(
        self,
        names: Sequence[str],
        labels: Sequence[int] | Tensor,
        class_names: Sequence[str],
        *,
        place: str | Path = "",
        extras: tuple[Tensor, ...] = (),
    ) -> None:
        self.names = names if isinstance(names, Names) else Names(names)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.class_names = tuple(class_names)
        self.place, self.extras = str(place), extras
        self.at_least: int | None = None
        if not len(self.names):
            raise ValueError(f"{self.place or 'the list'} names no pictures")
        if len(self.labels) != len(self.names) or any(len(extra) != len(self.names) for extra in extras):
            raise ValueError(f"{len(self.names):,} pictures have {len(self.labels):,} labels, expected one for each")
        bad = ((self.labels < 0) | (self.labels >= len(self.class_names))).nonzero()
        if len(bad):
            first = int(bad[0])
            raise ValueError(
                f"{self.name(first)} has label {int(self.labels[first])}, expected 0 to {len(self.class_names) - 1}: "
                f"there are {len(self.class_names)} classes"
            )

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The path of a picture, or what tells where it is."""
        return str(Path(self.place) / self.names[index])

    def read_bytes(self, index: int) -> bytes:
        """The file of one picture, as it is stored.

        Raises:
            PictureError: it cannot be read.
        """
        try:
            return Path(self.name(index)).read_bytes()
        except (OSError, ValueError) as error:
            raise PictureError(f"{self.name(index)}: {getattr(error, 'strerror', None) or error}") from error

    def read(self, index: int) -> Sample:
        """The picture, its label and its extras.

        Raises:
            PictureError: it cannot be read.
        """
        picture = decode(io.BytesIO(self.read_bytes(index)), self.name(index), self.at_least)
        return Sample(picture, int(self.labels[index]), tuple(extra[index] for extra in self.extras))

    def reduced(self, at_least: int) -> StoredPictures:
        """The same pictures, of which large JPEGs are decoded at a half, a quarter or an eighth of their size.

        Args:
            at_least: pixels that the shorter side keeps. Four times the size that is trained on loses nothing that
                random crops of 8 % of the area could show.
        """
        copied = copy.copy(self)
        copied.at_least = at_least
        return copied

    def samples(self) -> Iterator[tuple[str, int]]:
        """Name, which ``read_picture`` takes, and label of each picture."""
        return ((self.name(index), int(label)) for index, label in enumerate(self.labels))
