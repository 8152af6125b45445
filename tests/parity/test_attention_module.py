"""The layer MSDeformAttn computes what the released attention computes without its rounding to half precision."""

from __future__ import annotations

import pytest
import torch

from internimage.layers import MSDeformAttn
from tests.parity.recorded import BACKENDS, cases, tensors, weight
from tests.tolerances import assert_close

CASES = cases("msda/module_manifest.json")
_OURS = {"d_model": "channels", "n_levels": "levels", "n_heads": "heads", "n_points": "points"}


@pytest.mark.skipif(not CASES, reason="no recorded tensors here")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_output(case, backend, dtype):
    layer = MSDeformAttn(**{_OURS[name]: value for name, value in case["constructor"].items()}, backend=backend)
    assert [[key, list(tensor.shape)] for key, tensor in layer.state_dict().items()] == case["state_dict"]
    layer.load_state_dict({key: weight(key, tuple(shape)) for key, shape in case["state_dict"]})
    layer.to(dtype)
    want = tensors(case)
    query, reference, value = (want[name].to(dtype) for name in ("query", "reference_points", "input_flatten"))
    output = layer(query, reference, value, want["spatial_shapes"], want.get("input_padding_mask"))
    assert_close(output, want["output"], "module")
