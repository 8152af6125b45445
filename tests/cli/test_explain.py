"""internimage explain."""

from __future__ import annotations

import pytest
from PIL import Image

import internimage as package
from internimage.explain import sampling_points


def test_the_drawing_is_written(internimage, model, photo):
    got = internimage(
        "explain", photo, "--stage", 3, "--block", 0, "--position", "10,20", "--output", "o/look.png", "--model", model
    )
    assert (got.code, got.out, got.err) == (0, "", "drawn in o/look.png\n")
    with Image.open("o/look.png") as drawing:
        assert drawing.width > 1000


def test_json_is_what_the_function_gives(internimage, model, photo):
    got = internimage("explain", photo, "--stage", 1, "--json", "--model", model)
    classifier = package.load(model, device="cpu")
    want = sampling_points(classifier.model, classifier.prepare(photo)[None], 1)
    assert got.json["drawing"] == "a_stage1_block1.png"
    assert got.json["weights"] == want.weights.tolist() and got.json["points"] == want.points.tolist()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--stage", "9"], 1, "expected 1 to 4"),
        (["--block", "9"], 1, "blocks"),
        (["--position", "99,0"], 1, "x from 0 to 31"),
        (["--position", "5"], 2, "--position"),
        (["--position", "a,b"], 2, "X,Y"),
        (["--position", "1,2,3"], 2, "X,Y"),
        (["--output", "look.txt"], 1, "picture format"),
        (["--output", "look.pdf"], 1, "picture format"),
        (["--output", "/dev/null/below/look.png"], 1, "error: --output: no file can be made in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_does_not_fit_is_named(internimage, model, photo, arguments, code, words):
    got = internimage("explain", photo, *arguments, "--model", model)
    assert (got.code, got.out) == (code, "") and words in got.err and "Traceback" not in got.err


def test_a_picture_that_is_not_there_is_named(internimage, model):
    got = internimage("explain", "missing.png", "--model", model)
    assert got.code == 1 and got.err.startswith("error: missing.png")


def test_the_picture_itself_is_not_replaced(internimage, model, photo):
    before = photo.read_bytes()
    got = internimage("explain", photo, "--model", model, "--output", photo)
    assert got.code == 1 and got.err == f"error: --output {photo} is the picture itself; choose another name\n"
    assert photo.read_bytes() == before
