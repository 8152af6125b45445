"""The picture of what is taken for what, and the list of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from internimage.draw import ACCENT
from internimage.evaluate.confusion import WRONG, draw_confusion, most_confused, save_confusion

NAMES = ("cat", "dog", "Bär", "nothing")
TRIPLES = [(0, 0, 90), (0, 1, 10), (1, 1, 30), (1, 0, 10), (2, 2, 5), (2, 1, 2)]


def colors(picture: Image.Image) -> set[tuple[int, int, int]]:
    return {color for _, color in picture.getcolors(maxcolors=10_000_000)}


def cells(picture: Image.Image, classes: int) -> np.ndarray:
    """The color of each cell near its upper left corner, (classes, classes, 3); 20 pixels are below the matrix."""
    cell = min(900 // classes, 56)
    pixels = np.asarray(picture)[-20 - cell * classes : -20, :]
    frame = int(np.flatnonzero((pixels[cell // 2] == (200, 205, 211)).all(-1))[0]) + 1
    return pixels[3::cell, frame + 3 :: cell][:classes, :classes]


def test_the_most_pictures_first_and_then_the_larger_part_of_the_class():
    got = most_confused(NAMES, TRIPLES)
    assert [(pair.truth, pair.answer, pair.pictures) for pair in got] == [
        ("dog", "cat", 10),
        ("cat", "dog", 10),
        ("Bär", "dog", 2),
    ]
    assert [pair.percent for pair in got] == pytest.approx([25, 10, 200 / 7])
    assert most_confused(NAMES, TRIPLES, limit=1) == got[:1] and most_confused(NAMES, [(0, 0, 3)]) == []


def test_a_cell_is_as_dark_as_its_part_of_the_row():
    got = cells(draw_confusion(NAMES, TRIPLES), 3).astype(int)
    want = {(0, 0): 0.9, (0, 1): 0.1, (0, 2): 0, (1, 0): 0.25, (1, 1): 0.75, (2, 1): 2 / 7, (2, 2): 5 / 7, (2, 0): 0}
    for (truth, answer), share in want.items():
        full = np.array(ACCENT if truth == answer else WRONG)
        expected = 255 + np.sqrt(share) * (full - 255)
        assert np.abs(got[truth, answer] - expected).max() <= 1, (truth, answer)


def test_classes_that_never_occur_take_no_room():
    few = draw_confusion([f"c{i}" for i in range(1000)], [(3, 3, 1), (7, 3, 1)])
    assert few.size == draw_confusion(["c3", "c7"], [(0, 0, 1), (1, 0, 1)]).size


@pytest.mark.parametrize("classes", [1, 2, 40, 300, 1000])
def test_few_and_many_classes(classes, tmp_path):
    triples = [(i, (i + k) % classes, 9 - 4 * k) for i in range(classes) for k in range(min(2, classes))]
    save_confusion([f"class {i}" for i in range(classes)], triples, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert max(picture.size) < 1300 and len(colors(picture.convert("RGB"))) > 2


def test_of_very_many_classes_those_with_the_most_mistakes():
    triples = [(i, i, 50) for i in range(1500)] + [(1200, 1400, 30), (5, 1200, 20)]
    picture = draw_confusion([f"class {i}" for i in range(1500)], triples)
    assert max(picture.size) < 1300
    wrong = [color for color in colors(picture) if color[0] > color[2] + 60 and color[0] > 200]
    assert wrong, "the mistakes are among what is drawn"


def test_names_are_cut_where_they_are_long():
    long = draw_confusion(["x" * 500, "ĳ 漢字"], [(0, 0, 1), (1, 0, 1)])
    assert long.width < 700


@pytest.mark.parametrize("triples", [[], [(0, 1, 0)]], ids=str)
def test_no_pictures_are_said(triples):
    with pytest.raises(ValueError, match="no picture was answered"):
        draw_confusion(NAMES, triples)
