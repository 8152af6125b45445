"""ImageNet-22K by its lists: ``22k_label.txt`` has paths and WordNet ids, ``22k_class_to_idx.json`` numbers those."""

from __future__ import annotations

from pathlib import Path

from .labels import imagenet_22k
from .picture_list import PictureList, find_root, lines_table, read_json

CLASSES_FILE, LIST_FILE = "22k_class_to_idx.json", "22k_label.txt"


def find_lists(folder: str | Path) -> Path | None:
    """Where the two lists lie: in ``folder`` or its ``meta_data``; None where they do not."""
    places = (Path(folder), Path(folder) / "meta_data")
    return next((place for place in places if (place / CLASSES_FILE).is_file()), None)


def read_imagenet_22k(folder: str | Path, root: str | Path | None = None) -> PictureList:
    """The pictures of the list; they are below ``root``, ``folder``, or ``folder/22k``.

    The class map gives each label. The usual WordNet ids are called by their names.

    Raises:
        FileNotFoundError: there are no such lists, or none of the first pictures.
        ValueError: a list is not what it should be.
    """
    folder, lists = Path(folder), find_lists(folder)
    if lists is None:
        raise FileNotFoundError(f"neither {folder} nor {folder / 'meta_data'} holds {CLASSES_FILE}")
    number_of = _class_numbers(lists / CLASSES_FILE)
    path = lists / LIST_FILE
    if not path.is_file():
        raise FileNotFoundError(f"there is no {LIST_FILE} beside {lists / CLASSES_FILE}")
    table = lines_table(path)
    for index, label in enumerate(table.labels):
        if label not in number_of:
            raise ValueError(f"{path}: {table.where(index)} has the class {label!r}, unknown to {CLASSES_FILE}")
    if not table.names:
        raise ValueError(f"{path} names no pictures")
    if root is None:
        root = next((place for place in (folder, folder / "22k") if (place / table.names[0]).is_file()), folder)
    known = imagenet_22k()
    ids = sorted(number_of, key=number_of.__getitem__)
    return PictureList(
        table.names,
        [number_of[label] for label in table.labels],
        [known.get(wordnet_id, wordnet_id) for wordnet_id in ids],
        place=find_root(path, root, table.names),
    )


def _class_numbers(path: Path) -> dict[str, int]:
    """WordNet id to number."""
    numbers = read_json(path)
    if not isinstance(numbers, dict) or sorted(map(str, numbers.values())) != sorted(map(str, range(len(numbers)))):
        raise ValueError(f'{path} is no class map, expected {{"n00004475": 0, ...}} with every number from 0 once')
    return {wordnet_id: int(number) for wordnet_id, number in numbers.items()}
