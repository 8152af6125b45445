"""Attention in daily use: gradients, autocast, threads, strange numbers, memory, and truths that need no reference."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from internimage.ops import ms_deform_attn
from tests.tolerances import assert_close

from .attention_cases import (
    ATTENTION_CASES,
    AttentionCase,
    AttentionInputs,
    AttentionResult,
    assert_same_attention,
    attend,
    near_grid_line,
    off_grid_lines,
    positions,
    run_attention,
)
from .cases import BACKENDS, DTYPES, needs_kernel, tolerance_row
from .test_dcnv3_eager import allocated, nbytes, resident_bytes

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
SOFTMAX = pytest.mark.parametrize("softmax", [False, True], ids=["weights", "logits"])
BASE = AttentionCase("base", queries=4)
TINY = AttentionCase("tiny", ((2, 3), (1, 2)), n=1, queries=2, depth=2, points=2)


@SOFTMAX
@EVERY_BACKEND
def test_gradcheck_off_the_grid_lines(backend, softmax):
    inputs = off_grid_lines(TINY.make()).leaves()

    def function(*tensors):
        return attend(AttentionInputs(*tensors, inputs.grad_output, inputs.sizes), backend, softmax)

    assert torch.autograd.gradcheck(function, inputs.tensors, nondet_tol=0.0)


@pytest.mark.parametrize("wanted", [("value",), ("locations",), ("weights",), ("value", "weights")], ids="+".join)
@EVERY_BACKEND
def test_gradients_for_some_inputs_only(backend, wanted):
    inputs = BASE.make()
    full = run_attention(inputs, backend)
    for name in wanted:
        getattr(inputs, name).requires_grad_()
    attend(inputs, backend).backward(inputs.grad_output)
    for name in ("value", "locations", "weights"):
        grad = getattr(inputs, name).grad
        assert (grad is not None) == (name in wanted)
        assert grad is None or torch.equal(grad, getattr(full, f"grad_{name}"))


@EVERY_BACKEND
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=lambda context: context.__name__)
def test_without_gradients(backend, context):
    inputs = BASE.make()
    want = run_attention(inputs, backend).output
    inputs.value.requires_grad_()
    with context():
        got = attend(inputs, backend)
    assert torch.equal(got, want) and not got.requires_grad


@needs_kernel
def test_a_second_derivative_is_refused_in_words():
    inputs = BASE.make().leaves()
    (grad,) = torch.autograd.grad(attend(inputs, "cpu").square().sum(), inputs.value, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@EVERY_BACKEND
def test_autocast_gives_the_half_type_and_gradients_of_the_parameters_own(backend, half):
    inputs = BASE.make(torch.float32).leaves()
    want = run_attention(with_float32_locations(BASE.make(torch.float32), half), backend)
    with torch.autocast("cpu", half):
        output = attend(inputs, backend)
    grads = torch.autograd.grad(output, inputs.tensors, inputs.grad_output.to(half))
    assert output.dtype == half and {grad.dtype for grad in grads} == {torch.float32}
    for got, wanted in zip((output, *grads), want, strict=True):
        assert torch.equal(got, wanted.to(got.dtype))


def with_float32_locations(inputs: AttentionInputs, half: torch.dtype) -> AttentionInputs:
    return replace(inputs.to(half), locations=inputs.locations.float())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@SOFTMAX
@EVERY_BACKEND
def test_float32_locations_beside_half_types_are_kept(backend, softmax, half):
    inputs = with_float32_locations(BASE.make(torch.float32), half)
    want = run_attention(inputs.to(torch.float64), "reference", softmax)
    leaves = inputs.leaves()
    call = (leaves.value, leaves.sizes, leaves.locations, leaves.weights)
    output = ms_deform_attn(*call, softmax=softmax, backend=backend)
    got = AttentionResult(output.detach(), *torch.autograd.grad(output, leaves.tensors, leaves.grad_output))
    assert [tensor.dtype for tensor in got] == [half, half, torch.float32, half]
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, "operator", half)


@EVERY_BACKEND
def test_several_python_threads_at_once(backend):
    calls = [replace(BASE, queries=5 + seed).make(seed=seed) for seed in range(6)]
    want = [run_attention(call, backend) for call in calls]
    with ThreadPoolExecutor(6) as pool:
        for got, wanted in zip(pool.map(lambda call: run_attention(call, backend), calls), want, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@needs_kernel
@SOFTMAX
def test_the_bits_do_not_depend_on_how_the_work_is_shared(softmax, shared_in_parts):
    inputs = AttentionCase("larger", ((20, 20), (10, 10)), queries=300, heads=3, depth=8).make(torch.float32)
    want = run_attention(inputs, "cpu", softmax)
    for parts in (1, 2, 5):
        with shared_in_parts(parts):
            got = run_attention(inputs, "cpu", softmax)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), f"{parts} parts"


@needs_kernel
@EVERY_DTYPE
@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_numbers(name, dtype, instruction_set):
    if not instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    for depth in (3, 16, 40):
        inputs = replace(BASE, depth=depth).make(dtype)
        want = run_attention(inputs.to(torch.float64), "reference")
        assert_same_attention(run_attention(inputs, "cpu"), want, "operator", ignore=near_grid_line(inputs))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the size of the process from /proc")
@needs_kernel
def test_memory_of_a_hundred_steps_does_not_grow():
    """The value alone is 256 KiB: one tensor leaked a step would show as 25 MiB."""
    inputs = AttentionCase("large", ((32, 32),), n=1, queries=600, heads=4, depth=16).make(torch.float32)
    for _ in range(10):
        run_attention(inputs, "cpu")
    gc.collect()
    before = resident_bytes()
    for _ in range(100):
        run_attention(inputs, "cpu")
    gc.collect()
    assert resident_bytes() - before < 12 * 2**20


@needs_kernel
@SOFTMAX
def test_forward_allocates_its_output_and_nothing_else(softmax):
    """Read in place: both tensors, and both halves of the packed one."""
    inputs = AttentionCase("any", ((9, 9), (5, 5)), queries=50, depth=8).make(torch.float32)
    output, packing = attend(inputs, "cpu", softmax), []
    if softmax:
        packing = nbytes(torch.cat((inputs.locations.flatten(3), inputs.weights.flatten(3)), -1))
    assert allocated(lambda: attend(inputs, "cpu", softmax)) == sorted(nbytes(output) + packing)


@EVERY_DTYPE
@EVERY_BACKEND
def test_samples_at_no_position_count_as_zero(backend, dtype):
    """Output and gradients are those of weights at zero there, and the lost samples get no gradient."""
    inputs = BASE.make(dtype)
    lost = torch.rand(inputs.weights.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    locations = inputs.locations.clone()
    values = locations.new_tensor([float("nan"), float("inf"), -float("inf"), torch.finfo(dtype).max, 1e4])
    locations[lost] = values[torch.arange(2 * int(lost.sum())).view(-1, 2) % 5]
    got = run_attention(replace(inputs, locations=locations), backend)
    want = run_attention(replace(inputs, weights=inputs.weights.masked_fill(lost, 0)), backend)
    assert not got.grad_locations[lost].any() and not got.grad_weights[lost].any()
    for name in ("output", "grad_value"):
        assert_close(getattr(got, name), getattr(want, name), tolerance_row(backend))
    kept = torch.logical_not(lost).to(dtype)
    assert_close(got.grad_weights, want.grad_weights * kept, tolerance_row(backend))
    assert_close(got.grad_locations, want.grad_locations * kept.unsqueeze(-1), tolerance_row(backend))


@EVERY_BACKEND
def test_an_empty_level_takes_no_part_whatever_points_to_it(backend):
    inputs = AttentionCase("empty", ((0, 4), (3, 2), (5, 0))).make()
    inputs.weights[:, :, :, 0], inputs.locations[:, :, :, 2] = float("nan"), float("nan")
    got = run_attention(inputs, backend)
    locations, weights = inputs.locations[:, :, :, 1:2], inputs.weights[:, :, :, 1:2]
    one = replace(inputs, sizes=((3, 2),), locations=locations, weights=weights)
    want = run_attention(one, backend)
    assert_close(got.output, want.output, "operator")
    assert_close(got.grad_value, want.grad_value, "operator")
    for level in (0, 2):
        assert not got.grad_locations[:, :, :, level].any() and not got.grad_weights[:, :, :, level].any()


@EVERY_BACKEND
def test_a_nan_pixel_touches_exactly_the_outputs_that_sample_it(backend):
    inputs = off_grid_lines(AttentionCase("one_level", ((4, 5),), queries=9).make())
    value = inputs.value.clone()
    value[0, 2 * 5 + 3] = float("nan")
    got, clean = run_attention(replace(inputs, value=value), backend), run_attention(inputs, backend)
    x, y = (place.floor() for place in positions(inputs).unbind(-1))
    touched = (x <= 3) & (x >= 2) & (y <= 2) & (y >= 1)
    touched[1] = False
    assert 0 < touched.flatten(3).any(-1).sum() < touched.flatten(3).any(-1).numel()
    assert torch.equal(got.output.isnan(), touched.flatten(3).any(-1).repeat_interleave(4, -1))
    assert torch.equal(got.grad_weights.isnan(), touched)
    assert torch.equal(got.grad_value, clean.grad_value)


@EVERY_BACKEND
def test_a_location_at_the_middle_of_a_pixel_gives_the_pixel(backend):
    value = torch.arange(20.0, dtype=torch.float64).view(1, 20, 1, 1)
    rows, columns = torch.meshgrid(torch.arange(4).double(), torch.arange(5).double(), indexing="ij")
    locations = torch.stack(((columns + 0.5) / 5, (rows + 0.5) / 4), -1).view(1, 20, 1, 1, 1, 2)
    weights = torch.ones(1, 20, 1, 1, 1, dtype=torch.float64)
    output = ms_deform_attn(value, ((4, 5),), locations, weights, backend=backend)
    assert_close(output.flatten(), value.flatten(), "operator")


@EVERY_BACKEND
def test_a_level_is_grid_sample_of_its_map(backend):
    """Against ``grid_sample`` itself, in the coordinates that it documents: -1 to 1 over the map."""
    inputs = AttentionCase("one_level", ((4, 5),), points=1, heads=1).make()
    image = inputs.value.flatten(2).transpose(1, 2).unflatten(2, (4, 5))
    grid = inputs.locations.flatten(2, 4) * 2 - 1
    want = F.grid_sample(image, grid, align_corners=False)[..., 0].transpose(1, 2) * inputs.weights.flatten(2)
    assert_close(attend(inputs, backend), want, "operator")


@EVERY_BACKEND
def test_levels_points_heads_and_queries_come_one_by_one(backend):
    inputs = BASE.make()
    together = attend(inputs, backend)
    first = 0
    output = torch.zeros_like(together)
    for level, (h, w) in enumerate(inputs.sizes):
        for point in range(3):
            alone = AttentionInputs(
                inputs.value[:, first : first + h * w],
                inputs.locations[:, :, :, level : level + 1, point : point + 1],
                inputs.weights[:, :, :, level : level + 1, point : point + 1],
                inputs.grad_output,
                ((h, w),),
            )
            output += attend(alone, backend)
        first += h * w
    assert_close(together, output, "operator")
    for head in range(2):
        alone = replace(inputs.map(lambda tensor, head=head: tensor[:, :, head : head + 1]), grad_output=together)
        assert_close(attend(alone, backend), together.unflatten(-1, (2, 4))[:, :, head], "operator")
    moved = replace(inputs, locations=inputs.locations.flip(1), weights=inputs.weights.flip(1))
    assert_close(attend(moved, backend), together.flip(1), "operator")


@EVERY_BACKEND
def test_logits_are_weights_after_a_softmax_over_levels_and_points(backend):
    inputs = BASE.make()
    logits = torch.randn_like(inputs.weights).requires_grad_()
    weights = logits.flatten(3).softmax(-1).reshape(logits.shape)
    got = run_attention(replace(inputs, weights=logits), backend, softmax=True)
    want = run_attention(replace(inputs, weights=weights), backend)
    (want_grad,) = torch.autograd.grad(weights, logits, want.grad_weights)
    assert_same_attention(got, want._replace(grad_weights=want_grad), "operator")


@EVERY_BACKEND
@pytest.mark.parametrize("case", [case for case in ATTENTION_CASES if case.n == 0 or case.queries == 0], ids=str)
def test_nothing_to_do_keeps_its_gradient(backend, case):
    inputs = case.make()
    got = run_attention(inputs, backend)
    shapes = [inputs.grad_output.shape, *(tensor.shape for tensor in inputs.tensors)]
    assert [tensor.shape for tensor in got] == shapes and not got.grad_value.any()


@EVERY_DTYPE
@EVERY_BACKEND
def test_inputs_are_left_as_they_were(backend, dtype):
    inputs = BASE.make(dtype)
    before = inputs.map(torch.clone)
    run_attention(inputs, backend)
    for got, want in zip((*inputs.tensors, inputs.grad_output), (*before.tensors, before.grad_output), strict=True):
        assert torch.equal(got, want)
