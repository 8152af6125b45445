"""The drawing of ``internimage explain``: sampling points on the picture, beside the grid of a plain convolution."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .draw import ACCENT, GREY, INK, PAPER, RULE, fit, font
from .explain import SamplingPoints

Color = tuple[int, int, int]
PANEL, GAP, MARGIN, TOP, FOOT = 480, 28, 24, 80, 100  # pixels of the drawing
AROUND = 0.08  # of the picture's size that is shown around it, since samples may lie outside
WIDEST = 2.0  # the side of what is shown, at most, over the picture's, where samples lie farther outside
ZOOM_BELOW = 0.6  # a region smaller than this part of the whole is shown larger, with an overview in the corner
LARGEST_RADIUS = 22.0  # pixels, of a point of weight 1; the area of a dot goes with its weight
CROWD = 72  # points; more are drawn smaller
OVERVIEW = 112


def draw_sampling(picture: Image.Image, sampling: SamplingPoints, title: str = "") -> Image.Image:
    """The picture twice: with the points a deformable layer samples, and with the grid of a plain convolution.

    Args:
        picture: what the model sees, as :meth:`Preprocessing.frame` gives it.
        title: the first words of the headline, such as the model's name.
    """
    groups, taps = sampling.weights.shape
    colors = group_colors(groups)
    region = _region(picture.size, sampling)
    deformable, plain = _Panel(picture, region), _Panel(picture, region)
    plain.dots(sampling.grid, torch.full((taps,), 1 / taps), [ACCENT] * taps, groups * taps)
    color_of_point = [color for color in colors for _ in range(taps)]
    deformable.dots(sampling.points.flatten(0, 1), sampling.weights.flatten(), color_of_point, groups * taps)
    canvas = Image.new("RGB", (2 * MARGIN + 2 * PANEL + GAP, TOP + PANEL + FOOT), PAPER)
    for panel, left in ((deformable, MARGIN), (plain, MARGIN + PANEL + GAP)):
        panel.cross(*sampling.center)
        panel.overview()
        canvas.paste(panel.canvas, (left, TOP))
    _write(canvas, sampling, picture.size, title)
    _draw_legend(canvas, colors, taps, below_zero=bool((sampling.weights < 0).any()))
    return canvas


def group_colors(groups: int) -> list[Color]:
    """One clear colour a group, neighbours apart from each other."""
    colors: list[Color] = []
    for index in range(groups):
        hue = (0.02 + index * 0.618034) % 1.0  # golden ratio: any number of hues is well spread
        light = 0.44 if 0.12 < hue < 0.52 else 0.56  # yellow and green look lighter than they are
        red, green, blue = colorsys.hls_to_rgb(hue, light, 0.85)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def _region(size: tuple[int, int], sampling: SamplingPoints) -> tuple[float, float, float]:
    """Left, top and side, in pixels of the picture, of the square to show: all of it, or the part with the points."""
    side = max(size) * (1 + 2 * AROUND)
    points = torch.cat((sampling.points.flatten(0, 1), sampling.grid))
    points = points[points.isfinite().all(-1)]
    low, high = points.min(0).values, points.max(0).values
    closer = 1.6 * float((high - low).max()) + 1
    if closer >= ZOOM_BELOW * side:
        reach = float((points + 0.5 - torch.tensor(size) / 2).abs().max())  # of the points, from the middle
        room = 1 - 2 * (radius_of(1.0, 1) + 2) / PANEL  # for the largest dot and its rim at the edge
        side = max(side, min(2 * reach / room, WIDEST * max(size)))
        return (size[0] - side) / 2, (size[1] - side) / 2, side
    left, top = (((low + high - closer) / 2) + 0.5).tolist()
    return left, top, closer


class _Panel:
    """A square part of the picture, a little faded, that points are drawn on."""

    def __init__(self, picture: Image.Image, region: tuple[float, float, float]) -> None:
        self.picture, self.region = picture.convert("RGB"), region
        self.taken: list[tuple[float, float]] = []
        left, top, side = region
        self.scale = PANEL / side
        resample = Image.Resampling.NEAREST if self.scale > 8 else Image.Resampling.BICUBIC
        view = (1 / self.scale, 0, left, 0, 1 / self.scale, top)
        shown = self.picture.transform((PANEL, PANEL), Image.Transform.AFFINE, view, resample, fillcolor=RULE)
        inside = Image.new("L", picture.size, 64).transform((PANEL, PANEL), Image.Transform.AFFINE, view)
        self.canvas = Image.composite(Image.new("RGB", shown.size, PAPER), shown, inside)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A pixel of the picture on the panel."""
        return (x + 0.5 - self.region[0]) * self.scale, (y + 0.5 - self.region[1]) * self.scale

    def dots(self, points: Tensor, weights: Tensor, colors: Sequence[Color], crowd: int) -> None:
        """One dot a point, the heavy ones first so that none hides a lighter one; light points are see-through.

        ``crowd`` points are drawn on the picture beside it: both use the size of dots that suits the larger number.
        """
        for index in weights.abs().argsort(descending=True).tolist():
            x, y = self.place(*points[index].tolist())
            weight = float(weights[index])
            if -PANEL < x < 2 * PANEL and -PANEL < y < 2 * PANEL:  # false for NaN
                mark(self.canvas, x, y, weight, crowd, colors[index])
                self.taken.append((x, y))

    def cross(self, x: float, y: float) -> None:
        """Marks the output pixel."""
        at_x, at_y = (int(v) for v in self.place(x, y))
        draw = ImageDraw.Draw(self.canvas)
        for color, thickness, reach in ((PAPER, 5, 11), (INK, 2, 10)):
            draw.line((at_x - reach, at_y, at_x + reach, at_y), color, thickness)
            draw.line((at_x, at_y - reach, at_x, at_y + reach), color, thickness)

    def overview(self) -> None:
        """The whole picture in the corner with the region marked, where only a part is shown."""
        left, top, side = self.region
        longer = max(self.picture.size)
        if side >= longer:
            return
        factor = OVERVIEW / longer
        size = (max(1, round(self.picture.width * factor)), max(1, round(self.picture.height * factor)))
        small = Image.new("RGB", (size[0] + 6, size[1] + 6), PAPER)
        small.paste(self.picture.resize(size, Image.Resampling.LANCZOS), (3, 3))
        box = [round(3 + v * factor) for v in (left, top, left + side, top + side)]
        draw = ImageDraw.Draw(small)
        draw.rectangle(box, outline=PAPER, width=3)
        draw.rectangle((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), outline=INK)
        right, bottom = PANEL - small.width - 8, PANEL - small.height - 8
        corners = [(right, bottom), (8, bottom), (right, 8), (8, 8)]
        self.canvas.paste(small, min(corners, key=lambda corner: self._points_under(corner, small.size)))

    def _points_under(self, corner: tuple[int, int], size: tuple[int, int]) -> int:
        reach = 12
        return sum(
            corner[0] - reach < x < corner[0] + size[0] + reach and corner[1] - reach < y < corner[1] + size[1] + reach
            for x, y in self.taken
        )


