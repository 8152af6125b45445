"""A data set read once and kept as pictures of one size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .dataset import PictureDataset
from .labelled import LabelledImages
from .pictures import PictureError
from .transforms import Preprocessing

MAX_BYTES_IN_MEMORY = 8 * 2**30


def bytes_in_memory(pictures: int, preprocessing: Preprocessing) -> int:
    """What so many pictures take when they are kept."""
    return pictures * preprocessing.channels * preprocessing.image_size**2


def read_into_memory(
    dataset: PictureDataset,
    preprocessing: Preprocessing,
    progress: Callable[[int, int], None] = lambda done, total: None,
    every_class: bool = True,
    bad: str = "skip",
) -> LabelledImages:
    """Read all pictures into memory, framed as ``preprocessing`` does; unreadable ones are left out and named.

    Args:
        every_class: refuse where a class has pictures and none of them can be read.
        bad: "raise" refuses the first picture that cannot be read.

    Raises:
        PictureError: one cannot be read, and ``bad`` is "raise".
        ValueError: they do not fit into 8 GiB, or ``every_class`` is not there.
    """
    size, channels = preprocessing.image_size, preprocessing.channels
    needed = bytes_in_memory(len(dataset), preprocessing)
    if needed > MAX_BYTES_IN_MEMORY:
        raise ValueError(
            f"{len(dataset):,} pictures of {size}x{size} take {needed / 2**30:.0f} GiB and are kept in memory, at most "
            f"{MAX_BYTES_IN_MEMORY / 2**30:.0f}; take fewer or smaller ones"
        )
    images = torch.empty(len(dataset), channels, size, size, dtype=torch.uint8)
    labels: list[int] = []
    unreadable: list[str] = []
    for index in range(len(dataset)):
        try:
            sample = dataset.read(index)
            pixels = np.array(preprocessing.frame(sample.picture), dtype=np.uint8).reshape(size, size, channels)
            images[len(labels)] = torch.from_numpy(pixels).permute(2, 0, 1)
            labels.append(sample.label)
        except PictureError as error:
            if bad == "raise":
                raise
            unreadable.append(str(error))
        progress(index + 1, len(dataset))
    missing = sorted(set(dataset.labels.tolist()) - set(labels))
    if missing and every_class:
        raise ValueError(
            f"none of the pictures of class {dataset.class_names[missing[0]]!r} can be read, such as {unreadable[0]}"
        )
    return LabelledImages(
        images=images[: len(labels)].clone() if unreadable else images,
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=tuple(dataset.class_names),
        unreadable=tuple(unreadable),
    )
