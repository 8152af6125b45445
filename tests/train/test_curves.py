"""The picture of a run."""

from __future__ import annotations

import math
import re

import pytest
from PIL import Image

from internimage.train.curves import COLORS, WIDTH, draw_curves, save_curves, ticks

ROWS = [
    {"epoch": 1, "step": 5, "lr": 1e-3, "train_loss": 2.0, "loss": 1.9, "top1": 50.0, "ema_top1": 30.0, "seconds": 9.0},
    {"epoch": 2, "step": 10, "lr": 5e-4, "train_loss": 1.5, "loss": 1.2, "top1": 75.0, "ema_top1": 80.5, "seconds": 18},
    {"epoch": 3, "step": 15, "lr": 0.0, "train_loss": 1.25, "loss": 1.4, "top1": 70.0, "ema_top1": 79.0, "seconds": 27},
]


def words(history) -> list[str]:
    return re.findall(r">([^<]+)</text>", draw_curves(history).svg())


def lines(history) -> dict[str, list[list[tuple[float, float]]]]:
    """Points of the curves by color, without grid and axes."""
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for points, color in re.findall(
        r'<polyline points="([^"]+)" fill="none" stroke="(#\w+)" stroke-width="2"/>', svg(history)
    ):
        found.setdefault(color, []).append([tuple(map(float, pair.split(","))) for pair in points.split()])
    return found


def svg(history) -> str:
    return draw_curves(history).svg()


def test_each_column_is_named_with_its_best_value_and_epoch():
    shown = words(ROWS)
    assert shown.count("epoch") == 1 and {"loss", "score, %", "learning rate"} <= set(shown)
    assert "training loss: best 1.25 in epoch 3" in shown, "losses are best at their lowest"
    assert "loss of held-out pictures: best 1.2 in epoch 2" in shown
    assert "top-1: best 75 in epoch 2" in shown and "top-1, averaged weights: best 80.5 in epoch 2" in shown
    assert not any("seconds" in each or "step" in each for each in shown)


def test_curves_rise_and_fall_with_their_numbers():
    teal, orange = ("#{:02x}{:02x}{:02x}".format(*color) for color in COLORS[:2])
    loss, score, rate = lines(ROWS)[teal]
    held_out, averaged = lines(ROWS)[orange]
    assert loss[0][1] < loss[1][1] < loss[2][1], "y runs down the page"
    assert score[1][1] < score[2][1] < score[0][1] and rate[0][1] < rate[1][1] < rate[2][1]
    assert len(held_out) == len(averaged) == 3
    for curve in (loss, score, rate):
        assert curve[1][0] - curve[0][0] == pytest.approx(curve[2][0] - curve[1][0], abs=0.2)
    # 2.0 to 1.5 and 2.0 to 1.25 on one scale
    assert (loss[1][1] - loss[0][1]) / (loss[2][1] - loss[0][1]) == pytest.approx(0.5 / 0.75, abs=0.01)


def test_scores_of_some_epochs_only_stand_at_these():
    history = [{"epoch": e, "train_loss": 1 / e, **({"top1": 10.0 * e} if e % 2 == 0 else {})} for e in range(1, 7)]
    (loss,), (score,) = ([curve] for curve in lines(history)["#{:02x}{:02x}{:02x}".format(*COLORS[0])])
    assert [x for x, _ in score] == [x for x, _ in loss][1::2]


def test_what_is_no_number_leaves_a_gap():
    history = [{"epoch": e, "train_loss": math.nan if e == 3 else 1.0 + e} for e in range(1, 7)]
    (first, second) = next(iter(lines(history).values()))
    assert (len(first), len(second)) == (2, 3)


@pytest.mark.parametrize(
    "history",
    [ROWS[:1], [{"epoch": 1, "train_loss": 1.0}], [{"epoch": e, "train_loss": 0.0} for e in (1, 2)], ROWS * 40],
    ids=["one epoch", "one number", "constant", "many"],
)
def test_short_and_long_runs_are_drawn(history, tmp_path):
    path = tmp_path / "new" / "curve.png"
    save_curves(history, path)
    with Image.open(path) as picture:
        assert picture.width == 2 * WIDTH
        assert COLORS[0] in {color for _, color in picture.getcolors(maxcolors=1_000_000)}


@pytest.mark.parametrize("history", [[], [{"epoch": 1}], [{"epoch": 1, "train_loss": math.inf}]], ids=str)
def test_nothing_to_draw_is_said(history):
    with pytest.raises(ValueError, match="no epoch is finished"):
        draw_curves(history)


@pytest.mark.parametrize(
    ("low", "high", "at_most", "whole", "want"),
    [
        (0, 1, 5, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3.1, 9.7, 4, False, [4, 6, 8]),
        (0, 5e-4, 5, False, [0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4]),
        (1, 3, 12, True, [1, 2, 3]),
        (1, 300, 12, True, [50, 100, 150, 200, 250, 300]),
        (-0.2, 0.1, 3, False, [-0.2, -0.1, 0, 0.1]),
    ],
)
def test_ticks_are_round_numbers(low, high, at_most, whole, want):
    assert ticks(low, high, at_most, whole) == want
