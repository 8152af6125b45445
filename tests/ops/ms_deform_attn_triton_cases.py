"""Attention's Triton kernels in Triton's interpreter; ``test_triton.py`` runs this file in a process of its own."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
import triton

from internimage.ops import triton_launch
from internimage.ops.dispatch import Call, choose
from internimage.ops.ms_deform_attn import gpu, op
from internimage.ops.triton_launch import constants_of
from internimage.ops.triton_settings import Setting

from .attention_cases import (
    ATTENTION_CASES,
    AttentionCase,
    AttentionInputs,
    AttentionResult,
    assert_same_attention,
    near_grid_line,
    run_attention,
)
from .cases import DEVICE, DTYPES
from .test_ms_deform_attn_graphs import Layer, flat, flat_sizes
from .test_ms_deform_attn_ladder import RECORDED, load_recorded, load_recorded_packed, run_recorded_packed

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
assert INTERPRETED or DEVICE == "cuda", "run this file with TRITON_INTERPRET=1"

BOTH = pytest.mark.parametrize("softmax", [False, True], ids=["weights", "logits"])
OVERFLOWS = pytest.mark.filterwarnings("ignore:.* encountered in multiply")  # of a far location and its level's size
BASE = AttentionCase("base", ((3, 4), (0, 5), (1, 2)), queries=3, depth=3, points=2)


@pytest.fixture
def large_blocks(monkeypatch):
    """512 rows a program, which in these tests is mostly one program."""
    if INTERPRETED:  # a card has no blocks so large: there each launch is as it would be
        monkeypatch.setattr(triton_launch, "settings_of", lambda problem: [Setting(lanes=128, warps=2048, unroll=1)])


def check(inputs: AttentionInputs, softmax: bool) -> AttentionResult:
    got = run_attention(inputs, "triton", softmax)
    assert {tensor.dtype for tensor in got} == {inputs.value.dtype}
    want = run_attention(inputs.to(torch.float64), "reference", softmax)
    assert_same_attention(got, want, "operator", near_grid_line(inputs))
    return got


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_reference_in_every_dtype(large_blocks, dtype, softmax):
    check(BASE.make(dtype), softmax)


FEW = ("one_level", "empty_levels_only", "one_pixel_levels", "far_away", "no_query", "empty_batch")


@pytest.mark.parametrize("case", [case for case in ATTENTION_CASES if case.name in FEW], ids=str)
def test_matches_reference(large_blocks, case):
    check(case.make(torch.float32), softmax=False)


LAUNCHES = [
    AttentionCase("several_blocks", ((3, 4), (2, 2)), 1, 20, 4, 16, 2),  # 80 rows in blocks of 64 and of 32
    AttentionCase("widest", ((1, 2),), 1, 2, 1, 300, 2),
]


@pytest.mark.parametrize("case", LAUNCHES, ids=str)
def test_matches_reference_with_its_own_launch_settings(case):
    check(case.make(torch.float32), softmax=True)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
def test_every_case_in_every_dtype_with_its_own_launch_settings(case, dtype, softmax):
    check(case.make(dtype), softmax)


@pytest.mark.parametrize("case", [case for case in RECORDED if case["name"] == "l2_p3"], ids=lambda case: case["name"])
def test_matches_the_released_operator(large_blocks, case):
    check_recorded(case, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_matches_the_released_operator_in_every_case_with_its_own_launch_settings(case, dtype):
    check_recorded(case, dtype)


def check_recorded(case: dict, dtype: torch.dtype) -> None:
    inputs, want = load_recorded(case)
    ignore = near_grid_line(inputs) if case["flags"].get("kink") and dtype == torch.float32 else None
    got = run_attention(inputs.to(dtype).to(DEVICE), "triton")
    assert_same_attention(on_the_host(got), want, "operator", ignore)
    inputs, packed, want = load_recorded_packed(case)
    got = run_recorded_packed(inputs.to(dtype).to(DEVICE), packed.to(DEVICE, dtype), "triton")
    assert_same_attention(on_the_host(got), want, "operator", ignore)


def on_the_host(result: AttentionResult) -> AttentionResult:
    return AttentionResult(*(tensor.cpu() for tensor in result))


@OVERFLOWS
@BOTH
def test_nan_and_infinite_locations_count_as_zero_and_read_nothing_outside(large_blocks, softmax):
    inputs = BASE.make(torch.float32)
    bad = torch.zeros_like(inputs.locations, dtype=torch.bool)
    for start, value in enumerate((float("nan"), float("inf"), -float("inf"), 3e38, -3e38)):
        inputs.locations.flatten()[start::17] = value
        bad.flatten()[start::17] = True
    buffer = inputs.value.new_full((3 * inputs.value.numel(),), float("nan"))
    amid_nan = buffer[inputs.value.numel() : 2 * inputs.value.numel()].view(inputs.value.shape).copy_(inputs.value)
    got = check(replace(inputs, value=amid_nan), softmax)
    assert all(tensor.isfinite().all() for tensor in got)
    assert not got.grad_locations[bad].any()


def test_a_nan_weight_is_ignored_where_its_point_sees_nothing(large_blocks):
    inputs = BASE.make(torch.float32)
    inputs.weights[0, 0, 0, 0, 0], inputs.weights[1, 2, 1, 1] = float("nan"), float("nan")  # level 1 is empty
    inputs.locations[0, 0, 0, 0, 0] = 1000.3
    assert not any(tensor.isnan().any() for tensor in check(inputs, softmax=False))


@BOTH
def test_gradients_go_into_tensors_that_lie_apart(large_blocks, softmax):
    inputs = BASE.make(torch.float32)
    want = run_attention(inputs, "triton", softmax)
    numbers = inputs.locations[0, 0, 0].numel(), inputs.weights[0, 0, 0].numel()
    packed = inputs.value.new_full((2, 3, 2, sum(numbers) + 1), 7.0)
    into = packed.split((*numbers, 1), -1)
    gpu.backward(inputs.grad_output, *flat(inputs), inputs.sizes, softmax, into[:2])
    assert torch.equal(into[0], want.grad_locations.flatten(3)) and torch.equal(into[1], want.grad_weights.flatten(3))
    assert (into[2] == 7).all()


def test_long_addresses_give_the_same_numbers(large_blocks, monkeypatch):
    inputs = BASE.make(torch.float32)
    want = run_attention(inputs, "triton", softmax=True)
    monkeypatch.setattr(triton_launch, "INT32_ADDRESSES", 0)
    assert constants(inputs)["INDEX"] is triton.language.int64
    assert_same_attention(run_attention(inputs, "triton", softmax=True), want, "operator")


@pytest.mark.parametrize("which", ["value", "locations", "weights"])
def test_addresses_are_long_from_2_31_elements_on(which):
    inputs = BASE.make().map(lambda tensor: tensor.to("meta"))
    assert constants(inputs)["INDEX"] is triton.language.int32
    large = {
        "value": torch.empty(2, 2**28, 2, 4, device="meta"),
        "locations": torch.empty(2, 3, 2**29, 3, 2, 2, device="meta")[:, :, :2],  # rows that lie far apart
        "weights": torch.empty(2, 3, 2**29, 3, 2, device="meta")[:, :, :2],
    }
    assert constants(replace(inputs, **{which: large[which]}))["INDEX"] is triton.language.int64


def constants(inputs: AttentionInputs) -> dict:
    values, *lanes = flat(inputs)
    problem = gpu.problem_of(values, inputs.grad_output, inputs.sizes, False, *gpu._by_head(*lanes))
    return constants_of(problem, triton_launch.settings_of(problem)[0])


def test_reads_the_far_end_of_a_level_beyond_2_31_elements():
    """Four gigabytes of addresses; the system backs with memory only the few pages that are read."""
    side = 46342  # side**2 > 2**31
    value = torch.empty(1, 2 + side * side, 1, dtype=torch.float16, device=DEVICE)
    value[0, -1] = 5.0
    locations = torch.tensor([[0.0, 0.0, 2.0, 2.0, 1.0, 1.0]]).half().view(1, 1, 1, 6).to(DEVICE)
    weights = torch.tensor([0.0, 1.0, 1.0]).half().view(1, 1, 1, 3).to(DEVICE)
    sizes = ((1, 1), (1, 1), (side, side))
    assert gpu.forward(value, locations, weights, sizes).item() == 1.25  # the last pixel, seen from its lower right


@BOTH
def test_sums_in_order_where_determinism_is_asked_for(large_blocks, softmax):
    """Under torch's deterministic mode fresh memory starts as NaN, so it shows too that all of it is written."""
    torch.use_deterministic_algorithms(True)
    try:
        check(BASE.make(torch.float32), softmax)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not INTERPRETED, reason="on the CPU the kernels run in the interpreter only")
def test_runs_on_the_cpu_when_named_and_is_not_picked_there():
    call = Call("ms_deform_attn", (1, 6, 8), torch.float32, "cpu", 2, needs_grad=True)
    assert choose(op.BACKENDS, call).name != "triton" and choose(op.BACKENDS, call, "triton").name == "triton"


TINY = AttentionCase("tiny", ((1, 2),), 1, 2, 1, 2, 1)


def test_opcheck_of_the_backward(large_blocks):
    inputs = TINY.make(torch.float32)
    call = (inputs.grad_output, *flat(inputs), flat_sizes(inputs), True, "triton")
    torch.library.opcheck(op.ms_deform_attn_backward_op, call)


def test_compiles_into_one_graph_with_the_same_numbers(large_blocks):
    torch._dynamo.reset()
    inputs = TINY.make(torch.float32).leaves()
    output = torch.compile(Layer(TINY.sizes, "triton"), fullgraph=True, backend="aot_eager")(*inputs.tensors)
    got = AttentionResult(output.detach(), *torch.autograd.grad(output, inputs.tensors, inputs.grad_output))
    assert_same_attention(got, run_attention(inputs, "triton"), "operator")
