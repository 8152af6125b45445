"""Every parameter learns and decays at the pace that the released trainers give it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from internimage.backbones import InternImage
from internimage.models import InternImageClassifier, get_config
from internimage.recipes.training import TrainingRecipe
from internimage.train.layer_decay import Pace, classification_paces, dense_prediction_paces
from internimage.train.optim import make_optimizer
from internimage.weights.released import released_names
from tests.parity.recorded import recorded_keys

CLASSIFIERS = [path for path in recorded_keys("optim") if path.stem.startswith("internimage_")]
DENSE = [path for path in recorded_keys("optim") if path.stem.startswith(("det_", "seg_"))]


def close(pace: Pace | tuple[float, float]) -> Pace:
    """A pace that compares as equal where the recorded digits agree."""
    return Pace(pytest.approx(pace[0], rel=1e-9), pace[1])


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)
def test_classifiers(path):
    recorded = json.loads(path.read_text())
    with torch.device("meta"):
        model = InternImageClassifier(get_config("_".join(path.stem.split("_")[:2])), 1000)
    names = released_names(model.state_dict())
    paces = classification_paces(
        model.named_parameters(),
        recorded["weight_decay"],
        recorded["lr_layer_decay_ratio"] if recorded["lr_layer_decay"] else None,
        recorded["dcn_lr_mul"],
    )
    got = {names[ours]: pace for ours, pace in paces.items()}
    assert got == {name: close(pace) for name, *pace in recorded["entries"]}


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)
def test_the_optimizer_has_these_paces_in_few_groups(path):
    recorded = json.loads(path.read_text())
    decay = {"layer_decay": recorded["lr_layer_decay_ratio"], "dcn_lr_mul": recorded["dcn_lr_mul"]}
    recipe = TrainingRecipe(
        name="recorded",
        epochs=1,
        batch_size=1024,
        lr=recorded["base_lr"],
        rates_for_batch=512,
        weight_decay=recorded["weight_decay"],
        **(decay if recorded["lr_layer_decay"] else {}),
    )
    with torch.device("meta"):
        model = InternImageClassifier(get_config("_".join(path.stem.split("_")[:2])), 1000)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    released = released_names(model.state_dict())
    groups = make_optimizer(model, recipe).param_groups
    got = {
        released[names[id(parameter)]]: (group["lr"] / (2 * recorded["base_lr"]), group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert got == {name: close(pace) for name, *pace in recorded["entries"]}
    kinds = {tuple(pace) for _, *pace in recorded["entries"]}
    assert len(groups) == len(kinds)


@pytest.mark.parametrize("path", DENSE, ids=lambda path: path.stem)
def test_detectors_and_segmenters(path):
    recorded = json.loads(path.read_text())
    size = "_".join(path.stem.split("_")[1:3])
    with torch.device("meta"):
        model = InternImage(replace(get_config(size), layer_scale=1.0))
    released = released_names(model.state_dict())
    parameters = {f"backbone.{name}": parameter for name, parameter in model.named_parameters()}
    parameters |= others(recorded)
    paces = dense_prediction_paces(
        parameters.items(),
        recorded["weight_decay"],
        segmentation=recorded["task"] == "segmentation",
        **recorded["paramwise_cfg"],
    )
    got = {}
    for name, pace in paces.items():
        ours = name.removeprefix("backbone.")
        got[f"backbone.{released[ours]}" if ours in released else name] = pace
    assert got == {name: close(pace) for name, _, *pace in recorded["entries"]}


def others(recorded: dict) -> dict[str, Tensor]:
    """The made-up neck and head beside the recorded backbone: linear layers, and a norm called head.1."""
    names = [name for name, *_ in recorded["entries"] if not name.startswith("backbone.")]
    return {name: torch.empty(1) if "bias" in name or "head.1" in name else torch.empty(1, 1) for name in names}


def test_there_is_something_to_compare_with():
    assert len(CLASSIFIERS) == 3 and len(DENSE) == 2, "recorded optimizer settings are missing"
    assert all(Path(path).stat().st_size for path in CLASSIFIERS + DENSE)
