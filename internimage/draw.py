"""Pictures with something said on them, drawn with Pillow and the font it carries, or one of the system."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .data.transforms import flatten
from .files import write_through

PAPER, INK, GREY, RULE = (255, 255, 255), (28, 33, 40), (110, 118, 129), (232, 235, 239)
ACCENT, ACCENT_SOFT = (13, 116, 144), (176, 214, 224)
SMALLEST, LARGEST = 360, 800  # the drawn picture's longer side, in pixels
MARGIN = 16
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # that drawings are written in
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
SYSTEM_FONTS = (  # of Linux, macOS and Windows, the last ones for Chinese, Japanese and Korean
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf",
    "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc",
)  # fmt: skip


def font(size: int) -> Font:
    """Pillow's own font at a height of ``size`` pixels."""
    return ImageFont.load_default(size)


def lettering(words: str, size: int) -> tuple[str, Font]:
    """Words and a font that has their letters: Pillow's own where it can, else one of the system.

    Where no font has them, letters lose their accents, and those of other scripts become question marks.
    """
    own = font(size)
    if words.isascii():
        return words, own
    for name in SYSTEM_FONTS:
        try:
            found = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _has_letters(found, words):
            return words, found
    plain = unicodedata.normalize("NFKD", words.replace("ß", "ss"))
    return "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode(), own


def _has_letters(found: ImageFont.FreeTypeFont, words: str) -> bool:
    """Whether a font draws these letters as something else than the box for what it lacks."""
    box = bytes(found.getmask("\uffff"))
    return all(bytes(found.getmask(letter)) != box for letter in set(words) if not letter.isspace())


def for_display(picture: Image.Image, smallest: int = SMALLEST, largest: int = LARGEST) -> Image.Image:
    """An RGB copy whose longer side is between two lengths; a small picture grows by whole pixels, seen as squares."""
    picture = flatten(picture, "RGB")
    longer = max(picture.size)
    if longer < smallest:
        factor = -(-smallest // longer)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    if longer > largest:
        size = (max(1, picture.width * largest // longer), max(1, picture.height * largest // longer))
        return picture.resize(size, Image.Resampling.LANCZOS)
    return picture


def draw_answer(picture: Image.Image, labels: Sequence[str], probs: Sequence[float], note: str = "") -> Image.Image:
    """The picture with a card under it: the answers, best first, each with a bar as long as its probability.

    Args:
        labels, probs: of equal length; probabilities from 0 to 1.
        note: small print under the answers, a line or more.
    """
    shown = for_display(picture)
    width = max(shown.width, SMALLEST)
    row, first_row, small_row = 26, 44, 18
    foot = 8 + small_row * len(note.splitlines())
    height = shown.height + MARGIN // 2 + first_row + row * (len(labels) - 1) + foot
    card = Image.new("RGB", (width, height), PAPER)
    card.paste(shown, ((width - shown.width) // 2, 0))
    draw = ImageDraw.Draw(card)
    y = shown.height + MARGIN // 2
    for rank, (label, prob) in enumerate(zip(labels, probs, strict=True)):
        _draw_row(draw, y, width, label, prob, best=rank == 0)
        y += row if rank else first_row
    for line in note.splitlines():
        words, letters = fit(draw, line, width - 2 * MARGIN, 13)
        draw.text((MARGIN, y + 2), words, GREY, letters)
        y += small_row
    return card


def _draw_row(draw: ImageDraw.ImageDraw, y: int, width: int, label: str, prob: float, best: bool) -> None:
    """One answer: label on the left, bar and percentage on the right."""
    size, color = (22, INK) if best else (15, GREY)
    bar_length, percent_width = width // 4, 64
    bar_left = width - MARGIN - percent_width - bar_length
    middle = y + (18 if best else 12)
    words, letters = fit(draw, label, bar_left - 2 * MARGIN, size)
    draw.text((MARGIN, middle), words, color, letters, anchor="lm")
    half = 5 if best else 3
    draw.rounded_rectangle((bar_left, middle - half, bar_left + bar_length, middle + half), half, RULE)
    if prob * bar_length >= 1:
        filled = bar_left + max(2 * half, round(prob * bar_length))
        draw.rounded_rectangle((bar_left, middle - half, filled, middle + half), half, ACCENT if best else ACCENT_SOFT)
    draw.text((width - MARGIN, middle), f"{100 * prob:.1f} %", color, font(18 if best else 15), anchor="rm")


def fit(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> tuple[str, Font]:
    """The text in one line, or as much of its start as ``width`` pixels hold, with an ellipsis; and a font for it."""
    text, letters = lettering(" ".join(text.split()), size)
    if draw.textlength(text, letters) <= width:
        return text, letters
    while text and draw.textlength(text + "...", letters) > width:
        text = text[:-1]
    return text.rstrip(" ,") + "...", letters


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format of its suffix; the file appears whole or not at all."""
    name = picture_format(path)
    with write_through(path) as temporary:
        picture.save(temporary, format=name)


def picture_format(path: Path) -> str:
    """The format that the suffix of a picture to write stands for; ValueError where it is none that is written."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} ends in {path.suffix!r}, which is no picture format written here; take .png or .jpg")
    return FORMATS[path.suffix.lower()]
