"""The layers DCNv3 and DCNv4 compute what the released module computes, and learn what it learns."""

from __future__ import annotations

import pytest
import torch

import internimage
from internimage.layers import DCNv3, DCNv4
from internimage.weights import to_released
from internimage.weights.released import released_names
from tests.parity.recorded import BACKENDS, cases, recorded_state, tensors
from tests.tolerances import assert_close

CASES = [
    {**case, "layer": layer}
    for layer in (DCNv3, DCNv4)
    for case in cases(f"{layer.__name__.lower()}_module/manifest.json")
]
_OURS = {"pad": "padding", "group": "groups"}


def name_of(case) -> str:
    return f"{case['layer'].__name__}-{case['name']}"


def make(case, **changes) -> DCNv3 | DCNv4:
    arguments = {_OURS.get(name, name): value for name, value in case["constructor"].items()}
    return case["layer"](**{**arguments, **changes}).eval()


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_state_has_the_released_names_in_order(case):
    state = to_released(make(case))
    assert [[key, list(tensor.shape)] for key, tensor in state.items()] == case["state_dict"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_output_and_gradients(case, backend, dtype):
    layer = make(case, backend=backend)
    internimage.load_weights(layer, recorded_state(layer))
    layer = layer.to(dtype)
    want = tensors(case)
    input = want["input"].to(dtype).requires_grad_()
    # DCNv4 was recorded on pixels in one row, and takes them for a square unless told
    size = {"size": case["spatial_shape"]} if case.get("shape_argument_given") else {}
    output = layer(input, **size)
    output.backward(want["grad_output"].to(dtype))
    assert_close(output, want["output"], "module")
    with torch.inference_mode():  # where fused passes take over
        assert_close(layer(input, **size), want["output"], "module")
    assert_close(input.grad, want["grad_input"], "module gradient")
    names = released_names(layer.state_dict())
    gradients = {f"grad.{names[name]}": parameter.grad for name, parameter in layer.named_parameters()}
    assert gradients.keys() == {name for name in want if name.startswith("grad.")}
    for name, gradient in gradients.items():
        assert_close(gradient, want[name], "module gradient")
