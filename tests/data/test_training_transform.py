"""timm's augmentation with the arguments of the released models."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms as tv

from internimage.data.seeds import seeded
from internimage.data.training_transform import TrainingTransform
from tests.data.made_up import noise


def test_the_released_arguments_arrive_in_the_steps():
    crop, flip, rand, tensor, normalise, erasing = TrainingTransform(224).steps.transforms
    assert isinstance(crop, RandomResizedCropAndInterpolation) and tuple(crop.size) == (224, 224)
    assert crop.scale == (0.08, 1.0) and crop.ratio == (3 / 4, 4 / 3)
    assert crop.interpolation == tv.InterpolationMode.BICUBIC
    assert isinstance(flip, tv.RandomHorizontalFlip) and flip.p == 0.5
    assert isinstance(rand, RandAugment) and rand.num_layers == 2  # and no jitter of colours beside it
    assert all(op.magnitude == 9 and op.magnitude_std == 0.5 for op in rand.ops)
    assert {op.name for op in rand.ops} >= {"PosterizeIncreasing", "SolarizeIncreasing", "ColorIncreasing"}
    assert rand.ops[0].kwargs["fillcolor"] == (124, 116, 104)
    assert rand.ops[0].kwargs["resample"] == Image.Resampling.BICUBIC
    assert rand.ops[0].hparams["translate_const"] == int(224 * 0.45)
    assert isinstance(normalise, tv.Normalize)
    assert torch.allclose(torch.as_tensor(normalise.mean), torch.tensor([0.485, 0.456, 0.406]))
    assert torch.allclose(torch.as_tensor(normalise.std), torch.tensor([0.229, 0.224, 0.225]))
    assert isinstance(erasing, RandomErasing) and erasing.probability == 0.25 and erasing.per_pixel
    assert (erasing.min_count, erasing.max_count) == (1, 1)


def test_colours_are_jittered_where_nothing_else_changes_them():
    steps = TrainingTransform(64, auto_augment=None, erase=0.0).steps.transforms
    jitter = next(step for step in steps if isinstance(step, tv.ColorJitter))
    assert jitter.brightness == jitter.contrast == jitter.saturation == pytest.approx((0.6, 1.4))
    assert jitter.hue is None and not any(isinstance(step, RandomErasing) for step in steps)


@pytest.mark.parametrize("size", [(32, 32), (20, 40), (300, 200), (1, 1)])
def test_small_sizes_are_padded_and_cropped(size):
    transform = TrainingTransform(32)
    crop = transform.steps.transforms[0]
    assert isinstance(crop, tv.RandomCrop) and crop.size == (32, 32) and crop.padding == 4
    assert transform(noise(0, size)).shape == (3, 32, 32)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_mode_of_picture_is_taken(mode):
    picture = Image.new(mode, (50, 40)) if mode == "I;16" else noise(0, (50, 40)).convert(mode)
    tensor = TrainingTransform(48)(picture)
    assert tensor.shape == (3, 48, 48) and tensor.dtype == torch.float32 and tensor.isfinite().all()


def test_grey_models_get_one_channel_with_its_own_mean():
    transform = TrainingTransform(
        40, mode="L", mean=(0.25,), std=(0.5,), scale=(1, 1), ratio=(1, 1), auto_augment=None, color_jitter=0, erase=0.0
    )
    tensor = transform(Image.new("L", (40, 40), 51))
    assert tensor.shape == (1, 40, 40) and torch.allclose(tensor, torch.full_like(tensor, (0.2 - 0.25) / 0.5))


def test_the_same_seed_gives_the_same_picture_and_leaves_the_generators_alone():
    transform, picture = TrainingTransform(48), noise(1, (60, 50))
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    results = []
    for seed in (5, 6, 5):
        with seeded(1, seed):
            results.append(transform(picture))
    assert torch.equal(results[0], results[2]) and not torch.equal(results[0], results[1])
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("words", ["rand-m9-mstd0.5-inc1", "original", "augmix-m5-w3"])
def test_the_strongest_posterising_is_black_and_no_error(words):
    step = TrainingTransform(48, auto_augment=words).steps.transforms[2]
    for op in step.ops if hasattr(step, "ops") else sum(step.policy, []):
        if op.name.startswith("Posterize"):
            op.prob, op.magnitude, op.magnitude_std = 1.0, 10 if "Increasing" in op.name else 0, 0
            if op.level_fn(0, op.hparams)[0] == 0 or "Increasing" in op.name:
                assert not np.asarray(op(noise(1))).any()
            op.magnitude = 10 - op.magnitude
            assert op(noise(1)).size == (20, 16)


def test_it_travels_to_workers_that_are_not_forked():
    transform, picture = TrainingTransform(48), noise(1)
    copy = pickle.loads(pickle.dumps(transform))
    with seeded(3):
        want = transform(picture)
    with seeded(3):
        assert torch.equal(copy(picture), want)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 2.5}, "image_size is 2.5"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic', expected one of nearest"),
        ({"erase_mode": "noise"}, "erase_mode is 'noise'"),
        ({"erase": 1.5}, "erase is 1.5, expected a probability"),
        ({"mode": "RGBA"}, "mode is 'RGBA'"),
        ({"mode": "L"}, "expected 1 numbers each for mode='L'"),
        ({"scale": (0.5, 0.1)}, "scale is"),
        ({"auto_augment": "random-nine"}, "auto_augment is 'random-nine'"),
        ({"auto_augment": "rand-m9-q3"}, "auto_augment is 'rand-m9-q3'"),
        ({"auto_augment": "nonsense"}, "auto_augment is 'nonsense'"),
    ],
)
def test_what_means_nothing_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        TrainingTransform(**{"image_size": 64, **arguments})
