"""Lists of pictures in a file: CSV, JSON, or lines of "path label" as the released ``meta_data/train.txt`` has them."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import labels as imagenet
from .stored import StoredPictures

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "picture")
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "class_id", "label_id")
NAME_COLUMNS = ("class_name", "classname", "class name", "name", "label_name")
MAX_CLASSES = 1_000_000  # beyond, a number is no class but something else that stands in that column
_LOOKED_AT = 20  # pictures looked for before a folder is believed to be the one that a list is about


@dataclass(kw_only=True)
class Table:
    """The columns of a list: where the pictures are, numbers or names of classes, and names beside numbers."""

    names: list[str]
    labels: list[Any]
    class_column: list[str] | None = None
    classes: tuple[str, ...] | None = None  # stated by the list itself
    where: Callable[[int], str] = "entry {}".format  # says in an error which row is meant


class PictureList(StoredPictures):
    """Pictures that a file names."""


def read_picture_list(
    path: str | Path, root: str | Path | None = None, class_names: Sequence[str] | None = None
) -> PictureList:
    """Read a list of pictures; they themselves are not opened.

    - ``.csv``, ``.tsv``: path, label, and maybe a class name; with or without a line that names the columns.
    - ``.json``: a list of {"path", "label"} objects or [path, label] pairs, or {"classes": [...], "items": [...]}.
    - else lines of a path and a label with a space or tab between, also as the one file in a ``.zip``.

    Labels are all numbers from 0, or all names, which are sorted.

    Args:
        root: what paths are relative to. Unless given, the folder of the list, one beside it that is called like it
            (``train/`` for ``train.txt``), or these one level up.
        class_names: of the whole data set, where the list need not show every class.

    Raises:
        FileNotFoundError: there is no such list, or none of its first pictures.
        ValueError: it is not such a list; the message names the line and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no list {path}")
    table = _read(path)
    if not table.names:
        raise ValueError(f"{path} names no pictures")
    numbers, names = number_classes(path, table, class_names)
    return PictureList(table.names, numbers, names, place=find_root(path, root, table.names))


def find_root(path: Path, root: str | Path | None, names: Sequence[str]) -> Path:
    """The folder that the names of a list are below.

    Raises:
        FileNotFoundError: the first names are in none of the folders that it could be.
    """
    stem = path.name.partition(".")[0]
    up = path.parent.parent
    candidates = [Path(root)] if root is not None else [path.parent, path.parent / stem, up / stem, up]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in names[:_LOOKED_AT]):
            return candidate
    raise FileNotFoundError(
        f"the first pictures of {path}, such as {names[0]!r}, are not in "
        f"{' or '.join(dict.fromkeys(str(candidate) for candidate in candidates))}; put the list into the folder that "
        "its paths start from, or in Python pass this folder as root"
    )


def number_classes(path: Path, table: Table, class_names: Sequence[str] | None) -> tuple[list[int], tuple[str, ...]]:
    """The number of each picture's class, and what the classes are called.

    Raises:
        ValueError: a label is neither, out of range, unknown, or named in two ways.
    """
    known = table.classes or (tuple(class_names) if class_names is not None else None)
    numbers = [_number(label) for label in table.labels]
    if None not in numbers:
        if known is None:
            return numbers, _names_of(path, table, numbers)  # type: ignore[return-value,arg-type]
        _check_names(path, table, numbers, known)  # type: ignore[arg-type]
        return numbers, known  # type: ignore[return-value]
    odd = next((index for index, number in enumerate(numbers) if number is not None), None)
    named = numbers.index(None)
    if odd is not None:
        raise ValueError(
            f"{path}: some labels are numbers ({table.labels[odd]!r} in {table.where(odd)}) and some are not "
            f"({table.labels[named]!r} in {table.where(named)}), expected all numbers or all names"
        )
    if empty := [index for index, label in enumerate(table.labels) if not label]:
        raise ValueError(f"{path}: {table.where(empty[0])} has no label")
    names = known or tuple(sorted(set(table.labels)))
    number_of = {name: number for number, name in enumerate(names)}
    for index, label in enumerate(table.labels):
        if label not in number_of:
            raise ValueError(
                f"{path}: {table.where(index)} has the label {label!r}, expected one of the {len(names)} classes, "
                f"such as {names[0]!r}"
            )
    return [number_of[label] for label in table.labels], names


def read_text(path: Path) -> str:
    """A text file, or the one text file in a zip.

    Raises:
        ValueError: it is neither.
    """
    try:
        contents = path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(contents)) as archive:
                (inner,) = [name for name in archive.namelist() if not name.endswith("/")]
                contents = archive.read(inner)
        return contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8") from error
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a list, expected text, or a zip with one text file") from error


