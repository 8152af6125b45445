"""The picture of ``--plot``: a roofline of the operators, how much faster they are, and networks beside each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..canvas import Canvas, Color
from ..draw import ACCENT, ACCENT_SOFT, GREY, INK, PAPER, RULE
from . import op_tables, report, targets
from .labels import FREE, ON_GRID_SAMPLE
from .operators import OURS
from .shapes import parse_attention
from .table import number
from .work import BOTH, FORWARD

Row = dict[str, Any]
WIDTH, MARGIN, GAP = 1280, 40, 48
HEAD, TALLEST_ROOF = 96, 700
ROW, GROUP = 17, 40  # heights: of a bar with its gap, and of a title over bars
COLORS: dict[str, Color] = {"dcnv3": ACCENT, "dcnv4": (194, 65, 12), "ms_deform_attn": (109, 40, 217)}
SOFT: dict[str, Color] = {"dcnv3": ACCENT_SOFT, "dcnv4": (248, 200, 170), "ms_deform_attn": (216, 200, 248)}
WANTED_COLOR: Color = (28, 33, 40)


def save(results: Row, path: Path) -> None:
    """Draw the results into a .png or .svg file."""
    draw(results).save(path)


def draw(results: Row) -> Canvas:
    """The page.

    Raises:
        ValueError: nothing that can be drawn was measured.
    """
    rows = _one_dtype(results.get("op") or [])
    runs = (results.get("model") or {}).get("runs", [])
    if not rows and not runs:
        raise ValueError("there is nothing to draw: the results hold neither operators nor networks")
    bars = list(_speedups(rows, results))
    groups = list(_network_groups(runs))
    top_height = max(520, _height(bars)) if rows else 0
    left, right = _columns(groups)
    height = HEAD + top_height + (GAP if rows and runs else 0) + max(_height(left), _height(right)) + 70
    canvas = Canvas(WIDTH, height)
    _head(canvas, results, rows)
    ceilings = [found for found in results.get("ceilings", []) if rows and found["dtype"] == rows[0]["dtype"]]
    if ceilings:
        _roofline(canvas, rows, ceilings[0], MARGIN, HEAD, 540, min(top_height - 20, TALLEST_ROOF))
    if rows:
        _bars(canvas, bars, 660, HEAD, WIDTH - MARGIN)
    under = HEAD + top_height + (GAP if rows else 0)
    middle = WIDTH // 2
    _bars(canvas, left, MARGIN, under, middle - GAP // 2)
    _bars(canvas, right, middle + GAP // 2, under, WIDTH - MARGIN)
    _foot(canvas, results, bool(rows), bool(runs))
    return canvas


def _one_dtype(rows: Sequence[Row]) -> list[Row]:
    """The first dtype that was measured: a page shows one."""
    return [row for row in rows if row["dtype"] == rows[0]["dtype"]]


def _head(canvas: Canvas, results: Row, rows: Sequence[Row]) -> None:
    card, machine = results["machine"].get("device"), results["machine"]
    where = card["name"] if card else f"{machine['cpu']}, {report.threads_in_words(results)}"
    what = f"Deformable operators, {rows[0]['dtype']}" if rows else "Whole networks"
    canvas.text(MARGIN, 34, f"{what}, on {where}", 24)
    versions = results["versions"]
    shown = ", ".join(f"{name} {versions[name]}" for name in ("internimage", "torch", "timm") if name in versions)
    canvas.text(MARGIN, 64, f"{shown}, commit {results['commit'] or 'unknown'}, {results['date'][:10]}", 13, GREY)


def _foot(canvas: Canvas, results: Row, operators: bool, networks: bool) -> None:
    y = canvas.height - 38
    ticks = "; a tick is what is wanted" if results.get("targets") else ""
    for words in (
        f"Operators: longer is better; dashes are as fast as the fastest PyTorch form{ticks}." * operators,
        "Networks: time over that of the network in the title (dashes), median of pairs; shorter is better." * networks,
    ):
        if words:
            canvas.text(MARGIN, y, words, 12, GREY)
            y += 18


# --- roofline -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axes:
    """Logarithmic axes in a box of the page."""

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = (math.log10(v) for v in self.x_range)
        return self.left + self.width * (math.log10(value) - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = (math.log10(v) for v in self.y_range)
        return self.top + self.height * (1 - (math.log10(value) - low) / (high - low))


def _roofline(
    canvas: Canvas, rows: Sequence[Row], ceilings: Row, left: float, top: float, width: float, height: float
) -> None:
    peak = ceilings["gflops"]
    speeds = [row["gflops"] for row in rows]
    intensities = [row["flop"] / row[key] for row in rows for key in ("tensor_bytes", "corner_bytes")]
    x_range = (
        _below(min(intensities) / 1.5),
        _above(max(peak / ceilings["memory_gbytes_per_s"], max(intensities)) * 2),
    )
    y_range = (_below(min(speeds) / 1.5), peak * 2.2)
    axes = _Axes(left + 44, top + 34, width - 44, height - 92, x_range, y_range)
    canvas.text(left, top, "Roofline", 17)
    canvas.text(left + 82, top + 1, "GFLOP/s over flop per byte moved", 13, GREY)
    _grid(canvas, axes)
    for key, words, share in (("memory_gbytes_per_s", "copy", 0.93), ("l2_gbytes_per_s", "copy within L2", 0.93)):
        _slope(canvas, axes, ceilings[key], peak, f"{words}, {number(ceilings[key])} GB/s", share)
    canvas.text(axes.left + axes.width, axes.y(peak) - 12, f"matrix product, {peak:.0f} GFLOP/s", 12, GREY, "end")
    _cluster_names(canvas, rows, axes)
    for row in rows:
        hollow, color = row["direction"] == BOTH, COLORS[row["operator"]]
        place = row["flop"] / row["corner_bytes"], row["flop"] / row["tensor_bytes"]
        canvas.dot(axes.x(place[0]), axes.y(row["gflops"]), 3.2, color, hollow)
        canvas.dot(axes.x(place[1]), axes.y(row["gflops"]), 5, color, hollow)
    _legend(canvas, rows, left + 44, top + height - 4)


def _below(value: float) -> float:
    return 10 ** (math.floor(math.log10(value) * 4) / 4)


def _above(value: float) -> float:
    return 10 ** (math.ceil(math.log10(value) * 4) / 4)


def _grid(canvas: Canvas, axes: _Axes) -> None:
    bottom, right = axes.top + axes.height, axes.left + axes.width
    for value in _ticks(*axes.y_range):
        canvas.line([(axes.left, axes.y(value)), (right, axes.y(value))], RULE)
        canvas.text(axes.left - 8, axes.y(value), f"{value:g}", 12, GREY, "end")
    for value in _ticks(*axes.x_range):
        canvas.line([(axes.x(value), axes.top), (axes.x(value), bottom)], RULE)
        canvas.text(axes.x(value), bottom + 14, f"{value:g}", 12, GREY, "middle")


def _ticks(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 of every power of ten in the range."""
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (step * 10.0**power for step in (1, 2, 5) if low <= step * 10.0**power <= high)


