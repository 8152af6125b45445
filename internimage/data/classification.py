"""What ``--data`` of a command stands for, where pictures are held or gone through one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from PIL import Image

from .formats import FASHION_MNIST as FASHION_MNIST
from .formats import SYNTHETIC as SYNTHETIC
from .formats import open_dataset


class LabelledPictures(Protocol):
    """Pictures, or paths of pictures, with their classes."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def samples(self) -> Iterator[tuple[Image.Image | str, int]]: ...


def open_pictures(data: str | Path, split: str) -> LabelledPictures:
    """As :func:`~internimage.data.formats.open_dataset`, but only what can be gone through one by one, as a list can.

    Raises:
        FileNotFoundError, ValueError: it is no such data set; the message says what was expected.
    """
    opened = open_dataset(data, split)
    if not hasattr(opened, "samples"):
        raise ValueError(f"{data} are shards, which are read as a stream only; expected a folder, a list or an archive")
    return opened  # type: ignore[return-value]
