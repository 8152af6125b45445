"""Pictures with their classes, held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from .dataset import Sample


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Pictures of one size and the class of each.

    ``images`` is (N, C, H, W), uint8, 0 to 255, C of 1 (grey) or 3 (RGB); ``labels`` is (N,), int64, positions in
    ``class_names``; ``unreadable`` says which files were left out, and why.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.images.shape[1] not in (1, 3) or self.images.dtype != torch.uint8:
            raise ValueError(
                f"images are {tuple(self.images.shape)} {self.images.dtype}, expected (N, 1 or 3, H, W) uint8"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels are {tuple(self.labels.shape)}, expected one for each of {len(self.images)} images"
            )

    def __len__(self) -> int:
        return len(self.images)

    def samples(self) -> Iterator[tuple[Image.Image, int]]:
        """Each picture and its label."""
        for index in range(len(self)):
            yield self.read(index)[:2]

    def name(self, index: int) -> str:
        """What a picture is called in messages."""
        return f"picture {index}"

    def read(self, index: int) -> Sample:
        """One picture, grey or RGB, and its label."""
        image = self.images[index]
        pixels = (image[0] if len(image) == 1 else image.permute(1, 2, 0)).contiguous().numpy()
        return Sample(Image.fromarray(pixels), int(self.labels[index]))

    def subset(self, indices: Tensor) -> LabelledImages:
        """The pictures at ``indices``."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def with_channels(self, channels: int) -> LabelledImages:
        """The same pictures in grey (1) or colour (3)."""
        if channels == self.images.shape[1]:
            return self
        if channels == 3:
            return replace(self, images=self.images.expand(-1, 3, -1, -1).contiguous())
        weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # as Pillow's mode L
        return replace(self, images=(self.images * weights).sum(1, keepdim=True).round().to(torch.uint8))

    def split(self, held_out: int, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
        """Two parts, the second of ``held_out`` pictures drawn at random, always the same for one ``seed``."""
        if not 0 <= held_out < len(self):
            raise ValueError(f"held_out is {held_out}, expected 0 to {len(self) - 1}: there are {len(self)} pictures")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[held_out:]), self.subset(order[:held_out])
