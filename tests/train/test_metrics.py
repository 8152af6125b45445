"""The table of a run."""

from __future__ import annotations

import csv

from internimage.train.metrics import write_metrics

ROWS = [{"epoch": 1, "train_loss": 2.0, "top1": 50.0}, {"epoch": 2, "train_loss": 1.5, "top1": 75.0}]


def test_the_table_has_a_row_an_epoch(tmp_path):
    write_metrics(ROWS, tmp_path / "new" / "metrics.csv")
    rows = list(csv.DictReader((tmp_path / "new" / "metrics.csv").read_text().splitlines()))
    assert [{key: float(value) for key, value in row.items()} for row in rows] == ROWS
