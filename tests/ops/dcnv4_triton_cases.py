"""DCNv4 on the Triton kernels, in Triton's interpreter; ``test_triton.py`` runs this file in a process of its own.

The kernels are those of DCNv3, checked in ``dcnv3_triton_cases.py``; what is left is how they reach packed tensors.
"""

from __future__ import annotations

import os

import pytest
import torch

from internimage.ops import triton_launch
from internimage.ops.geometry import Geometry
from internimage.ops.triton_settings import Setting

from .cases import CASES, DEVICE, DTYPES, Case, Result, assert_same, near_lattice, run
from .packed_cases import run_packed
from .test_dcnv4_ladder import RECORDED, load_recorded

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
assert INTERPRETED or DEVICE == "cuda", "run this file with TRITON_INTERPRET=1"

BOTH = pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])


@pytest.fixture
def large_blocks(monkeypatch):
    """512 rows a program, which in these tests is mostly one program."""
    if INTERPRETED:  # a card has no blocks so large: there each launch is as it would be
        monkeypatch.setattr(triton_launch, "settings_of", lambda problem: [Setting(lanes=128, warps=2048, unroll=1)])


def check(case: Case, dtype: torch.dtype, softmax: bool) -> None:
    inputs = case.make(dtype)
    got = run_packed(inputs, "triton", softmax)
    assert {tensor.dtype for tensor in got} == {dtype}
    assert_same(got, run(inputs.to(torch.float64), "reference", softmax), "operator", near_lattice(inputs))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_packed_tensors_in_place(large_blocks, dtype, softmax):
    check(Case("odd", (2, 4, 3), 5, Geometry((3, 2), (2, 1), (0, 3), (1, 2), 3, 1.5)), dtype, softmax)


def test_empty_batch_keeps_gradients():
    check(Case("empty", (0, 3, 4), 3, Geometry(groups=2)), torch.bfloat16, False)


@pytest.mark.parametrize("case", [case for case in RECORDED if case["name"] == "zero_offsets"], ids=lambda c: c["name"])
def test_matches_the_released_operator(large_blocks, case):
    check_recorded(case, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_matches_the_released_operator_in_every_case_with_its_own_launch_settings(case, dtype):
    check_recorded(case, dtype)


def check_recorded(case: dict, dtype: torch.dtype) -> None:
    inputs, offset_mask, want = load_recorded(case)
    inputs, offset_mask = inputs.to(dtype).to(DEVICE), offset_mask.to(DEVICE, dtype)
    got = run_packed(inputs, "triton", case["softmax"], offset_mask)
    assert_same(Result(*(tensor.cpu() for tensor in got)), want, "operator")


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_in_every_dtype_with_its_own_launch_settings(case, dtype, softmax):
    check(case, dtype, softmax)
