"""The picture of a run: losses, scores and learning rate over the epochs, each on axes of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..canvas import Canvas, Color
from ..draw import ACCENT, GREY, INK, RULE, font

WIDTH, LEFT, RIGHT = 960, 84, 30
HEAD, TITLE, LEGEND, GAP, FOOT = 20, 26, 22, 34, 44  # heights: above, of a title, of a line of legend, between, below
COLORS: tuple[Color, ...] = (ACCENT, (194, 65, 12), (109, 40, 217), (21, 128, 61), (190, 24, 93), (120, 113, 108))
BOOKKEEPING = ("epoch", "step", "lr", "seconds")  # columns of a history that are neither losses nor scores
_WORDS = {"train_loss": "training loss", "loss": "loss of held-out pictures", "top1": "top-1", "top5": "top-5"}
_MOST_DOTS = 30  # points of a line that are drawn as dots too

Row = Mapping[str, float]


@dataclass(frozen=True)
class _Line:
    """What a column of the history is called, its color, and its (epoch, value)."""

    words: str
    color: Color
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Panel:
    """Lines on one pair of axes, over the epochs in ``epochs``; ``from_zero`` keeps 0 in sight."""

    title: str
    lines: tuple[_Line, ...]
    height: int
    epochs: tuple[float, float]
    from_zero: bool = False


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on ``length`` units of the page from ``start`` on."""

    low: float
    high: float
    start: float
    length: float

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        return self.start + self.length * (value - self.low) / (self.high - self.low)


def draw_curves(history: Sequence[Row]) -> Canvas:
    """Draw a run.

    Args:
        history: a row an epoch, in any columns: "epoch"; "lr"; "train_loss" and other names that begin with "train_" or
            end in "loss" are losses; the rest, but for "step" and "seconds", are scores in percent. An "ema_" in front
            is the average of the weights. A column may be missing in some rows, as scores are where not every epoch is
            evaluated; numbers that are not finite leave a gap.

    Raises:
        ValueError: there is no row, or no number in them.
    """
    panels = [panel for panel in _panels(history) if panel.lines]
    if not panels:
        raise ValueError("there is nothing to draw: no epoch is finished")
    heights = [TITLE + LEGEND * len(list(_legend_rows(panel))) + panel.height for panel in panels]
    canvas = Canvas(WIDTH, HEAD + sum(heights) + GAP * (len(panels) - 1) + FOOT)
    top = HEAD
    for panel, height in zip(panels, heights, strict=True):
        _draw_panel(canvas, panel, top, last=panel is panels[-1])
        top += height + GAP
    return canvas


def save_curves(history: Sequence[Row], path: str | Path) -> None:
    """Write the picture of :func:`draw_curves` as .png or .svg; the file appears whole or not at all."""
    draw_curves(history).save(Path(path))


def words_for(column: str) -> str:
    """What people call a column of the history."""
    if column.startswith("ema_"):
        return f"{words_for(column.removeprefix('ema_'))}, averaged weights"
    return _WORDS.get(column, column.replace("_", " ").replace("train ", "training "))


def is_loss(column: str) -> bool:
    """Whether a column is a loss, which is best where it is lowest."""
    return column.startswith("train_") or column.endswith("loss")


def score_columns(history: Sequence[Row]) -> list[str]:
    """The columns that are scores, in the order they first come."""
    columns = dict.fromkeys(name for row in history for name in row)
    return [name for name in columns if name not in BOOKKEEPING and not is_loss(name)]


def _panels(history: Sequence[Row]) -> Iterator[_Panel]:
    columns = list(dict.fromkeys(name for row in history for name in row))
    numbers = [row["epoch"] for row in history]
    epochs = (min(numbers), max(numbers)) if history else (0.0, 1.0)
    losses = [name for name in columns if name not in BOOKKEEPING and is_loss(name)]
    for title, names, height in (
        ("loss", losses, 240),
        ("score, %", score_columns(history), 240),
        ("learning rate", ["lr"] if "lr" in columns else [], 110),
    ):
        lines = (_line(history, name, COLORS[index % len(COLORS)]) for index, name in enumerate(names))
        drawn = tuple(line for line in lines if any(map(math.isfinite, (value for _, value in line.points))))
        yield _Panel(title, drawn, height, epochs, from_zero=title == "learning rate")