def radius_of(weight: float, points: int) -> float:
    """Radius in pixels of the dot of a mask weight, by its size up to 1, among so many points."""
    return 2.0 + LARGEST_RADIUS * min(1.0, (CROWD / points) ** 0.5) * min(1.0, abs(weight)) ** 0.5


def mark(canvas: Image.Image, x: float, y: float, weight: float, points: int, color: Color) -> None:
    """The dot of a weight among so many points: a ring where it is below zero, as only DCNv4 has them."""
    radius = radius_of(weight, points)
    disc(canvas, x, y, radius, color, min(1.0, 0.45 + 1.5 * abs(weight)))
    if weight < 0:
        disc(canvas, x, y, max(0.5, radius - 3.2), PAPER)


def disc(canvas: Image.Image, x: float, y: float, radius: float, color: Color, opacity: float = 1.0) -> None:
    """A round dot with a white rim and smooth edges, at a place between pixels."""
    fine = 4  # drawn larger, then reduced
    left, top, side = int(x - radius) - 3, int(y - radius) - 3, int(2 * radius) + 7
    mask = Image.new("L", (side * fine, side * fine), 0)
    for grown, layer in ((1.2, PAPER), (0.0, color)):
        reach = radius + grown
        box = [fine * v for v in (x - left - reach, y - top - reach, x - left + reach, y - top + reach)]
        mask.paste(0, (0, 0, *mask.size))
        ImageDraw.Draw(mask).ellipse(box, fill=round(255 * opacity))
        canvas.paste(layer, (left, top), mask.resize((side, side), Image.Resampling.BOX))


