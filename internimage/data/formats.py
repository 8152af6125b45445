"""What a text such as ``pictures/``, ``train.csv``, ``train.zip`` or ``hf:cifar10`` stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .dataset import PictureDataset
from .fashion_mnist import find_folder, load_fashion_mnist
from .hub import is_saved_dataset, read_hub
from .image_folder import ImageFolder, find_image_folder
from .imagenet22k import find_lists, read_imagenet_22k
from .inaturalist import has_inaturalist, read_inaturalist
from .picture_list import read_picture_list
from .shards import Shards, read_shards
from .synthetic import synthetic_pictures
from .zip_map import read_zip

FASHION_MNIST = "fashion-mnist"
SYNTHETIC = "synthetic"
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "test"),
    "test": ("test", "val", "validation", "valid"),
}
EXPECTED = (
    "a folder a class, a list (.csv, .tsv, .json, .txt), a .zip with pictures, tar shards, an ImageNet-22K or "
    "iNaturalist 2018 folder, a saved Hugging Face data set, hf:NAME, fashion-mnist or synthetic"
)
_OWN_SPLITS = (FASHION_MNIST, SYNTHETIC, "hf:")  # name them, or refuse a name, themselves
_LISTS = (".csv", ".tsv", ".json", ".txt")
_SHARDS = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Where the data are, which part of them, and what cannot be told from the files."""

    text: str
    split: str
    root: str | Path | None = None
    class_names: Sequence[str] | None = None


Opened = PictureDataset | Shards
FORMATS: dict[str, Callable[[Asked], Opened]] = {
    "folder": lambda asked: find_image_folder(_part(Path(asked.text), asked.split)),
    "list": lambda asked: read_picture_list(asked.text, asked.root, asked.class_names),
    "zip": lambda asked: read_zip(asked.text, class_names=asked.class_names),
    "shards": lambda asked: read_shards(asked.text, class_names=asked.class_names),
    "hf": lambda asked: read_hub(asked.text, asked.split, class_names=asked.class_names),
    "imagenet22k": lambda asked: read_imagenet_22k(_only_for_training(asked), asked.root),
    "inat18": lambda asked: read_inaturalist(asked.text, asked.split, asked.root),
    FASHION_MNIST: lambda asked: load_fashion_mnist(asked.split, asked.text or None),
    SYNTHETIC: lambda asked: synthetic_pictures(seed=0 if asked.split == "train" else 1),
}


def open_dataset(
    text: str | Path,
    split: str = "train",
    *,
    root: str | Path | None = None,
    class_names: Sequence[str] | None = None,
) -> Opened:
    """The pictures that ``text`` stands for; they themselves are not read yet.

    - ``pictures/``: a folder a class, or with ``train`` and ``val`` folders that hold these.
    - ``train.csv``, ``train.json``, ``train.txt``: a list; see :mod:`~internimage.data.picture_list`.
    - ``train.zip``: with ``train_map.txt``, or with a folder a class inside.
    - ``shards/``, ``shards/{000..099}.tar``, ``https://.../{000..099}.tar``, ``pipe:...``: tar shards.
    - ``hf:NAME`` or ``hf:NAME:CONFIGURATION``: a data set of the Hugging Face hub; a folder that ``datasets`` saved.
    - a folder with the files of ImageNet-22K, iNaturalist 2018 or Fashion-MNIST; or with ``train.zip``, ``train.csv``,
      ``meta_data/train.txt`` and the like, of which the one for ``split`` is taken.
    - ``fashion-mnist``, ``synthetic``.

    A prefix says what to read something as where the files do not tell: ``folder:``, ``list:``, ``zip:``, ``shards:``,
    ``hf:``, ``imagenet22k:``, ``inat18:``.

    Args:
        split: "train", "val" or "test"; where there is only one of the last two, it is taken for both.
        root: the folder that paths of a list are relative to, where it is not beside the list.
        class_names: of the whole data set, in order: those of the training part, which numbers in a list stand for. A
            part that brings names of its own keeps them; they must be among these.

    Raises:
        FileNotFoundError, ValueError: it is none of these, or damaged; the message says what was expected.
    """
    if split not in SPLITS and not str(text).startswith(_OWN_SPLITS):
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    kind, rest = find_format(str(text), split)
    asked = Asked(text=rest, split=split, root=root, class_names=class_names)
    opened = FORMATS[kind](asked)
    _check_classes(opened, asked)
    return opened


