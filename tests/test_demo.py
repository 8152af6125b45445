"""The demo: forty pictures in the package, drawn answers, and a page that needs nothing else."""

from __future__ import annotations

import csv
import re

import pytest
from PIL import Image

import internimage
from internimage.data.fashion_mnist import CLASS_NAMES, SYSTEM_FOLDER, load_fashion_mnist
from internimage.data.transforms import Preprocessing
from internimage.demo import PICTURES, run
from internimage.weights import ModelCard, save_model
from tests.small_model import small_model

ROWS = list(csv.reader(PICTURES.joinpath("pictures.tsv").read_text().splitlines(), delimiter="\t"))[1:]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Random weights: what the demo does is tested here, not how well the model answers."""
    path, model = tmp_path_factory.mktemp("model") / "random.safetensors", small_model()
    model.reset_classifier(10)
    preprocessing = Preprocessing(image_size=28, mode="L", mean=(0.3,), std=(0.3,), dark_background=True)
    card = ModelCard(
        name="random",
        config=model.config,
        num_classes=10,
        class_names=CLASS_NAMES,
        preprocessing=preprocessing,
        note="a & b",
    )
    save_model(path, model.state_dict(), card)
    return internimage.load(path, device="cpu")


@pytest.fixture(scope="module")
def result(classifier, tmp_path_factory):
    return run(tmp_path_factory.mktemp("demo") / "output", classifier)


def test_four_pictures_of_each_class():
    assert sorted(row[1] for row in ROWS) == sorted(CLASS_NAMES * 4)
    assert all(PICTURES.joinpath(row[0]).is_file() for row in ROWS)


@pytest.mark.skipif(not SYSTEM_FOLDER.is_dir(), reason="Fashion-MNIST is not on this machine")
def test_they_are_the_first_four_test_pictures_of_each_class():
    data = load_fashion_mnist("test")
    first = {name: (data.labels == index).nonzero()[:4, 0].tolist() for index, name in enumerate(CLASS_NAMES)}
    assert {name: [int(row[2]) for row in ROWS if row[1] == name] for name in CLASS_NAMES} == first
    for name, _, index in ROWS:
        with PICTURES.joinpath(name).open("rb") as file, Image.open(file) as picture:
            assert picture.tobytes() == bytes(data.images[int(index), 0].flatten().tolist())


def test_every_picture_is_answered_and_drawn(result, classifier):
    assert len(result.pictures) == 40
    assert result.right == sum(shown.prediction.top == shown.truth for shown in result.pictures)
    assert result.pictures[7].prediction.top == classifier.predict(result.pictures[7].picture).top
    drawn = sorted(path.name for path in (result.folder / "pictures").iterdir())
    assert drawn == sorted(row[0] for row in ROWS)


def test_the_page_tells_the_result_and_needs_nothing_else(result):
    page = result.page.read_text(encoding="utf-8")
    assert f"{result.right} of 40 pictures right" in page and "a &amp; b" in page
    assert page.count("<figure class=wrong>") == 40 - result.right
    addresses = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(addresses) > 40 and all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not re.search(r"https?://|url\(|@import", page)
