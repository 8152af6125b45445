"""Where a classification task takes its pictures from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from torch import Tensor

from ...data.mixing import Mixing
from ...data.order import Share
from ...evaluate.classes import ClassMatch
from ...processes import Processes
from ...recipes.classification import ClassificationRecipe


class Source(Protocol):
    """Labelled pictures in two parts: what is trained on, and what is held out.

    ``steps_per_epoch`` counts optimizer steps; ``fingerprint`` tells the pictures from others, in words. ``match`` says
    which outputs compete for the pictures held out, whose classes may be some of those trained on; ``remarks`` what is
    unusual about that.
    """

    class_names: tuple[str, ...]
    steps_per_epoch: int
    fingerprint: str
    match: ClassMatch
    remarks: list[str]

    @property
    def held_out_count(self) -> int:
        """Pictures held out."""

    def batches(self, first_step: int, last_step: int, share: Share) -> Iterator[tuple[Any, Tensor]]:
        """Inputs and targets of each micro-batch of a process: labels (n,), or shares of classes (n, classes)."""

    def evaluation_batches(self, processes: Processes) -> Iterator[tuple[Any, Tensor]]:
        """Inputs and labels held out; as many batches in every process, where -1 is the label of what fills them."""

    def skipped(self) -> Sequence[str]:
        """The pictures that could not be read so far."""


def mixing_of(recipe: ClassificationRecipe, classes: int) -> Mixing | None:
    """How the recipe mixes pictures, with label smoothing in the targets; None where it does not."""
    if not recipe.mixing:
        return None
    return Mixing(classes, **asdict(recipe.mixing), label_smoothing=recipe.label_smoothing, seed=recipe.seed)


def check_classes(class_names: Sequence[str]) -> None:
    """ValueError unless there are two classes or more."""
    if len(class_names) < 2:
        raise ValueError(
            f"all pictures are of one class, {class_names[0]!r}; expected a folder a class, two or more"
            if class_names
            else "there are no pictures"
        )
