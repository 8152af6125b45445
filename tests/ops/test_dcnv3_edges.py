"""Numbers that are no numbers, samples on the rim, and maps of hardly any size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from internimage.ops.dcnv3.reference import sampling_locations
from internimage.ops.geometry import Geometry
from tests.tolerances import assert_close

from .cases import BACKENDS, DTYPES, Case, Inputs, Result, assert_same, draw, forward, near_lattice, run, tolerance_row

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


@EVERY_DTYPE
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=["x", "y", "both"])
@pytest.mark.parametrize("value", NOT_FINITE)
@EVERY_BACKEND
def test_samples_at_no_position_count_as_zero(backend, value, axes, dtype):
    """Output and gradients are those of masks at zero there, and the lost samples get no gradient."""
    inputs = draw((2, 5, 6), 4, Geometry(groups=2)).to(dtype)
    lost = torch.rand(inputs.mask.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    offset = inputs.offset.clone().unflatten(-1, (-1, 2))
    for axis in axes:
        offset[..., axis][lost] = value
    got = run(replace(inputs, offset=offset.flatten(-2)), backend)
    want = run(replace(inputs, mask=inputs.mask.masked_fill(lost, 0)), backend)
    assert not got.grad_offset.unflatten(-1, (-1, 2))[lost].any()
    assert not got.grad_mask[lost].any()
    assert_close(got.output, want.output, tolerance_row(backend))
    assert_close(got.grad_input, want.grad_input, tolerance_row(backend))
    kept = torch.logical_not(lost).to(dtype)
    assert_close(got.grad_mask, want.grad_mask * kept, tolerance_row(backend))
    assert_close(got.grad_offset, want.grad_offset * kept.repeat_interleave(2, -1), tolerance_row(backend))


@EVERY_DTYPE
@pytest.mark.parametrize("value", [*NOT_FINITE, 1e4, -1e4, "largest", "smallest"])
@EVERY_BACKEND
def test_when_every_sample_is_lost_all_is_zero(backend, value, dtype):
    inputs = draw((1, 4, 5), 3, Geometry(groups=2)).to(dtype)
    value = {"largest": torch.finfo(dtype).max, "smallest": torch.finfo(dtype).min}.get(value, value)
    for softmax in (False, True):
        for tensor in run(replace(inputs, offset=torch.full_like(inputs.offset, value)), backend, softmax):
            assert torch.equal(tensor, torch.zeros_like(tensor))


@pytest.mark.parametrize("backend", ["reference", *BACKENDS[2:]])
def test_a_nan_weight_is_ignored_where_its_tap_sees_nothing(backend):
    inputs = draw((1, 4, 5), 4, Geometry(groups=2)).to(torch.float32)
    inputs.offset[0, 1, 2, 4:6] = 1000.3
    want = run(inputs, backend)
    inputs.mask[0, 1, 2, 2] = float("nan")
    for got, wanted in zip(run(inputs, backend), want, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("pixel", [(0, 0), (0, 5), (2, 3), (4, 0), (4, 5)], ids=str)
@EVERY_BACKEND
def test_a_nan_pixel_touches_exactly_the_outputs_that_sample_it(backend, pixel):
    inputs = off_the_lattice(draw((1, 5, 6), 4, Geometry(groups=2), offset_std=2.0))
    image = inputs.input.clone()
    image[0, pixel[0], pixel[1]] = float("nan")
    x, y = sampling_locations(inputs.offset, inputs.geometry)
    touched = (
        (x.floor() <= pixel[1]) & (pixel[1] <= x.floor() + 1) & (y.floor() <= pixel[0]) & (pixel[0] <= y.floor() + 1)
    )
    assert 0 < touched.any(-1).sum() < touched.any(-1).numel()
    got, clean = run(replace(inputs, input=image), backend), run(inputs, backend)
    assert torch.equal(got.output.isnan(), touched.any(-1).repeat_interleave(4, -1))
    assert torch.equal(got.grad_mask.isnan(), touched.flatten(-2))
    assert torch.equal(got.grad_offset.isnan(), touched.flatten(-2).repeat_interleave(2, -1))
    assert torch.equal(got.grad_input, clean.grad_input)


def off_the_lattice(inputs: Inputs) -> Inputs:
    """The same call with each offset a quarter of a pixel from a grid line, for geometries on whole pixels."""
    return replace(inputs, offset=inputs.offset.floor() + 0.25)


@EVERY_BACKEND
def test_a_nan_gradient_touches_only_what_its_output_sampled(backend):
    inputs = off_the_lattice(draw((1, 5, 6), 4, Geometry(groups=2), offset_std=0.4))
    grad_output = inputs.grad_output.clone()
    grad_output[0, 2, 3] = float("nan")
    got, clean = run(replace(inputs, grad_output=grad_output), backend), run(inputs, backend)
    for tensor in (got.grad_mask, got.grad_offset):
        assert tensor[0, 2, 3].isnan().all() and tensor.isnan().sum() == tensor[0, 2, 3].numel()
    near = torch.zeros(5, 6, dtype=torch.bool)
    x, y = (position[0, 2, 3].flatten() for position in sampling_locations(inputs.offset, inputs.geometry))
    for step_x in (0, 1):
        for step_y in (0, 1):
            column, row = (x.floor() + step_x).long(), (y.floor() + step_y).long()
            inside = (column >= 0) & (column < 6) & (row >= 0) & (row < 5)
            near[row[inside], column[inside]] = True
    assert not got.grad_input[0][~near].isnan().any()
    assert torch.equal(got.grad_input[0][~near], clean.grad_input[0][~near])


@EVERY_BACKEND
@pytest.mark.parametrize("position", [-1.0, -0.75, -0.25, 0.0, 3.0, 3.25, 3.75, 4.0, 4.25])
def test_the_rim_of_the_map_fades_to_zero_within_one_pixel(backend, position):
    """One tap on a row of ones: what it samples falls off linearly between the last pixel and the next."""
    geometry = Geometry((1, 1), padding=(0, 0))
    row, ones = torch.ones(1, 1, 4, 1, dtype=torch.float64), torch.ones(1, 1, 4, 1, dtype=torch.float64)
    offset = torch.zeros(1, 1, 4, 2, dtype=torch.float64)
    offset[..., 0] = position - torch.arange(4.0)
    want = max(0.0, min(1.0, position + 1, 4 - position))
    got = forward(Inputs(row, offset, ones, ones, geometry), backend)
    assert_close(got, torch.full_like(got, want), "operator")


@pytest.mark.parametrize("backend", ["reference", *BACKENDS[2:]])
@pytest.mark.parametrize("position, slope", [(-1.0, 0.0), (0.0, 1.0), (2.0, -2.0), (3.0, -4.0), (4.0, 0.0)])
def test_on_a_grid_line_the_slope_is_that_of_the_cell_to_the_right(backend, position, slope):
    """Pixels 2, 3, 6, 4: at exactly -1 the sample is outside, hence without a gradient."""
    row = torch.tensor([2.0, 3.0, 6.0, 4.0], dtype=torch.float64).view(1, 1, 4, 1)
    offset = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    offset[..., 0] = position
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    got = run(Inputs(row, offset, one, one, Geometry((1, 1), (1, 4), (0, 0))), backend)
    assert got.grad_offset[..., 0].item() == slope


@EVERY_DTYPE
@EVERY_BACKEND
def test_positions_on_a_wide_map_keep_float32(backend, dtype):
    """bfloat16 knows no odd number above 256; positions must not be rounded to the dtype of the image."""
    inputs = Case("wide", (1, 2, 700), 2, Geometry(groups=1), offset_std=2.0).make(dtype)
    want = run(inputs.to(torch.float64), "reference")
    bound = "wide map" if dtype == torch.float32 else tolerance_row(backend)
    assert_same(run(inputs, backend), want, bound, ignore=near_lattice(inputs, within=2e-3))


@EVERY_BACKEND
def test_an_empty_batch_keeps_its_gradient(backend):
    inputs = draw((0, 4, 5), 3, Geometry(groups=2))
    got = run(inputs, backend)
    assert [tuple(tensor.shape) for tensor in got] == [(0, 4, 5, 6), (0, 4, 5, 6), (0, 4, 5, 36), (0, 4, 5, 18)]


@EVERY_BACKEND
@pytest.mark.parametrize("logit", [-59.0, 29.0, 59.0])
@pytest.mark.parametrize("value", [1e-14, 1e14])
def test_large_logits_leave_large_and_small_numbers_as_they_are(backend, logit, value):
    """Exponentials that are summed up before they are divided by their sum must not overflow nor vanish on the way."""
    inputs = draw((1, 4, 5), 3, Geometry(padding=(0, 0), groups=1), offset_std=0.0).to(torch.float32)
    same = replace(inputs, input=torch.full_like(inputs.input, value), mask=torch.full_like(inputs.mask, logit))
    assert_close(forward(same, backend, softmax=True) / value, torch.ones_like(inputs.grad_output), "operator")


@EVERY_BACKEND
@pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
def test_fresh_memory_never_shows(backend, softmax, fresh_memory_is_nan):
    inputs = draw((2, 5, 6), 5, Geometry(groups=2), offset_std=20.0)
    for tensor in run(inputs, backend, softmax):
        assert not tensor.isnan().any()


@pytest.fixture
def fresh_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(7).isnan().all() and torch.ones(3).new_empty(5).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@EVERY_DTYPE
@EVERY_BACKEND
def test_inputs_are_left_as_they_were(backend, dtype):
    inputs = draw((1, 4, 5), 3, Geometry(groups=2)).to(dtype)
    before = inputs.map(torch.clone)
    result = run(inputs, backend)
    assert isinstance(result, Result)
    for name in ("input", "offset", "mask", "grad_output"):
        assert torch.equal(getattr(inputs, name), getattr(before, name)), name
