"""Which classes are taken for which: a picture of the whole matrix, and the list of what is confused most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..draw import ACCENT, GREY, INK, PAPER, fit, font, save_picture

Triple = tuple[int, int, int]
"""True class, answer (both as numbers of classes) and how many pictures; right answers included."""

SIDE, LARGEST_CELL = 900, 56  # pixels: of the matrix, about; of a cell, at most
MOST_CLASSES, SHOWN_OF_MORE = 1000, 80  # classes that fit; of more, so many that take part in most mistakes
NAMED_FROM, COUNTED_FROM = 11, 34  # pixels of a cell from which classes are named, and percentages written
SMALL_CELL = 5  # pixels of a cell up to which colors are stronger
MARGIN, HEAD, LONGEST_NAME = 20, 64, 220
WRONG = (194, 65, 12)


@dataclass(frozen=True, kw_only=True)
class Confused:
    """Pictures of one class that are taken for another; ``percent`` is their part of all pictures of ``truth``."""

    truth: str
    answer: str
    pictures: int
    percent: float


def most_confused(names: Sequence[str], triples: Iterable[Triple], limit: int = 20) -> list[Confused]:
    """The pairs with the most pictures, most first; of as many, the one with the larger part of its class.

    Args:
        names: of all classes.
        triples: see :data:`Triple`; classes and pairs that did not occur may be missing.
    """
    triples = list(triples)
    totals: Counter[int] = Counter()
    for truth, _, pictures in triples:
        totals[truth] += pictures
    pairs = [
        Confused(truth=names[truth], answer=names[answer], pictures=count, percent=100 * count / totals[truth])
        for truth, answer, count in triples
        if truth != answer and count
    ]
    return sorted(pairs, key=lambda pair: (-pair.pictures, -pair.percent))[:limit]


def draw_confusion(names: Sequence[str], triples: Iterable[Triple]) -> Image.Image:
    """The confusion matrix: a row a true class, a column an answer; a darker cell is a larger part of its row.

    Right answers are blue-green, wrong ones orange. Classes that neither have pictures nor are answered are left out.
    Up to some eighty classes are named. Of over ``MOST_CLASSES`` classes the eighty with the most mistakes are drawn.

    Args:
        names, triples: as :func:`most_confused` takes them.

    Raises:
        ValueError: there are no pictures.
    """
    triples = [triple for triple in triples if triple[2]]
    if not triples:
        raise ValueError("there is nothing to draw: no picture was answered")
    shown = _classes_to_show(triples)
    counts = _counts(triples, shown)
    cell = max(1, min(SIDE // len(shown), LARGEST_CELL))
    letters = [names[index] for index in shown] if cell >= NAMED_FROM else []
    totals = Counter({truth: 0 for truth in shown})
    for truth, _, pictures in triples:
        totals[truth] += pictures
    shares = counts / np.maximum([[totals[truth]] for truth in shown], 1)
    return _page(_matrix(shares, cell), letters, cell, _words(triples, shown))


def save_confusion(names: Sequence[str], triples: Iterable[Triple], path: str | Path) -> None:
    """Write the picture of :func:`draw_confusion` as .png or .jpg; the file appears whole or not at all."""
    save_picture(draw_confusion(names, triples), Path(path))


def _classes_to_show(triples: Sequence[Triple]) -> list[int]:
    present = sorted({number for truth, answer, _ in triples for number in (truth, answer)})
    if len(present) <= MOST_CLASSES:
        return present
    mistakes: Counter[int] = Counter()
    for truth, answer, pictures in triples:
        if truth != answer:
            mistakes.update({truth: pictures, answer: pictures})
    return sorted(sorted(present, key=lambda number: -mistakes[number])[:SHOWN_OF_MORE])


def _counts(triples: Sequence[Triple], shown: Sequence[int]) -> np.ndarray:
    place = {number: index for index, number in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown)), dtype=np.int64)
    for truth, answer, pictures in triples:
        if truth in place and answer in place:
            counts[place[truth], place[answer]] += pictures
    return counts


def _words(triples: Sequence[Triple], shown: Sequence[int]) -> tuple[str, str]:
    """The two lines over the matrix."""
    pictures = sum(count for _, _, count in triples)
    right = sum(count for truth, answer, count in triples if truth == answer)
    classes = len({number for truth, answer, _ in triples for number in (truth, answer)})
    part = "" if len(shown) == classes else f"the {len(shown)} with the most mistakes of "
    first = f"{part}{classes:,} classes; {pictures:,} pictures, {100 * right / pictures:.1f} % right"
    return first, "down: true class; across: answer; darker: a larger part of the row, in %"


def _matrix(shares: np.ndarray, cell: int) -> Image.Image:
    """The cells, colored; square roots make small parts visible."""
    depth = np.sqrt(shares)[..., None]
    if cell <= SMALL_CELL:  # a pale dot would not be seen
        depth = np.where(depth > 0, 0.4 + 0.6 * depth, 0.0)
    full = np.where(np.eye(len(shares), dtype=bool)[..., None], ACCENT, WRONG)
    pixels = (np.array(PAPER) + depth * (full - np.array(PAPER))).round().astype(np.uint8)
    matrix = Image.fromarray(pixels).resize((len(shares) * cell, len(shares) * cell), Image.Resampling.NEAREST)
    if cell >= COUNTED_FROM:
        draw = ImageDraw.Draw(matrix)
        for row, column in np.argwhere(shares > 0.005):  # what would be written as 0 is not
            share = shares[row, column]
            middle = (column * cell + cell / 2, row * cell + cell / 2)
            draw.text(middle, f"{100 * share:.0f}", PAPER if share > 0.35 else INK, font(13), anchor="mm")
    return matrix


def _page(matrix: Image.Image, letters: Sequence[str], cell: int, words: tuple[str, str]) -> Image.Image:
    """The matrix with its lines of words, names and frame."""
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    names = [fit(measure, name, LONGEST_NAME, min(13, max(9, cell - 1))) for name in letters]
    band = 10 + round(max((measure.textlength(name, small) for name, small in names), default=0))
    left, top = MARGIN + band, HEAD + band
    wanted = max(measure.textlength(words[0], font(18)), measure.textlength(words[1], font(13)))
    width = max(left + matrix.width, MARGIN + round(wanted)) + MARGIN
    page = Image.new("RGB", (width, top + matrix.height + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 22), words[0], INK, font(18), anchor="lm")
    draw.text((MARGIN, 46), words[1], GREY, font(13), anchor="lm")
    page.paste(matrix, (left, top))
    draw.rectangle((left - 1, top - 1, left + matrix.width, top + matrix.height), outline=(200, 205, 211))
    for index, (name, small) in enumerate(names):
        middle = index * cell + cell // 2
        draw.text((left - 6, top + middle), name, INK, small, anchor="rm")
        upright = _upright(name, small)
        page.paste(upright, (left + middle - upright.width // 2, top - 6 - upright.height))
    return page


def _upright(name: str, letters) -> Image.Image:
    """A name that reads from bottom to top."""
    box = letters.getbbox(name or " ", anchor="ls")
    height = letters.getbbox("Ag", anchor="ls")
    flat = Image.new("RGB", (max(1, round(box[2])), round(height[3] - height[1]) + 2), PAPER)
    ImageDraw.Draw(flat).text((0, -height[1] + 1), name, INK, letters, anchor="ls")
    return flat.rotate(90, expand=True)
