"""The learning-rate curve, against plain formulas of the released schedules."""

from __future__ import annotations

import math

import pytest
import torch

from internimage.recipes.training import TrainingRecipe
from internimage.train.schedule import make_scheduler

STEPS = 10  # in an epoch
WATCHED = (0, 1, 57, 199, 200, 201, 640, 1500, 2999)


def recipe(**changes) -> TrainingRecipe:
    released = {"epochs": 300, "batch_size": 4096, "lr": 5e-4, "min_lr": 5e-6, "warmup_lr": 5e-7, "warmup_epochs": 20}
    return TrainingRecipe(**{"name": "t", "rates_for_batch": 512, **released, **changes})


def rates(chosen: TrainingRecipe, steps, scales=(1.0,), steps_per_epoch=STEPS) -> list[list[float]]:
    """The rates of the groups at some steps."""
    groups = [{"params": [torch.zeros(1)], "lr": chosen.rates.lr * scale} for scale in scales]
    optimizer = torch.optim.SGD(groups, lr=chosen.rates.lr)
    schedule = make_scheduler(optimizer, chosen, steps_per_epoch)
    found = []
    for step in steps:
        schedule.step_update(step)
        found.append([group["lr"] for group in optimizer.param_groups])
    return found


def warmed(chosen: TrainingRecipe, step: int, highest: float, after) -> float:
    """The warm-up, a line from the lowest rate to ``highest``, then ``after``."""
    factor, warmup = chosen.batch_size / 512, chosen.warmup_epochs * STEPS
    start = chosen.warmup_lr * factor
    return start + step * (highest - start) / warmup if step < warmup else after


def cosine(chosen: TrainingRecipe, step: int, scale: float) -> float:
    factor = chosen.batch_size / 512
    highest, lowest = chosen.lr * factor * scale, chosen.min_lr * factor
    share = step / (chosen.epochs * STEPS)  # of all epochs, warm-up included
    return warmed(chosen, step, highest, lowest + 0.5 * (highest - lowest) * (1 + math.cos(math.pi * share)))


@pytest.mark.parametrize("batch_size", [64, 512, 4096])
def test_cosine_counts_the_warm_up_and_scales_with_the_batch(batch_size):
    chosen = recipe(batch_size=batch_size)
    for step, (got,) in zip(WATCHED, rates(chosen, WATCHED), strict=True):
        assert got == pytest.approx(cosine(chosen, step, 1.0), rel=1e-12), step


def test_each_group_falls_from_its_own_rate_to_the_same_lowest_one():
    chosen, scales = recipe(), (1.0, 0.9**5, 0.1 * 0.9**20)
    for step, got in zip(WATCHED, rates(chosen, WATCHED, scales), strict=True):
        assert got == pytest.approx([cosine(chosen, step, scale) for scale in scales], rel=1e-12), step
    first, last = rates(chosen, (0, 3000), scales)
    assert first == pytest.approx([4e-6] * 3) and last == pytest.approx([4e-5] * 3)


def test_accumulation_does_not_change_the_curve():
    """The released loop counts the parts of a step, over as many parts in all: the same share of the way."""
    chosen, parts = recipe(), 4
    released = rates(chosen, [step * parts for step in WATCHED], steps_per_epoch=STEPS * parts)
    assert rates(chosen, WATCHED) == [pytest.approx(rate) for rate in released]


def test_linear_ends_at_one_percent_of_each_rate():
    chosen, scale = recipe(schedule="linear"), 0.5
    for step, (got,) in zip(WATCHED, rates(chosen, WATCHED, (scale,)), strict=True):
        highest = 4e-3 * scale
        after = highest - 0.99 * highest * (step - 200) / (3000 - 200)
        assert got == pytest.approx(warmed(chosen, step, highest, after), rel=1e-12), step
    assert rates(chosen, (3000,)) == [[pytest.approx(4e-5)]]


def test_steps_are_counted_from_the_start_of_the_warm_up():
    chosen = recipe(schedule="step", decay_epochs=30, decay_rate=0.1)
    for step, (got,) in zip(WATCHED, rates(chosen, WATCHED), strict=True):
        assert got == pytest.approx(warmed(chosen, step, 4e-3, 4e-3 * 0.1 ** (step // 300)), rel=1e-9), step


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step"])
def test_the_rate_is_a_function_of_the_step_alone(schedule):
    chosen = recipe(schedule=schedule)
    alone = [rates(chosen, (step,))[0] for step in WATCHED]
    assert rates(chosen, WATCHED) == alone == rates(chosen, WATCHED[::-1])[::-1]


def test_without_warm_up_the_first_step_has_the_highest_rate():
    assert rates(recipe(warmup_epochs=0), (0,)) == [[pytest.approx(4e-3)]]


def test_a_fraction_of_an_epoch_is_a_warm_up_too():
    chosen = recipe(warmup_epochs=0.5, warmup_lr=0.0)
    assert [rate for (rate,) in rates(chosen, range(5))] == pytest.approx([4e-3 * step / 5 for step in range(5)])
