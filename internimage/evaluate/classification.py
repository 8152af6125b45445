"""How often a classifier is right."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classifier import Classifier
from ..data.classification import LabelledPictures
from ..data.pictures import PictureError
from ..files import write_through

TOP = 5


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class: how many pictures, and the share that is right, in percent."""

    name: str
    pictures: int
    top1: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How often a classifier is right.

    Attributes:
        top1, top5: in percent of the readable pictures; ``top5`` is None for five classes or fewer, where it says
            nothing.
        pictures: how many were classified.
        classes: the classes that have pictures.
        unreadable: which could not be read, and why.
        images_per_s: reading included.
    """

    top1: float
    top5: float | None
    pictures: int
    classes: tuple[ClassScore, ...]
    unreadable: tuple[str, ...]
    images_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON; figures in percent to two digits."""
        return {
            "top1": round(self.top1, 2),
            "top5": None if self.top5 is None else round(self.top5, 2),
            "pictures": self.pictures,
            "unreadable": list(self.unreadable),
            "images_per_s": round(self.images_per_s, 1),
            "classes": [{"name": c.name, "pictures": c.pictures, "top1": round(c.top1, 2)} for c in self.classes],
        }

    def write_classes(self, path: str | Path) -> None:
        """A CSV file with a row a class."""
        with write_through(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("class", "pictures", "top1"))
            writer.writerows((score.name, score.pictures, f"{score.top1:.2f}") for score in self.classes)


def evaluate_classifier(
    classifier: Classifier,
    data: LabelledPictures,
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda count: None,
) -> Scores:
    """Classify every picture as ``internimage classify`` would and count.

    Args:
        data: its class names are matched with the classifier's; see :func:`match_classes`.
        progress: called with the number of pictures that each batch took, unreadable ones included.

    Raises:
        ValueError: there are no pictures, none can be read, or the classes do not match.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    number_of = match_classes(data.class_names, classifier.class_names)
    started = time.perf_counter()
    answers: list[Tensor] = []
    labels: list[int] = []
    unreadable: list[str] = []
    for tensors, batch_labels in _batches(classifier, data, batch_size, unreadable, progress):
        answers.append(_best(classifier, torch.stack(tensors)))
        labels += [number_of[label] for label in batch_labels]
    if not labels:
        raise ValueError("there are no pictures" if not unreadable else f"no picture can be read; {unreadable[0]}")
    right = torch.cat(answers) == torch.tensor(labels)[:, None]
    return Scores(
        top1=_percent(right[:, 0]),
        top5=_percent(right.any(1)) if len(classifier.class_names) > TOP else None,
        pictures=len(labels),
        classes=_by_class(right[:, 0], torch.tensor(labels), classifier.class_names),
        unreadable=tuple(unreadable),
        images_per_s=len(labels) / (time.perf_counter() - started),
    )


def match_classes(names: tuple[str, ...], known: tuple[str, ...]) -> list[int]:
    """The classifier's number of each class of the data: by name, or by order where there are as many of each.

    The second is how ImageNet lies on disk: a folder a WordNet id, sorted.

    Raises:
        ValueError: neither fits.
    """
    lower = [name.casefold() for name in known]
    missing = [name for name in names if name.casefold() not in lower]
    if not missing:
        return [lower.index(name.casefold()) for name in names]
    if match_by_order(names, known):
        return list(range(len(names)))
    raise ValueError(
        f"the model does not know {len(missing)} of the {len(names)} classes of the data, such as {missing[0]!r}; it "
        f"knows {len(known)}: {', '.join(known[:6])}{' ...' if len(known) > 6 else ''}"
    )


def match_by_order(names: tuple[str, ...], known: tuple[str, ...]) -> bool:
    """Whether there are as many classes here as there, and not one name in both."""
    return len(names) == len(known) and not {n.casefold() for n in names} & {n.casefold() for n in known}


def _batches(
    classifier: Classifier,
    data: LabelledPictures,
    batch_size: int,
    unreadable: list[str],
    progress: Callable[[int], None],
) -> Iterator[tuple[list[Tensor], list[int]]]:
    """Prepared pictures and labels, a batch at a time; what cannot be read is noted."""
    tensors: list[Tensor] = []
    labels: list[int] = []
    taken = 0
    for number, (picture, label) in enumerate(data.samples(), start=1):
        try:
            tensors.append(classifier.prepare(picture))
            labels.append(label)
        except PictureError as error:
            unreadable.append(str(error))
        if len(tensors) == batch_size or (tensors and number == len(data)):
            yield tensors, labels
            tensors, labels = [], []
            progress(number - taken)
            taken = number


@torch.inference_mode()
def _best(classifier: Classifier, batch: Tensor) -> Tensor:
    """The best classes of each picture, (N, up to 5); by logits, since the smallest probabilities may all be 0."""
    logits = classifier.model(batch.to(classifier.device, classifier.dtype))
    return logits.topk(min(TOP, logits.shape[1])).indices.cpu()


def _by_class(right: Tensor, labels: Tensor, names: tuple[str, ...]) -> tuple[ClassScore, ...]:
    found = labels.unique().tolist()
    return tuple(
        ClassScore(name=names[label], pictures=int((labels == label).sum()), top1=_percent(right[labels == label]))
        for label in found
    )


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()
