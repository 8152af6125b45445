"""``to_released`` gives the keys, shapes, kinds and order of every released configuration, without making a weight."""

from __future__ import annotations

import json

import pytest
import torch

from internimage.backbones import InternImage
from internimage.models import InternImageClassifier
from internimage.weights import to_released
from internimage.weights.released import released_names
from tests.parity.recorded import FOLDER, config_of, recorded_keys

CLASSIFIERS = recorded_keys("classification/keys") + recorded_keys("flash_classification/keys")
BACKBONES = [
    path
    for path in recorded_keys("backbones_det_seg/keys") + recorded_keys("flash_backbones_det_seg/keys")
    if "_cb_" not in path.name  # a composite of two backbones
]


@pytest.mark.parametrize("path", CLASSIFIERS + BACKBONES, ids=lambda path: path.stem)
def test_released_state(path):
    recorded = json.loads(path.read_text())
    config = config_of(recorded["options"])
    with torch.device("meta"):
        classes = recorded.get("num_classes") or recorded["options"].get("num_classes")
        if classes:
            model = InternImageClassifier(config, classes)
        else:
            model = InternImage(config)
    kinds = {name: "param" for name, _ in model.named_parameters()}
    kinds = {released: kinds.get(ours, "buffer") for ours, released in released_names(model.state_dict()).items()}
    state = [
        [key, list(tensor.shape), str(tensor.dtype).removeprefix("torch."), kinds[key]]
        for key, tensor in to_released(model).items()
    ]
    assert state == recorded["entries"]
    assert sum(parameter.numel() for parameter in model.parameters()) == recorded["n_params"]


def test_every_parameter_count():
    sizes = {"t": 0, "s": 0, "b": 0, "l": 0, "xl": 0, "h": 0, "g": 0}
    recorded = json.loads((FOLDER / "classification/param_counts.json").read_text())["models"]
    import internimage

    for size in sizes:
        with torch.device("meta"):
            model = internimage.create_model(f"internimage_{size}")
        sizes[size] = sum(parameter.numel() for parameter in model.parameters())
    wanted = {name.split("_")[1]: entry["n_params"] for name, entry in recorded.items()}
    assert sizes == {size: wanted[size] for size in sizes}
