"""Data sets of the Hugging Face hub, by name, from a folder, or as ``save_to_disk`` left them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import labels as imagenet
from .pictures import PictureError
from .stored import StoredPictures

SPLITS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "test"),
    "test": ("test", "validation", "valid", "val"),
}
LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label", "category")
_SAVED = ("dataset_dict.json", "dataset_info.json")


class HubPictures(StoredPictures):
    """Rows of a table with a column of encoded pictures."""

    def __init__(self, rows: Any, column: str, labels: Sequence[int], class_names: Sequence[str], place: str) -> None:
        super().__init__([str(row) for row in range(len(rows))], labels, class_names, place=place)
        self.rows, self.column = rows, column

    def name(self, index: int) -> str:
        """Data set, split and row."""
        return f"{self.place} row {index}"

    def read_bytes(self, index: int) -> bytes:
        """The file in one row, or that it names.

        Raises:
            PictureError: there is none.
        """
        cell = self.rows[index][self.column]
        if cell and cell.get("bytes"):
            return cell["bytes"]
        try:
            return Path(cell["path"]).read_bytes()
        except (TypeError, KeyError) as error:
            raise PictureError(f"{self.name(index)}: there is no picture in it") from error
        except (OSError, ValueError) as error:
            raise PictureError(f"{self.name(index)}: {getattr(error, 'strerror', None) or error}") from error


def is_saved_dataset(folder: str | Path) -> bool:
    """Whether ``datasets`` saved a data set into this folder."""
    return any((Path(folder) / name).is_file() for name in _SAVED)


def read_hub(
    name: str | Path,
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
) -> HubPictures:
    """Open a data set; a name that is no folder here is downloaded once, into the cache of ``datasets``.

    Args:
        name: a folder, or a name of the hub, with a configuration behind a colon where there are several.
        split: "train", "val" or "test", matched with what the data set calls them, or one of its own names.
        image_column: the column of pictures; the only one unless given.
        label_column: the column of classes; the only one of classes, or one called "label" or the like, unless given.
        class_names: in order, where the data set does not say.

    Raises:
        ValueError: the data set cannot be opened, or has no such split or columns.
        ImportError: the ``datasets`` package is not there.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Hugging Face data sets need datasets: pip install 'internimage-torch[data]'") from error
    table = _split(_open(str(name)), str(name), split)
    place = f"{name}, {table.split or split},"
    image = _image_column(datasets, table, place, image_column)
    label = _label_column(datasets, table, place, label_column)
    numbers, names = _classes(datasets, table, place, label, class_names)
    rows = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return HubPictures(rows, image, numbers, names, place)


def _open(name: str) -> Any:
    import datasets

    if not name.partition(":")[0]:
        raise ValueError("hf: stands before the name of a data set, such as hf:cifar10; here there is none")
    try:
        if is_saved_dataset(name):
            return datasets.load_from_disk(name)
        path, _, configuration = (name, "", "") if Path(name).exists() else name.partition(":")
        return datasets.load_dataset(path, configuration or None)
    except Exception as error:  # of the network, of the builder, of the files: datasets raises dozens
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"the data set {name!r} cannot be opened: {reason}") from error


def _split(opened: Any, name: str, split: str) -> Any:
    """One table of rows."""
    if not isinstance(opened, dict):  # saved without splits
        return opened
    known = (split, *SPLITS.get(split, ()))
    found = [candidate for candidate in known if candidate in opened]
    if split not in SPLITS and not found or not found:
        raise ValueError(f"the data set {name!r} has no split {split!r}, it has {', '.join(opened)}")
    return opened[found[0]]


def _image_column(datasets: Any, table: Any, place: str, asked: str | None) -> str:
    images = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if asked is not None and asked not in images:
        raise ValueError(f"{place} has no column {asked!r} of pictures, it has {', '.join(images) or 'none'}")
    if asked is None and len(images) != 1:
        raise ValueError(f"{place} has {len(images)} columns of pictures ({', '.join(images)}), name one: image_column")
    return asked or images[0]


def _label_column(datasets: Any, table: Any, place: str, asked: str | None) -> str:
    columns = list(table.features)
    if asked is not None:
        if asked not in columns:
            raise ValueError(f"{place} has no column {asked!r}, it has {', '.join(columns)}")
        return asked
    classes = [name for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [name for name in LABEL_COLUMNS if name in columns]
    if len(classes) == 1:
        return classes[0]
    if not named:
        raise ValueError(f"{place} has the columns {', '.join(columns)}, name the one of classes: label_column")
    return named[0]


def _classes(
    datasets: Any, table: Any, place: str, column: str, class_names: Sequence[str] | None
) -> tuple[list[int], Sequence[str]]:
    """The number of each row's class, and what classes are called."""
    values = list(table[column])
    kind = table.features[column]
    if any(value is None or value == -1 for value in values):
        raise ValueError(f"{place} column {column!r}: some rows have no class; choose another split")
    if isinstance(kind, datasets.ClassLabel):
        return values, kind.names
    if all(isinstance(value, int) for value in values):
        return values, class_names or imagenet.class_names(max(values, default=-1) + 1)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{place} column {column!r} holds {kind}, expected numbers or names of classes")
    names = list(class_names or sorted(set(values)))
    number_of = {name: number for number, name in enumerate(names)}
    unknown = next((value for value in values if value not in number_of), None)
    if unknown is not None:
        raise ValueError(f"{place} column {column!r}: {unknown!r} is none of the {len(names)} classes")
    return [number_of[value] for value in values], names
