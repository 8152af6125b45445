"""The operator in daily use: autocast, threads, determinism, memory."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from internimage.ops import native
from internimage.ops.geometry import Geometry

from .cases import BACKENDS, DTYPES, Inputs, assert_same, draw, forward, near_lattice, needs_kernel, run

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
GEOMETRY = Geometry(groups=2)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@EVERY_BACKEND
def test_autocast_gives_the_half_type_and_gradients_of_the_parameters_own(backend, half):
    inputs = draw((2, 5, 6), 4, GEOMETRY).to(torch.float32)
    want = run(inputs.to(half), backend)
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]
    with torch.autocast("cpu", half):
        output = forward(Inputs(*leaves, inputs.grad_output, GEOMETRY), backend)
    assert output.dtype == half
    grads = torch.autograd.grad(output, leaves, inputs.grad_output.to(half))
    assert {grad.dtype for grad in grads} == {torch.float32}
    for got, wanted in zip((output, *grads), want, strict=True):
        assert torch.equal(got, wanted.to(got.dtype))


@EVERY_BACKEND
def test_autocast_joins_mixed_dtypes(backend):
    """A projection under autocast gives bfloat16 values, a layer norm float32 offsets."""
    inputs = draw((2, 5, 6), 4, GEOMETRY).to(torch.bfloat16)
    want = forward(inputs, backend)
    with torch.autocast("cpu", torch.bfloat16):
        got = forward(replace(inputs, offset=inputs.offset.float(), mask=inputs.mask.float()), backend)
    assert torch.equal(got, want)


@EVERY_BACKEND
def test_autocast_leaves_float64_alone(backend):
    inputs = draw((2, 5, 6), 4, GEOMETRY)
    with torch.autocast("cpu", torch.bfloat16):
        got = forward(inputs, backend)
    assert got.dtype == torch.float64 and torch.equal(got, forward(inputs, backend))


@EVERY_BACKEND
def test_several_python_threads_at_once(backend):
    calls = [draw((1, 9 + seed, 8), 4, GEOMETRY, seed=seed) for seed in range(8)]
    want = [run(call, backend) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, wanted in zip(pool.map(lambda call: run(call, backend), calls), want, strict=True):
                for a, b in zip(got, wanted, strict=True):
                    assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
@needs_kernel
def test_the_bits_do_not_depend_on_how_the_work_is_shared(softmax, dtype, shared_in_parts):
    inputs = draw((2, 40, 40), 8, Geometry(groups=3)).to(dtype)
    if softmax:
        inputs.mask[..., :9] += 100  # logits of the first group that need their maximum taken off
    want = run(inputs, "cpu", softmax)
    for parts in (1, 2, 3, 5, 6, 1):
        with shared_in_parts(parts):
            got = run(inputs, "cpu", softmax)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), f"{parts} parts"


STRIPS = {  # 256 channels, so that lines are cut in strips of 16 columns, the last one narrower
    "stride": ((2, 5, 75), Geometry(stride=(2, 2), groups=8)),
    "dilation": ((1, 4, 41), Geometry(padding=(3, 3), dilation=(3, 3), groups=8)),
    "many taps": ((2, 3, 37), Geometry((5, 5), padding=(2, 2), groups=16, remove_center=True)),
}


@pytest.mark.parametrize("case", STRIPS.values(), ids=STRIPS)
@pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
@needs_kernel
def test_strips_of_columns_give_the_numbers_of_the_map_however_they_are_shared(case, softmax, shared_in_parts):
    """Parts of the work begin and end in the middle of a line, of a strip, and of an image."""
    size, geometry = case
    inputs = draw(size, 256 // geometry.groups, geometry)
    exact = run(inputs, "reference", softmax)
    inputs = inputs.to(torch.float32)
    want = run(inputs, "cpu", softmax)
    assert_same(want, exact, "operator", ignore=near_lattice(inputs))
    for parts in (2, 3, 7, 50):
        with shared_in_parts(parts):
            got = run(inputs, "cpu", softmax)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), f"{parts} parts"


@pytest.mark.slow  # on a busy machine threads of one process wait long for each other
@needs_kernel
def test_torch_threads_share_the_work_and_give_the_same_bits():
    inputs = draw((2, 40, 40), 8, Geometry(groups=3)).to(torch.float32)
    want, before = run(inputs, "cpu"), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        got = run(inputs, "cpu")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@needs_kernel
def test_deterministic_algorithms_are_accepted():
    inputs = draw((1, 5, 6), 4, GEOMETRY)
    want = run(inputs, "cpu")
    torch.use_deterministic_algorithms(True)
    try:
        got = run(inputs, "cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_numbers(name, dtype, instruction_set):
    if not instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    assert native.instruction_set() == name
    for depth in (1, 3, 4, 8, 16, 31, 32, 64):
        inputs = draw((1, 4, 5), depth, GEOMETRY, seed=depth).to(dtype)
        for softmax in (False, True):
            want = run(inputs.to(torch.float64), "reference", softmax)
            assert_same(run(inputs, "cpu", softmax), want, "operator", ignore=near_lattice(inputs))


def test_an_unknown_instruction_set_is_refused():
    if native.load_error() is None:
        assert native.library().internimage_set_instruction_set(b"sse9") == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the size of the process from /proc")
@EVERY_BACKEND
def test_memory_of_a_hundred_steps_does_not_grow(backend):
    """The input alone is 256 KiB: one tensor leaked a step would show as 25 MiB."""
    inputs = draw((1, 32, 32), 16, Geometry((1, 2), padding=(0, 1), groups=4)).to(torch.float32)
    for _ in range(10):
        run(inputs, backend)
    gc.collect()
    before = resident_bytes()
    for _ in range(100):
        run(inputs, backend)
    gc.collect()
    assert resident_bytes() - before < 12 * 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def allocated(function) -> list[int]:
    """Sizes in bytes of the tensors that ``function`` asks memory for."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = function()
    del kept
    events = profile.profiler.kineto_results.events()
    return sorted(event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0)


