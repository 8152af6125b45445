"""What ``--data`` of a command stands for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from PIL import Image

from .fashion_mnist import find_folder, load_fashion_mnist
from .image_folder import find_image_folder
from .synthetic import synthetic_pictures

FASHION_MNIST = "fashion-mnist"
SYNTHETIC = "synthetic"


class LabelledPictures(Protocol):
    """Pictures, or paths of pictures, with their classes."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def samples(self) -> Iterator[tuple[Image.Image | str, int]]: ...


def open_pictures(data: str | Path, split: str) -> LabelledPictures:
    """The pictures of ``data``: "fashion-mnist", a folder with its files, a folder of class folders, or "synthetic".

    Args:
        split: "train" or "test", for Fashion-MNIST; a folder of class folders is taken whole.

    Raises:
        FileNotFoundError, ValueError: it is none of these; the message says what was expected.
    """
    if str(data) == FASHION_MNIST:
        return load_fashion_mnist(split)
    if str(data) == SYNTHETIC:
        return synthetic_pictures(seed=0 if split == "train" else 1)
    try:
        find_folder(data)
    except FileNotFoundError:
        return find_image_folder(data)
    return load_fashion_mnist(split, data)