def _slope(canvas: Canvas, axes: _Axes, gbytes: float, peak: float, words: str, share: float) -> None:
    """The roof that a copy speed puts on everything left of where it meets the peak; its words stand at ``share``."""
    meets = peak / gbytes
    start = max(axes.x_range[0], axes.y_range[0] / gbytes)
    points = [(axes.x(start), axes.y(start * gbytes)), (axes.x(meets), axes.y(peak))]
    canvas.line([*points, (axes.left + axes.width, axes.y(peak))], GREY, 1.6)
    place = start ** (1 - share) * meets**share
    x, y = axes.x(place), axes.y(place * gbytes)
    if x - 7 * len(words) > axes.left:
        canvas.text(x - 8, y - 9, words, 12, GREY, "end")
    else:
        canvas.text(x + 8, y + 12, words, 12, GREY)


def _cluster_names(canvas: Canvas, rows: Sequence[Row], axes: _Axes) -> None:
    """Every measurement stands twice: counted by what its corners move, and by what its tensors do."""
    lowest = max(axes.y(row["gflops"]) for row in rows) + 22
    for key, words in (("corner_bytes", "all corners, from caches"), ("tensor_bytes", "tensors once, from memory")):
        places = sorted(axes.x(row["flop"] / row[key]) for row in rows)
        x, y = places[len(places) // 2], min(lowest, axes.top + axes.height - 10)
        canvas.rectangle(x - 3.2 * len(words), y - 8, 6.4 * len(words), 16, PAPER)  # lines end at the words
        canvas.text(x, y, words, 12, INK, "middle")


def _legend(canvas: Canvas, rows: Sequence[Row], x: float, y: float) -> None:
    for name in dict.fromkeys(row["operator"] for row in rows):
        canvas.dot(x + 5, y, 5, COLORS[name])
        canvas.text(x + 16, y, name, 13)
        x += 34 + 8 * len(name)
    for hollow, words in ((False, FORWARD), (True, BOTH)):
        canvas.dot(x + 5, y, 5, GREY, hollow)
        canvas.text(x + 16, y, words, 13, GREY)
        x += 34 + 8 * len(words)


# --- bars ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bar:
    """One bar: the words left and right of it, how long it is, and a tick where something is wanted."""

    label: str
    value: float
    words: str
    color: Color
    wanted: float | None = None


@dataclass(frozen=True)
class _Group:
    """Bars under a title, on one scale; a rule stands at ``unit`` if there is one."""

    title: str
    note: str
    bars: tuple[_Bar, ...]
    unit: float | None = None


def _height(groups: Sequence[_Group]) -> int:
    return sum(GROUP + ROW * len(group.bars) for group in groups)


def _bars(canvas: Canvas, groups: Sequence[_Group], left: float, top: float, right: float) -> None:
    labels, numbers = 190, 120
    for group in groups:
        canvas.text(left, top, group.title, 17)
        canvas.text(left + 9.0 * len(group.title) + 10, top + 1, group.note, 13, GREY)
        longest = max(max(bar.value, bar.wanted or 0) for bar in group.bars)
        scale = (right - left - labels - numbers) / longest
        start = left + labels
        y = top + 24
        if group.unit:
            line = start + group.unit * scale
            canvas.line([(line, y - 10), (line, y + ROW * len(group.bars) - 6)], GREY, 1, 3)
        for bar in group.bars:
            canvas.text(start - 10, y, bar.label, 12, INK, "end")
            canvas.rectangle(start, y - 5.5, max(bar.value * scale, 1.5), 11, bar.color, 2.5)
            end = start + bar.value * scale
            if bar.wanted:
                tick = start + bar.wanted * scale
                canvas.line([(tick, y - 7.5), (tick, y + 7.5)], WANTED_COLOR, 2)
                end = max(end, tick)
            canvas.text(end + 8, y, bar.words, 12, INK)
            y += ROW
        top += GROUP + ROW * len(group.bars)


def _speedups(rows: Sequence[Row], results: Row) -> Iterator[_Group]:
    """How many times faster than the fastest plain form, for each operator."""
    key = op_tables.figure(results)
    wanted = {target["what"]: target["wanted"] for target in results.get("targets", [])}
    for operator in dict.fromkeys(row["operator"] for row in rows):
        bars = []
        for row in rows:
            lead = targets.over_plain(row, key)
            if row["operator"] != operator or lead is None:
                continue
            forward = row["direction"] == FORWARD
            name = f"{operator} {row['shape']} {row['direction']}: fastest PyTorch form over ours"
            bars.append(
                _Bar(
                    _short(row["shape"], operator) if forward else "and backward",
                    lead,
                    f"{lead:.1f}x   {number(row['forms'][OURS][key])} ms",
                    (COLORS if forward else SOFT)[operator],
                    wanted.get(name),
                )
            )
        if bars:
            yield _Group(operator, "times faster than the fastest PyTorch form", tuple(bars), 1.0)


def _short(shape: str, operator: str) -> str:
    """A shape in few words."""
    parsed = parse_attention(shape) if operator == "ms_deform_attn" else None
    return shape if parsed is None else f"{parsed.looks} queries"


def _network_groups(runs: Sequence[Row]) -> Iterator[_Group]:
    for run in runs:
        against = "over_baseline" if run["baseline"] else "over_own"
        bars = [
            _Bar(
                _network_label(row),
                row[against] or 1.0,
                f"{row[against] or 1.0:.2f}   {number(row['median_ms'])} ms",
                _network_color(row),
            )
            for row in run["rows"]
        ]
        size = f"{run['size'][0]}x{run['size'][1]}"
        title = f"{run['task']} {size}, batch {run['batch']}"
        over = f"over {(run['baseline'] or 'ours').replace('_patch4_window7_224', '')}"
        yield _Group(title, f"{run['precision']}, {over}", tuple(bars), 1.0)


def _network_label(row: Row) -> str:
    """A variant stands under its network."""
    return row["variant"] or row["model"].replace("_patch4_window7_224", "")


def _network_color(row: Row) -> Color:
    if row["variant"] in (FREE, ON_GRID_SAMPLE):
        return SOFT["dcnv4" if row["model"].startswith("flash") else "dcnv3"]
    if "internimage" not in row["model"]:
        return (176, 182, 190)
    return COLORS["dcnv4" if row["model"].startswith("flash") else "dcnv3"]


def _columns(groups: Sequence[_Group]) -> tuple[list[_Group], list[_Group]]:
    """In two columns, in turns."""
    return list(groups[::2]), list(groups[1::2])
