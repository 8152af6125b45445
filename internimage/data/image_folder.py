"""A folder with a folder a class: ``pictures/cat/1.jpg``, ``pictures/dog/2.jpg``."""

from __future__ import annotations

import os
from pathlib import Path

from .pictures import SUFFIXES
from .stored import StoredPictures


class ImageFolder(StoredPictures):
    """The files below class folders; nothing is read yet. ``labels`` are positions in ``class_names``."""


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
            raise ValueError(
                f"the folder {path} holds no pictures ({', '.join(sorted(SUFFIXES))}); put some in, or take it away"
            )
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
        found += [(*inside, name) for name in files if is_picture_name(name)]
    return ["/".join(parts) for parts in sorted(found)]


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is taken for a picture."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _raise(error: OSError) -> None:
    raise error
