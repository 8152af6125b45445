"""A drawing of rectangles, lines, dots and words that becomes an SVG or, through Pillow, a PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw

from .draw import INK, PAPER, lettering
from .files import write_through

Color = tuple[int, int, int]
Point = tuple[float, float]
FORMATS = (".svg", ".png")
_FAMILY = "Helvetica, Arial, 'Liberation Sans', sans-serif"
_ANCHORS = {"start": "l", "middle": "m", "end": "r"}
_OUT, _FINE = 2, 2  # pixels of the PNG for each unit; how much finer it is drawn before it is reduced


def picture_format(path: Path, option: str = "") -> str:
    """The suffix of a picture to write.

    Raises:
        ValueError: it is none that is written; the message names the ``option`` that asks for it.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{f'{option} {path}'.strip()} ends in {path.suffix!r}, expected {' or '.join(FORMATS)}")
    return path.suffix.lower()


@dataclass(frozen=True)
class _Mark:
    """One thing that was drawn, in both ways of drawing it."""

    svg: str
    paint: Callable[[ImageDraw.ImageDraw, float], None]


class Canvas:
    """A white page of ``width`` x ``height`` units; x runs right, y down."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.marks: list[_Mark] = []

    def rectangle(self, x: float, y: float, width: float, height: float, color: Color, radius: float = 0) -> None:
        """Filled, its corners rounded by ``radius``."""
        radius = max(0.0, min(radius, width / 2, height / 2))
        self._add(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:.1f}" '
            f'fill="{_hex(color)}"/>',
            lambda draw, s: draw.rounded_rectangle(
                (x * s, y * s, (x + width) * s, (y + height) * s), radius * s, color
            ),
        )

    def line(self, points: Sequence[Point], color: Color, width: float = 1.0, dash: float = 0) -> None:
        """Through the points; ``dash`` is the length of dashes and gaps, of a line of two points."""
        where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash:g}"' if dash else ""
        pieces = _dashes(points[0], points[-1], dash) if dash else [tuple(points)]

        def paint(draw: ImageDraw.ImageDraw, s: float) -> None:
            for piece in pieces:
                draw.line([(x * s, y * s) for x, y in piece], color, max(1, round(width * s)), joint="curve")

        self._add(
            f'<polyline points="{where}" fill="none" stroke="{_hex(color)}" stroke-width="{width:g}"{dashes}/>', paint
        )

    def dot(self, x: float, y: float, radius: float, color: Color, hollow: bool = False) -> None:
        """A disc with a white rim, or a ring."""
        fill, edge = (PAPER, color) if hollow else (color, PAPER)
        rim = 1.8 if hollow else 1.0

        def paint(draw: ImageDraw.ImageDraw, s: float) -> None:
            reach = radius + rim / 2
            box = ((x - reach) * s, (y - reach) * s, (x + reach) * s, (y + reach) * s)
            draw.ellipse(box, fill, edge, max(1, round(rim * s)))

        self._add(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_hex(fill)}" stroke="{_hex(edge)}" '
            f'stroke-width="{rim:g}"/>',
            paint,
        )

    def text(self, x: float, y: float, words: str, size: int = 13, color: Color = INK, anchor: str = "start") -> None:
        """One line of words, its middle at height ``y``; ``anchor`` is "start", "middle" or "end"."""

        def paint(draw: ImageDraw.ImageDraw, s: float) -> None:
            letters, chosen = lettering(words, round(size * s))
            draw.text((x * s, y * s), letters, color, chosen, anchor=_ANCHORS[anchor] + "m")

        self._add(
            f'<text x="{x:.1f}" y="{y + size * 0.35:.1f}" font-size="{size}" fill="{_hex(color)}" '
            f'text-anchor="{anchor}">{escape(words)}</text>',
            paint,
        )

    def _add(self, svg: str, paint: Callable[[ImageDraw.ImageDraw, float], None]) -> None:
        self.marks.append(_Mark(svg, paint))

    def svg(self) -> str:
        """As a document."""
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        page = f'<rect width="{self.width}" height="{self.height}" fill="{_hex(PAPER)}"/>'
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FAMILY}">', page]
        return "\n".join([*lines, *(mark.svg for mark in self.marks), "</svg>"]) + "\n"

    def picture(self) -> Image.Image:
        """As pixels, two a unit."""
        scale = _OUT * _FINE
        fine = Image.new("RGB", (self.width * scale, self.height * scale), PAPER)
        draw = ImageDraw.Draw(fine)
        for mark in self.marks:
            mark.paint(draw, scale)
        return fine.reduce(_FINE)

    def save(self, path: Path) -> None:
        """Write it in the format of the suffix; the file appears whole or not at all."""
        kind = picture_format(path)
        with write_through(path) as temporary:
            if kind == ".svg":
                temporary.write_text(self.svg(), encoding="utf-8")
            else:
                self.picture().save(temporary, format="PNG")


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _dashes(start: Point, end: Point, dash: float) -> list[tuple[Point, Point]]:
    """The drawn pieces of a dashed line."""
    (x0, y0), (x1, y1) = start, end
    length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-9)

    def at(way: float) -> Point:
        share = min(way / length, 1.0)
        return x0 + (x1 - x0) * share, y0 + (y1 - y0) * share

    return [(at(2 * dash * i), at(2 * dash * i + dash)) for i in range(int(length / (2 * dash)) + 1)]
