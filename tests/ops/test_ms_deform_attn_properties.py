"""Random calls of attention: the reference against plain loops, every backend against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import tolerance

from .attention_cases import (
    AttentionInputs,
    AttentionResult,
    assert_same_attention,
    draw_attention,
    near_grid_line,
    run_attention,
)
from .cases import BACKENDS, tolerance_row
from .plain_loops import attention_loops
from .strategies import attention_calls, pairs
from .test_dcnv3_properties import largest


@settings(max_examples=30)
@given(
    sizes=st.lists(pairs(0, 4), min_size=1, max_size=3).map(tuple),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2)),
    points=st.integers(1, 3),
)
def test_reference_matches_plain_loops(sizes, shape, points):
    inputs = draw_attention(*shape, sizes, points)
    want = attention_loops(*inputs.tensors, inputs.grad_output, sizes)
    assert_same_attention(run_attention(inputs, "reference"), AttentionResult(*want), "plain loops")


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=50)
@given(inputs=attention_calls(), softmax=st.booleans())
def test_backend_matches_reference(backend, inputs, softmax):
    check(backend, inputs, softmax)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=2000)
@given(inputs=attention_calls(), softmax=st.booleans())
def test_backend_matches_reference_on_thousands_of_calls(backend, inputs, softmax):
    check(backend, inputs, softmax)


def check(backend: str, inputs: AttentionInputs, softmax: bool) -> None:
    exact = inputs.to(torch.float64)
    got, want = run_attention(inputs, backend, softmax), run_attention(exact, "reference", softmax)
    bound = tolerance(tolerance_row(backend), inputs.value.dtype)
    for name, a, b, size in zip(AttentionResult._fields, got, want, sizes_of_sums(exact, softmax), strict=True):
        assert a.shape == b.shape and a.dtype == inputs.value.dtype
        error = (a.double() - b).abs()
        assert not error.isnan().any(), f"{name} holds NaN"
        if name == "grad_locations":
            error = error.masked_fill(near_grid_line(inputs), 0)
        if error.numel():
            assert error.max() <= bound * size, f"{name}: error {error.max():.3g} where terms add up to {size:.3g}"


def sizes_of_sums(inputs: AttentionInputs, softmax: bool) -> tuple[float, float, float, float]:
    """What the terms of each sum add up to without their signs, and a tenth of the largest term on top.

    As for the convolutions: sums can cancel, and a sample on the rim has a tiny share of its pixel.
    """
    weights = inputs.weights
    if softmax:
        weights = weights.flatten(3).softmax(-1).reshape(weights.shape)
    positive = replace(inputs.map(torch.abs), locations=inputs.locations, weights=weights.abs())
    output, grad_value, _, grad_weights = (largest(tensor) for tensor in run_attention(positive, "reference"))
    pixel, weight, grad = largest(inputs.value), largest(weights), largest(inputs.grad_output)
    grads = largest(inputs.grad_output.abs().unflatten(-1, (weights.shape[2], -1)).sum(-1))
    return (
        output + 0.1 * pixel * weight,
        grad_value + 0.1 * grad * weight,
        2 * pixel * grads * weight * max(max(size) for size in inputs.sizes),
        grad_weights + 0.1 * pixel * grads,
    )
