"""internimage demo."""

from __future__ import annotations

import re

import pytest

from internimage.data.fashion_mnist import CLASS_NAMES
from internimage.data.transforms import Preprocessing
from internimage.weights import ModelCard, save_model
from tests.small_model import small_model


@pytest.fixture(autouse=True)
def random_weights(tmp_path, monkeypatch):
    """In place of the embedded model: what the command does is tested here, not how well the model answers."""
    path, model = tmp_path / "random.safetensors", small_model()
    model.reset_classifier(10)
    preprocessing = Preprocessing(image_size=28, mode="L", mean=(0.3,), std=(0.3,), dark_background=True)
    what = {"name": "random", "config": model.config, "num_classes": 10, "class_names": CLASS_NAMES, "note": "a note"}
    save_model(path, model.state_dict(), ModelCard(**what, preprocessing=preprocessing))
    monkeypatch.setattr("internimage.classifier.embedded_weights", lambda name: path)


def test_it_says_how_many_are_right_and_where_to_look(internimage, tmp_path):
    got = internimage("demo")
    right = re.search(r"(\d+) of 40 pictures right", got.out)
    assert got.code == 0 and right and "a note" in got.out
    assert got.out.count("wrong:") == 40 - int(right[1])
    assert "demo_output/index.html" in got.out and (tmp_path / "here" / "demo_output" / "index.html").is_file()


def test_json(internimage):
    got = internimage("demo", "--json", "--output", "elsewhere/demo").json
    assert got["total"] == 40 and len(got["wrong"]) == 40 - got["right"]
    assert got["page"] == "elsewhere/demo/index.html"


def test_a_file_in_the_way_is_named(internimage, tmp_path):
    (tmp_path / "file").write_text("")
    got = internimage("demo", "--output", tmp_path / "file")
    assert got.code == 1 and "is a file, expected a folder" in got.err
