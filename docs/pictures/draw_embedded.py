"""Draws embedded.png: the embedded model and two networks of timm, trained by the same recipe.

Reads what the runs wrote as metrics.csv, kept in benchmarks/results/embedded. Scores are of the averaged weights on the
pictures held out, from the epoch on in which pictures have their final size. Run it in the repository:
python docs/pictures/draw_embedded.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from internimage.train.curves import draw_curves

RUNS = Path(__file__).parents[2] / "benchmarks" / "results" / "embedded"
NAMES = ("internimage_femto", "convnext_atto", "resnet18")
FULL_SIZE = 22  # epoch


def history() -> list[dict[str, float]]:
    """A row an epoch with the training losses and the scores of all three."""
    merged: dict[int, dict[str, float]] = {}
    for name in NAMES:
        with (RUNS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                epoch = int(row["epoch"])
                found = merged.setdefault(epoch, {"epoch": epoch})
                found[f"train_{name}"] = float(row["train_loss"])
                if row["ema_top1"] and epoch >= FULL_SIZE:
                    found[name] = float(row["ema_top1"])
    return list(merged.values())


if __name__ == "__main__":
    draw_curves(history()).save(Path(__file__).with_name("embedded.png"))
