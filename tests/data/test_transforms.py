"""From picture to tensor: sizes, modes, and the frame that a model trained on dark backgrounds expects."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from internimage.data.transforms import Preprocessing, flatten, on_black
from tests.tolerances import tolerance


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (32, 32), (31, 97), (1, 1), (5000, 3)], ids=str)
@pytest.mark.parametrize("crop", [True, False], ids=["crop", "squeeze"])
def test_every_picture_becomes_a_square(size, crop):
    got = Preprocessing(image_size=32, crop=crop)(Image.new("RGB", size, "red"))
    assert (got.shape, got.dtype) == ((3, 32, 32), torch.float32)
    assert got.flatten(1).std(1).max() < 1e-6, "a picture of one colour stays one"


def test_values_are_normalised_per_channel():
    got = Preprocessing(image_size=4)(Image.new("RGB", (4, 4), (255, 0, 51)))
    want = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225])
    assert (got[:, 0, 0] - want).abs().max() <= tolerance("transforms")


def test_a_picture_of_the_right_size_is_not_resampled():
    pixels = noise(8, 8, 3)
    got = Preprocessing(image_size=8, mean=(0, 0, 0), std=(1, 1, 1))(Image.fromarray(pixels))
    assert torch.equal((got.permute(1, 2, 0) * 255).round().to(torch.uint8), torch.from_numpy(pixels))


def test_crop_takes_the_middle_and_squeeze_takes_all():
    picture = Image.new("RGB", (30, 10), "black")
    picture.paste("white", (10, 0, 20, 10))
    assert Preprocessing(image_size=10).frame(picture).getextrema() == ((255, 255),) * 3
    assert Preprocessing(image_size=10, crop=False).frame(picture).getpixel((0, 5)) == (0, 0, 0)


def test_a_strip_keeps_its_middle_without_filling_the_memory():
    strip = Image.new("RGB", (200_000, 2), "black")
    strip.paste("white", (99_000, 0, 101_000, 2))
    assert Preprocessing(image_size=640).frame(strip).getpixel((320, 320)) == (255, 255, 255)


def png16(value: int) -> Image.Image:
    return Image.fromarray(np.full((6, 6), value, np.uint16))


@pytest.mark.parametrize(
    ("picture", "grey"),
    [
        (png16(65535), 255),
        (png16(32896), 128),
        (png16(200), 1),
        (Image.fromarray(np.full((6, 6), 0.5, np.float32)), 128),
        (Image.fromarray(np.full((6, 6), np.nan, np.float32)), 0),
        (Image.fromarray(np.full((6, 6), 200, np.int32)), 200),
        (Image.fromarray(np.full((6, 6), 65535, np.int32)), 255),
        (Image.new("1", (6, 6), 1), 255),
        (Image.new("CMYK", (6, 6), (0, 0, 0, 0)), 255),
        (Image.new("LA", (6, 6), (100, 255)), 100),
        (Image.new("LA", (6, 6), (100, 0)), 255),
        (Image.new("RGBA", (6, 6), (0, 0, 0, 0)), 255),
        (Image.new("P", (6, 6), 0), 0),
        (Image.new("YCbCr", (6, 6), (90, 128, 128)), 90),
        (Image.new("LAB", (6, 6), (0, 128, 128)), 0),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_becomes_eight_bits(picture, grey):
    for mode in ("L", "RGB"):
        low, high = flatten(picture, mode).convert("L").getextrema()
        assert (low, high) == (grey, grey)


def test_a_transparent_palette_is_laid_on_white():
    picture = Image.new("P", (4, 4), 0)
    picture.info["transparency"] = 0
    assert flatten(picture, "RGB").getpixel((0, 0)) == (255, 255, 255)


def product_photo() -> Image.Image:
    """A dark object, 20 by 40, off the middle of a white picture."""
    picture = Image.new("L", (200, 100), 255)
    picture.paste(55, (120, 30, 140, 70))
    return picture


def test_a_product_photo_is_inverted_cut_out_and_padded_square():
    got = on_black(product_photo())
    assert got.size == (40, 40)
    assert np.array_equal(np.asarray(got)[:, 10:30], np.full((40, 20), 200))
    assert got.getpixel((0, 0)) == got.getpixel((39, 39)) == 0


def test_a_picture_framed_as_in_training_stays_as_it_is():
    pixels = np.zeros((28, 28), np.uint8)
    pixels[6:20, 9:19] = noise(14, 10)
    assert np.array_equal(np.asarray(on_black(Image.fromarray(pixels))), pixels)


def test_a_dark_picture_that_is_not_square_is_padded_not_cropped():
    pixels = np.zeros((10, 30), np.uint8)
    pixels[5, 1] = 255
    got = Preprocessing(image_size=30, mode="L", mean=(0,), std=(1,), dark_background=True)(Image.fromarray(pixels))
    assert got.max() == 1 and got.shape == (1, 30, 30)


@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_an_empty_picture_survives(level):
    assert on_black(Image.new("L", (20, 30), level)).size == (30, 30)


def test_it_survives_json():
    before = Preprocessing(image_size=28, mode="L", mean=(0.286,), std=(0.353,), dark_background=True)
    assert Preprocessing(**json.loads(json.dumps(dataclasses.asdict(before)))) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 22.5}, "image_size is 22.5"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"mode": "BGR"}, "'RGB' or 'L'"),
        ({"mean": (0.5,)}, "3 numbers"),
        ({"std": (0.2, 0.2, 0.0)}, "above 0"),
        ({"dark_background": True}, "mode='L'"),
    ],
    ids=str,
)
def test_values_that_mean_nothing_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        Preprocessing(**{"image_size": 8, **changes})
