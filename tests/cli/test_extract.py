"""internimage extract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import internimage as package
from internimage.features import extract


def test_layers_are_saved_and_their_shapes_shown(internimage, model, photo):
    got = internimage(
        "extract",
        photo,
        "--layers",
        "stage1",
        "backbone.levels.2.blocks.0.dcn,c5",
        "--save",
        "f.safetensors",
        "--model",
        model,
    )
    assert got.code == 0 and "saved in f.safetensors" in got.err
    saved, classifier = load_file("f.safetensors"), package.load(model, device="cpu")
    want = extract(
        classifier.model, classifier.prepare(photo)[None], ["stage1", "backbone.levels.2.blocks.0.dcn", "c5"]
    )
    assert saved.keys() == want.keys() and all(torch.equal(saved[name], want[name]) for name in want)
    assert "1 x 16 x 8 x 8" in got.out and "float32" in got.out


def test_json_and_npz(internimage, model, photo):
    got = internimage("extract", photo, "--layers", "stage2", "--save", "f.npz", "--json", "--model", model)
    assert got.json == {"layers": {"stage2": {"shape": [1, 32, 4, 4], "dtype": "float32"}}, "saved": "f.npz"}
    assert np.load("f.npz")["stage2"].shape == (1, 32, 4, 4)
    assert internimage("extract", photo, "--layers", "stage2", "--save", "F.NPZ", "--model", model).code == 0
    assert np.load("F.NPZ")["stage2"].shape == (1, 32, 4, 4)


def test_the_usage_line_shows_that_layers_may_follow_the_picture(internimage):
    assert "[IMAGE|URL|-] [LAYER]..." in internimage("extract", "--help").out


def test_the_list_needs_no_picture(internimage, model):
    names = internimage("extract", "--list", "--model", model).out.split()
    assert {"stage1", "c5", "backbone.levels.2.blocks.0.dcn", "head"} <= set(names)
    assert internimage("extract", "--list", "--json", "--model", model).json["layers"] == names


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--layers", "stage1"], 2, "no picture"),
        (["PHOTO"], 1, "no layers"),
        (["PHOTO", "--layers", "stage9"], 1, "stage4"),
        (["PHOTO", "--layers", "backbone.levels.0.blocks.0.dcnn"], 1, "did you mean backbone.levels.0.blocks.0.dcn"),
        (["PHOTO", "--layers", "stage1", "--save", "f.pth"], 1, ".safetensors or .npz"),
        (["PHOTO", "--layers", "stage1", "--save", "PHOTO/f.npz"], 1, "error: --save PHOTO is a file"),
        (["missing.png", "--layers", "stage1"], 1, "missing.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_does_not_fit_is_named(internimage, model, photo, arguments, code, words):
    arguments = [argument.replace("PHOTO", str(photo)) for argument in arguments]
    got = internimage("extract", *arguments, "--model", model)
    words = words.replace("PHOTO", str(photo))
    assert (got.code, got.out) == (code, "") and words in got.err and "Traceback" not in got.err
