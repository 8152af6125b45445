"""Draws operators.png: where DCNv3, DCNv4 and multi-scale deformable attention sample, side by side.

Positions come from the package, so that the drawing cannot differ from the code; offsets and weights are made up.
Run it in the repository: python docs/pictures/draw_operators.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from internimage.draw import GREY, INK, PAPER, RULE, font, save_picture
from internimage.draw_sampling import disc, group_colors
from internimage.layers import MSDeformAttn
from internimage.ops.dcnv3.reference import sampling_locations
from internimage.ops.geometry import Geometry

PICTURE = Path(__file__).parents[2] / "internimage" / "assets" / "demo" / "ankle-boot-0028.png"
PANEL, GAP, MARGIN, TOP, BARS, FOOT = 380, 36, 28, 84, 132, 76  # pixels of the drawing
SHOWN = 11  # pixels of the map on a side, of which the panels of DCNv3 and DCNv4 show the part around an output pixel
FINE, COARSE = 250, 118  # sides of the levels in the panel of attention
AT = (13, 15)  # column and row of the output pixel
GROUPS, TAPS = 2, 9
LEVELS, POINTS = 3, 3
COLORS = group_colors(3)[:2]


def draw() -> Image.Image:
    """The three panels, with bars for the weights under each."""
    width = 2 * MARGIN + 3 * PANEL + 2 * GAP
    canvas = Image.new("RGB", (width, TOP + PANEL + BARS + FOOT), PAPER)
    picture = Image.open(PICTURE).convert("L")
    left, middle, right = (MARGIN + index * (PANEL + GAP) for index in range(3))
    random = torch.Generator().manual_seed(6)
    offset = 1.1 * torch.randn(GROUPS, TAPS, 2, generator=random)
    logits = torch.randn(GROUPS, TAPS, generator=random)
    shares, raw = logits.softmax(-1), 0.22 * torch.randn(GROUPS, TAPS, generator=random) + 0.05
    _title(canvas, left, "DCNv3", "taps of a kernel, moved; weights of a group", "add up to one")
    _convolution(canvas, left, picture, offset, shares)
    _title(canvas, middle, "DCNv4", "the same places; weights as they come, of", "either sign and any sum")
    _convolution(canvas, middle, picture, offset, raw)
    _title(
        canvas,
        right,
        "multi-scale deformable attention",
        "points around a reference, on all levels;",
        "weights of a head add up to one",
    )
    _attention(canvas, right, picture, random)
    _legend(canvas)
    return canvas


class _Map:
    """A map, or a part of it, on the canvas; positions are in its pixels."""

    def __init__(
        self, canvas: Image.Image, corner: tuple[int, int], side: int, picture: Image.Image, part=None
    ) -> None:
        first_x, first_y, pixels = part or (0, 0, picture.width)
        self.canvas, self.corner, self.scale, self.first = canvas, corner, side / pixels, (first_x, first_y)
        box = (first_x, first_y, first_x + pixels, first_y + pixels)
        shown = picture.crop(box).resize((side, side), Image.Resampling.NEAREST).convert("RGB")
        canvas.paste(Image.blend(shown, Image.new("RGB", shown.size, PAPER), 0.35), corner)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The middle of pixel (0, 0) is at (0, 0)."""
        (left, top), (first_x, first_y) = self.corner, self.first
        return left + (x + 0.5 - first_x) * self.scale, top + (y + 0.5 - first_y) * self.scale

    def cross(self, x: float, y: float, reach: int = 10) -> None:
        at_x, at_y = map(round, self.place(x, y))
        pen = ImageDraw.Draw(self.canvas)
        for color, thickness, length in ((PAPER, 5, reach + 1), (INK, 2, reach)):
            pen.line((at_x - length, at_y, at_x + length, at_y), color, thickness)
            pen.line((at_x, at_y - length, at_x, at_y + length), color, thickness)

    def sample(self, x: float, y: float, weight: float, color) -> None:
        mark(self.canvas, *self.place(x, y), weight, color)


def mark(canvas: Image.Image, x: float, y: float, weight: float, color) -> None:
    """A dot whose area goes with the weight; a ring, with a minus in it, where the weight is below zero."""
    radius = radius_of(weight)
    disc(canvas, x, y, radius, color, 0.92)
    if weight < 0:
        disc(canvas, x, y, max(1.5, radius - 3.5), PAPER)
        reach = max(2.0, radius / 2 - 1)
        ImageDraw.Draw(canvas).line((x - reach, y, x + reach, y), color, 2)


def radius_of(weight: float) -> float:
    return 2.5 + 18.0 * abs(weight) ** 0.5


