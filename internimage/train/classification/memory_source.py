"""Pictures held in memory and changed a batch at a time, on the device: the fastest way to train on small ones."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ...data.augment import augment, resize
from ...data.labelled import LabelledImages
from ...data.order import EpochOrder, Share
from ...data.seeds import mixed, seeded
from ...evaluate.classes import match_part
from ...processes import Processes
from ...recipes.classification import ClassificationRecipe
from .source import check_classes, mixing_of

_EVALUATION_BATCH = 100
_STREAM = 3  # sets these random numbers apart from those of transforms and mixing


class PicturesInMemory:
    """Two parts of pictures of one size.

    Args:
        trained_on, held_out: ``held_out`` may be empty.
        device: where pictures are changed.
    """

    def __init__(
        self, recipe: ClassificationRecipe, trained_on: LabelledImages, held_out: LabelledImages, device: torch.device
    ) -> None:
        check_classes(trained_on.class_names)
        self.recipe, self.trained_on, self.held_out, self.device = recipe, trained_on, held_out, device
        self.class_names = trained_on.class_names
        self.match = match_part(held_out.class_names, self.class_names)
        self.remarks = self.match.remarks(held_out.class_names)
        self.mixing = mixing_of(recipe, len(self.class_names))
        self.order = EpochOrder(len(trained_on), recipe.batch_size, recipe.seed)
        self.steps_per_epoch = self.order.steps_per_epoch
        self.fingerprint = fingerprint(trained_on)

    @property
    def held_out_count(self) -> int:
        """Pictures held out."""
        return len(self.held_out)

    def skipped(self) -> tuple[str, ...]:
        """The files that could not be read."""
        return tuple(dict.fromkeys((*self.trained_on.unreadable, *self.held_out.unreadable)))

    def batches(self, first_step: int, last_step: int, share: Share) -> Iterator[tuple[Tensor, Tensor]]:
        """Changed and normalised pictures (n, C, S, S) and labels (n,) of each micro-batch."""
        for step in range(first_step, last_step):
            for micro in range(share.accumulation):
                places = self.order.micro_batch(step, share, micro)
                numbers = (_STREAM, self.recipe.seed, step, share.number(micro))
                if self.device.type == "cuda":  # changes are drawn where they are made
                    torch.cuda.manual_seed(mixed(*numbers))
                with seeded(*numbers):
                    batch = self._changed(torch.tensor([place.picture for place in places]), places[0].epoch)
                yield batch if self.mixing is None else self.mixing(*batch, step=step, share=share.number(micro))

    def _changed(self, chosen: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        images = self.trained_on.images[chosen].to(self.device).float() / 255
        images = augment(images, self.recipe.image_size_at(epoch), self.recipe.augmentation)
        return self._normalised(images), self.trained_on.labels[chosen].to(self.device)

    def evaluation_batches(self, processes: Processes) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures and labels held out; as many batches in every process, where -1 is the label of what fills them."""
        mine = torch.arange(len(self.held_out))[processes.rank :: processes.world_size]
        rows = -(-len(self.held_out) // processes.world_size)
        for start in range(0, rows, _EVALUATION_BATCH):
            chosen = mine[start : start + _EVALUATION_BATCH]
            labels = self.held_out.labels[chosen]
            if not len(chosen):  # the last picture of the others
                chosen, labels = torch.zeros(1, dtype=torch.long), torch.full((1,), -1)
            images = self.held_out.images[chosen].to(self.device).float() / 255
            yield self._normalised(resize(images, self.recipe.image_size)), labels.to(self.device)

    def _normalised(self, images: Tensor) -> Tensor:
        mean = torch.tensor(self.recipe.mean, device=self.device).view(-1, 1, 1)
        return (images - mean) / torch.tensor(self.recipe.std, device=self.device).view(-1, 1, 1)


def fingerprint(pictures: LabelledImages) -> str:
    """Tells pictures from others: "55,000 pictures of 10 classes, checksum 1a2b3c4d"."""
    checksum = zlib.crc32(pictures.labels.numpy().tobytes(), zlib.crc32(pictures.images.numpy().tobytes()))
    return f"{len(pictures):,} pictures of {len(pictures.class_names)} classes, checksum {checksum:08x}"
