"""How often a classifier is right."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..classifier import Classifier
from ..files import write_through
from ..processes import Processes
from .answers import TOP, Answers
from .asking import ask_about_all
from .classes import ClassMatch, match_classes, match_outputs
from .pictures import as_data

__all__ = ["ClassScore", "Mistake", "Scores", "evaluate_classifier", "match_classes", "scores_of"]


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class: how many pictures, and the share that is right, in percent.

    ``taken_for`` is the class that its pictures are most often taken for, wrongly, and ``taken_times`` how often;
    "" and 0 where all are right. ``top5`` is None as in :class:`Scores`.
    """

    name: str
    pictures: int
    top1: float
    top5: float | None = None
    taken_for: str = ""
    taken_times: int = 0


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One picture that is taken for something else: its position in the data, both classes, and how sure the model is.

    ``prob`` is the probability of ``answer``, 0 to 1; ``loss`` is the cross-entropy.
    """

    index: int
    truth: str
    answer: str
    prob: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How often a classifier is right.

    Attributes:
        top1, top5: in percent of the readable pictures; ``top5`` is None for five classes or fewer, where it says
            nothing.
        loss: mean cross-entropy, in nats.
        pictures: how many were classified.
        classes: the classes that have pictures.
        unreadable: which could not be read, and why.
        images_per_s: reading included.
        model_images_per_s: what the model alone would do.
        class_names: of the outputs that competed.
        confusion: true class, answer (positions in ``class_names``) and how many pictures; right ones included.
    """

    top1: float
    top5: float | None
    loss: float
    pictures: int
    classes: tuple[ClassScore, ...]
    unreadable: tuple[str, ...]
    images_per_s: float
    model_images_per_s: float
    class_names: tuple[str, ...]
    confusion: tuple[tuple[int, int, int], ...]
    answers: Answers

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON; figures in percent to two digits."""
        return {
            "top1": round(self.top1, 2),
            "top5": None if self.top5 is None else round(self.top5, 2),
            "loss": round(self.loss, 4),
            "pictures": self.pictures,
            "unreadable": list(self.unreadable),
            "images_per_s": round(self.images_per_s, 1),
            "model_images_per_s": round(self.model_images_per_s, 1),
            "classes": [{"name": c.name, "pictures": c.pictures, "top1": round(c.top1, 2)} for c in self.classes],
        }

    def write_classes(self, path: str | Path) -> None:
        """A CSV file with a row a class."""
        with write_through(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("class", "pictures", "top1", "top5", "taken_for", "taken_times"))
            for score in self.classes:
                top5 = "" if score.top5 is None else f"{score.top5:.2f}"
                row = (score.name, score.pictures, f"{score.top1:.2f}", top5, score.taken_for, score.taken_times)
                writer.writerow(row)

    def worst_mistakes(self, limit: int) -> tuple[Mistake, ...]:
        """The wrong answers that the model was surest of, surest first."""
        answers = self.answers
        wrong = answers.counted[~answers.right[answers.counted]]
        order = wrong[answers.prob[wrong].argsort(descending=True, stable=True)[:limit]].tolist()
        return tuple(
            Mistake(
                index=index,
                truth=self.class_names[int(answers.labels[index])],
                answer=self.class_names[int(answers.best[index])],
                prob=float(answers.prob[index]),
                loss=float(answers.loss[index]),
            )
            for index in order
        )


def evaluate_classifier(
    classifier: Classifier,
    data: Any,
    *,
    batch_size: int = 64,
    workers: int = 0,
    processes: Processes | None = None,
    resume: str | Path | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Scores:
    """Classify every picture as ``internimage classify`` would and count.

    Args:
        data: pictures with ``class_names`` and ``read(index)`` or ``samples()``; the class names are matched with the
            classifier's, see :func:`~internimage.evaluate.classes.match_outputs`.
        batch_size: pictures that go through the model at once.
        workers: processes that read pictures; 0 reads them in this one.
        processes: those that share the work; each picture counts once, and all of them return the same.
        resume: a file, or a folder for one, that keeps what was counted, to go on from.
        progress: called with the number of pictures that each batch took, unreadable ones included.

    Raises:
        ValueError: there are no pictures, none can be read, the classes do not match, or ``resume`` is of another
            model or other data.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}, expected {least} or more")
    match = match_outputs(data.class_names, classifier.class_names)
    answers = ask_about_all(
        classifier,
        as_data(data),
        match,
        batch_size=batch_size,
        workers=workers,
        processes=processes,
        resume=resume,
        progress=progress,
    )
    return scores_of(answers, match)


def scores_of(answers: Answers, match: ClassMatch) -> Scores:
    """What the answers come to.

    Raises:
        ValueError: there are none.
    """
    counted = answers.counted
    reasons = [answers.unreadable[index] for index in sorted(answers.unreadable)]
    if not len(counted):
        raise ValueError("there are no pictures" if not reasons else f"no picture can be read; {reasons[0]}")
    right = answers.right[counted]
    has_top5 = len(match.names) > TOP
    confusion = _confusion(answers, len(match.names))
    return Scores(
        top1=_percent(right),
        top5=_percent(answers.in_top5[counted]) if has_top5 else None,
        loss=answers.loss[counted].double().mean().item(),
        pictures=len(counted),
        classes=_by_class(answers, match.names, has_top5, confusion),
        unreadable=tuple(reasons),
        images_per_s=len(counted) / max(answers.seconds, 1e-9),
        model_images_per_s=len(counted) / max(answers.model_seconds, 1e-9),
        class_names=match.names,
        confusion=confusion,
        answers=answers,
    )


def _confusion(answers: Answers, classes: int) -> tuple[tuple[int, int, int], ...]:
    pairs = answers.labels[answers.counted].long() * classes + answers.best[answers.counted].long()
    values, counts = pairs.unique(return_counts=True)
    return tuple((v // classes, v % classes, c) for v, c in zip(values.tolist(), counts.tolist(), strict=True))


def _by_class(
    answers: Answers, names: tuple[str, ...], has_top5: bool, confusion: tuple[tuple[int, int, int], ...]
) -> tuple[ClassScore, ...]:
    counted, size = answers.counted, len(names)
    labels = answers.labels[counted].long()
    pictures = labels.bincount(minlength=size).tolist()
    right = labels[answers.right[counted]].bincount(minlength=size).tolist()
    near = labels[answers.in_top5[counted]].bincount(minlength=size).tolist()
    wrong: dict[int, tuple[int, int]] = {}  # class: how often it is taken for which other
    for truth, answer, count in confusion:
        if truth != answer and count > wrong.get(truth, (0, 0))[0]:
            wrong[truth] = (count, answer)
    return tuple(
        ClassScore(
            name=names[label],
            pictures=pictures[label],
            top1=100 * right[label] / pictures[label],
            top5=100 * near[label] / pictures[label] if has_top5 else None,
            taken_for=names[wrong[label][1]] if label in wrong else "",
            taken_times=wrong.get(label, (0, 0))[0],
        )
        for label in range(size)
        if pictures[label]
    )


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()
