"""DCNv4 in daily use: gradients, autocast, threads, strange numbers, memory. What it has of DCNv3 is tested there."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from internimage.ops import dcnv4, native
from internimage.ops.geometry import Geometry
from tests.tolerances import assert_close

from .cases import BACKENDS, DTYPES, Case, assert_same, draw, near_lattice, needs_kernel, off_lattice, run
from .packed_cases import forward_packed, pack, run_packed
from .test_dcnv3_eager import allocated, nbytes, resident_bytes

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
SOFTMAX = pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
GEOMETRY = Geometry(groups=2)
SMALL = [
    Case("base", (1, 2, 3), 2),
    Case("asymmetric", (1, 4, 3), 2, Geometry((3, 2), (2, 1), (0, 1), (1, 2), 3, 1.5)),
    Case("remove_center", (2, 2, 2), 1, Geometry(groups=1, remove_center=True)),
]


@SOFTMAX
@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("backend", BACKENDS[1:])  # the reference is that of DCNv3, checked there
def test_gradcheck_off_the_lattice(backend, case, softmax):
    inputs = off_lattice(case.make())
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, pack(inputs, unused=0.3))]

    def function(input, offset_mask):
        return forward_packed(replace(inputs, input=input), offset_mask, backend, softmax)

    assert torch.autograd.gradcheck(function, leaves, nondet_tol=0.0)


@pytest.mark.parametrize("wanted", ["input", "offset_mask"])
@EVERY_BACKEND
def test_gradients_for_one_input_only(backend, wanted):
    inputs = draw((1, 4, 5), 3, GEOMETRY)
    leaves = {"input": inputs.input, "offset_mask": pack(inputs, unused=0.0)}
    leaves[wanted].requires_grad_()
    output = forward_packed(inputs, leaves["offset_mask"], backend)
    (got,) = torch.autograd.grad(output, leaves[wanted], inputs.grad_output)
    full = run(inputs, backend)
    want = full.grad_input if wanted == "input" else pack(replace(inputs, offset=full[2], mask=full[3]), unused=0.0)
    assert torch.equal(got, want)


@EVERY_BACKEND
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=lambda context: context.__name__)
def test_without_gradients(backend, context):
    inputs = draw((1, 4, 5), 3, GEOMETRY)
    want = run_packed(inputs, backend).output
    inputs.input.requires_grad_()
    with context():
        got = forward_packed(inputs, pack(inputs), backend)
    assert torch.equal(got, want) and not got.requires_grad


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@EVERY_BACKEND
def test_autocast_gives_the_half_type_and_gradients_of_the_parameters_own(backend, half):
    inputs = draw((2, 5, 6), 4, GEOMETRY).to(torch.float32)
    packed = pack(inputs, unused=0.0)
    want = run_packed(inputs.to(half), backend)
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, packed)]
    with torch.autocast("cpu", half):
        output = forward_packed(inputs, packed, backend)
    grads = torch.autograd.grad(output, leaves, inputs.grad_output.to(half))
    assert output.dtype == half and {grad.dtype for grad in grads} == {torch.float32}
    assert torch.equal(output, want.output) and torch.equal(grads[0], want.grad_input.float())
    assert torch.equal(grads[1], pack(replace(inputs, offset=want[2], mask=want[3]), unused=0.0).float())


@EVERY_BACKEND
def test_several_python_threads_at_once(backend):
    calls = [draw((1, 9 + seed, 8), 4, GEOMETRY, seed=seed) for seed in range(6)]
    want = [run_packed(call, backend) for call in calls]
    with ThreadPoolExecutor(6) as pool:
        for got, wanted in zip(pool.map(lambda call: run_packed(call, backend), calls), want, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EVERY_BACKEND
def test_samples_at_no_position_count_as_zero(backend, dtype):
    """Output and gradients are those of masks at zero there, and the lost samples get no gradient."""
    inputs = draw((2, 4, 5), 4, GEOMETRY).to(dtype)
    lost = torch.rand(inputs.mask.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    offset = inputs.offset.clone().unflatten(-1, (-1, 2))
    values = offset.new_tensor([float("nan"), float("inf"), -float("inf"), torch.finfo(dtype).max])
    offset[lost] = values[torch.arange(2 * int(lost.sum())).view(-1, 2) % 4]
    got = run_packed(replace(inputs, offset=offset.flatten(-2)), backend)
    want = run_packed(replace(inputs, mask=inputs.mask.masked_fill(lost, 0)), backend)
    assert not got.grad_offset.unflatten(-1, (-1, 2))[lost].any() and not got.grad_mask[lost].any()
    assert torch.equal(got.output, want.output) or backend == "grid_sample"
    assert_close(got.output, want.output, "operator")
    assert_close(got.grad_input, want.grad_input, "operator")


@EVERY_BACKEND
@SOFTMAX
def test_an_empty_batch_keeps_its_gradient(backend, softmax):
    got = run_packed(draw((0, 4, 5), 3, GEOMETRY), backend, softmax)
    assert [tuple(tensor.shape) for tensor in got] == [(0, 4, 5, 6), (0, 4, 5, 6), (0, 4, 5, 36), (0, 4, 5, 18)]


@EVERY_BACKEND
@SOFTMAX
def test_a_map_of_one_pixel_seen_through_permuted_axes(backend, softmax):
    """Contiguous as it is, its axes of one element have strides of their own; 88 packed numbers are no three groups."""
    torch.manual_seed(0)
    numbers, input = torch.randn(2, 88), torch.randn(2, 1, 1, 6, requires_grad=True)
    packed, usual = numbers.view(2, 88, 1, 1).permute(0, 2, 3, 1), numbers.clone().view(2, 1, 1, 88)
    assert packed.is_contiguous() and packed.stride() != usual.stride()
    results = []
    for leaf in (packed.requires_grad_(), usual.requires_grad_()):
        output = dcnv4(input, leaf, groups=3, softmax=softmax, backend=backend)
        results.append((output, *torch.autograd.grad(output, (input, leaf), torch.ones_like(output))))
    assert all(torch.equal(got, want) for got, want in zip(*results, strict=True))


@needs_kernel
@SOFTMAX
def test_the_bits_do_not_depend_on_how_the_work_is_shared(softmax, shared_in_parts):
    inputs = draw((2, 20, 20), 8, Geometry(groups=3)).to(torch.float32)
    want = run_packed(inputs, "cpu", softmax)
    for parts in (1, 2, 5):
        with shared_in_parts(parts):
            got = run_packed(inputs, "cpu", softmax)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), f"{parts} parts"


@needs_kernel
@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_numbers(name, instruction_set):
    if not instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    assert native.instruction_set() == name
    for depth in (3, 16, 40):
        inputs = draw((1, 4, 5), depth, GEOMETRY, seed=depth).to(torch.bfloat16)
        want = run(inputs.to(torch.float64), "reference")
        assert_same(run_packed(inputs, "cpu"), want, "operator", ignore=near_lattice(inputs))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the size of the process from /proc")
@needs_kernel
def test_memory_of_a_hundred_steps_does_not_grow():
    """The input alone is 256 KiB: one tensor leaked a step would show as 25 MiB."""
    inputs = draw((1, 32, 32), 16, Geometry((1, 2), padding=(0, 1), groups=4)).to(torch.float32)
    offset_mask = pack(inputs)
    for _ in range(10):
        run_packed(inputs, "cpu", offset_mask=offset_mask)
    gc.collect()
    before = resident_bytes()
    for _ in range(100):
        run_packed(inputs, "cpu", offset_mask=offset_mask)
    gc.collect()
    assert resident_bytes() - before < 12 * 2**20


@needs_kernel
def test_packed_tensors_are_read_and_their_gradient_is_written_in_place():
    inputs = draw((2, 20, 30), 8, Geometry((3, 2), (1, 2), (1, 1), groups=2)).to(torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, pack(inputs, unused=0.0))]
    output = forward_packed(replace(inputs, input=leaves[0]), leaves[1], "cpu")
    with torch.no_grad():
        assert allocated(lambda: forward_packed(inputs, leaves[1], "cpu")) == nbytes(output)
    assert allocated(lambda: torch.autograd.grad(output, leaves, inputs.grad_output)) == nbytes(*leaves)


@needs_kernel
def test_a_second_derivative_is_refused_in_words():
    image, packed = torch.randn(1, 3, 4, 2).requires_grad_(), torch.randn(1, 3, 4, 32).requires_grad_()
    (grad,) = torch.autograd.grad(dcnv4(image, packed, backend="cpu").square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