def _convolution(canvas: Image.Image, left: int, picture: Image.Image, offset: Tensor, weights: Tensor) -> None:
    """A panel of DCNv3 or DCNv4: taps as squares, lines along the offsets, samples as dots."""
    geometry = Geometry(groups=GROUPS)
    size = (1, picture.height, picture.width, GROUPS * TAPS * 2)
    x, y = sampling_locations(offset.flatten().expand(size), geometry)
    tap_x, tap_y = sampling_locations(torch.zeros(size), geometry)
    here = (0, AT[1], AT[0])
    part = (AT[0] - SHOWN // 2, AT[1] - SHOWN // 2, SHOWN)
    panel = _Map(canvas, (left, TOP), PANEL, picture, part)
    pen = ImageDraw.Draw(canvas)
    for group, color in enumerate(COLORS):
        for tap in range(TAPS):
            start = panel.place(float(tap_x[here][group, tap]), float(tap_y[here][group, tap]))
            end = panel.place(float(x[here][group, tap]), float(y[here][group, tap]))
            pen.line((*start, *end), color, 2)
    for tap in range(TAPS):
        at_x, at_y = panel.place(float(tap_x[here][0, tap]), float(tap_y[here][0, tap]))
        pen.rectangle((at_x - 4, at_y - 4, at_x + 4, at_y + 4), PAPER, INK)
    for group, tap in sorted(
        torch.cartesian_prod(torch.arange(GROUPS), torch.arange(TAPS)).tolist(),
        key=lambda at: -abs(float(weights[tuple(at)])),
    ):
        panel.sample(float(x[here][group, tap]), float(y[here][group, tap]), float(weights[group, tap]), COLORS[group])
    panel.cross(*AT)
    _bars(canvas, left, weights, "group", [f"sum {float(group.sum()):.2f}" for group in weights])


def _attention(canvas: Image.Image, left: int, picture: Image.Image, random: torch.Generator) -> None:
    """The panel of attention: the levels of a pyramid, a reference on each, and the points of two heads."""
    reference = torch.tensor([(AT[0] + 0.5) / picture.width, (AT[1] + 0.5) / picture.height])
    sides = [picture.width // 2**level for level in range(LEVELS)]
    layer = MSDeformAttn(channels=16, levels=LEVELS, heads=8, points=POINTS)
    heads = [0, 5]  # that look to the right, and to the upper left
    start = layer.sampling_offsets.bias.detach().view(8, LEVELS, POINTS, 2)[heads]
    offsets = start + 0.35 * torch.randn(start.shape, generator=random)
    weights = torch.randn(2, LEVELS * POINTS, generator=random).softmax(-1)
    corners = ((left, TOP), (left + PANEL - COARSE, TOP), (left + PANEL - COARSE, TOP + COARSE + 28))
    pen = ImageDraw.Draw(canvas)
    for level, (side, corner) in enumerate(zip(sides, corners, strict=True)):
        shown = FINE if level == 0 else COARSE
        panel = _Map(canvas, corner, shown, picture.resize((side, side), Image.Resampling.BOX))
        pen.text((corner[0], corner[1] + shown + 4), f"level {level}: {side} x {side}", GREY, font(14))
        middle = reference * side - 0.5
        for head, color in enumerate(COLORS):
            locations = reference + offsets[head, level] / side
            for point, (x, y) in enumerate((locations * side - 0.5).tolist()):
                panel.sample(x, y, float(weights[head, level * POINTS + point]), color)
        panel.cross(*middle.tolist(), reach=7)
    text = (
        "One reference point for a query, as a share",
        "of the picture, is a place on every level.",
        f"Each of the heads has {POINTS} points a level.",
    )
    for line, words in enumerate(text):
        pen.text((left, TOP + FINE + 34 + 22 * line), words, INK, font(14))
    _bars(canvas, left, weights, "head", [f"sum {float(head.sum()):.2f}" for head in weights])


def _bars(canvas: Image.Image, left: int, weights: Tensor, word: str, notes: list[str]) -> None:
    """The weights of each group or head as bars around zero."""
    pen, half = ImageDraw.Draw(canvas), (PANEL - 20) // 2
    zero, high = TOP + PANEL + 72, 92.0
    for index, row in enumerate(weights.tolist()):
        start = left + index * (half + 20)
        step = half / len(row)
        for place, weight in enumerate(row):
            x = start + place * step
            top, bottom = sorted((zero - weight * high, zero))
            pen.rectangle((x + 2, top, x + step - 2, bottom), COLORS[index] if weight > 0 else PAPER, COLORS[index], 2)
        pen.line((start, zero, start + half, zero), GREY)
        pen.text((start, TOP + PANEL + BARS - 6), f"{word} {index}: {notes[index]}", GREY, font(14), anchor="lm")


def _title(canvas: Image.Image, left: int, name: str, *lines: str) -> None:
    pen = ImageDraw.Draw(canvas)
    pen.text((left, 10), name, INK, font(22))
    for index, line in enumerate(lines):
        pen.text((left, 40 + 18 * index), line, GREY, font(14))


def _legend(canvas: Image.Image) -> None:
    """What the marks mean, in one line at the foot."""
    pen, y = ImageDraw.Draw(canvas), TOP + PANEL + BARS + FOOT - 30
    pen.line((MARGIN, y - 28, canvas.width - MARGIN, y - 28), RULE)
    x = float(MARGIN + 8)
    pen.line((x - 7, y, x + 7, y), INK, 2)
    pen.line((x, y - 7, x, y + 7), INK, 2)
    x = _words(pen, x + 14, y, "output pixel, or reference point")
    pen.rectangle((x - 4, y - 4, x + 4, y + 4), PAPER, INK)
    x = _words(pen, x + 10, y, "tap of the kernel, and the line its offset")
    for weight in (0.05, 0.2, 0.5, -0.2):
        radius = radius_of(weight)
        mark(canvas, x + radius, y, weight, GREY)
        x = _words(pen, x + 2 * radius + 6, y, f"{weight:g}", 14)
    pen.text((x, y), "weight of a sample", GREY, font(14), anchor="lm")


def _words(pen: ImageDraw.ImageDraw, x: float, y: float, words: str, gap: int = 28) -> float:
    """Writes ``words`` and gives the place for what comes next."""
    pen.text((x, y), words, GREY, font(14), anchor="lm")
    return x + pen.textlength(words, font(14)) + gap


if __name__ == "__main__":
    save_picture(draw(), Path(__file__).with_name("operators.png"))
