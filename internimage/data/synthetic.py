"""Made-up pictures, so that every command runs within a minute."""

from __future__ import annotations

import torch

from .labelled import LabelledImages


def synthetic_pictures(count: int = 96, size: int = 32, channels: int = 3, seed: int = 0) -> LabelledImages:
    """Noise with a bright bar in it: class "upright" or "lying", as many of each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 96, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 2
    starts = torch.randint(size // 4, size // 2, (count,), generator=generator)
    for image, label, start in zip(images, labels.tolist(), starts.tolist(), strict=True):
        upright = image if label == 0 else image.transpose(1, 2)
        upright[:, :, start : start + size // 8] = 255
    return LabelledImages(images=images, labels=labels, class_names=("upright", "lying"))
