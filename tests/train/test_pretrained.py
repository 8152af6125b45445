"""Training begins with the weights that the recipe names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from internimage.data.transforms import Preprocessing
from internimage.models import InternImageClassifier
from internimage.recipes.finetuning import finetuning_recipe
from internimage.train.classification.pretrained import start_from_pretrained
from internimage.weights.report import WeightsError
from tests.small_model import save_small_model, small_model

GREY = Preprocessing(image_size=32, mode="L", mean=(0.3,), std=(0.3,))


@pytest.fixture
def recipe(tmp_path):
    path = save_small_model(tmp_path / "small.safetensors")
    return finetuning_recipe(
        "internimage_femto", 100, 3, preprocessing=GREY, pretrained=str(path), config=small_model().config
    )


def started(recipe, classes: int) -> tuple[InternImageClassifier, InternImageClassifier]:
    """A model before and after."""
    torch.manual_seed(5)
    model = InternImageClassifier(small_model().config, classes)
    torch.manual_seed(5)
    fresh = InternImageClassifier(small_model().config, classes)
    start_from_pretrained(model, recipe)
    return fresh, model


def test_everything_but_the_classifier_is_loaded_and_that_begins_near_zero(recipe, caplog):
    for classes in (3, 5):
        fresh, model = started(recipe, classes)
        for name, value in small_model().state_dict().items():
            if name.startswith("head.fc."):
                assert torch.equal(model.state_dict()[name], fresh.state_dict()[name] * 0.001)
            else:
                assert torch.equal(model.state_dict()[name], value)
    assert not caplog.records  # other classes are what it is all about


def test_the_same_classes_may_be_kept(recipe):
    kept = replace(recipe, head_start="pretrained", head_init_scale=1.0)
    _, model = started(kept, 3)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in small_model().state_dict().items())
    fresh, other = started(kept, 4)
    assert torch.equal(other.head.fc.weight, fresh.head.fc.weight)


def test_weights_of_another_network_are_refused(recipe):
    with pytest.raises(WeightsError, match="do not fit"):
        start_from_pretrained(InternImageClassifier(replace(small_model().config, channels=32), 3), recipe)
    with pytest.raises(ValueError, match="there is no"):
        start_from_pretrained(small_model(), replace(recipe, pretrained="internimage_t_1k_225"))
