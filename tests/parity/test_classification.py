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

FLASH = cases("flash_classification/models.json")
SMALL = cases("classification/small_models.json") + [case for case in FLASH if not case["full_size"]]
FULL = cases("classification/full_models.json") + [case for case in FLASH if case["full_size"]]
FASTEST = next(name for name in ("cpu", "grid_sample") if name in BACKENDS)
FULL_RUNS = [
    pytest.param(case, backend, id=f"{case['constructor'].get('core_op')}-{case['name']}-{backend}")
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


def stages(model, image, case):
    """Logits and the maps of the four levels, in the layout they were recorded in."""
    layout = case.get("stage_layout", "NHWC")
    return model(image), model.forward_intermediates(image, output_fmt=layout, intermediates_only=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case['constructor'].get('core_op')}-{case['name']}")
def test_small_networks(case, backend, dtype):
    model, want = make(case, backend, dtype), tensors(case)
    image = want["input"].to(dtype).requires_grad_()
    logits, maps = stages(model, image, case)
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


def sample(stage, case):
    """The part of a map that was recorded of the real networks."""
    if case.get("stage_layout") == "NCHW":
        return sample(stage.permute(0, 2, 3, 1), {}).permute(2, 0, 1)
    rows, columns = (max(1, size // 4) for size in stage.shape[1:3])
    return stage[0, ::rows, ::columns, :16]


@pytest.mark.parametrize(("case", "backend"), FULL_RUNS)
def test_the_real_t(case, backend):
    for dtype in (torch.float64, torch.float32):
        model, want = make(case, backend, dtype), tensors(case)
        with torch.inference_mode():
            logits, maps = stages(model, want["input"].to(dtype), case)
        assert_close(logits, want["logits"], "model")
        for index, (stage, statistics) in enumerate(zip(maps, case["stage_stats"], strict=True), 1):
            assert_close(sample(stage, case), want[f"stage{index}_sample"], "model")
            assert list(stage.shape) == statistics["shape"]
            assert stage.double().std(correction=0).item() == pytest.approx(statistics["std"], rel=1e-4)
