"""Random calls of DCNv4: every backend against the reference of DCNv3, whatever the memory layout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .cases import BACKENDS, Inputs, run
from .packed_cases import pack, run_packed
from .strategies import LAYOUTS, calls, laid_out
from .test_dcnv3_properties import assert_within_rounding

LAYOUT = st.sampled_from(LAYOUTS)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@settings(max_examples=40)
@given(inputs=calls(), softmax=st.booleans(), layout=LAYOUT)
def test_backend_matches_reference(backend, inputs, softmax, layout):
    check(backend, inputs, softmax, layout)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=2000)
@given(inputs=calls(), softmax=st.booleans(), layout=LAYOUT)
def test_backend_matches_reference_on_thousands_of_calls(backend, inputs, softmax, layout):
    check(backend, inputs, softmax, layout)


def check(backend: str, inputs: Inputs, softmax: bool, layout: str) -> None:
    if layout == "expanded" and inputs.input.shape[0]:  # then all images have the offsets of the first
        offset, mask = (tensor[:1].expand_as(tensor) for tensor in (inputs.offset, inputs.mask))
        inputs = replace(inputs, offset=offset, mask=mask)
    offset_mask = laid_out(pack(inputs), layout)
    assert_within_rounding(run_packed(inputs, backend, softmax, offset_mask), backend, inputs, softmax)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=8)
@given(inputs=calls(), softmax=st.booleans())
def test_packing_changes_no_bit(backend, inputs, softmax):
    for got, want in zip(run_packed(inputs, backend, softmax), run(inputs, backend, softmax), strict=True):
        assert torch.equal(got, want)
