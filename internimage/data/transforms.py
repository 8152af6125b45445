"""From a PIL picture to the tensor a model was trained on.

Resizing happens on the 8-bit PIL picture, as it did when the released models were trained and evaluated: resizing a
tensor instead moves pixels by several grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)  # for one channel where a model does not say: the means of the three
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LONGEST_ASPECT = 8  # a strip is cut to this before it is resized: a picture of 1 x 100,000 would fill the memory
TRIM_LEVELS = 12  # grey levels from the background that still count as background, above what JPEG leaves there


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the input of one model.

    Args:
        image_size: height and width of the input, in pixels.
        crop: resize the shorter side to exactly ``image_size`` and cut out the middle; else squeeze the whole picture
            into the square.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", with PIL's antialiasing.
        mean, std: per channel, on values from 0 to 1.
        mode: "RGB" for three channels, "L" for one.
        dark_background: the model was trained on light objects that fill a black frame. A picture with a bright border
            is inverted and cut to what stands out; every picture is padded to a square rather than cropped.

    Raises:
        ValueError: a value means nothing; the message says which and what fits.
    """

    image_size: int
    crop: bool = True
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    mode: Literal["RGB", "L"] = "RGB"
    dark_background: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.image_size, int) or self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size!r}, expected a number of pixels >= 1")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation is {self.interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}")
        if self.mode not in ("RGB", "L"):
            raise ValueError(f"mode is {self.mode!r}, expected 'RGB' or 'L'")
        if self.dark_background and self.mode != "L":
            raise ValueError(f"dark_background goes with mode='L', got mode={self.mode!r}")
        for name in ("mean", "std"):
            value = tuple(float(v) for v in getattr(self, name))  # JSON has lists only
            if len(value) != self.channels or (name == "std" and min(value) <= 0):
                raise ValueError(
                    f"{name} is {value}, expected {self.channels} numbers for mode={self.mode!r}, std above 0"
                )
            object.__setattr__(self, name, value)

    @property
    def channels(self) -> int:
        """3 for "RGB", 1 for "L"."""
        return len(self.mode)

    def __call__(self, picture: Image.Image) -> Tensor:
        """A picture of any mode and size to a float32 tensor (channels, image_size, image_size)."""
        return self.normalize(self.frame(picture))

    def frame(self, picture: Image.Image) -> Image.Image:
        """The square 8-bit picture that the model gets to see, before its values are normalised."""
        picture = flatten(picture, self.mode)
        size, resample = self.image_size, INTERPOLATIONS[self.interpolation]
        if self.dark_background:
            picture = on_black(picture)
        if not self.crop:
            return picture if picture.size == (size, size) else picture.resize((size, size), resample)
        picture = shorten(picture)
        width, height = picture.size
        short = min(width, height)
        target = (int(size * width / short), int(size * height / short))
        if picture.size != target:
            picture = picture.resize(target, resample)
        left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)
        return picture.crop((left, top, left + size, top + size))

    def normalize(self, picture: Image.Image) -> Tensor:
        """The values of an 8-bit picture of ``mode`` from 0 to 1, minus ``mean``, over ``std``: (channels, H, W)."""
        pixels = np.array(picture, dtype=np.uint8).reshape(picture.height, picture.width, self.channels)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32) / 255
        mean, std = torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)
        return ((tensor - mean) / std).contiguous()


def flatten(picture: Image.Image, mode: str) -> Image.Image:
    """Any picture as 8-bit ``mode`` ("RGB" or "L"): 16-bit scaled, palettes resolved, transparency laid on white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode in ("LAB", "HSV"):  # Pillow turns these into RGB only
        picture = picture.convert("RGB")
    return picture if picture.mode == mode else picture.convert(mode)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits, or floats, as 8 bits: values from 0 to 1, to 255 or to 65535, whichever holds them."""
    values = np.nan_to_num(np.asarray(picture, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0.0))
    if picture.mode.startswith("I;16"):
        full = 65535.0
    elif picture.mode == "F" and largest <= 1.0:
        full = 1.0
    else:
        full = 255.0 if largest <= 255.0 else max(65535.0, largest)
    return Image.fromarray(np.clip(values * (255.0 / full) + 0.5, 0, 255).astype(np.uint8))


def shorten(picture: Image.Image) -> Image.Image:
    """The middle of a strip that is over ``LONGEST_ASPECT`` times as long as wide; other pictures as they are."""
    width, height = picture.size
    longest = LONGEST_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return picture
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return picture.crop((left, top, left + min(width, longest), top + min(height, longest)))


def on_black(picture: Image.Image) -> Image.Image:
    """A grey picture as a light object on a dark square.

    One with a bright border, such as a product photo on white, is inverted and cut to what stands out from its border;
    one with a dark border keeps its frame. Both are padded to a square.
    """
    background = border_level(picture)
    if background > 127:
        picture, background = ImageOps.invert(picture), 255 - background
        stands_out = ImageChops.difference(picture, Image.new("L", picture.size, background))
        box = stands_out.point(lambda level: 255 if level > TRIM_LEVELS else 0).getbbox()
        picture = picture.crop(box) if box else picture
    picture = shorten(picture)
    if picture.width == picture.height:
        return picture
    side = max(picture.size)
    square = Image.new("L", (side, side), background)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def border_level(picture: Image.Image) -> int:
    """The median grey level, 0 to 255, of the outermost pixels."""
    pixels = np.asarray(picture)
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return int(median(np.concatenate(edges).tolist()))
