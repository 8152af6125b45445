"""A folder with a folder a class: ``pictures/cat/1.jpg``, ``pictures/dog/2.jpg``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .labelled import LabelledImages
from .pictures import SUFFIXES, PictureError, read_picture
from .stored import StoredPictures
from .transforms import Preprocessing

MAX_BYTES_IN_MEMORY = 8 * 2**30


class ImageFolder(StoredPictures):
    """The files below class folders; nothing is read yet. ``labels`` are positions in ``class_names``."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Where each picture is."""
        return tuple(self.name(index) for index in range(len(self)))


def find_image_folder(folder: str | Path) -> ImageFolder:
    """List the pictures of a folder of class folders; classes are sorted by name.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no class folders in it, or one without pictures.
        OSError: a folder cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(f"{folder} holds no folders, expected a folder a class with its pictures inside")
    names: list[str] = []
    labels: list[int] = []
    for label, path in enumerate(classes):
        found = _names_below(str(path))
        if not found:
            raise ValueError(f"the folder {path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        names += [f"{path.name}/{name}" for name in found]
        labels += [label] * len(found)
    return ImageFolder(names, labels, [path.name for path in classes], place=folder)


def _names_below(folder: str) -> list[str]:
    """What looks like a picture in and below a folder, sorted by path; hidden files and folders are left out.

    Faster than ``Path.rglob`` by far, which matters for a million files; a folder that cannot be read is an error.
    """
    found: list[tuple[str, ...]] = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = tuple(Path(parent).relative_to(folder).parts)
        found += [(*inside, name) for name in files if _is_picture(name)]
    return ["/".join(parts) for parts in sorted(found)]


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _raise(error: OSError) -> None:
    raise error


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