def find_format(text: str, split: str) -> tuple[str, str]:
    """A key of ``FORMATS``, and the text for it, without prefix and down to the file of a split."""
    prefix, mark, rest = text.partition(":")
    if mark and prefix in FORMATS:
        return prefix, rest
    if text in (FASHION_MNIST, SYNTHETIC):
        return text, ""
    if text.startswith("pipe:") or text.endswith(_SHARDS) or (mark and ".tar" in text):
        return "shards", text
    path = Path(text)
    if path.is_dir():
        return _format_of_folder(path, split)
    kind = _format_of_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {'file' if path.suffix else 'folder'} {text}, expected {EXPECTED}")
    if kind is None:
        raise ValueError(f"{text} is no data set, expected {EXPECTED}")
    return kind, text


def has_split(text: str | Path, split: str) -> bool:
    """Whether a folder holds a part of its own for this split, so that none need be held out."""
    path = Path(text)
    if not path.is_dir() or (find_lists(path) is not None and not has_inaturalist(path)):
        return False  # the lists of ImageNet-22K are one part; a val.txt beside them is of ImageNet-1K
    if _file_of_split(path, split) is not None or has_inaturalist(path):
        return True
    try:
        return _part(path, split) != path or (split != "val" and _is_fashion_mnist(path))
    except FileNotFoundError:
        return False


def _format_of_folder(folder: Path, split: str) -> tuple[str, str]:
    if has_inaturalist(folder):
        return "inat18", str(folder)
    if find_lists(folder) is not None:
        return "imagenet22k", str(folder)
    if is_saved_dataset(folder):
        return "hf", str(folder)
    if (file := _file_of_split(folder, split)) is not None:
        return _format_of_file(file) or "list", str(file)
    if _is_fashion_mnist(folder):
        return FASHION_MNIST, str(folder)
    part = _part(folder, split)
    for place in (part, folder):
        if any(path.name.endswith(_SHARDS) for path in place.iterdir()):
            return "shards", str(place)
    return "folder", str(folder)


def _format_of_file(path: Path) -> str | None:
    name = path.name.lower()
    if name.endswith(".txt.zip") or path.suffix.lower() in _LISTS:
        return "list"
    return "zip" if path.suffix.lower() == ".zip" else None


def _file_of_split(folder: Path, split: str) -> Path | None:
    """The archive or list of a split in a folder: ``train.zip``, ``meta_data/train.txt``, ``train.csv``, ..."""
    for name in SPLITS[split]:
        candidates = [folder / f"{name}.zip"]
        candidates += [folder / "meta_data" / f"{name}{ending}" for ending in (".txt", ".txt.zip")]
        candidates += [folder / f"{name}{ending}" for ending in (*_LISTS, ".txt.zip")]
        found = next((path for path in candidates if path.is_file()), None)
        if found is not None:
            return found
    return None


def _part(folder: Path, split: str) -> Path:
    """The folder of a split below a folder; the folder itself where it is not divided into parts."""
    inside = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else {}
    others = set(inside) - set(SPLITS["train"])
    divided = len(others) < len(inside) and (not others or others & set(SPLITS["val"]))
    if not divided:
        return folder
    found = next((inside[name] for name in SPLITS[split] if name in inside), None)
    if found is None:
        raise FileNotFoundError(f"{folder} holds {', '.join(sorted(inside))}, and nothing for {split!r}")
    return found


def _is_fashion_mnist(folder: Path) -> bool:
    try:
        find_folder(folder)
    except FileNotFoundError:
        return False
    return True


def _only_for_training(asked: Asked) -> str:
    if asked.split != "train":
        raise ValueError(
            f"{asked.text} is ImageNet-22K, of which no part is set aside to measure on; name pictures of ImageNet-1K, "
            "a folder a class"
        )
    return asked.text


def _check_classes(opened: Opened, asked: Asked) -> None:
    """ValueError where a part has classes that the whole data set has not."""
    odd = sorted(set(opened.class_names) - set(asked.class_names or opened.class_names))
    if not odd or asked.class_names is None:
        return
    what = "class folders" if isinstance(opened, ImageFolder) else "classes"
    known = ", ".join(asked.class_names[:3]) + (" ..." if len(asked.class_names) > 3 else "")
    raise ValueError(
        f"{asked.text} ({asked.split}) has {len(opened.class_names)} {what} and the data set "
        f"{len(asked.class_names)} classes; they differ in {odd[0]!r} (the data set knows {known})"
    )
