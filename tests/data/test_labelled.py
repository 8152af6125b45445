"""Pictures in memory: splitting, grey and colour, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from internimage.data.labelled import LabelledImages
from internimage.data.synthetic import synthetic_pictures


def pictures(count: int = 10, channels: int = 3) -> LabelledImages:
    images = torch.arange(count * channels * 4, dtype=torch.uint8).view(count, channels, 2, 2)
    return LabelledImages(images=images, labels=torch.arange(count), class_names=tuple("abcdefghij"))


def test_a_split_is_disjoint_complete_and_always_the_same():
    data = pictures()
    kept, held_out = data.split(3, seed=1)
    assert (len(kept), len(held_out)) == (7, 3)
    assert sorted([*kept.labels.tolist(), *held_out.labels.tolist()]) == list(range(10))
    for part in (kept, held_out):  # pictures go with their labels
        assert torch.equal(part.images, data.images[part.labels])
    assert torch.equal(data.split(3, seed=1)[1].labels, held_out.labels)
    assert not torch.equal(data.split(3, seed=2)[1].labels, held_out.labels)
    assert len(data.split(0)[1]) == 0


@pytest.mark.parametrize("held_out", [-1, 10])
def test_a_split_leaves_something_to_train_on(held_out):
    with pytest.raises(ValueError, match=f"held_out is {held_out}, expected 0 to 9"):
        pictures().split(held_out)


def test_grey_and_colour():
    data = pictures()
    grey = data.with_channels(1)
    want = [np.array(picture.convert("L")) for picture, _ in data.samples()]
    assert (
        grey.images[:, 0].int() - torch.from_numpy(np.stack(want)).int()
    ).abs().max() <= 1  # Pillow rounds its weights
    colour = grey.with_channels(3)
    assert torch.equal(colour.images, grey.images.repeat(1, 3, 1, 1)) and data.with_channels(3) is data


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_samples_are_the_pictures(channels, mode):
    data = pictures(channels=channels)
    picture, label = list(data.samples())[4]
    assert isinstance(picture, Image.Image) and (picture.mode, picture.size, label) == (mode, (2, 2), 4)
    assert torch.equal(torch.from_numpy(np.array(picture)).view(2, 2, channels).permute(2, 0, 1), data.images[4])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected .N, 1 or 3, H, W. uint8"):
        LabelledImages(images=torch.zeros(2, 1, 2, 2), labels=torch.zeros(2).long(), class_names=("a",))
    with pytest.raises(ValueError, match="expected one for each of 2 images"):
        LabelledImages(images=torch.zeros(2, 1, 2, 2).byte(), labels=torch.zeros(3).long(), class_names=("a",))


def test_synthetic_bars_stand_or_lie():
    data = synthetic_pictures(count=6, size=16)
    bright = data.images[:, 0] == 255
    for picture, label in zip(bright, data.labels, strict=True):
        assert picture.all(0).any() == (label == 0) and picture.all(1).any() == (label == 1)
