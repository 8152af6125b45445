"""What a call of an operator promises around its numbers: order of sums, alignment, streams, devices, settings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from internimage.ops import autotune, dcnv3, triton_launch, tuning
from internimage.ops.geometry import Geometry
from tests.ops.attention_cases import AttentionCase, assert_same_attention, near_grid_line, run_attention
from tests.ops.cases import Case, as_keywords, assert_same, near_lattice, run
from tests.ops.packed_cases import run_packed

CROWD = Case("crowd", (2, 5, 4), 3, Geometry((2, 2), padding=(1, 1), groups=2), offset_std=3.0)
CROWDED_ATTENTION = AttentionCase("crowd", ((3, 2), (1, 2)), queries=20, depth=3, points=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_backward_pass_gives_the_same_bits_where_that_is_asked_for(device, deterministic, dtype):
    """Many samples to a pixel, with gradients of very different size, whose sum changes with the order."""
    inputs = CROWD.make(dtype)
    sizes = 2.0 ** torch.linspace(-10, 3, inputs.grad_output.numel(), device=device).view(inputs.grad_output.shape)
    inputs = replace(inputs, grad_output=(inputs.grad_output * sizes).to(dtype))
    deterministic(True)
    first, second = run(inputs, "triton", True), run(inputs, "triton", True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    packed, again = run_packed(inputs, "triton", True), run_packed(inputs, "triton", True)
    assert all(torch.equal(a, b) for a, b in zip(packed, again, strict=True))
    assert torch.equal(packed.grad_input, first.grad_input)
    want = run(inputs.to(torch.float64), "reference", True)
    assert_same(first, want, "operator", near_lattice(inputs))


def test_attention_gives_the_same_bits_where_that_is_asked_for(device, deterministic):
    inputs = CROWDED_ATTENTION.make(torch.float32)
    deterministic(True)
    first, second = (run_attention(inputs, "triton", True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    want = run_attention(inputs.to(torch.float64), "reference", True)
    assert_same_attention(first, want, "operator", near_grid_line(inputs))


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_tensors_may_begin_at_any_element(device, shift):
    """Kernels are compiled for addresses that are multiples of 16 bytes, and for others anew."""

    def shifted(tensor: torch.Tensor) -> torch.Tensor:
        buffer = tensor.new_full((tensor.numel() + shift,), float("nan"))
        return buffer[shift:].view(tensor.shape).copy_(tensor)

    inputs = Case("shifted", (1, 3, 4), 8, Geometry((2, 2), groups=2)).make(torch.float16)
    want = run(inputs.to(torch.float64), "reference")
    assert_same(run(inputs.map(shifted), "triton"), want, "operator", near_lattice(inputs))


def test_autocast_casts_to_its_dtype(device):
    inputs = CROWD.make(torch.float32)
    with torch.autocast(device, torch.bfloat16):
        got = dcnv3(inputs.input, inputs.offset, inputs.mask, **as_keywords(inputs.geometry), backend="triton")
    low = inputs.to(torch.bfloat16)
    want = dcnv3(low.input, low.offset, low.mask, **as_keywords(inputs.geometry), backend="triton")
    assert got.dtype == torch.bfloat16 and torch.equal(got, want)


def test_the_backend_is_picked_on_a_card(card):
    inputs = CROWD.make(torch.float32)
    keywords = as_keywords(inputs.geometry)
    picked = dcnv3(inputs.input, inputs.offset, inputs.mask, **keywords)
    assert torch.equal(picked, dcnv3(inputs.input, inputs.offset, inputs.mask, **keywords, backend="triton"))


def test_a_second_call_launches_what_the_first_compiled(card):
    case = Case("kept", (1, 9, 11), 16, Geometry(groups=2))
    run(case.make(torch.float16), "triton")
    kept = dict(triton_launch._launches)
    assert kept and all(launch.compiled is not None for launch in kept.values())
    inputs = replace(case, size=(1, 11, 9)).make(torch.float16, seed=1)
    want = run(inputs.to(torch.float64), "reference")
    assert_same(run(inputs, "triton"), want, "operator", near_lattice(inputs))
    assert triton_launch._launches == kept


def test_locations_may_be_of_another_dtype_at_the_next_call(device):
    """A kept kernel reads numbers of the size it was compiled for."""
    inputs = AttentionCase("finer", queries=3, depth=3).make(torch.float16)
    finer = replace(inputs, locations=inputs.locations.float())
    for made in (inputs, finer, inputs, finer):
        want = run_attention(made.to(torch.float64), "reference")
        assert_same_attention(run_attention(made, "triton"), want, "operator", near_grid_line(made))


def test_runs_on_the_current_stream(card):
    """The other stream is kept busy, so that a launch there would come too late, and one elsewhere too early."""
    inputs = Case("stream", (2, 20, 20), 16, Geometry(groups=2)).make(torch.float32)
    want = run(inputs, "triton")
    late = replace(inputs, input=torch.zeros_like(inputs.input))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.input.copy_(inputs.input)
        got = run(late, "triton")
    stream.synchronize()
    assert_same(got, want, "operator")


def test_runs_where_the_tensors_are_and_not_on_the_current_device(card):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two cards")
    inputs = CROWD.make(torch.float32)
    with torch.cuda.device(0):
        got = run(inputs.to("cuda:1"), "triton")
        assert torch.cuda.current_device() == 0 and got.output.device.index == 1
    want = run(inputs.to(torch.float64).to("cpu"), "reference")
    assert_same(type(got)(*(tensor.cpu() for tensor in got)), want, "operator", near_lattice(inputs.to("cpu")))


def test_measures_settings_where_that_is_asked_for(card, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path))
    inputs = Case("tuned", (4, 28, 28), 32, Geometry(groups=4)).make(torch.float16)
    with autotune():
        got = run(inputs, "triton")
    assert_same(got, run(inputs.to(torch.float64), "reference"), "operator", near_lattice(inputs))
    kept = json.loads(tuning.path().read_text())["settings"]
    assert sorted(key.split(" |")[0] for key in kept) == ["dcnv3 backward_kernel", "dcnv3 forward_kernel"]
    assert_same(run(inputs, "triton"), got, "operator")


SHAPES = [(8, 56, 4, 32), (8, 28, 8, 32), (8, 14, 16, 32), (8, 7, 32, 32), (2, 56, 4, 16), (1, 200, 4, 16)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_of_networks(card, shape, dtype):
    n, side, groups, depth = shape
    inputs = Case("network", (n, side, side), depth, Geometry(groups=groups)).make(dtype)
    want = run(inputs.to(torch.float64), "reference", softmax=True)
    row = "wide map" if side > 100 and dtype == torch.float32 else "operator"
    assert_same(run(inputs, "triton", softmax=True), want, row, near_lattice(inputs, 1e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_attention_of_a_detector(card, dtype):
    levels = ((100, 152), (50, 76), (25, 38), (13, 19))
    inputs = AttentionCase("detector", levels, 1, 900, 8, 32, 4).make(dtype)
    want = run_attention(inputs.to(torch.float64), "reference", softmax=True)
    got = run_attention(inputs, "triton", softmax=True)
    row = "wide map" if dtype == torch.float32 else "operator"
    assert_same_attention(got, want, row, near_grid_line(inputs, 1e-3))
