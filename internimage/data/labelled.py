"""Pictures with their classes, held in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Pictures of one size and the class of each.

    ``images`` is (N, C, H, W), uint8, 0 to 255; ``labels`` is (N,), int64; ``unreadable`` names the files left out.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.images.dtype != torch.uint8:
            raise ValueError(f"images are {tuple(self.images.shape)} {self.images.dtype}, expected (N, C, H, W) uint8")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels are {tuple(self.labels.shape)}, expected one for each of {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Tensor) -> LabelledImages:
        """The pictures at ``indices``."""
        return LabelledImages(
            images=self.images[indices], labels=self.labels[indices], class_names=self.class_names,
            unreadable=self.unreadable,
        )

    def split(self, held_out: int, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
        """Two parts, the second of ``held_out`` pictures drawn at random, always the same for one ``seed``."""
        if not 0 <= held_out < len(self):
            raise ValueError(f"held_out is {held_out}, expected 0 to {len(self) - 1}: there are {len(self)} pictures")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[held_out:]), self.subset(order[:held_out])
