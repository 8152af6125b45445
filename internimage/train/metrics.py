"""What training leaves to look at: a table and a picture of how it went."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ..files import write_through

_SIZE, _MARGIN = (760, 420), 60
_LOSS, _SCORE, _FRAME = (200, 80, 40), (30, 100, 200), (150, 150, 150)


def write_metrics(history: Sequence[dict[str, float]], path: str | Path) -> None:
    """A CSV file with a row an epoch."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with write_through(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def draw_curve(history: Sequence[dict[str, float]], path: str | Path) -> None:
    """A PNG with the training loss (left scale) and, where there is one, the top-1 of held-out pictures (right)."""
    picture = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((_MARGIN, _MARGIN, _SIZE[0] - _MARGIN, _SIZE[1] - _MARGIN), outline=_FRAME)
    epochs = [row["epoch"] for row in history]
    draw.text((_MARGIN, _SIZE[1] - _MARGIN + 22), f"epoch {epochs[0]:g}", fill="black")
    draw.text((_SIZE[0] - _MARGIN, _SIZE[1] - _MARGIN + 22), f"{epochs[-1]:g}", fill="black", anchor="ra")
    _draw_line(draw, [row["train_loss"] for row in history], "training loss", _LOSS, left=True)
    scores = [row["top1"] for row in history if "top1" in row]
    if scores:
        _draw_line(draw, scores, "top-1 of held-out pictures, %", _SCORE, left=False)
    with write_through(path) as temporary:
        picture.save(temporary, format="PNG")


def _draw_line(
    draw: ImageDraw.ImageDraw, values: list[float], title: str, color: tuple[int, int, int], left: bool
) -> None:
    """One curve, spread over the frame, with its lowest and highest value on its side."""
    low, high = min(values), max(values)
    width, height = _SIZE[0] - 2 * _MARGIN, _SIZE[1] - 2 * _MARGIN
    points = [
        (
            _MARGIN + width * index / max(len(values) - 1, 1),
            _MARGIN + height * (1 - (value - low) / ((high - low) or 1.0)),
        )
        for index, value in enumerate(values)
    ]
    draw.line(points, fill=color, width=2)
    for x, y in points if len(points) < 60 else points[-1:]:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=color)
    edge, anchor = (_MARGIN - 6, "rm") if left else (_SIZE[0] - _MARGIN + 6, "lm")
    for value, y in ((high, _MARGIN), (low, _SIZE[1] - _MARGIN)):
        draw.text((edge, y), f"{value:.4g}", fill=color, anchor=anchor)
    corner = (_MARGIN, _MARGIN - 24) if left else (_SIZE[0] - _MARGIN, _MARGIN - 24)
    draw.text(corner, title, fill=color, anchor="la" if left else "ra")
