"""What the Triton kernels promise, checked in Triton's interpreter on the CPU.

``test_triton.py`` runs this file in a process of its own: whether kernels are interpreted is settled when they
are first imported. By hand: ``TRITON_INTERPRET=1 pytest tests/ops/dcnv3_triton_cases.py``.

The interpreter's time goes by programs, whatever their size, so most tests launch fewer and larger ones.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
import triton

from internimage.ops import available_backends, dcnv3, triton_backend, triton_launch
from internimage.ops.dcnv3 import gpu
from internimage.ops.dcnv3.op import BACKENDS, dcnv3_backward_op
from internimage.ops.dispatch import Call, choose
from internimage.ops.geometry import Geometry
from internimage.ops.layout import lanes_of
from internimage.ops.triton_launch import constants_of
from internimage.ops.triton_settings import Setting

from .cases import CASES, DEVICE, DTYPES, Case, Inputs, Result, as_keywords, assert_same, near_lattice, run
from .test_dcnv3_ladder import RECORDED, load_recorded

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
assert INTERPRETED or DEVICE == "cuda", "run this file with TRITON_INTERPRET=1"

BOTH = pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
BASE = Case("base", (1, 3, 4), 3, Geometry((2, 2), groups=2))


@pytest.fixture
def large_blocks(monkeypatch):
    """512 rows a program, which in these tests is mostly one program."""
    if INTERPRETED:  # a card has no blocks so large: there each launch is as it would be
        monkeypatch.setattr(triton_launch, "settings_of", lambda problem: [Setting(lanes=128, warps=2048, unroll=1)])


def check_against_reference(case: Case, dtype: torch.dtype, softmax: bool) -> None:
    inputs = case.make(dtype)
    got = run(inputs, "triton", softmax)
    assert {tensor.dtype for tensor in got} == {dtype}
    assert_same(got, run(inputs.to(torch.float64), "reference", softmax), "operator", near_lattice(inputs))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(large_blocks, case):
    check_against_reference(case, torch.float32, softmax=False)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_reference_in_every_dtype(large_blocks, dtype, softmax):
    check_against_reference(Case("odd", (2, 4, 3), 5, Geometry((3, 2), (2, 1), (0, 3), (1, 2), 3, 1.5)), dtype, softmax)


LAUNCHES = [
    Case("several_blocks", (1, 5, 8), 16, Geometry((2, 2), groups=2)),  # 108 rows in blocks of 64 and of 32
    Case("wide", (1, 2, 3), 70, Geometry((1, 2), groups=2)),
    Case("widest", (1, 1, 2), 300, Geometry((1, 2), groups=1)),
    Case("many_taps", (1, 3, 2), 2, Geometry((1, 17), padding=(0, 8), groups=1)),
]


@BOTH
@pytest.mark.parametrize("case", LAUNCHES, ids=str)
def test_matches_reference_with_its_own_launch_settings(case, softmax):
    check_against_reference(case, torch.float32, softmax)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_in_every_dtype_with_its_own_launch_settings(case, dtype, softmax):
    check_against_reference(case, dtype, softmax)


SOME_RECORDED = ("base_k3", "remove_center_k3", "far_offsets", "asymmetric", "scale2_k3")


@pytest.mark.parametrize("case", [c for c in RECORDED if c["name"] in SOME_RECORDED], ids=lambda case: case["name"])
def test_matches_the_released_operator(large_blocks, case):
    inputs, want = load_recorded(case)
    assert_same(on_the_host(run(inputs.to(torch.float64).to(DEVICE), "triton")), want, "operator")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_matches_the_released_operator_in_every_case_with_its_own_launch_settings(case, dtype):
    inputs, want = load_recorded(case)
    assert_same(on_the_host(run(inputs.to(dtype).to(DEVICE), "triton")), want, "operator")


def on_the_host(result: Result) -> Result:
    return Result(*(tensor.cpu() for tensor in result))


@BOTH
def test_offset_gradient_on_the_lattice_is_that_of_the_floor_cell(large_blocks, softmax):
    """At whole pixels, the one at -1 included, where the gradient is zero."""
    inputs = BASE.make(torch.float32)
    inputs = replace(inputs, offset=inputs.offset.round())
    assert_same(run(inputs, "triton", softmax), run(inputs.to(torch.float64), "reference", softmax), "operator")


@BOTH
def test_nan_and_infinite_offsets_count_as_zero_and_read_nothing_outside(large_blocks, softmax):
    inputs = BASE.make(torch.float32)
    bad = torch.zeros_like(inputs.offset, dtype=torch.bool)
    for start, value in enumerate((float("nan"), float("inf"), -float("inf"), 3e38, -3e38)):
        inputs.offset.flatten()[start::23] = value
        bad.flatten()[start::23] = True
    inputs = replace(inputs, input=amid_nan(inputs.input))
    got = run(inputs, "triton", softmax)
    assert all(tensor.isfinite().all() for tensor in got)
    assert not got.grad_offset[bad].any()
    assert_same(got, run(inputs.to(torch.float64), "reference", softmax), "operator", near_lattice(inputs))


def amid_nan(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, in the middle of a buffer of NaN."""
    buffer = tensor.new_full((3 * tensor.numel(),), float("nan"))
    middle = buffer[tensor.numel() : 2 * tensor.numel()].view(tensor.shape)
    return middle.copy_(tensor)


