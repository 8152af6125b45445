"""The Triton kernels of attention. Only ``gpu.py`` imports this file, at the first call.

The words are those of ``ops/triton_bilinear.py``; a row is one head of one query, and its taps are the points of all
levels in turn. Heads, levels, points and the distance between rows are compiled in; sizes are not, for a detector sees new
ones with each picture.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_bilinear import (
    UNROLLED,
    add_sample,
    cell_of,
    channels_of,
    load_pieces,
    logit_grads,
    rows_of,
    sample_grads,
    softmax,
    softmax_weight,
    store_side_by_side,
    store_weight_grad_block,
)
from ..triton_ordered import note_parts

_SIZES = ["rows", "programs", "pixels"]  # no kernel of their own for sizes of 1 or multiples of 16


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
    rows, programs, pixels, sizes,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    LOCATION_ROW: tl.constexpr, LOCATION_GROUP: tl.constexpr, WEIGHT_ROW: tl.constexpr, WEIGHT_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    PIECES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    image, row = rows_of(programs, ROWS, INDEX)
    active = row < rows
    channel = channels_of(PIECES, WIDTH)
    query, head = row // G, row % G
    before = image * (rows // G)
    location_at = locations + before * LOCATION_ROW + (query * LOCATION_ROW + head * LOCATION_GROUP)
    weight_at = weights + before * WEIGHT_ROW + (query * WEIGHT_ROW + head * WEIGHT_GROUP)
    at = values + image * pixels * (G * D) + (head * D + channel)
    if SOFTMAX:
        top, total = softmax(weight_at, active, P, SUM)
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
        sums /= total
    output += image * rows * D + (row * D + channel)
    tl.store(output, sums.to(output.dtype.element_ty), mask=active & (channel < D))


@triton.jit
def _tap_grads(
    p, start, grads, at, into, location_at, weight_at, keys, shares, first_key,
    active, channel, top, total, h, w, G: tl.constexpr, D: tl.constexpr,
    SOFTMAX: tl.constexpr, SCATTER: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Adds one tap's part of the input gradient; returns its weight, and the gradients of weight and location x and y.

    ``start`` is the first pixel of the tap's level.
    """
    weight = tl.load(weight_at + p, mask=active, other=0.0).to(SUM)
    if SOFTMAX:
        weight = softmax_weight(weight, top) / total
    inside, x, y, right, lower = _sample(location_at, p, active, h, w, SUM)
    here = start.to(INDEX) * (G * D)
    weight_grad, grad_x, grad_y = sample_grads(
        grads, at + here, into + here, channel, inside, x, y, right, lower, weight, h, w, G * D, D, SCATTER, SUM, INDEX
    )  # fmt: skip
    if not SCATTER:
        key = first_key + start.to(tl.int64) * G
        note_parts(keys + 4 * p, shares + 4 * p, key, active, inside, x, y, right, lower, weight, h, w, G)
    return weight, weight_grad, grad_x * w.to(SUM), grad_y * h.to(SUM)


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    grad_output, values, locations, weights, grad_values, grad_locations, grad_weights, keys, shares,
    rows, programs, pixels, sizes,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    LOCATION_ROW: tl.constexpr, LOCATION_GROUP: tl.constexpr, WEIGHT_ROW: tl.constexpr, WEIGHT_GROUP: tl.constexpr,
    GRAD_LOCATION_ROW: tl.constexpr, GRAD_LOCATION_GROUP: tl.constexpr,
    GRAD_WEIGHT_ROW: tl.constexpr, GRAD_WEIGHT_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr, SCATTER: tl.constexpr, TAPS: tl.constexpr,
    PIECES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    image, row = rows_of(programs, ROWS, INDEX)
    active = row < rows
    channel = channels_of(1, WIDTH)
    query, head = row // G, row % G
    before = image * (rows // G)
    location_at = locations + before * LOCATION_ROW + (query * LOCATION_ROW + head * LOCATION_GROUP)
    weight_at = weights + before * WEIGHT_ROW + (query * WEIGHT_ROW + head * WEIGHT_GROUP)
    grad_location_at = grad_locations + before * GRAD_LOCATION_ROW
    grad_location_at += query * GRAD_LOCATION_ROW + head * GRAD_LOCATION_GROUP
    grad_weight_at = grad_weights + before * GRAD_WEIGHT_ROW + (query * GRAD_WEIGHT_ROW + head * GRAD_WEIGHT_GROUP)
    at = values + image * pixels * (G * D) + (head * D + channel)
    into = grad_values + image * pixels * (G * D) + (head * D + channel)
    first_key = image * pixels * G + head
    keys += (image * rows + row) * (4 * P)
    shares += (image * rows + row) * (4 * P)
    grads = load_pieces(grad_output + image * rows * D + (row * D + channel), channel, active, D, PIECES, SUM)
    top, total = softmax(weight_at, active, P, SUM) if SOFTMAX else (0.0, 1.0)
    start = tl.zeros((), INDEX)
    if P <= UNROLLED:
        used, weight_grads, location_grads = (), (), ()
        for level in tl.static_range(LEVELS):
            h, w = (sizes[2 * level] - 5) >> 1, (sizes[2 * level + 1] - 5) >> 1
            for point in tl.static_range(POINTS):
                weight, weight_grad, grad_x, grad_y = _tap_grads(
                    level * POINTS + point, start, grads, at, into, location_at, weight_at, keys, shares, first_key,
                    active, channel, top, total, h, w, G, D, SOFTMAX, SCATTER, SUM, INDEX,
                )  # fmt: skip
                used += (weight,)
                weight_grads += (weight_grad,)
                location_grads += (grad_x, grad_y)
            start += h.to(INDEX) * w
        store_side_by_side(grad_location_at, active, location_grads, 2 * TAPS)
        store_side_by_side(grad_weight_at, active, logit_grads(used, weight_grads) if SOFTMAX else weight_grads, TAPS)
    else:
        tap = tl.arange(0, TAPS)[None, None, :]
        block = tl.zeros((1, ROWS, TAPS), SUM)
        for level in range(LEVELS):
            h, w = _size_of(level, sizes, LEVELS)
            for point in range(POINTS):
                p = level * POINTS + point
                _, weight_grad, grad_x, grad_y = _tap_grads(
                    p, start, grads, at, into, location_at, weight_at, keys, shares, first_key,
                    active, channel, top, total, h, w, G, D, SOFTMAX, SCATTER, SUM, INDEX,
                )  # fmt: skip
                block = tl.where(tap == p, weight_grad, block)
                store_side_by_side(grad_location_at + 2 * p, active, (grad_x, grad_y), 2)
            start += h.to(INDEX) * w
        store_weight_grad_block(grad_weight_at, weight_at, active, block, top, total, P, TAPS, SOFTMAX)
