"""Pictures read when they are due, by worker processes: for all that does not fit into memory, or is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ...data.batches import Transform
from ...data.dataset import PictureDataset, fingerprint
from ...data.loaders import EvaluationBatches, SkippedPictures, evaluation_batches, make_order, training_batches
from ...data.order import Share
from ...data.shards import Shards
from ...data.training_transform import TrainingTransform
from ...evaluate.classes import match_part
from ...processes import Processes
from ...recipes.classification import ClassificationRecipe
from .source import check_classes, mixing_of

Pictures = PictureDataset | Shards


class PicturesFromFiles:
    """Two parts of pictures of any sizes.

    Args:
        trained_on, held_out: ``held_out`` may be None; its classes are some of the others.
        processes, accumulation: how a step is shared out.
        workers: processes that read, for each process that trains.
        bad: "skip" or "raise" where a picture cannot be read.
        own_part: each process keeps to its own part of the pictures, which is then in its memory.
    """

    def __init__(
        self,
        recipe: ClassificationRecipe,
        trained_on: Pictures,
        held_out: Pictures | None,
        processes: Processes,
        *,
        accumulation: int = 1,
        workers: int = 0,
        bad: str = "skip",
        own_part: bool = False,
    ) -> None:
        check_classes(trained_on.class_names)
        self.recipe, self.trained_on, self.held_out = recipe, trained_on, held_out
        self.workers, self.bad = workers, bad
        self.class_names = tuple(trained_on.class_names)
        share = Share(processes.rank, processes.world_size, accumulation)
        self._micro_batch_size = share.micro_batch_size(recipe.batch_size)
        self.order = make_order(trained_on, recipe.batch_size, recipe.seed, share, own_part=own_part)
        self.steps_per_epoch = self.order.steps_per_epoch
        self.fingerprint = fingerprint(trained_on) + _dealt_out(trained_on, share, own_part)
        measured = (held_out or trained_on).class_names
        self.match = match_part(measured, self.class_names)
        self.remarks = self.match.remarks(measured)
        self.held_out_count = 0 if held_out is None else len(held_out)
        self.mixing = mixing_of(recipe, len(self.class_names))
        self.device = processes.device if processes.device.type == "cuda" else None
        self._skipped = SkippedPictures()
        self._evaluation: EvaluationBatches | None = None

    def batches(self, first_step: int, last_step: int, share: Share) -> Iterator[tuple[Any, Tensor]]:
        """Images (n, C, S, S) or (images, temporal (n, 4), spatial (n, 3)), and targets, of each micro-batch."""
        return training_batches(
            self.trained_on,
            self.order,
            training_transform(self.recipe),
            first_step=first_step,
            last_step=last_step,
            share=share,
            workers=self.workers,
            bad=self.bad,
            skipped=self._skipped,
            mixing=self.mixing,
            device=self.device,
        )

    def evaluation_batches(self, processes: Processes) -> Iterator[tuple[Any, Tensor]]:
        """Pictures and labels held out; the workers stay for the next time."""
        if self.held_out is None:
            return
        if self._evaluation is None:
            share = Share(processes.rank, processes.world_size)
            self._evaluation = evaluation_batches(
                self.held_out,
                self.recipe.preprocessing,
                batch_size=min(
                    256, 2 * self._micro_batch_size
                ),  # float32, but nothing is kept: it fits where training does
                share=share,
                workers=min(self.workers, 4),
                bad=self.bad,
                skipped=self._skipped,
                device=self.device,
            )
        for batch in self._evaluation:
            yield batch.inputs, batch.labels

    def skipped(self) -> Sequence[str]:
        """The pictures that could not be read so far."""
        return tuple(self._skipped.reasons)


def _dealt_out(trained_on: Pictures, share: Share, own_part: bool) -> str:
    """What the order of pictures depends on beside seed and step; a run goes on in the same order only."""
    processes = f", dealt out to {share.world_size} processes" if share.world_size > 1 else ""
    if isinstance(trained_on, Shards):
        return processes + (f" and {share.accumulation} micro-batches" if share.accumulation > 1 else "")
    return processes if own_part else ""


def training_transform(recipe: ClassificationRecipe) -> Transform:
    """How the recipe changes each picture."""
    settings = asdict(recipe.transform)
    return TrainingTransform(
        recipe.image_size,
        interpolation=recipe.interpolation,
        mean=recipe.mean,
        std=recipe.std,
        mode="L" if recipe.channels == 1 else "RGB",
        **settings,
    )
