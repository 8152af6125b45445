"""Random changes of one picture at a time while training: timm's, with the arguments of the released models."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageOps
from torch import Tensor

from .transforms import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, flatten

RELEASED_AUTO_AUGMENT = "rand-m9-mstd0.5-inc1"
SMALL_SIZE = 32  # up to here a picture is padded and cropped, not zoomed into: the released rule, meant for CIFAR
SMALL_PADDING = 4
ERASING_MODES = ("const", "rand", "pixel")


class TrainingTransform:
    """From a picture of any mode and size to a float32 tensor (channels, image_size, image_size), changed at random.

    A random part of ``scale`` of the area and an aspect ratio of ``ratio`` is resized to the square, flipped,
    put through RandAugment, normalised, and a rectangle of it may be erased. Up to 32 pixels a random crop of the
    picture padded by 4 stands in for the first. Random numbers come from Python's, numpy's and torch's generators.

    Args:
        image_size: side of the result in pixels.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", or "random" for the second or third by chance.
        scale, ratio: of the part that is cut out.
        flip: probability of mirroring left and right.
        auto_augment: timm's words for RandAugment, AutoAugment or AugMix; None for none. Where there is one, colours
            are not jittered on top.
        color_jitter: how far brightness, contrast and saturation go, each as a factor up or down.
        erase, erase_mode, erase_count: probability, "const", "rand" or "pixel" filling, number of rectangles.
        mean, std: per channel, on values 0 to 1.
        mode: "RGB", or "L" for one channel.

    Raises:
        ValueError: an argument means nothing; the message says which and what fits.
        ImportError: timm is not there.
    """

    def __init__(
        self,
        image_size: int,
        *,
        interpolation: str = "bicubic",
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        auto_augment: str | None = RELEASED_AUTO_AUGMENT,
        color_jitter: float | None = 0.4,
        erase: float = 0.25,
        erase_mode: str = "pixel",
        erase_count: int = 1,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        mode: str = "RGB",
    ) -> None:
        _check_size(image_size)
        _check_choice("interpolation", interpolation, (*INTERPOLATIONS, "random"))
        _check_choice("erase_mode", erase_mode, ERASING_MODES)
        _check_choice("mode", mode, ("RGB", "L"))
        _check_share("flip", flip)
        _check_share("erase", erase)
        if len(mean) != len(mode) or len(std) != len(mode):
            raise ValueError(f"mean is {mean} and std {std}, expected {len(mode)} numbers each for mode={mode!r}")
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"scale is {scale} and ratio {ratio}, expected (low, high) above 0, scale up to 1")
        self.image_size, self.mode = image_size, mode
        self.steps = _create(
            input_size=image_size,
            is_training=True,
            interpolation=interpolation,
            scale=scale,
            ratio=ratio,
            hflip=flip,
            auto_augment=auto_augment or None,
            color_jitter=color_jitter or None,
            re_prob=erase,
            re_mode=erase_mode,
            re_count=erase_count,
            mean=mean if mode == "RGB" else mean * 3,
            std=std if mode == "RGB" else std * 3,
        )

    def __call__(self, picture: Image.Image) -> Tensor:
        """The changed picture, normalised."""
        # A grey picture goes through as three equal channels: timm's changes of colour take nothing else.
        tensor: Tensor = self.steps(flatten(flatten(picture, self.mode), "RGB"))
        return tensor if self.mode == "RGB" else tensor[:1].contiguous()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.steps})"


def _create(**arguments: Any) -> Any:
    """timm's transform with these arguments, and the padded crop for small sizes."""
    try:
        from timm.data import create_transform
    except ImportError as error:
        raise ImportError("augmentation comes from timm: pip install 'internimage-torch[train]'") from error
    from torchvision import transforms

    try:
        steps = create_transform(**arguments)
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"auto_augment is {arguments['auto_augment']!r}, expected None or timm's words such as "
            f"{RELEASED_AUTO_AUGMENT!r}, 'original-mstd0.5', 'augmix-m3-w3'"
        ) from error
    for step in steps.transforms:
        _posterize_to_black(step)
    size = arguments["input_size"]
    if size <= SMALL_SIZE:
        steps.transforms[0] = transforms.RandomCrop(size, padding=SMALL_PADDING, pad_if_needed=True)
    return steps


def _posterize_to_black(step: Any) -> None:
    """Let timm's strongest posterising, which keeps no bits at all, give black, as when the released models trained.

    Later versions of Pillow raise an error there: once in some hundreds of pictures.
    """
    from timm.data import auto_augment

    ops = getattr(step, "ops", None)
    for op in ops if isinstance(ops, list) else sum(getattr(step, "policy", []), []):
        if getattr(op, "aug_fn", None) is auto_augment.posterize:
            op.aug_fn = _posterize


def _posterize(picture: Image.Image, bits: int, **_: Any) -> Image.Image:
    return ImageOps.posterize(picture, min(bits, 8)) if bits else Image.new(picture.mode, picture.size)


def _check_size(image_size: int) -> None:
    if not isinstance(image_size, int) or image_size < 1:
        raise ValueError(f"image_size is {image_size!r}, expected a number of pixels >= 1")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, expected a probability, 0 to 1")
