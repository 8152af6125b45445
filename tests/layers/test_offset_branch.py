"""Whatever the geometry, offsets are predicted at the middle of each kernel, or the layer says why it cannot."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from internimage.layers import DCNv3, DCNv4
from internimage.layers.offset_branch import middle_pixels
from internimage.ops.geometry import Geometry

pairs = st.tuples(st.integers(1, 5), st.integers(1, 5))
paddings = st.tuples(st.integers(0, 6), st.integers(0, 6))
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
strides = dilations = st.tuples(st.integers(1, 3), st.integers(1, 3))
SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
REFUSALS = (
    "their sizes never fit",
    "does not reach the border",
    "choose padding so that",
    "is too small for kernel_size",
)


def answer(layer_type, size, **options) -> tuple[int, int] | None:
    """The size of the output, or None where the layer refused in words that are known."""
    try:
        with torch.no_grad():
            output = layer_type(4, groups=2, **options)(torch.zeros(1, *size, 4))
    except ValueError as error:
        assert any(words in str(error) for words in REFUSALS), error
        return None
    return tuple(output.shape[1:3])


@SETTINGS
@given(size=sizes, kernel=pairs, stride=strides, padding=paddings, dilation=dilations, branch=pairs)
def test_a_layer_gives_the_size_of_a_conv2d_or_refuses_in_words(size, kernel, stride, padding, dilation, branch):
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    fits = Geometry.of(kernel, stride, padding, dilation, 1, 1.0, False).output_size(*size)
    want = None
    if min(fits) > 0:
        want = tuple(nn.Conv2d(4, 4, **options)(torch.zeros(1, 4, *size)).shape[2:])
        assert want == fits
    assert answer(DCNv4, size, **options) == want, "without a branch nothing is refused"
    for layer_type in (DCNv3, DCNv4):
        assert answer(layer_type, size, **options, dw_kernel_size=branch) in (want, None)


@SETTINGS
@given(size=sizes, kernel=pairs, stride=strides, padding=paddings, dilation=dilations)
def test_the_pixels_in_the_middle_are_those_that_a_kernel_of_one_tap_would_see(size, kernel, stride, padding, dilation):
    geometry = Geometry.of(kernel, stride, padding, dilation, 1, 1.0, False)
    rows, columns = geometry.output_size(*size)
    if min(rows, columns) < 1:
        return
    x = 1 + torch.arange(float(size[0] * size[1])).view(1, *size, 1)  # every pixel has a number of its own, above zero
    got = middle_pixels(x, geometry)
    assert got.shape == (1, rows, columns, 1)
    half = geometry.half_extent()
    for row in range(rows):
        for column in range(columns):
            at = row * stride[0] + half[0] - padding[0], column * stride[1] + half[1] - padding[1]
            inside = 0 <= at[0] < size[0] and 0 <= at[1] < size[1]
            assert got[0, row, column, 0] == (x[0, at[0], at[1], 0] if inside else 0)
