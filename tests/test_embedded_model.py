"""The model in the package: small, a real InternImage, and right on most of the demo's pictures."""

from __future__ import annotations

import csv

import pytest
import safetensors.torch
import torch

import internimage
from internimage.backbones.config import SIZES
from internimage.data.fashion_mnist import CLASS_NAMES
from internimage.demo import PICTURES
from internimage.layers.deform_conv import DCNv3
from internimage.models import embedded_weights
from internimage.recipes import get_recipe
from internimage.weights.own import read_card

FILE = embedded_weights("internimage_femto")


@pytest.fixture(scope="module")
def classifier():
    return internimage.load(device="cpu")


def test_the_file_is_small_and_of_half_precision():
    assert FILE.stat().st_size < 3_000_000
    tensors = safetensors.torch.load_file(FILE)
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_the_card_says_what_it_is():
    card, recipe = read_card(FILE), get_recipe("internimage_femto")
    assert card.name == "internimage_femto" and card.class_names == CLASS_NAMES
    assert card.note == "trained on product photos, 10 classes"
    assert card.config == SIZES["internimage_femto"] and card.preprocessing == recipe.preprocessing


def test_every_block_is_deformable_and_has_learned_to_look_elsewhere(classifier):
    layers = [module for module in classifier.model.modules() if isinstance(module, DCNv3)]
    assert len(layers) == sum(SIZES["internimage_femto"].depths)
    assert all(layer.offset.weight.abs().max() > 1e-3 for layer in layers)


def test_most_pictures_of_the_demo_are_right(classifier):
    rows = list(csv.DictReader(PICTURES.joinpath("pictures.tsv").read_text().splitlines(), delimiter="\t"))
    file, truth = list(rows[0])[:2]
    answers = classifier.predict([str(PICTURES.joinpath(row[file])) for row in rows])
    assert sum(answer.top == row[truth] for answer, row in zip(answers, rows, strict=True)) >= 0.85 * len(rows)