def nbytes(*tensors: torch.Tensor) -> list[int]:
    return sorted(tensor.numel() * tensor.element_size() for tensor in tensors)


MEMORY_GEOMETRY = Geometry((3, 2), (1, 2), (1, 1), groups=2)


@needs_kernel
@pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_allocates_its_output_and_nothing_else(dtype, softmax):
    inputs = draw((2, 20, 30), 8, MEMORY_GEOMETRY).to(dtype)
    output = forward(inputs, "cpu", softmax)
    assert allocated(lambda: forward(inputs, "cpu", softmax)) == nbytes(output)


@needs_kernel
@pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_allocates_three_gradients(dtype, softmax):
    """And for the half types one float32 buffer in which the gradient of the input is summed up."""
    inputs = draw((2, 20, 30), 8, MEMORY_GEOMETRY).to(dtype)
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]
    output = forward(inputs, "cpu", softmax)
    got = allocated(lambda: torch.autograd.grad(output, leaves, inputs.grad_output))
    buffer = [torch.empty(inputs.input.shape)] if dtype.itemsize == 2 else []
    assert got == nbytes(*leaves, *buffer)


@needs_kernel
@pytest.mark.parametrize("name", ["input", "offset", "mask"])
def test_what_is_not_contiguous_is_copied_once(name):
    inputs = draw((2, 20, 30), 8, MEMORY_GEOMETRY).to(torch.float32)
    scattered = getattr(inputs, name).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    inputs = replace(inputs, **{name: scattered})
    output = forward(inputs, "cpu")
    assert allocated(lambda: forward(inputs, "cpu")) == nbytes(output, scattered)


@needs_kernel
def test_slices_of_one_projection_are_not_copied():
    """Offsets and mask logits come out of one matrix product in the layer."""
    inputs = draw((2, 20, 30), 8, MEMORY_GEOMETRY).to(torch.float32)
    widths = (inputs.offset.shape[-1], inputs.mask.shape[-1])
    offset, mask = torch.cat((inputs.offset, inputs.mask), -1).split(widths, -1)
    sliced = replace(inputs, offset=offset, mask=mask)
    assert allocated(lambda: forward(sliced, "cpu")) == nbytes(inputs.grad_output)
    assert torch.equal(forward(sliced, "cpu"), forward(inputs, "cpu"))
