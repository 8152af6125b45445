"""iNaturalist 2018: annotations and locations in JSON files, with date and place of each picture.

Source: the files of the challenge, https://github.com/visipedia/inat_comp/tree/master/2018.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .metadata import spatial_vector, temporal_vector
from .picture_list import PictureList, read_json

_FILES = {"train": "train2018", "val": "val2018", "test": "val2018"}  # labels of the real test set were kept back

_PARTS = ("images", "annotations", "categories")


def has_inaturalist(folder: str | Path) -> bool:
    """Whether the annotations of iNaturalist 2018 lie in ``folder``."""
    return any((Path(folder) / f"{name}.json").is_file() for name in _FILES.values())


def read_inaturalist(folder: str | Path, split: str, root: str | Path | None = None) -> PictureList:
    """The pictures of "train" or "val" ("test" means "val"), with what the metadata model takes beside each.

    A label is the position of its category in the file's list of categories. Annotations, images and locations belong
    together by position. The extras are (4,) of :func:`~internimage.data.metadata.temporal_vector` and (3,) of
    :func:`~internimage.data.metadata.spatial_vector`; zeros where a date or place is missing or means nothing.

    Args:
        root: what file names are relative to; ``folder`` unless given.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the split is unknown, or a file is not what it should be.
    """
    folder = Path(folder)
    if split not in _FILES:
        raise ValueError(f"split is {split!r}, expected 'train' or 'val'")
    path, places = (folder / f"{_FILES[split]}{ending}.json" for ending in ("", "_locations"))
    for needed in (path, places):
        if not needed.is_file():
            raise FileNotFoundError(f"there is no {needed.name} in {folder}")
    images, annotations, categories = _parts(path)
    locations = read_json(places)
    if not _objects(locations) or len(locations) != len(images):
        raise ValueError(f"{places} is no list with a place for each of {len(images):,} images")
    position = {category["id"]: number for number, category in enumerate(categories)}
    for number, annotation in enumerate(annotations):
        if annotation.get("category_id") not in position:
            raise ValueError(f"{path}: annotation {number} has the category {annotation.get('category_id')!r}, unknown")
    return PictureList(
        [image["file_name"] for image in images],
        [position[annotation["category_id"]] for annotation in annotations],
        [str(category.get("name", category["id"])) for category in categories],
        place=folder if root is None else root,
        extras=(_dates(locations, images), _places(locations)),
    )


def _parts(path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Images, annotations and categories."""
    contents = read_json(path)
    parts: list[Any] = [contents.get(key) if isinstance(contents, dict) else None for key in _PARTS]
    if not all(_objects(part) for part in parts):
        raise ValueError(f"{path} is no annotation file, expected lists {', '.join(_PARTS)}")
    images, annotations, categories = parts
    if len(images) != len(annotations):
        raise ValueError(f"{path} has {len(images):,} images and {len(annotations):,} annotations, expected as many")
    if not all("file_name" in image for image in images) or not all("id" in category for category in categories):
        raise ValueError(f'{path}: an image has no "file_name", or a category no "id"')
    return images, annotations, categories


def _objects(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(entry, dict) for entry in part)


def _dates(locations: list[Any], images: list[Any]) -> Tensor:
    """(N, 4): of the location's date, or of the image's."""
    return torch.stack(
        [
            _or_zeros(temporal_vector, 4, place.get("date") or image.get("date"))
            for place, image in zip(locations, images, strict=True)
        ]
    )


def _places(locations: list[Any]) -> Tensor:
    """(N, 3)."""
    return torch.stack([_or_zeros(spatial_vector, 3, place.get("lat"), place.get("lon")) for place in locations])


def _or_zeros(vector: Any, size: int, *values: Any) -> Tensor:
    """What is known of one picture; a date or place that means nothing is an unknown one, as in the released code."""
    try:
        return vector(*values)
    except ValueError:
        return torch.zeros(size)
