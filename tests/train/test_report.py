"""The page that a run leaves."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from internimage.train.report import Run, best_values, differences, in_words, write_training_report

HISTORY = [
    {"epoch": 1, "step": 4, "lr": 1e-3, "train_loss": 2.0, "top1": 50.0, "ema_top1": 30.0, "seconds": 9.0},
    {"epoch": 2, "step": 8, "lr": 5e-4, "train_loss": math.nan, "top1": 75.25, "ema_top1": 80.5, "seconds": 18.0},
    {"epoch": 3, "step": 12, "lr": 0.0, "train_loss": 1.5, "seconds": 27.0},
]
RECIPE = {"name": "mine", "epochs": 3, "lr": 1e-3, "augmentation": {"flip": True, "erase": 0.25}, "betas": (0.9, 0.99)}
NASTY = "<script>alert('x')</script> & \"co\""


def run(**more) -> Run:
    return Run(**{"name": "mine", "recipe": RECIPE, "history": HISTORY, "seconds": 4700.0, **more})


class Checker(HTMLParser):
    """Every tag that is opened is closed, in order."""

    EMPTY = ("meta", "img", "path", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(path) -> str:
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert not checker.open and "script" not in checker.seen
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import", page), "nothing is fetched"
    assert set(re.findall(r"https?://[^\"]*", page)) <= {"http://www.w3.org/2000/svg"}
    return page


def test_it_tells_everything(tmp_path):
    page = page_of(
        write_training_report(
            tmp_path / "new" / "report.html",
            run(
                data={"folder": "pictures", "classes": 3},
                machine={"cpu": "a fast one"},
                files={"model.safetensors": "the model of the last epoch"},
                commands=["internimage classify photo.jpg --model model.safetensors"],
                note="Trained for a test.",
            ),
        )
    )
    for words in (
        *("75.25 %", "80.50 %", "1 h 18 min", "pictures", "a fast one", "model.safetensors", "Trained for a test."),
        *("internimage classify photo.jpg", "augmentation.erase", "0.25", "top-1, averaged weights", "<svg"),
    ):
        assert words in page
    assert "stopped" not in page and "could not be read" not in page and "Differs" not in page


def test_words_from_outside_are_escaped(tmp_path):
    page = page_of(
        write_training_report(
            tmp_path / "report.html",
            run(
                name=NASTY,
                recipe={NASTY: NASTY},
                parent={NASTY: "other"},
                parent_name=NASTY,
                data={NASTY: NASTY},
                machine={NASTY: NASTY},
                files={NASTY: NASTY},
                commands=[NASTY],
                skipped=[NASTY, "caf\udce9.jpg: broken"],
                note=NASTY,
            ),
        )
    )
    assert page.count("&lt;script&gt;") >= 12 and r"caf\udce9.jpg" in page


def test_what_differs_from_the_parent(tmp_path):
    parent = {**RECIPE, "lr": 5e-4, "augmentation": {"flip": True, "erase": 0.0}, "betas": [0.9, 0.99], "gone": 1}
    assert differences(RECIPE, parent) == [("lr", 1e-3, 5e-4), ("augmentation.erase", 0.25, 0.0), ("gone", "-", 1)]
    page = page_of(write_training_report(tmp_path / "a.html", run(parent=parent, parent_name="theirs")))
    assert "Differs from theirs in:" in page and ">augmentation.erase</td><td>0.25</td><td>0.0</td>" in page
    page = page_of(write_training_report(tmp_path / "b.html", run(parent=RECIPE, parent_name="theirs")))
    assert "It is theirs, unchanged." in page


def test_a_run_that_was_stopped_before_anything_says_so(tmp_path):
    page = page_of(write_training_report(tmp_path / "a.html", run(history=[], seconds=3.0, finished=False)))
    assert "--resume goes on" in page and "0 of 3" in page and "no epoch is finished" in page


@pytest.mark.parametrize("count", [1, 2, 1234])
def test_skipped_pictures_are_counted_and_named(tmp_path, count):
    skipped = [f"{index}.jpg: broken" for index in range(count)]
    page = page_of(write_training_report(tmp_path / "a.html", run(skipped=skipped)))
    assert f"{count:,} picture{'s' if count > 1 else ''} could not be read" in page and "0.jpg: broken" in page
    assert ("99.jpg: broken" in page) == (count > 99) and "100.jpg: broken" not in page


def test_best_values_are_the_lowest_losses_and_the_highest_scores():
    assert best_values(HISTORY) == {"train_loss": (1.5, 3), "top1": (75.25, 2), "ema_top1": (80.5, 2)}
    assert best_values([]) == {}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (42.4, "42 s"),
        (425, "7 min 5 s"),
        (4699.7, "1 h 18 min"),
        (3600, "1 h 0 min"),
    ],
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words
