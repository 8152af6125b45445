"""The ladder of trust for DCNv4: plain loops, the reference, every backend, tensors recorded from the released code."""

from __future__ import annotations

import pytest
import torch

from internimage.ops.geometry import Geometry
from tests.parity import recorded

from .cases import BACKENDS, CASES, DTYPES, Inputs, Result, as_keywords, assert_same, near_lattice, run, tolerance_row
from .packed_cases import run_packed, unpack
from .plain_loops import dcnv3_loops

SOFTMAX = pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
SOME = [case for case in CASES if case.name in ("asymmetric", "remove_center_3x5", "one_channel", "depth40")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_matches_plain_loops(case):
    inputs = case.make()
    want = dcnv3_loops(inputs.input, inputs.offset, inputs.mask, inputs.grad_output, **as_keywords(inputs.geometry))
    assert_same(run_packed(inputs, "reference"), Result(*want), "plain loops")


@SOFTMAX
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_matches_the_reference_of_dcnv3(backend, case, softmax):
    check(backend, case, torch.float32, softmax)


@SOFTMAX
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SOME, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_dtype(backend, case, dtype, softmax):
    check(backend, case, dtype, softmax)


def check(backend: str, case, dtype: torch.dtype, softmax: bool) -> None:
    inputs = case.make(dtype)
    got = run_packed(inputs, backend, softmax)
    assert {tensor.dtype for tensor in got} == {dtype}
    want = run(inputs.to(torch.float64), "reference", softmax)
    assert_same(got, want, tolerance_row(backend), ignore=near_lattice(inputs))


RECORDED = recorded.cases("dcnv4_op/manifest.json")


@pytest.mark.skipif(not RECORDED, reason="no recorded tensors here")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_the_released_operator(backend, case, dtype):
    inputs, offset_mask, want = load_recorded(case)
    kink = case["flags"].get("kink", False)
    ignore = torch.ones_like(want.grad_offset, dtype=torch.bool) if kink and backend == "grid_sample" else None
    got = run_packed(inputs.to(dtype), backend, case["softmax"], offset_mask.to(dtype))
    assert_same(got, want, tolerance_row(backend), ignore)


def load_recorded(case: dict) -> tuple[Inputs, torch.Tensor, Result]:
    """The call, its packed tensor as recorded, and what came out."""
    tensors, p = recorded.tensors(case), case["params"]
    pairs = ((p[f"{name}_h"], p[f"{name}_w"]) for name in ("kernel", "stride", "pad", "dilation"))
    geometry = Geometry.of(*pairs, p["group"], p["offset_scale"], p["remove_center"])
    image, packed, grad_output = (tensors[name] for name in ("input", "offset_mask", "grad_output"))
    shape = Inputs(image, image, image, grad_output, geometry)
    offset, mask, unused = unpack(packed, shape)
    assert (packed.shape[-1], packed.shape[-1] - unused.shape[-1]) == (case["padded_width"], case["used_width"])
    grad_offset, grad_mask, _ = unpack(tensors["grad_offset_mask"], shape)
    want = Result(tensors["output"], tensors["grad_input"], grad_offset, grad_mask)
    return Inputs(image, offset, mask, grad_output, geometry), packed, want
