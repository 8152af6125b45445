"""What every recipe says, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest

from internimage.recipes.training import TrainingRecipe, lasting

RECIPE = TrainingRecipe(name="toy", epochs=2, batch_size=4, lr=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected an integer >= 1"),
        ({"epochs": 1.5}, "epochs is 1.5, expected an integer >= 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"lr": 0.0}, "lr is 0.0, expected a number above 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"min_lr": 0.06}, "min_lr is 0.06, expected at most lr, 0.05; set both"),
        ({"warmup_lr": 0.06}, "warmup_lr is 0.06, expected at most lr"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1, expected a number >= 0"),
        ({"rates_for_batch": 0}, "rates_for_batch is 0, expected an integer >= 1, or None"),
        ({"schedule": "cosin"}, "schedule is 'cosin', expected one of 'cosine', 'linear', 'step'"),
        ({"optimizer": "lamb"}, "optimizer is 'lamb', expected one of 'adamw', 'sgd', 'muon'"),
        ({"betas": (0.9,)}, r"betas is \(0.9,\), expected two numbers"),
        ({"betas": (0.9, 1.0)}, "expected two numbers from 0 to below 1"),
        ({"momentum": 0.0}, "momentum is 0.0, expected a number between 0 and 1"),
        ({"clip_grad": 0.0}, "clip_grad is 0.0, expected a number above 0, or None"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0, expected a number from 0 to below 1"),
        ({"dtype": "float64"}, "dtype is 'float64', expected one of 'float32', 'bfloat16', 'float16'"),
        ({"layer_decay": 1.1}, "layer_decay is 1.1, expected a number above 0, at most 1, or None"),
        ({"dcn_lr_mul": 0.1}, "dcn_lr_mul is 0.1 without layer_decay; the two go together"),
        ({"frozen_levels": (4,)}, r"frozen_levels is \(4,\), expected a tuple of levels, 0 to 3"),
        ({"frozen_levels": [0]}, r"frozen_levels is \[0\], expected a tuple"),
        ({"grad_checkpointing": 1}, "grad_checkpointing is 1, expected True or False"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_means_nothing_is_refused_and_the_message_says_what_fits(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **changes)


def test_rates_grow_with_the_batch_where_they_are_stated_for_one():
    stated = replace(RECIPE, lr=5e-4, min_lr=5e-6, warmup_lr=5e-7)
    assert stated.rates == (5e-4, 5e-6, 5e-7)
    assert replace(stated, rates_for_batch=512, batch_size=4096).rates == pytest.approx((4e-3, 4e-5, 4e-6))
    assert replace(stated, rates_for_batch=512, batch_size=64).rates == pytest.approx((6.25e-5, 6.25e-7, 6.25e-8))


def test_differences_name_both_values_and_fields_that_only_one_has():
    other = {**asdict(RECIPE), "lr": 0.1, "colour": "red"}
    assert RECIPE.differences(asdict(RECIPE)) == []
    assert RECIPE.differences(other) == ["colour is None, was red", "lr is 0.05, was 0.1"]


def test_a_shorter_run_warms_up_for_a_shorter_time_and_a_longer_one_for_no_longer():
    long = replace(RECIPE, epochs=120, warmup_epochs=12.0)
    assert lasting(long, 2) == replace(long, epochs=2, warmup_epochs=0.2)
    assert lasting(long, 240) == replace(long, epochs=240)
    assert lasting(replace(long, warmup_epochs=0.0), 2).warmup_epochs == 0
