"""Whole classifiers give the recorded maps and logits, and the recorded gradients."""

from __future__ import annotations

import functools
import json

import pytest
import torch

import internimage
from internimage.models import InternImageClassifier
from internimage.weights.released import released_names
from tests.parity.recorded import BACKENDS, cases, config_of, recorded_state, tensors
from tests.tolerances import assert_close, tolerance

SMALL = cases("classification/small_models.json")
FULL = cases("classification/full_models.json")
FASTEST = next(name for name in ("cpu", "grid_sample") if name in BACKENDS)
FULL_RUNS = [
    pytest.param(case, backend, id=f"{case['name']}-{backend}")
    for case in FULL
    for backend in (BACKENDS if case["name"] == "full_t_64" else [FASTEST])
]


def make(case, backend, dtype) -> InternImageClassifier:
    model = on_meta(case["constructor"], backend).to(dtype)
    internimage.load_weights(model, state_of(json.dumps(case["constructor"])))
    return model.eval()


def on_meta(constructor, backend=None) -> InternImageClassifier:
    with torch.device("meta"):
        return InternImageClassifier(config_of(constructor), constructor["num_classes"], backend=backend)


@functools.lru_cache(2)  # the real T takes seconds to draw
def state_of(constructor: str):
    return recorded_state(on_meta(json.loads(constructor)))


def stages(model, image):
    logits = model(image)
    maps = model.forward_intermediates(image, output_fmt="NHWC", intermediates_only=True)
    return logits, maps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case["name"])
def test_small_networks(case, backend, dtype):
    model, want = make(case, backend, dtype), tensors(case)
    image = want["input"].to(dtype).requires_grad_()
    logits, maps = stages(model, image)
    assert_close(logits, want["logits"], "model")
    for index, stage in enumerate(maps, 1):
        assert_close(stage, want[f"stage{index}"], "model")
    logits.backward(want["grad_logits"].to(dtype))
    assert_close(image.grad, want["grad_input"], "model gradient")
    with torch.inference_mode():  # where fused passes take over
        assert_close(model(image), want["logits"], "model")
    names = released_names(model.state_dict())
    bound = tolerance("model gradient", dtype)
    norms = {names[name]: parameter.grad for name, parameter in model.named_parameters()}
    assert norms.keys() == case["param_grad_l2"].keys()
    for name, norm in case["param_grad_l2"].items():
        got = 0.0 if norms[name] is None else norms[name].double().norm().item()
        # the norms are recorded with 11 digits; a parameter that the network does not use has none
        assert got == pytest.approx(norm or 0.0, rel=max(bound, 1e-9), abs=bound), name


@pytest.mark.parametrize(("case", "backend"), FULL_RUNS)
def test_the_real_t(case, backend):
    for dtype in (torch.float64, torch.float32):
        model, want = make(case, backend, dtype), tensors(case)
        with torch.inference_mode():
            maps = model.forward_intermediates(want["input"].to(dtype), output_fmt="NHWC", intermediates_only=True)
            logits = model(want["input"].to(dtype))
        assert_close(logits, want["logits"], "model")
        for index, (stage, statistics) in enumerate(zip(maps, case["stage_stats"], strict=True), 1):
            rows, columns = (max(1, size // 4) for size in stage.shape[1:3])
            assert_close(stage[0, ::rows, ::columns, :16], want[f"stage{index}_sample"], "model")
            assert list(stage.shape) == statistics["shape"]
            assert stage.double().std(correction=0).item() == pytest.approx(statistics["std"], rel=1e-4)
