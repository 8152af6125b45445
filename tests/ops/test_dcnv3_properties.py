"""Random calls: the reference against plain loops, every backend against the reference, whatever the memory layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import tolerance

from .cases import BACKENDS, Inputs, Result, as_keywords, assert_same, near_lattice, run, tolerance_row
from .plain_loops import dcnv3_loops
from .strategies import calls, fitting, geometries


@settings(max_examples=100)
@given(
    geometry=geometries(),
    size=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)),
    depth=st.integers(1, 2),
)
def test_reference_matches_plain_loops(geometry, size, depth):
    """Every backend takes positions from one ``Geometry``, so only the loops can tell whether it is right."""
    inputs = fitting(geometry, size, depth)
    want = dcnv3_loops(inputs.input, inputs.offset, inputs.mask, inputs.grad_output, **as_keywords(inputs.geometry))
    assert_same(run(inputs, "reference"), Result(*want), "plain loops")


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150)
@given(inputs=calls(), softmax=st.booleans())
def test_backend_matches_reference(backend, inputs, softmax):
    check(backend, inputs, softmax)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=2000)
@given(inputs=calls(), softmax=st.booleans())
def test_backend_matches_reference_on_thousands_of_calls(backend, inputs, softmax):
    check(backend, inputs, softmax)


def check(backend: str, inputs: Inputs, softmax: bool) -> None:
    assert_within_rounding(run(inputs, backend, softmax), backend, inputs, softmax)


def assert_within_rounding(got: Result, backend: str, inputs: Inputs, softmax: bool) -> None:
    """Compare with the reference in float64, by what the terms of each sum add up to."""
    exact = inputs.to(torch.float64)
    want = run(exact, "reference", softmax)
    bound = tolerance(tolerance_row(backend), inputs.input.dtype)
    ignore = near_lattice(inputs)
    for name, a, b, size in zip(Result._fields, got, want, sizes(exact, softmax), strict=True):
        assert a.shape == b.shape and a.dtype == inputs.input.dtype
        error = (a.double() - b).abs()
        assert not error.isnan().any(), f"{name} holds NaN"
        if name == "grad_offset":
            error = error.masked_fill(ignore, 0)
        if error.numel():
            assert error.max() <= bound * size, f"{name}: error {error.max():.3g} where terms add up to {size:.3g}"


def sizes(inputs: Inputs, softmax: bool) -> tuple[float, float, float, float]:
    """What the terms of each sum add up to without their signs: rounding is measured against it.

    The sums themselves can cancel: one lone output may be tiny beside its terms. And a sample on the rim has a tiny
    share, while its position is known to some 1e-7 of a pixel: hence a tenth of the largest possible term on top.
    """
    mask = inputs.mask
    if softmax:
        grouped = mask.unflatten(-1, (inputs.geometry.groups, inputs.geometry.taps))
        mask = grouped.softmax(-1).reshape(mask.shape)
    positive = Inputs(inputs.input.abs(), inputs.offset, mask.abs(), inputs.grad_output.abs(), inputs.geometry)
    output, grad_input, _, grad_mask = (largest(tensor) for tensor in run(positive, "reference"))
    pixel, weight, grad = largest(inputs.input), largest(mask), largest(inputs.grad_output)
    grads = largest(inputs.grad_output.abs().unflatten(-1, (inputs.geometry.groups, -1)).sum(-1))
    return (
        output + 0.1 * pixel * weight,
        grad_input + 0.1 * grad * weight,
        2 * pixel * grads * weight * abs(inputs.geometry.offset_scale),
        grad_mask + 0.1 * pixel * grads,
    )


def largest(tensor: torch.Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0
