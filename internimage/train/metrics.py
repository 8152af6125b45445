"""The table that training leaves: a row an epoch. ``curves`` draws it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ..files import write_through


def write_metrics(history: Sequence[dict[str, float]], path: str | Path) -> None:
    """A CSV file with a row an epoch."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with write_through(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
