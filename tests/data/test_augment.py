"""Augmentation of a batch: nothing asked for changes nothing, and each change does what it says."""

from __future__ import annotations

import torch

from internimage.data.augment import Augmentation, augment, resize


def batch(n: int = 64, channels: int = 1, size: int = 12) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_nothing_asked_for_is_a_plain_resize():
    images = batch(4, channels=3)
    torch.testing.assert_close(augment(images, 12, Augmentation()), images)
    inner = (..., slice(1, -1), slice(1, -1))  # outside is black here, and the edge repeated in a resize
    torch.testing.assert_close(augment(images, 24, Augmentation())[inner], resize(images, 24)[inner])
    assert resize(images, 12) is images


def test_a_flip_mirrors_about_half_of_the_pictures():
    images = batch()
    torch.manual_seed(0)
    got = augment(images, 12, Augmentation(flip=True))
    mirrored = (got - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    same = (got - images).abs().amax((1, 2, 3)) < 1e-5
    assert (mirrored ^ same).all() and 16 < mirrored.sum() < 48


def test_a_shift_stays_within_its_share_and_differs_from_picture_to_picture():
    images = torch.zeros(256, 1, 40, 40)
    images[:, :, 18:22, 18:22] = 1
    torch.manual_seed(0)
    got = augment(images, 40, Augmentation(shift=0.1))[:, 0]
    positions = torch.arange(40.0)
    centre = torch.stack([(got.sum(axis) * positions).sum(1) / got.sum((1, 2)) for axis in (1, 2)], 1)
    moved = (centre - 19.5).abs()
    assert moved.max() <= 4.01 and (moved.amax(0) > 3.5).all()


def test_zoom_and_rotation_keep_the_centre_and_change_the_rest():
    images = torch.zeros(64, 1, 41, 41)
    images[:, :, 10:31, 10:31] = 1
    torch.manual_seed(0)
    area = augment(images, 41, Augmentation(zoom=0.2)).sum((1, 2, 3)) / 441
    assert 1 / 1.5 < area.min() < 0.8 and 1.25 < area.max() < 1.5
    turned = augment(images, 41, Augmentation(rotate=30.0))
    assert (turned[:, 0, 20, 20] > 0.99).all() and ((turned.sum((1, 2, 3)) / 441 - 1).abs() < 0.02).all()
    assert (turned[:, 0, 11, 11] < 0.5).any()


def test_erasing_covers_rectangles_of_some_pictures():
    images = torch.full((400, 1, 20, 20), 2.0)  # noise is below 1
    torch.manual_seed(0)
    erased = (augment(images, 20, Augmentation(erase=0.5)) < 1.5).float().mean((1, 2, 3))
    assert 0.4 < (erased > 0).float().mean() < 0.6 and 0.2 < erased.max() <= 0.36


def test_the_same_seed_gives_the_same_batch():
    how = Augmentation(shift=0.1, zoom=0.1, rotate=10.0, flip=True, erase=0.5)
    torch.manual_seed(3)
    first = augment(batch(), 16, how)
    torch.manual_seed(3)
    assert torch.equal(augment(batch(), 16, how), first) and first.shape == (64, 1, 16, 16)
    assert not torch.equal(augment(batch(), 16, how), first)