def read_json(path: Path) -> Any:
    """The contents of a JSON file; ValueError where it is none."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def lines_table(path: Path) -> Table:
    """Lines of a path and a label; the path may hold spaces."""
    lines = read_text(path).splitlines()
    rows = [(number, line.rsplit("\t" if "\t" in line else None, 1)) for number, line in enumerate(lines, start=1)]
    rows = [row for row in rows if row[1] and row[1] != [""]]
    for number, row in rows:
        if len(row) != 2:
            raise ValueError(f"{path}: line {number} is {' '.join(row)!r}, expected a path, a space and a label")
    return Table(
        names=[row[0] for _, row in rows],
        labels=[row[1].strip() for _, row in rows],
        where=lambda index: f"line {rows[index][0]}",
    )


def _read(path: Path) -> Table:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _csv_table(path)
    return _json_table(path) if suffix == ".json" else lines_table(path)


def _csv_table(path: Path) -> Table:
    text = read_text(path)
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"{path} is not CSV: {error}") from error
    if not rows:
        return Table(names=[], labels=[])
    columns, with_header = _columns(path, rows[0][1])
    rows = rows[with_header:]
    for number, row in rows:
        if len(row) <= max(columns):
            raise ValueError(f"{path}: line {number} has {len(row)} columns, expected {max(columns) + 1}")
    picture, label, *name = columns
    return Table(
        names=[row[picture] for _, row in rows],
        labels=[row[label] for _, row in rows],
        class_column=[row[name[0]] for _, row in rows] if name else None,
        where=lambda index: f"line {rows[index][0]}",
    )


def _columns(path: Path, first: list[str]) -> tuple[list[int], bool]:
    """Which columns hold path, label and maybe class name, and whether the first line says so."""
    lower = [cell.lower() for cell in first]

    def find(known: tuple[str, ...]) -> int | None:
        return next((lower.index(name) for name in known if name in lower), None)

    picture, label, name = find(PATH_COLUMNS), find(LABEL_COLUMNS), find(NAME_COLUMNS)
    if picture is None:
        if len(first) not in (2, 3):
            raise ValueError(f"{path}: the first line has {len(first)} columns, expected path, label[, class name]")
        return list(range(len(first))), False
    if label is None:
        label, name = name, None
    if label is None:
        raise ValueError(f"{path} has the columns {', '.join(first)}; none is called {', '.join(LABEL_COLUMNS[:4])}")
    return [picture, label] + ([name] if name is not None else []), True


def _json_table(path: Path) -> Table:
    contents = read_json(path)
    classes = None
    if isinstance(contents, dict):
        classes, contents = contents.get("classes"), contents.get("items")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes) or not classes:
            raise ValueError(f'{path}: "classes" is {str(classes)[:60]!r}, expected a list of names')
    if not isinstance(contents, list):
        raise ValueError(f'{path} holds no list of pictures, expected [...], or {{"classes": [...], "items": [...]}}')
    pairs = [_json_pair(path, number, item) for number, item in enumerate(contents)]
    names = [pair[2] for pair in pairs]
    return Table(
        names=[pair[0] for pair in pairs],
        labels=[pair[1] for pair in pairs],
        class_column=names if names and all(isinstance(name, str) for name in names) else None,  # type: ignore[arg-type]
        classes=tuple(classes) if classes else None,
    )


def _json_pair(path: Path, number: int, item: Any) -> tuple[str, Any, str | None]:
    """Path, label and class name of an entry."""
    name = None
    if isinstance(item, dict):
        picture = next((item[key] for key in PATH_COLUMNS if key in item), None)
        label = next((item[key] for key in LABEL_COLUMNS if key in item), None)
        name = next((item[key] for key in NAME_COLUMNS if key in item), None)
    else:
        picture, label = item if isinstance(item, list) and len(item) == 2 else (None, None)
    if not isinstance(picture, str) or isinstance(label, bool) or not isinstance(label, (int, str)):
        raise ValueError(
            f'{path}: entry {number} is {json.dumps(item)[:80]}, expected {{"path": "a.jpg", "label": 0}} '
            'or ["a.jpg", 0]'
        )
    return picture, label, name


def _number(label: Any) -> int | None:
    try:
        return int(label)
    except ValueError:
        return None


def _check_names(path: Path, table: Table, numbers: list[int], known: tuple[str, ...]) -> None:
    """ValueError where the third column calls a class something else than the whole data set does."""
    for index, (number, name) in enumerate(zip(numbers, table.class_column or (), strict=False)):
        if 0 <= number < len(known) and name != known[number]:
            raise ValueError(
                f"{path}: {table.where(index)} calls class {number} {name!r}, which is {known[number]!r} elsewhere"
            )


def _names_of(path: Path, table: Table, numbers: list[int]) -> tuple[str, ...]:
    """What numbered classes are called: by the third column, or as numbers of ImageNet are."""
    highest = max(numbers)
    if highest >= MAX_CLASSES or min(numbers) < 0:
        index = numbers.index(highest if highest >= MAX_CLASSES else min(numbers))
        raise ValueError(f"{path}: {table.where(index)} has the label {numbers[index]}, expected classes from 0")
    names = list(imagenet.class_names(highest + 1))
    if table.class_column is None:
        return tuple(names)
    seen: dict[int, str] = {}
    for index, (number, name) in enumerate(zip(numbers, table.class_column, strict=True)):
        if seen.setdefault(number, name) != name:
            raise ValueError(
                f"{path}: {table.where(index)} calls class {number} {name!r}, a line before calls it {seen[number]!r}"
            )
    names = [seen.get(number, f"class {number}") for number in range(highest + 1)]
    return tuple(names)