def _write(canvas: Image.Image, sampling: SamplingPoints, size: tuple[int, int], title: str) -> None:
    """Headline, the names of the two panels, and the caption."""
    draw, width = ImageDraw.Draw(canvas), canvas.width - 2 * MARGIN
    groups, taps = sampling.weights.shape
    head = f"{title + ': ' if title else ''}where block {sampling.block} of stage {sampling.stage} looks"
    words, letters = fit(draw, head, width, 24)
    draw.text((MARGIN, 14), words, INK, letters)
    draw.text((MARGIN, 52), f"{sampling.operator}: {groups} group{'s' * (groups > 1)} of {taps} points", INK, font(16))
    draw.text((MARGIN + PANEL + GAP, 52), "a plain convolution at the same place", INK, font(16))
    for line, text in enumerate(_caption(sampling, size)):
        words, letters = fit(draw, text, width, 14)
        draw.text((MARGIN, TOP + PANEL + 46 + 22 * line), words, GREY, letters)


def _caption(sampling: SamplingPoints, size: tuple[int, int]) -> tuple[str, str]:
    width, height = size
    x, y = sampling.points[..., 0], sampling.points[..., 1]
    outside = int((~((x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1))).sum())
    reach = (sampling.points - torch.tensor(sampling.center)).norm(dim=-1)
    share = sampling.weights.abs()
    mean = float((reach * share).sum() / share.sum().clamp_min(1e-12))
    column, row = sampling.output_pixel
    return (
        f"The cross marks output pixel (column {column}, row {row}) of stride {sampling.stride}: "
        f"({sampling.center[0]:g}, {sampling.center[1]:g}) in the {width} x {height} picture that the model sees.",
        f"Distance of the points from it: {mean:.1f} pixels on weighted average, at most {float(reach.max()):.1f}. "
        f"{outside} of {x.numel()} points lie outside the picture.",
    )


def _draw_legend(canvas: Image.Image, colors: Sequence[Color], taps: int, below_zero: bool = False) -> None:
    """A chip a group on the left, what the sizes mean on the right."""
    draw, y = ImageDraw.Draw(canvas), TOP + PANEL + 24
    step = min(20, (PANEL - 140) // len(colors))
    x = float(MARGIN + 7)
    for index, color in enumerate(colors):
        disc(canvas, x, y, min(6.0, step / 2), color)
        if len(colors) <= 6:
            draw.text((x + 12, y), f"group {index}", GREY, font(14), anchor="lm")
            x += 82
        else:
            x += step
    if len(colors) > 6:
        draw.text((x + 4, y), f"one colour a group, 0 to {len(colors) - 1}", GREY, font(14), anchor="lm")
    x = float(canvas.width - MARGIN)
    for weight in (0.5, 0.2, *([-0.2] if below_zero else [0.05])):
        radius = radius_of(weight, len(colors) * taps)
        draw.text((x, y), f"{weight:g}", GREY, font(14), anchor="rm")
        x -= draw.textlength(f"{weight:g}", font(14)) + 6 + radius
        mark(canvas, x, y, weight, len(colors) * taps, GREY)
        x -= radius + 14
    draw.text((x, y), "mask weight", GREY, font(14), anchor="rm")
