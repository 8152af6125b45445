"""A folder with a folder a class: ``pictures/cat/1.jpg``, ``pictures/dog/2.jpg``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .labelled import LabelledImages
from .pictures import SUFFIXES, PictureError, pictures_below, read_picture
from .transforms import Preprocessing

MAX_BYTES_IN_MEMORY = 8 * 2**30


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The files below class folders; nothing is read yet. ``labels`` are positions in ``class_names``."""

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def samples(self) -> Iterator[tuple[str, int]]:
        """Path and label of each picture."""
        return zip(self.paths, self.labels, strict=True)


def find_image_folder(folder: str | Path) -> ImageFolder:
    """List the pictures of a folder of class folders; classes are sorted by name.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no class folders in it, or one without pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(f"{folder} holds no folders, expected a folder a class with its pictures inside")
    found = [pictures_below(path) for path in classes]
    for path, pictures in zip(classes, found, strict=True):
        if not pictures:
            raise ValueError(f"the folder {path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return ImageFolder(
        paths=tuple(path for paths in found for path in paths),
        labels=tuple(label for label, paths in enumerate(found) for _ in paths),
        class_names=tuple(path.name for path in classes),
    )


def read_image_folder(
    folder: ImageFolder, preprocessing: Preprocessing, progress: Callable[[int, int], None] = lambda done, total: None
) -> LabelledImages:
    """Read all pictures into memory, framed as ``preprocessing`` does; unreadable ones are left out and named.

    Raises:
        ValueError: they do not fit into 8 GiB, or a class has no readable picture.
    """
    size, channels = preprocessing.image_size, preprocessing.channels
    needed = len(folder) * channels * size * size
    if needed > MAX_BYTES_IN_MEMORY:
        raise ValueError(
            f"{len(folder):,} pictures of {size}x{size} take {needed / 2**30:.0f} GiB and are kept in memory, at most "
            f"{MAX_BYTES_IN_MEMORY / 2**30:.0f}; take fewer or smaller ones"
        )
    images = torch.empty(len(folder), channels, size, size, dtype=torch.uint8)
    labels: list[int] = []
    unreadable: list[str] = []
    for number, (path, label) in enumerate(folder.samples(), start=1):
        try:
            picture = preprocessing.frame(read_picture(path))
            pixels = np.array(picture, dtype=np.uint8).reshape(size, size, channels)
            images[len(labels)] = torch.from_numpy(pixels).permute(2, 0, 1)
            labels.append(label)
        except PictureError as error:
            unreadable.append(str(error))
        progress(number, len(folder))
    for label, name in enumerate(folder.class_names):
        if label not in labels:
            raise ValueError(f"none of the pictures of class {name!r} can be read, such as {unreadable[0]}")
    return LabelledImages(
        images=images[: len(labels)].clone(),
        labels=torch.tensor(labels),
        class_names=folder.class_names,
        unreadable=tuple(unreadable),
    )