def test_nothing_but_nan_offsets_gives_zeros(large_blocks):
    inputs = BASE.make(torch.float32)
    got = run(replace(inputs, offset=torch.full_like(inputs.offset, float("nan"))), "triton")
    assert not any(tensor.any() for tensor in got)


def test_a_nan_weight_stays_in_its_pixel_and_is_ignored_where_the_tap_sees_nothing(large_blocks):
    inputs = BASE.make(torch.float32)
    inputs.mask[0, 0, 0, 0], inputs.mask[0, 2, 3, 1] = float("nan"), float("nan")
    inputs.offset[0, 0, 0, :2], inputs.offset[0, 2, 3, 2:4] = 1000.3, -0.5
    assert_same(run(inputs, "triton"), run(inputs.to(torch.float64), "reference"), "operator", near_lattice(inputs))


@BOTH
def test_slices_of_one_packed_tensor_are_read_in_place(large_blocks, softmax):
    inputs = BASE.make(torch.float32)
    packed = torch.cat([inputs.offset, inputs.mask], -1)
    offset, mask = packed.split([inputs.offset.shape[-1], inputs.mask.shape[-1]], -1)
    assert all(lanes_of(tensor, 2).tensor is tensor for tensor in (offset, mask))
    sliced = replace(inputs, offset=offset, mask=mask)
    assert_same(run(sliced, "triton", softmax), run(inputs.to(torch.float64), "reference", softmax), "operator")


STRIDES = {
    "channels_first": lambda tensor: tensor.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    "transposed": lambda tensor: tensor.transpose(1, 2).contiguous().transpose(1, 2),
    "every_other_column": lambda tensor: tensor.repeat_interleave(2, 2)[:, :, ::2],
    "every_other_channel": lambda tensor: tensor.repeat_interleave(2, 3)[..., ::2],
}


@pytest.mark.parametrize("w", [4, 1])
@pytest.mark.parametrize("layout", STRIDES)
def test_any_strides(large_blocks, layout, w):
    inputs = Case("strides", (2, 3, w), 3, Geometry(groups=2)).make(torch.float32)
    want = run(inputs.to(torch.float64), "reference")
    assert_same(run(inputs.map(STRIDES[layout]), "triton"), want, "operator", near_lattice(inputs))


@BOTH
def test_a_gradient_that_is_one_number_expanded(large_blocks, softmax):
    inputs = BASE.make(torch.float32)
    inputs = replace(inputs, grad_output=torch.ones((), device=DEVICE).expand(inputs.grad_output.shape))
    assert_same(run(inputs, "triton", softmax), run(inputs.to(torch.float64), "reference", softmax), "operator")


@BOTH
def test_long_addresses_give_the_same_numbers(large_blocks, monkeypatch, softmax):
    inputs = BASE.make(torch.float32)
    want = run(inputs, "triton", softmax)
    monkeypatch.setattr(triton_launch, "INT32_ADDRESSES", 0)
    assert constants(inputs)["INDEX"] is triton.language.int64
    assert_same(run(inputs, "triton", softmax), want, "operator")


