"""Fashion-MNIST: 70,000 photos of articles of clothing, 28x28 pixels, grey, light on black, in ten classes.

Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747. Debian and Ubuntu carry the files in the package
``dataset-fashion-mnist``; torchvision downloads the same files.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import torch
from torch import Tensor

from .labelled import LabelledImages

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_PREFIXES = {"train": "train", "test": "t10k"}


def load_fashion_mnist(split: str, folder: str | Path | None = None) -> LabelledImages:
    """Read one part of the data.

    Args:
        split: "train" (60,000 pictures) or "test" (10,000).
        folder: where the files lie, plain or gzipped; see :func:`find_folder`.

    Raises:
        ValueError: the split is unknown or a file is not what it should be.
        FileNotFoundError: no folder holds the files; the message says where they can be had.
    """
    if split not in _PREFIXES:
        raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
    found = find_folder(folder)
    images = read_idx(_file(found, f"{_PREFIXES[split]}-images-idx3-ubyte"))
    labels = read_idx(_file(found, f"{_PREFIXES[split]}-labels-idx1-ubyte"))
    if images.dim() != 3 or labels.shape != images.shape[:1] or (len(labels) and labels.max() >= len(CLASS_NAMES)):
        raise ValueError(
            f"the {split} files in {found} hold pictures {tuple(images.shape)} and labels {tuple(labels.shape)}, "
            f"expected (N, 28, 28) and (N,) with labels 0 to {len(CLASS_NAMES) - 1}"
        )
    return LabelledImages(images=images[:, None], labels=labels.long(), class_names=CLASS_NAMES)


def find_folder(folder: str | Path | None = None) -> Path:
    """The folder with the four files: ``folder`` itself or torchvision's layout below it, else where Debian puts them.

    Raises:
        FileNotFoundError: they are in none of these.
    """
    if folder is None:
        candidates = [SYSTEM_FOLDER, *_torchvision_layout(Path("data"))]
    else:
        candidates = [Path(folder), *_torchvision_layout(Path(folder))]
    for candidate in candidates:
        if all(_file(candidate, name) is not None for name in _names()):
            return candidate
    raise FileNotFoundError(
        "Fashion-MNIST is not in " + " or ".join(str(candidate) for candidate in candidates) + "; install Debian's "
        "package (apt install dataset-fashion-mnist), name the folder, or add --download to fetch it (30 MB)"
    )


def download(folder: str | Path) -> Path:
    """Fetch the files with torchvision into ``folder/FashionMNIST/raw``, where :func:`find_folder` sees them."""
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(folder), download=True)
    return find_folder(folder)


def read_idx(path: str | Path | None) -> Tensor:
    """An IDX file of bytes, plain or gzipped, as a uint8 tensor of the shape it states."""
    path = Path(path or "")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    dimensions = data[3] if len(data) > 4 and data[:3] == b"\x00\x00\x08" else 0
    start = 4 + 4 * dimensions
    if not 1 <= dimensions <= 4 or len(data) < start:
        raise ValueError(f"{path} is not an IDX file of bytes")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    values = torch.frombuffer(bytearray(data), dtype=torch.uint8)[start:]
    if len(values) != torch.Size(shape).numel():
        raise ValueError(f"{path} holds {len(values)} values and says {shape}: it is cut off or damaged")
    return values.reshape(shape)


def _names() -> list[str]:
    return [f"{prefix}-{kind}" for prefix in _PREFIXES.values() for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _torchvision_layout(root: Path) -> list[Path]:
    return [root / "FashionMNIST" / "raw", root / "raw"]
