"""The ladder of trust: plain loops, the reference, every backend, tensors recorded from the released code."""

from __future__ import annotations

import pytest
import torch

from internimage.ops.geometry import Geometry
from tests.parity import recorded

from .cases import BACKENDS, CASES, DTYPES, Inputs, Result, as_keywords, assert_same, near_lattice, run, tolerance_row
from .plain_loops import dcnv3_loops


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_matches_plain_loops(case):
    inputs = case.make()
    want = dcnv3_loops(inputs.input, inputs.offset, inputs.mask, inputs.grad_output, **as_keywords(inputs.geometry))
    assert_same(run(inputs, "reference"), Result(*want), "plain loops")


@pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_matches_reference_in_float64(backend, case, dtype, softmax):
    inputs = case.make(dtype)
    want = run(inputs.to(torch.float64), "reference", softmax)
    got = run(inputs, backend, softmax)
    assert {tensor.dtype for tensor in got} == {dtype}
    assert_same(got, want, tolerance_row(backend), ignore=near_lattice(inputs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", ["reference", *BACKENDS[2:]])
def test_offset_gradient_on_the_lattice_is_that_of_the_floor_cell(backend, dtype):
    """Zero offsets, where every network starts: plain loops and recorded tensors use ``floor``; so does a backend."""
    inputs = next(case for case in CASES if case.name == "zero_offsets").make(dtype)
    want = dcnv3_loops(inputs.input, inputs.offset, inputs.mask, inputs.grad_output, **as_keywords(inputs.geometry))
    assert_same(run(inputs, backend), Result(*want), "operator")


RECORDED = recorded.cases("dcnv3_op/manifest.json")


@pytest.mark.skipif(not RECORDED, reason="no recorded tensors here")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_the_released_operator(backend, case, dtype):
    inputs, want = load_recorded(case)
    kink = case["flags"].get("kink", False)
    ignore = torch.ones_like(want.grad_offset, dtype=torch.bool) if kink and backend == "grid_sample" else None
    assert_same(run(inputs.to(dtype), backend), want, tolerance_row(backend), ignore)


def load_recorded(case: dict) -> tuple[Inputs, Result]:
    tensors, p = recorded.tensors(case), case["params"]
    pairs = ((p[f"{name}_h"], p[f"{name}_w"]) for name in ("kernel", "stride", "pad", "dilation"))
    geometry = Geometry.of(*pairs, p["group"], p["offset_scale"], p["remove_center"])
    inputs = Inputs(*(tensors[name] for name in ("input", "offset", "mask", "grad_output")), geometry)
    return inputs, Result(*(tensors[name] for name in Result._fields))