@pytest.mark.parametrize("which", ["input", "offset", "mask"])
def test_addresses_are_long_from_2_31_elements_on(which):
    def meta(*shape):
        return torch.empty(shape, device="meta")

    inputs = Inputs(meta(1, 5, 5, 8), meta(1, 5, 5, 18), meta(1, 5, 5, 9), meta(1, 5, 5, 8), Geometry(groups=1))
    assert constants(inputs)["INDEX"] is triton.language.int32
    large = {
        "input": meta(1, 5, 2**31 // 40 + 1, 8),
        "offset": meta(1, 5, 5, 2**27)[..., :18],  # a slice of rows that lie far apart
        "mask": meta(1, 5, 5, 2**27)[..., :9],
    }
    assert constants(replace(inputs, **{which: large[which]}))["INDEX"] is triton.language.int64


def constants(inputs: Inputs) -> dict:
    lanes = (lanes_of(tensor, inputs.geometry.groups) for tensor in (inputs.offset, inputs.mask))
    problem = gpu.problem_of(inputs.input, inputs.grad_output, inputs.geometry, False, *lanes)
    return constants_of(problem, triton_launch.settings_of(problem)[0])


def test_reads_the_far_end_of_a_map_beyond_2_31_elements():
    """Four gigabytes of addresses; the system backs with memory only the few pages that are read."""
    side = 46342  # side**2 > 2**31
    input = torch.empty(1, side, side, 1, dtype=torch.float16, device=DEVICE)
    geometry = Geometry((1, 1), (side - 1, side - 1), (0, 0))
    input[0, :: side - 1, :: side - 1] = torch.tensor([[[1.0], [5.0]], [[2.0], [6.0]]]).half().to(DEVICE)
    offset, mask = input.new_zeros(1, 2, 2, 2), input.new_ones(1, 2, 2, 1)
    output = gpu.forward(input, offset, mask, geometry)
    assert torch.equal(output, input[:, :: side - 1, :: side - 1])


@BOTH
def test_empty_batch_keeps_gradients(softmax):
    got = run(Case("empty", (0, 3, 4), 3, Geometry(groups=2)).make(torch.bfloat16), "triton", softmax)
    assert [tuple(tensor.shape) for tensor in got] == [(0, 3, 4, 6), (0, 3, 4, 6), (0, 3, 4, 36), (0, 3, 4, 18)]


@pytest.mark.skipif(not INTERPRETED, reason="on the CPU the kernels run in the interpreter only")
def test_runs_on_the_cpu_when_named_and_is_not_picked_there():
    assert available_backends("cpu")["triton"] == []
    call = Call("dcnv3", (1, 4, 4, 8), torch.float32, "cpu", 1, needs_grad=True)
    assert choose(BACKENDS, call).name != "triton"
    assert choose(BACKENDS, call, "triton").name == "triton"


def test_refuses_other_devices():
    call = Call("dcnv3", (1, 4, 4, 8), torch.float32, "mps", 1, needs_grad=False)
    assert triton_backend.why_not(call) == ["the tensors are on mps"]


TINY = Case("tiny", (1, 2, 3), 2, Geometry((1, 2), groups=1))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_opcheck(large_blocks):
    torch.library.opcheck(torch.ops.internimage.dcnv3.default, registered_arguments(leaves(TINY)))


def test_opcheck_of_the_backward(large_blocks):
    inputs = TINY.make(torch.float32)
    torch.library.opcheck(dcnv3_backward_op, (inputs.grad_output, *registered_arguments(inputs)))


def leaves(case: Case) -> Inputs:
    return case.make(torch.float32).map(torch.Tensor.requires_grad_)


def registered_arguments(inputs: Inputs) -> tuple:
    return inputs.input, inputs.offset, inputs.mask, *inputs.geometry.as_args(), True, "triton"


def test_compiles_into_one_graph_with_the_same_numbers(large_blocks):
    torch._dynamo.reset()

    def call(input, offset, mask):
        return dcnv3(input, offset, mask, **as_keywords(BASE.geometry), backend="triton")

    inputs = leaves(BASE)
    tensors = (inputs.input, inputs.offset, inputs.mask)
    output = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")(*tensors)
    got = Result(output.detach(), *torch.autograd.grad(output, tensors, inputs.grad_output.detach()))
    assert_same(got, run(inputs, "triton"), "operator")


@pytest.fixture
def deterministic():
    yield torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms(False)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums_in_order_where_determinism_is_asked_for(large_blocks, deterministic, dtype, softmax):
    """Under torch's deterministic mode fresh memory starts as NaN, so it shows too that all of it is written."""
    deterministic(True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    check_against_reference(Case("odd", (2, 4, 3), 5, Geometry((3, 2), (2, 1), (0, 3), (1, 2), 3, 1.5)), dtype, softmax)


def test_the_order_of_the_sums_does_not_depend_on_the_launch(deterministic, monkeypatch):
    """Numbers of very different size, whose sum changes with the order."""
    inputs = Case("crowd", (1, 6, 6), 3, Geometry((2, 2), groups=2), offset_std=3.0).make(torch.float32)
    sizes = 10.0 ** torch.linspace(-4, 4, inputs.grad_output.numel(), device=DEVICE).view(inputs.grad_output.shape)
    inputs = replace(inputs, grad_output=inputs.grad_output * sizes)
    deterministic(True)
    got = []
    for setting in (Setting(2, 32, 1), Setting(2, 8, 1)):
        monkeypatch.setattr(triton_launch, "settings_of", lambda problem, setting=setting: [setting])
        got.append(run(inputs, "triton"))
    assert torch.equal(got[0].grad_input, got[1].grad_input)
    assert_same(got[0], run(inputs.to(torch.float64), "reference"), "operator", near_lattice(inputs))


def test_a_gradient_stays_where_it_belongs_when_summed_in_order(large_blocks, deterministic):
    """NaN gradients reach exactly the pixels that their output samples."""
    inputs = BASE.make(torch.float32)
    inputs.grad_output[0, 1, 1, 0] = float("nan")
    want = run(inputs.to(torch.float64), "reference")
    deterministic(True)
    assert torch.equal(run(inputs, "triton").grad_input.isnan(), want.grad_input.isnan())
