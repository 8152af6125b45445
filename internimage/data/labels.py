"""What the classes of ImageNet are called."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

IMAGENET_22K_FILE = Path(__file__).parents[1] / "assets" / "imagenet_22k.tsv.gz"


def class_names(num_classes: int) -> tuple[str, ...]:
    """Names for a model that brings none: ImageNet-1K for 1000 classes, ImageNet-22K for 21841, else numbers."""
    if num_classes == 1000:
        return imagenet_1k_names()
    if num_classes == 21841:
        return imagenet_22k_names()
    return tuple(f"class {index}" for index in range(num_classes))


@functools.cache
def imagenet_1k_names() -> tuple[str, ...]:
    """The 1000 names in the order of the sorted WordNet ids; torchvision carries them."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES)


@functools.cache
def imagenet_22k() -> dict[str, str]:
    """WordNet id to name of the 21841 classes, in class order: the ids sorted."""
    packed = IMAGENET_22K_FILE.read_bytes()
    pairs = (line.split("\t") for line in gzip.decompress(packed).decode().splitlines())
    return {wordnet_id: name for wordnet_id, name in pairs}


def imagenet_22k_names() -> tuple[str, ...]:
    """The 21841 names in class order; each lists its synonyms, the usual word first."""
    return tuple(imagenet_22k().values())
