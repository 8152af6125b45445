"""The page of an evaluation."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from internimage.evaluate.report import Evaluation, ShownMistake, write_evaluation_report
from tests.train.test_report import NASTY, page_of

NAMES = ("cat", "dog", "bear")
CLASSES = [
    {"name": "cat", "pictures": 100, "top1": 90.0, "taken_for": "dog", "taken_times": 10},
    {"name": "dog", "pictures": 40, "top1": 75.0, "taken_for": "cat", "taken_times": 10},
    {"name": "bear", "pictures": 5, "top1": 100.0, "taken_for": "", "taken_times": 0},
]
TRIPLES = [(0, 0, 90), (0, 1, 10), (1, 1, 30), (1, 0, 10), (2, 2, 5)]


def evaluation(**more) -> Evaluation:
    plain = {"model": "mine", "top1": 86.2069, "pictures": 145, "class_names": NAMES}
    return Evaluation(**{**plain, "classes": CLASSES, "confusion": TRIPLES, **more})


def write(tmp_path, **more) -> str:
    return page_of(write_evaluation_report(tmp_path / "new" / "report.html", evaluation(**more)))


def test_scores_stand_beside_the_published_one(tmp_path):
    page = write(tmp_path, top5=99.5, loss=0.43219, published=86.5)
    for words in ("mine: 86.21 % right", "99.50 %", "0.4322", "86.50 %", "(-0.29 here)", "145"):
        assert words in page
    page = write(tmp_path)
    assert "published" not in page and "top-5" not in page and "cross-entropy" not in page


def test_classes_are_sorted_by_accuracy(tmp_path):
    page = write(tmp_path)
    table = page[page.index("Every class") :]
    assert table.index(">dog</td>") < table.index(">cat</td>") < table.index(">bear</td>")
    assert ">cat (10)<" in table and "width:75.0%" in table
    page = write(tmp_path, classes=[{**row, "top5": 99.0} for row in CLASSES])
    assert page.count(">99.00</td>") == 3


def test_what_is_confused_most_and_the_picture_of_it(tmp_path):
    page = write(tmp_path)
    assert ">dog</td><td>cat</td>" in page and ">25.0 %</td>" in page
    (address,) = re.findall(r'src="data:image/png;base64,([^"]+)" alt="the confusion matrix"', page)
    with Image.open(io.BytesIO(base64.b64decode(address))) as picture:
        assert min(picture.size) > 100


def test_mistakes_are_shown_as_small_pictures(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    mistakes = [
        ShownMistake(truth="cat", answer="dog", percent=99.4, name="a.jpg", picture=Image.fromarray(noise)),
        ShownMistake(truth="dog", answer="cat", percent=80.0, name="5", picture=Image.new("L", (28, 28), 90)),
        ShownMistake(truth="dog", answer="cat", percent=70.0, name="gone.jpg"),
    ]
    page = write(tmp_path, mistakes=mistakes)
    assert page.count("<figure class=wrong>") == 3 and "is cat" in page and "99 %" in page and "gone.jpg" in page
    sizes = []
    for kind, address in re.findall(r'src="data:image/(\w+);base64,([^"]+)" alt="(?:cat|dog)"', page):
        with Image.open(io.BytesIO(base64.b64decode(address))) as picture:
            sizes.append((kind, picture.size))
    assert sizes == [("jpeg", (192, 128)), ("png", (140, 140))]


def test_what_is_not_there_is_left_out(tmp_path):
    page = write(tmp_path, classes=(), confusion=())
    assert "<h2>" not in page
    page = write(tmp_path, unreadable=["cut.jpg: broken"], speed={"pictures a second": 12.5}, data={"folder": "x"})
    assert "1 picture could not be read" in page and "cut.jpg: broken" in page and "12.5" in page


def test_words_from_outside_are_escaped(tmp_path):
    rows = [{"name": NASTY, "pictures": 1, "top1": 0.0, "taken_for": NASTY, "taken_times": 1}]
    page = write(
        tmp_path,
        model=NASTY,
        note=NASTY,
        class_names=(NASTY, "b", "c"),
        classes=rows,
        mistakes=[ShownMistake(truth=NASTY, answer=NASTY, percent=1.0, name=NASTY, picture=Image.new("L", (8, 8)))],
        speed={NASTY: NASTY},
        data={NASTY: NASTY},
        settings={NASTY: NASTY},
        unreadable=[NASTY],
    )
    assert page.count("&lt;script&gt;") >= 12
