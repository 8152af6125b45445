"""What the authors of released weights report of them."""

from __future__ import annotations

from ..weights import catalog


def published_top1(name: str, classes: int) -> float | None:
    """The published top-1, in percent, of released weights on data of as many classes as they were measured on.

    Args:
        name: of the model, as :func:`internimage.load` calls it.
        classes: of the data; a part of the classes, or others, makes another measurement.
    """
    entry = catalog.find(name)
    if entry is None or entry.task != "classification" or entry.num_classes != classes:
        return None
    return entry.scores.get("top1")
