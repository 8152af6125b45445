"""The Triton kernels of attention and their launch settings. Only ``gpu.py`` imports this file, at the first call.

The words are those of ``ops/triton_bilinear.py``; a row is one head of one query, and its taps are the points of all
levels in turn. Heads, levels and points are compiled in; sizes are not, for a detector sees new ones with each picture.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_bilinear import (
    add_sample,
    by_class,
    cell_of,
    load_outputs,
    logit_grads,
    sample_grads,
    softmax,
    store_outputs,
    store_taps,
)

_SIZES = ["rows", "queries", "pixels"]  # no kernel of their own for sizes of 1 or multiples of 16


def forward_setting(depth: int, taps: int) -> triton.Config:
    """How to launch the forward kernel for ``depth`` channels per head and ``taps`` points of all levels."""
    return by_class(_FORWARD_SETTINGS, max(depth, taps))


def backward_setting(depth: int, taps: int) -> triton.Config:
    """The same for the backward kernel, which holds more for each row."""
    return by_class(_BACKWARD_SETTINGS, max(depth, taps))


# by the wider of D and P: about a thousand values a block forward, half of that backward
_FORWARD_SETTINGS = {
    16: triton.Config({"BLOCK_ROWS": 64, "UNROLL": 4}, num_warps=4),
    64: triton.Config({"BLOCK_ROWS": 32, "UNROLL": 4}, num_warps=4),
    256: triton.Config({"BLOCK_ROWS": 8, "UNROLL": 1}, num_warps=4),
    None: triton.Config({"BLOCK_ROWS": 1, "UNROLL": 1}, num_warps=4),
}
_BACKWARD_SETTINGS = {
    16: triton.Config({"BLOCK_ROWS": 32}, num_warps=4),
    64: triton.Config({"BLOCK_ROWS": 16}, num_warps=4),
    256: triton.Config({"BLOCK_ROWS": 4}, num_warps=4),
    None: triton.Config({"BLOCK_ROWS": 1}, num_warps=4),
}


def as_numbers(sizes: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """Heights and widths for the kernels, each as an odd number over 1: Triton compiles anew for 1 and for 16, 32, ...

    An empty level is -1 wide, so that no position lies between -1 and its width.
    """
    sizes = tuple((h, w) if h and w else (0, -1) for h, w in sizes)
    return tuple(2 * side + 5 for size in sizes for side in size)


@triton.jit
def _size_of(level, sizes, LEVELS: tl.constexpr):
    """Height and width of a level; ``sizes`` are what :func:`as_numbers` gives."""
    h, w = 0, 0
    for other in tl.static_range(LEVELS):
        h = tl.where(level == other, (sizes[2 * other] - 5) // 2, h)
        w = tl.where(level == other, (sizes[2 * other + 1] - 5) // 2, w)
    return h, w


@triton.jit
def _sample(at, p, active, h, w, SUM: tl.constexpr):
    """The cell that tap ``p`` samples."""
    location_x = tl.load(at + 2 * p, mask=active, other=0.0).to(SUM)
    location_y = tl.load(at + 2 * p + 1, mask=active, other=0.0).to(SUM)
    x, y = location_x * w.to(SUM) - 0.5, location_y * h.to(SUM) - 0.5
    return cell_of(x, y, active, h, w)


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    values, locations, weights, output,
    rows, queries, pixels, sizes, location_row, weight_row,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    LOCATION_GROUP: tl.constexpr, WEIGHT_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_TAPS: tl.constexpr, BLOCK_ROWS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(INDEX) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.arange(0, BLOCK_D)
    active = row < rows
    query, head = row // G, row % G
    first = query // queries * pixels
    location_at = locations + query * location_row + head * LOCATION_GROUP
    weight_at = weights + query * weight_row + head * WEIGHT_GROUP
    if SOFTMAX:
        top, total, _ = softmax(weight_at, active, BLOCK_TAPS, P, SUM)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_D), SUM)
    for level in range(LEVELS):
        h, w = _size_of(level, sizes, LEVELS)
        for point in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
            p = level * POINTS + point
            weight = tl.load(weight_at + p, mask=active, other=0.0).to(SUM)
            if SOFTMAX:
                weight = tl.exp(weight - top) / total
            inside, x, y, right, lower = _sample(location_at, p, active, h, w, SUM)
            sums = add_sample(
                sums, values, first, head, inside, x, y, right, lower, weight, h, w, channel, G, D, SUM
            )  # fmt: skip
        first += h.to(INDEX) * w
    store_outputs(output, row, active, channel, sums, D)


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    grad_output, values, locations, weights, grad_values, grad_locations, grad_weights,
    rows, queries, pixels, sizes, location_row, weight_row, grad_location_row, grad_weight_row,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    LOCATION_GROUP: tl.constexpr, WEIGHT_GROUP: tl.constexpr,
    GRAD_LOCATION_GROUP: tl.constexpr, GRAD_WEIGHT_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_TAPS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(INDEX) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel, tap = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_TAPS)
    active = row < rows
    query, head = row // G, row % G
    first = query // queries * pixels
    location_at = locations + query * location_row + head * LOCATION_GROUP
    weight_at = weights + query * weight_row + head * WEIGHT_GROUP
    grad_location_at = grad_locations + query * grad_location_row + head * GRAD_LOCATION_GROUP
    if SOFTMAX:
        top, total, shares = softmax(weight_at, active, BLOCK_TAPS, P, SUM)
    grads = load_outputs(grad_output, row, active, channel, D, SUM)
    all_weight_grads = tl.zeros((BLOCK_ROWS, BLOCK_TAPS), SUM)
    for level in range(LEVELS):
        h, w = _size_of(level, sizes, LEVELS)
        for point in range(POINTS):
            p = level * POINTS + point
            weight = tl.load(weight_at + p, mask=active, other=0.0).to(SUM)
            if SOFTMAX:
                weight = tl.exp(weight - top) / total
            inside, x, y, right, lower = _sample(location_at, p, active, h, w, SUM)
            weight_grad, grad_x, grad_y = sample_grads(
                grads, values, grad_values, first, head, inside, x, y, right, lower, weight, h, w, channel, G, D, SUM
            )  # fmt: skip
            all_weight_grads = tl.where((tap == p)[None, :], weight_grad[:, None], all_weight_grads)
            at = grad_location_at + 2 * p
            tl.store(at, (grad_x * w.to(SUM)).to(grad_locations.dtype.element_ty), mask=active)
            tl.store(at + 1, (grad_y * h.to(SUM)).to(grad_locations.dtype.element_ty), mask=active)
        first += h.to(INDEX) * w
    if SOFTMAX:
        all_weight_grads = logit_grads(shares, all_weight_grads)
    at = grad_weights + query * grad_weight_row + head * GRAD_WEIGHT_GROUP
    store_taps(at, active, all_weight_grads, BLOCK_TAPS, P)
