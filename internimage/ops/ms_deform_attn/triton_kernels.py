"""The Triton kernels of attention. Only ``gpu.py`` imports this file, at the first call.

The words are those of ``ops/triton_bilinear.py``; a row is one head of one query, and its taps are the points of all
levels in turn. Heads, levels, points and the distance between rows are compiled in; sizes are not, for a detector sees
new ones with each picture.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_bilinear import (
    add_sample,
    cell_of,
    channels_of,
    load_pieces,
    rows_of,
    sample_grads,
    softmax,
    softmax_weight,
    store_pairs,
    store_weight_grads,
)
from ..triton_ordered import note_parts

_SIZES = ["parts", "queries", "pixels"]  # no kernel of their own for sizes of 1 or multiples of 16


@triton.jit
def _size_of(level, sizes, LEVELS: tl.constexpr):
    """Height and width of a level; each number n of ``sizes`` stands for (n - 5) / 2."""
    h, w = sizes[0], sizes[1]
    for other in tl.static_range(1, LEVELS):
        h = tl.where(level == other, sizes[2 * other], h)
        w = tl.where(level == other, sizes[2 * other + 1], w)
    return (h - 5) >> 1, (w - 5) >> 1


@triton.jit
def _sample(at, p, active, h, w, SUM: tl.constexpr):
    """The cell that tap ``p`` samples."""
    location_x = tl.load(at + 2 * p, mask=active, other=0.0).to(SUM)
    location_y = tl.load(at + 2 * p + 1, mask=active, other=0.0).to(SUM)
    return cell_of(location_x * w.to(SUM) - 0.5, location_y * h.to(SUM) - 0.5, active, h, w, SUM)


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    values, locations, weights, output,
    parts, queries, pixels, sizes,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    LOCATION_ROW: tl.constexpr, LOCATION_GROUP: tl.constexpr, WEIGHT_ROW: tl.constexpr, WEIGHT_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    PIECES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    image, _, head, query = rows_of(parts, 1, G, ROWS, INDEX)
    active = query < queries
    channel = channels_of(PIECES, WIDTH)
    before = image * queries
    location_at = locations + before * LOCATION_ROW + (query * LOCATION_ROW + head * LOCATION_GROUP)
    weight_at = weights + before * WEIGHT_ROW + (query * WEIGHT_ROW + head * WEIGHT_GROUP)
    at = values + image * pixels * (G * D) + (head * D + channel)
    if SOFTMAX:
        top, inverse = softmax(weight_at, active, P, P <= 32, SUM)
    sums = tl.zeros((PIECES, ROWS, WIDTH), SUM)
    for level in range(LEVELS):
        h, w = _size_of(level, sizes, LEVELS)
        for point in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
            p = level * POINTS + point
            weight = tl.load(weight_at + p, mask=active, other=0.0).to(SUM)
            if SOFTMAX:
                weight = softmax_weight(weight, top)
            inside, x, y, right, lower = _sample(location_at, p, active, h, w, SUM)
            sums = add_sample(sums, at, channel < D, inside, x, y, right, lower, weight, h, w, G * D, SUM, INDEX)
        at += h.to(INDEX) * w * (G * D)
    if SOFTMAX:
        sums *= inverse
    output += before * (G * D) + (query * (G * D) + head * D + channel)
    tl.store(output, sums.to(output.dtype.element_ty), mask=active & (channel < D))


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    grad_output, values, locations, weights, grad_values, grad_locations, grad_weights, keys, shares,
    parts, queries, pixels, sizes,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    LOCATION_ROW: tl.constexpr, LOCATION_GROUP: tl.constexpr, WEIGHT_ROW: tl.constexpr, WEIGHT_GROUP: tl.constexpr,
    GRAD_LOCATION_ROW: tl.constexpr, GRAD_LOCATION_GROUP: tl.constexpr,
    GRAD_WEIGHT_ROW: tl.constexpr, GRAD_WEIGHT_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr, SCATTER: tl.constexpr, TAPS: tl.constexpr,
    PIECES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    image, _, head, query = rows_of(parts, 1, G, ROWS, INDEX)
    active = query < queries
    channel = channels_of(1, WIDTH)
    before = image * queries
    location_at = locations + before * LOCATION_ROW + (query * LOCATION_ROW + head * LOCATION_GROUP)
    weight_at = weights + before * WEIGHT_ROW + (query * WEIGHT_ROW + head * WEIGHT_GROUP)
    grad_location_at = grad_locations + before * GRAD_LOCATION_ROW
    grad_location_at += query * GRAD_LOCATION_ROW + head * GRAD_LOCATION_GROUP
    grad_weight_at = grad_weights + before * GRAD_WEIGHT_ROW + (query * GRAD_WEIGHT_ROW + head * GRAD_WEIGHT_GROUP)
    at = values + image * pixels * (G * D) + (head * D + channel)
    into = grad_values + image * pixels * (G * D) + (head * D + channel)
    first_key = image * pixels * G + head
    keys += ((before + query) * G + head) * (4 * P)
    shares += ((before + query) * G + head) * (4 * P)
    grad_output += before * (G * D) + (query * (G * D) + head * D + channel)
    grads = load_pieces(grad_output, channel, active, D, PIECES, SUM)
    top, inverse = softmax(weight_at, active, P, False, SUM) if SOFTMAX else (0.0, 1.0)
    tap = tl.arange(0, TAPS)[None, None, :]
    weight_grads = tl.zeros((1, ROWS, TAPS), SUM)
    for level in range(LEVELS):
        h, w = _size_of(level, sizes, LEVELS)
        for point in range(POINTS):
            p = level * POINTS + point
            weight = tl.load(weight_at + p, mask=active, other=0.0).to(SUM)
            if SOFTMAX:
                weight = softmax_weight(weight, top) * inverse
            inside, x, y, right, lower = _sample(location_at, p, active, h, w, SUM)
            weight_grad, grad_x, grad_y = sample_grads(
                grads, at, into, channel, inside, x, y, right, lower, weight, h, w, G * D, D, SCATTER, SUM, INDEX
            )  # fmt: skip
            if not SCATTER:
                note_parts(keys + 4 * p, shares + 4 * p, first_key, active, inside, x, y, right, lower, weight, h, w, G)
            store_pairs(grad_location_at + 2 * p, active, grad_x * w.to(SUM), grad_y * h.to(SUM))
            weight_grads = tl.where(tap == p, weight_grad, weight_grads)
        at += h.to(INDEX) * w * (G * D)
        into += h.to(INDEX) * w * (G * D)
        first_key += h.to(tl.int64) * w * G
    store_weight_grads(grad_weight_at, weight_at, active, weight_grads, top, inverse, P, TAPS, SOFTMAX)
