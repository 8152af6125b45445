"""Tiny made-up pictures on disk, in every layout."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from internimage.data.dataset import Sample
from internimage.data.pictures import PictureError


def noise(number: int, size=(20, 16)) -> Image.Image:
    """A picture that no other number gives."""
    generator = np.random.default_rng(number)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def as_bytes(picture: Image.Image, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format)
    return stream.getvalue()


def save_noise(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_bytes(noise(number)))


class MadeUp:
    """Pictures in memory, of which some cannot be read; each shows its index as the level of red."""

    def __init__(self, count: int, broken: tuple[int, ...] = (), extras: bool = False) -> None:
        self.count, self.broken, self.extras = count, broken, extras
        self.labels = torch.arange(count) % 3
        self.class_names = ("a", "b", "c")
        self.read_so_far: list[int] = []

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"picture {index}"

    def read(self, index: int) -> Sample:
        self.read_so_far.append(index)
        if index in self.broken:
            raise PictureError(f"picture {index}: broken")
        extras = (torch.tensor([index, 0.0]), torch.tensor([0.0, index, 1.0])) if self.extras else ()
        return Sample(Image.new("RGB", (8, 8), (index, 0, 0)), int(self.labels[index]), extras)
