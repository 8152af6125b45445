"""The recipe for the weights of the recorded networks gives the numbers it should."""

from __future__ import annotations

import json

import pytest

from tests.parity.recorded import FOLDER, weight

CHECKS = json.loads((FOLDER / "recipe_check.json").read_text())["weights"]
FOLDERS = (
    *("dcnv3_op", "dcnv3_module", "dcnv4_op", "dcnv4_module", "msda", "classification", "backbones_det_seg"),
    *("flash_classification", "flash_backbones_det_seg", "transforms"),
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check["key"])
def test_the_recipe_gives_the_recorded_weights(check):
    value = weight(check["key"], tuple(check["shape"]))
    assert str(value.dtype) == f"torch.{check['dtype']}"
    assert value.flatten()[: len(check["first"])].tolist() == pytest.approx(check["first"], rel=1e-6)
    assert value.double().sum().item() == pytest.approx(check["sum_float64"], rel=1e-6, abs=1e-6)


def test_there_is_something_to_compare_with():
    for folder in FOLDERS:
        assert any((FOLDER / folder).rglob("*.npz")), f"no recorded tensors in {folder}"
