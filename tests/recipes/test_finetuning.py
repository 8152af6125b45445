"""Settings by the number of pictures."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from internimage.backbones.config import SIZES
from internimage.data.transforms import Preprocessing
from internimage.recipes.finetuning import AMOUNTS, changes_of, finetuning_recipe, held_out_share

RGB = Preprocessing(image_size=224)
GREY = Preprocessing(image_size=56, mode="L", mean=(0.3,), std=(0.3,), dark_background=True, interpolation="bilinear")


def recipe(pictures: int, model: str = "internimage_t", classes: int = 2, **options):
    return finetuning_recipe(model, pictures, classes, **{"preprocessing": RGB, **options})


def test_the_table_in_the_docstring_is_the_table():
    lines = re.findall(r"^ +(?:< (\d+)|more) +(\d+) +([\d.]+) +([\d, ]+|-) +([\d.]+) +([\d.]+) +([\d.]+)$",
                       finetuning_recipe.__doc__, re.MULTILINE)  # fmt: skip
    told = [
        (float(below or "inf"), int(epochs), float(decay), tuple(int(n) for n in re.findall(r"\d", frozen)),
         float(held_out), float(area), float(erased))
        for below, epochs, decay, frozen, held_out, area, erased in lines
    ]  # fmt: skip
    assert told == [
        (a.below, a.epochs, a.layer_decay, a.frozen_levels, a.held_out, a.least_area, a.erase) for a in AMOUNTS
    ]


@pytest.mark.parametrize("pictures", [2, 3, 7, 8, 15, 40, 199, 200, 5_000, 10**6])
def test_an_epoch_has_four_steps_or_as_many_as_pictures(pictures):
    got = recipe(pictures)
    assert got.batch_size <= 64 and (got.batch_size & (got.batch_size - 1)) == 0
    assert pictures // got.batch_size >= min(4, pictures)
    assert got.lr == pytest.approx(5e-4 * math.sqrt(got.batch_size / 64), rel=0.01)
    assert got.min_lr <= got.lr and got.warmup_lr <= got.lr and 0 <= got.ema_decay < 1


def test_a_step_is_shared_out_evenly_over_processes():
    for shares in (2, 3, 16):
        assert recipe(100, shares=shares).batch_size % shares == 0
    with pytest.raises(ValueError, match="2 pictures are left to learn from, fewer than the 3 parts of a step"):
        recipe(2, shares=3)


def test_few_pictures_forget_less_and_are_changed_less():
    few, many = recipe(100), recipe(100_000)
    assert few.frozen_levels == (0, 1) and few.layer_decay < many.layer_decay and few.epochs > many.epochs
    assert few.transform.auto_augment is None and few.transform.scale[0] > many.transform.scale[0]
    assert few.transform.erase < many.transform.erase and not many.frozen_levels
    assert not few.mixing and not many.mixing
    assert held_out_share(100) > held_out_share(10**6)


def test_pictures_go_through_the_preprocessing_of_the_model():
    for preprocessing in (RGB, GREY, replace(RGB, crop=False, interpolation="bilinear", image_size=160)):
        got = finetuning_recipe("internimage_t", 500, 3, preprocessing=preprocessing)
        assert got.preprocessing == preprocessing
    assert recipe(500).source == "files" and recipe(500, preprocessing=GREY).source == "memory"
    assert recipe(500, preprocessing=replace(GREY, image_size=300)).source == "memory"  # files know no black ground


def test_weights_that_know_little_learn_as_a_whole():
    little, much = recipe(100, pretrained_classes=10), recipe(100, pretrained_classes=1000)
    assert little.frozen_levels == () and little.layer_decay is None and little.dcn_lr_mul is None
    assert little.lr > much.lr and little.epochs == 2 * much.epochs


def test_large_models_learn_slower_and_save_memory():
    for model in ("internimage_l", "internimage_h", "flash_internimage_l"):
        got = recipe(1000, model)
        assert got.grad_checkpointing and got.lr == pytest.approx(1e-4)
    assert not recipe(1000, "internimage_b").grad_checkpointing


def test_a_classifier_begins_anew():
    assert (recipe(100).head_start, recipe(100).head_init_scale) == ("random", 0.001)


def test_a_network_that_is_not_quite_of_that_size():
    config = replace(SIZES["internimage_t"], channels=32, groups=(2, 4, 8, 16), in_chans=1, drop_path_rate=0.3)
    assert changes_of("internimage_t", config) == {"channels": 32, "groups": (2, 4, 8, 16)}
    assert recipe(100, config=config).model_changes == {"channels": 32, "groups": (2, 4, 8, 16)}


def test_nothing_to_learn():
    with pytest.raises(ValueError, match="classes is 1, expected two or more to tell apart"):
        recipe(10, classes=1)
    with pytest.raises(ValueError, match="3 pictures of 4 classes are left to learn from"):
        recipe(3, classes=4)
