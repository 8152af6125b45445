"""The table and the curve of a run."""

from __future__ import annotations

import csv

import pytest
from PIL import Image

from internimage.train.metrics import draw_curve, write_metrics

ROWS = [{"epoch": 1, "train_loss": 2.0, "top1": 50.0}, {"epoch": 2, "train_loss": 1.5, "top1": 75.0}]


def test_the_table_has_a_row_an_epoch(tmp_path):
    write_metrics(ROWS, tmp_path / "new" / "metrics.csv")
    rows = list(csv.DictReader((tmp_path / "new" / "metrics.csv").read_text().splitlines()))
    assert [{key: float(value) for key, value in row.items()} for row in rows] == ROWS


@pytest.mark.parametrize("history", [ROWS, ROWS[:1], [{"epoch": 1, "train_loss": 1.0}], ROWS * 50])
def test_the_curve_is_drawn(tmp_path, history):
    path = tmp_path / "curve.png"
    draw_curve(history, path)
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.getcolors(maxcolors=100_000)}
    scored = "top1" in history[0]
    assert ((30, 100, 200) in colours) == scored
    assert (200, 80, 40) in colours or (scored and len(history) == 1)  # where both curves are the same point