def _line(history: Sequence[Row], column: str, color: Color) -> _Line:
    points = tuple((row["epoch"], row[column]) for row in history if column in row)
    finite = [(value, epoch) for epoch, value in points if math.isfinite(value)]
    words = words_for(column)
    if not finite or column == "lr":
        return _Line(words, color, points)
    best, epoch = (min if is_loss(column) else max)(finite, key=lambda pair: pair[0])
    return _Line(f"{words}: best {best:.4g} in epoch {epoch:g}", color, points)


def _legend_rows(panel: _Panel) -> Iterator[list[tuple[float, _Line]]]:
    """The lines' words with the places they begin at, as many a row as fit; one line that the title names has none."""
    if len(panel.lines) == 1 and panel.lines[0].words in (panel.title, "lr"):
        return
    row: list[tuple[float, _Line]] = []
    x = float(LEFT)
    for line in panel.lines:
        width = 34 + 1.12 * font(13).getlength(line.words)  # a browser may have a wider font
        if row and x + width > WIDTH - RIGHT:
            yield row
            row, x = [], float(LEFT)
        row.append((x, line))
        x += width
    if row:
        yield row


def _draw_panel(canvas: Canvas, panel: _Panel, top: float, last: bool) -> None:
    canvas.text(LEFT, top + 8, panel.title, 16)
    y = top + TITLE
    for row in _legend_rows(panel):
        for x, line in row:
            canvas.line([(x, y + 6), (x + 16, y + 6)], line.color, 2.5)
            canvas.text(x + 22, y + 6, line.words, 13)
        y += LEGEND
    values = [value for line in panel.lines for _, value in line.points if math.isfinite(value)]
    low, high = _padded(min(values), max(values), panel.from_zero)
    across = Scale(*_widened(*panel.epochs), LEFT, WIDTH - LEFT - RIGHT)
    up = Scale(low, high, y + panel.height, -panel.height)
    _draw_axes(canvas, across, up, last)
    for line in panel.lines:
        _draw_line(canvas, line, across, up)


def _draw_axes(canvas: Canvas, across: Scale, up: Scale, last: bool) -> None:
    bottom, right = up.start, across.start + across.length
    top = bottom + up.length
    for value in ticks(up.low, up.high, 5):
        canvas.line([(across.start, up(value)), (right, up(value))], RULE)
        canvas.text(across.start - 8, up(value), f"{value:g}", 12, GREY, "end")
    for value in ticks(across.low, across.high, 12, whole=True):
        canvas.line([(across(value), bottom), (across(value), bottom + 4)], GREY)
        canvas.text(across(value), bottom + 14, f"{value:g}", 12, GREY, "middle")
    canvas.line([(across.start, top), (across.start, bottom), (right, bottom)], GREY)
    if last:
        canvas.text(across.start + across.length / 2, bottom + 30, "epoch", 13, INK, "middle")


def _draw_line(canvas: Canvas, line: _Line, across: Scale, up: Scale) -> None:
    piece: list[tuple[float, float]] = []
    for epoch, value in (*line.points, (0.0, math.nan)):
        if math.isfinite(value):
            piece.append((across(epoch), up(value)))
            continue
        if len(piece) > 1:
            canvas.line(piece, line.color, 2)
        piece = []
    finite = [(epoch, value) for epoch, value in line.points if math.isfinite(value)]
    for epoch, value in finite if len(finite) <= _MOST_DOTS else finite[-1:]:
        canvas.dot(across(epoch), up(value), 3, line.color)


def ticks(low: float, high: float, at_most: int, whole: bool = False) -> list[float]:
    """Round numbers from ``low`` to ``high`` with at most so many steps between them.

    They are 1, 2 or 5 times a power of ten apart, and ``whole`` where asked.
    """
    step = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step = max(step, 1.0) if whole else step
    for factor in (1, 2, 5, 10):
        first, final = math.ceil(low / (step * factor) - 1e-9), math.floor(high / (step * factor) + 1e-9)
        if final - first <= at_most:
            break
    return [float(f"{number * step * factor:.6g}") for number in range(first, final + 1)]


def _padded(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    """The range of an axis that holds all values, with some air."""
    low = min(low, 0.0) if from_zero else low
    if low == high:
        return low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    air = 0.06 * (high - low)
    return low if from_zero else low - air, high + air


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if low < high else (low - 0.5, high + 0.5)
