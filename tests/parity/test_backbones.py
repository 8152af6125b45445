"""Bare backbones give the feature maps recorded from the released detectors and segmenters."""

from __future__ import annotations

import pytest
import torch

import internimage
from internimage.backbones import InternImage
from tests.parity.recorded import BACKENDS, cases, config_of, recorded_state, tensors
from tests.tolerances import assert_close

CASES = [
    case
    for folder in ("backbones_det_seg", "flash_backbones_det_seg")
    for task in ("det", "seg")
    for case in cases(f"{folder}/{task}_models.json")
    if case.get("backbone_type") != "CBInternImage"
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['constructor']['core_op']}-{case['file'][:-4]}")
def test_feature_maps(case, backend, dtype):
    indices = case["constructor"].get("out_indices", (0, 1, 2, 3))
    model = InternImage(config_of(case["constructor"]), indices, backend=backend)
    state = recorded_state(model)
    assert sum(tensor.numel() for tensor in model.parameters()) == case["n_params"]
    # a detector's file: the backbone under a prefix, with other parts beside it
    file = {"state_dict": {f"backbone.{key}": tensor for key, tensor in state.items()} | {"neck.x": torch.zeros(1)}}
    report = internimage.load_weights(model, file)
    assert report.complete and report.loaded == len(state)
    want = tensors(case)
    with torch.inference_mode():
        maps = model.eval().to(dtype)(want["input"].to(dtype))
    assert [list(feature.shape) for feature in maps] == case["output_shapes"]
    for index, feature in enumerate(maps):
        assert feature.is_contiguous()
        assert_close(feature, want[f"out{index}"], "model")
