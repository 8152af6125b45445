"""The images that networks are timed on: how their sizes are written, and the sets that have names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Size:
    """Images (batch, 3, height, width), so many pairs of runs, and whether feature extractors take them."""

    batch: int
    height: int
    width: int
    pairs: int
    features: bool = False

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"


SETS = {
    "224": (Size(1, 224, 224, 21),),
    "8x224": (Size(8, 224, 224, 7),),
    "128x224": (Size(128, 224, 224, 15),),
    "800x1216": (Size(1, 800, 1216, 7, features=True),),
    "quick": (Size(1, 64, 64, 3), Size(1, 128, 160, 3, features=True)),
}
USUAL = {"cpu": ("224", "8x224", "800x1216"), "cuda": ("128x224", "224")}
NOTATION = "HxW or NxHxW, as in 8x224x224"
_WRITTEN = re.compile(r"(?:(\d{1,9})x)?(\d{1,9})x(\d{1,9})", re.ASCII)
CHANNELS = 3
SMALLEST = 32  # pixels: one position of the last level
_IMAGES, _FEWEST, _MOST = 60, 5, 31  # images of 224 pixels that a network sees, and the pairs that this gives


def chosen(words: Sequence[str], device: torch.device, quick: bool, features: bool = False) -> tuple[Size, ...]:
    """The sizes that ``words`` name, or the usual ones of the device.

    Raises:
        ValueError: a word is neither a set nor a size.
    """
    usual = ("quick",) if quick else USUAL.get(device.type, USUAL["cuda"])
    found: list[Size] = []
    for word in words or usual:
        found += SETS[word] if word in SETS else [_written(word)]
    return tuple(dict.fromkeys(dataclasses.replace(size, features=size.features or features) for size in found))


def _written(word: str) -> Size:
    match = _WRITTEN.fullmatch(word)
    numbers = [int(number or 1) for number in match.groups()] if match else [0]
    if 0 in numbers or min(numbers[1:]) < SMALLEST:
        raise ValueError(
            f"--shapes {word!r} is no size of images; expected a set ({', '.join(SETS)}), or {NOTATION}, "
            f"height and width at least {SMALLEST}"
        )
    batch, height, width = numbers
    pairs = round(_IMAGES * 224 * 224 / (batch * height * width))
    return Size(batch, height, width, min(max(pairs, _FEWEST), _MOST))


def make(size: Size) -> Tensor:
    """Noise of that size."""
    return torch.randn(size.batch, CHANNELS, size.height, size.width, generator=torch.Generator().manual_seed(0))
