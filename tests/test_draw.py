"""Pictures with the answer on them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from internimage import draw
from internimage.draw import LARGEST, SMALLEST, draw_answer, for_display, save_picture

LABELS, PROBS = ("golden retriever", "Labrador"), (0.75, 0.1)


@pytest.mark.parametrize("size", [(28, 28), (1, 1), (3, 900), (500, 400), (4000, 3000)], ids=str)
def test_the_picture_is_shown_at_a_size_to_look_at(size):
    shown = for_display(Image.new("RGB", size))
    assert SMALLEST <= max(shown.size) <= max(LARGEST, 2 * SMALLEST)


def test_small_pictures_keep_their_squares():
    shown = np.asarray(for_display(Image.fromarray(np.array([[0, 255]], np.uint8))))
    assert set(np.unique(shown)) == {0, 255}


def test_the_answer_stands_under_the_picture():
    picture = Image.new("RGB", (400, 300), "green")
    drawn = draw_answer(picture, LABELS, PROBS, "a note")
    assert drawn.width == 400 and drawn.height > 340
    assert np.array_equal(np.asarray(drawn)[:300], np.asarray(picture))
    assert not np.array_equal(np.asarray(drawn), np.asarray(draw_answer(picture, LABELS[::-1], PROBS, "a note")))


def test_bars_are_as_long_as_probabilities():
    def colored(prob: float) -> int:
        pixels = np.asarray(draw_answer(Image.new("RGB", (400, 400)), ("a",), (prob,)))[400:].astype(int)
        return int((np.abs(pixels - (13, 116, 144)).max(-1) < 10).sum())

    full = colored(1.0)
    assert colored(0.0) == 0
    assert colored(0.5) == pytest.approx(full / 2, rel=0.15)


@pytest.mark.parametrize("label", ["", "x" * 500, "日本語", "naïve café", "a\nb", "\ud800"], ids=ascii)
def test_any_label_can_be_drawn(label):
    assert draw_answer(Image.new("RGB", (40, 40)), (label,), (1.0,), label).width >= SMALLEST


def test_letters_that_no_font_has_lose_their_accents(monkeypatch):
    monkeypatch.setattr(draw, "SYSTEM_FONTS", ("no such font.ttf",))
    assert [draw.lettering(words, 13)[0] for words in ("Gänse", "Größe", "niño", "\u4e2d")] == [
        "Ganse",
        "Grosse",
        "nino",
        "?",
    ]


@pytest.mark.parametrize("words", ["plain", "Gänsefüße – ½", "\u4e2d"])
def test_every_letter_is_drawn_as_itself(words):
    letters, font = draw.lettering(words, 20)
    box = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(letter)) != box for letter in letters.replace(" ", ""))


def test_a_failed_write_leaves_nothing(tmp_path):
    for name in ("a.txt", "a.pdf", "a"):
        with pytest.raises(ValueError, match="picture format"):
            save_picture(Image.new("RGB", (4, 4)), tmp_path / name)
    with pytest.raises(OSError):
        save_picture(Image.new("RGBA", (4, 4)), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
