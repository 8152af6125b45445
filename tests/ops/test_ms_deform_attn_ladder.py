"""The ladder of trust for attention: plain loops, the reference, every backend, recorded tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from internimage.ops import ms_deform_attn_packed
from tests.parity import recorded

from .attention_cases import (
    ATTENTION_CASES,
    AttentionCase,
    AttentionInputs,
    AttentionResult,
    assert_same_attention,
    near_grid_line,
    positions,
    run_attention,
)
from .cases import BACKENDS, DTYPES, tolerance_row
from .plain_loops import attention_loops

SOFTMAX = pytest.mark.parametrize("softmax", [False, True], ids=["weights", "logits"])
EVERY_CASE = pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
SOME = [case for case in ATTENTION_CASES if case.name in ("four_levels", "empty_level_between", "depth5", "depth67")]


def loops(inputs: AttentionInputs) -> AttentionResult:
    return AttentionResult(*attention_loops(*inputs.tensors, inputs.grad_output, inputs.sizes))


@EVERY_CASE
def test_reference_matches_plain_loops(case):
    inputs = case.make()
    assert_same_attention(run_attention(inputs, "reference"), loops(inputs), "plain loops")


@SOFTMAX
@EVERY_CASE
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_matches_reference_in_float64(backend, case, softmax):
    check(backend, case, torch.float32, softmax)


@SOFTMAX
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SOME, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_dtype(backend, case, dtype, softmax):
    check(backend, case, dtype, softmax)


def check(backend: str, case, dtype: torch.dtype, softmax: bool) -> None:
    inputs = case.make(dtype)
    got = run_attention(inputs, backend, softmax)
    assert {tensor.dtype for tensor in got} == {dtype}
    want = run_attention(inputs.to(torch.float64), "reference", softmax)
    assert_same_attention(got, want, tolerance_row(backend), ignore=near_grid_line(inputs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", ["reference", *BACKENDS[2:]])
def test_location_gradient_on_a_grid_line_is_that_of_the_floor_cell(backend, dtype):
    """Locations in eighths on maps of 4 and 2: positions of -1 (outside), -0.5, 0, ... pixels, exact in float32."""
    inputs = AttentionCase("eighths", ((4, 2), (2, 4)), queries=9).make(dtype)
    inputs = replace(inputs, locations=(inputs.locations * 8).round() / 8)
    place = positions(inputs)
    assert (place == -1).any() and (place == 0).any() and near_grid_line(inputs).any()
    assert_same_attention(run_attention(inputs, backend), loops(inputs), "operator")


RECORDED = recorded.cases("msda/manifest.json")
EVERY_RECORDED = pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])


@pytest.mark.skipif(not RECORDED, reason="no recorded tensors here")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@EVERY_RECORDED
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_the_released_operator(backend, case, dtype):
    inputs, want = load_recorded(case)
    got = run_attention(inputs.to(dtype), backend)
    assert_same_attention(got, want, tolerance_row(backend), ignore=left_to_rounding(case, inputs, backend, dtype))


@pytest.mark.skipif(not RECORDED, reason="no recorded tensors here")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@EVERY_RECORDED
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_the_released_packed_operator(backend, case, dtype):
    inputs, packed, want = load_recorded_packed(case)
    got = run_recorded_packed(inputs.to(dtype), packed.to(dtype), backend)
    assert_same_attention(got, want, tolerance_row(backend), ignore=left_to_rounding(case, inputs, backend, dtype))


def left_to_rounding(case: dict, inputs: AttentionInputs, backend: str, dtype: torch.dtype) -> torch.Tensor | None:
    """Positions on grid lines that came out of a division: which cell they fall into is a matter of rounding."""
    if not case["flags"].get("kink") or (dtype == torch.float64 and backend != "grid_sample"):
        return None
    return near_grid_line(inputs)


def load_recorded(case: dict) -> tuple[AttentionInputs, AttentionResult]:
    tensors = recorded.tensors(case)
    names = ("value", "sampling_locations", "attention_weights", "grad_output")
    sizes = tuple((h, w) for h, w in tensors["spatial_shapes"].tolist())
    want = ("output", "grad_value", "grad_sampling_locations", "grad_attention_weights")
    inputs = AttentionInputs(*(tensors[name] for name in names), sizes)
    return inputs, AttentionResult(*(tensors[name] for name in want))


def load_recorded_packed(case: dict) -> tuple[AttentionInputs, torch.Tensor, AttentionResult]:
    """The call, its packed tensor as recorded, and what came out, the gradient of the packed tensor split in two."""
    tensors, (inputs, _) = recorded.tensors(case), load_recorded(case)
    grads = split(tensors["flash_grad_sampling_loc_attn"], inputs)
    want = AttentionResult(tensors["flash_output"], tensors["flash_grad_value"], *grads)
    return inputs, tensors["flash_sampling_loc_attn"], want


def run_recorded_packed(inputs: AttentionInputs, packed: torch.Tensor, backend: str) -> AttentionResult:
    leaves = [tensor.detach().requires_grad_() for tensor in (inputs.value, packed)]
    output = ms_deform_attn_packed(leaves[0], torch.tensor(inputs.sizes), leaves[1], backend=backend)
    grad_value, grad_packed = torch.autograd.grad(output, leaves, inputs.grad_output)
    return AttentionResult(output.detach(), grad_value, *split(grad_packed, inputs))


def split(packed: torch.Tensor, inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor]:
    lanes = packed.shape[-1] // 3
    locations, weights = packed.split((2 * lanes, lanes), -1)
    return locations.reshape(inputs.locations.shape), weights.reshape(inputs.weights.shape)
