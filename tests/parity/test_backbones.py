"""Bare backbones give the feature maps recorded from the released detectors and segmenters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
WITH_DCNV3 = [case for case in CASES if case["constructor"]["core_op"] != "DCNv4"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['constructor']['core_op']}-{case['file'][:-4]}")
def test_feature_maps(case, backend, dtype):
    indices = case["constructor"].get("out_indices", (0, 1, 2, 3))
    model = InternImage(config_of(case["constructor"]), indices, backend=backend)
    run_recorded(model, case, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", WITH_DCNV3, ids=lambda case: case["file"][:-4])
def test_feature_maps_of_dcnv3_on_the_operator_of_dcnv4(case, backend):
    """The switch of the released detectors: the same weights give the same maps."""
    config = config_of(case["constructor"], use_dcn_v4_op=True)
    model = InternImage(config, case["constructor"].get("out_indices", (0, 1, 2, 3)), backend=backend)
    run_recorded(model, case, torch.float64)


def run_recorded(model: InternImage, case: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Load the recorded weights as a detector's file has them, and compare the maps."""
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
