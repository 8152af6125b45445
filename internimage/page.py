"""Pages of HTML in one file: style and pictures inside, words escaped, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from ._version import __version__
from .canvas import Canvas
from .files import write_through

STYLE = Path(__file__).parent / "assets" / "page.css"
_MANY = 30  # rows of a table beyond which it scrolls
_REASONS = 100  # of pictures that could not be read, so many are printed


class Html(str):
    """Text that is HTML already; every other text is escaped on its way to a page."""


def escaped(words: object) -> Html:
    """Words as HTML that shows them; undecodable parts of file names are spelled out."""
    if isinstance(words, Html):
        return words
    return Html(html.escape(str(words).encode("utf-8", "backslashreplace").decode("utf-8")))


def section(title: str, *parts: Html) -> Html:
    """A heading and what follows it; nothing where nothing does."""
    inside = "\n".join(part for part in parts if part)
    return Html(f"<h2>{escaped(title)}</h2>\n{inside}" if inside else "")


def paragraph(words: object) -> Html:
    """A paragraph; nothing without words."""
    return Html(f"<p>{escaped(words)}</p>" if words else "")


def figures(pairs: Iterable[tuple[object, object]]) -> Html:
    """Large figures in boxes, each over what it is: ("93.5 %", "top-1")."""
    boxes = (f"<div><b>{escaped(value)}</b>{escaped(what)}</div>" for value, what in pairs)
    return Html(f'<div class="numbers">\n{chr(10).join(boxes)}\n</div>')


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> Html:
    """A table, which scrolls where it is long; nothing without rows. ``numbers`` are columns that stand right."""
    marks = [' class="number"' if column in numbers else "" for column in range(len(head))]
    lines = [
        f"<tr>{''.join(f'<{kind}{mark}>{escaped(cell)}</{kind}>' for cell, mark in zip(row, marks, strict=True))}</tr>"
        for kind, row in [("th", head), *(("td", row) for row in rows)]
    ]
    if len(lines) == 1:
        return Html("")
    whole = f"<table>\n{chr(10).join(lines)}\n</table>"
    return Html(f'<div class="scroll">{whole}</div>' if len(lines) > _MANY else whole)


def pairs_table(pairs: Mapping[str, object]) -> Html:
    """A table of what is called how."""
    return table(("", ""), pairs.items())


def unreadable(reasons: Sequence[str]) -> Html:
    """How many pictures could not be read, and why; nothing where all could."""
    if not reasons:
        return Html("")
    rest = f", the first {_REASONS} of them" if len(reasons) > _REASONS else ""
    words = f"{len(reasons):,} picture{'s' * (len(reasons) > 1)} could not be read and had no part in it{rest}:"
    return Html(paragraph(words) + table(("why",), [(reason,) for reason in reasons[:_REASONS]]))


def code(lines: Iterable[str]) -> Html:
    """Lines to type; nothing without lines."""
    words = "\n".join(lines)
    return Html(f"<pre>{escaped(words)}</pre>" if words else "")


def bar(percent: float) -> Html:
    """A bar as long as a number from 0 to 100."""
    return Html(f'<div class="bar"><i style="width:{min(max(percent, 0.0), 100.0):.1f}%"></i></div>')


def drawing(canvas: Canvas) -> Html:
    """A drawing, sharp at every size."""
    return Html(f'<div class="drawing">{canvas.svg()}</div>')


def picture(image: Image.Image, words: str, kind: str = "PNG") -> Html:
    """A picture, and the words for those who cannot see it."""
    return Html(f'<img src="{as_address(image, kind)}" alt="{escaped(words)}">')


def as_address(image: Image.Image, kind: str = "PNG") -> str:
    """A picture as a data: address, "PNG" or "JPEG"."""
    packed = io.BytesIO()
    image.save(packed, format=kind, optimize=True)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(packed.getvalue()).decode("ascii")


def write_page(path: str | Path, title: str, *parts: Html) -> Path:
    """Write a page of a title and parts; the file appears whole or not at all. Returns ``path``."""
    body = "\n".join(part for part in parts if part)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>{escaped(title)}</h1>
{body}
<p class="grey">Written by InternImage-torch {__version__}.</p>
</main>
</body>
</html>
"""
    with write_through(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)
