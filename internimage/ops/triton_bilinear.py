"""The pieces that the Triton kernels of all operators are made of. Only these import it, at the first call.

H W size of a map, G groups (or heads), D channels per group, C = G*D, P taps. A row is one group of one output; a
program takes a block of rows with all D channels and walks over the taps. Neighbouring rows are neighbouring groups, so
that the channels of a pixel are read and written side by side.

SUM is the type of coordinates and sums, INDEX that of addresses.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret  # fixed for the life of the process when kernels are defined


def by_class(settings: dict[int | None, triton.Config], width: int) -> triton.Config:
    """The setting for the smallest class that ``width`` fits into; None is the class without limit."""
    return next(setting for limit, setting in settings.items() if limit is None or width <= limit)


@triton.jit
def cell_of(x, y, active, h, w):
    """Is a position near the map, the cell's upper left corner, and the distance from there."""
    inside = active & (x > -1) & (y > -1) & (x < w) & (y < h)  # false for NaN
    x, y = tl.where(inside, x, 0.0), tl.where(inside, y, 0.0)  # so that what is not near cannot poison the sums
    x0, y0 = tl.floor(x), tl.floor(y)
    return inside, x0.to(tl.int32), y0.to(tl.int32), x - x0, y - y0


@triton.jit
def _corner(first, group, y, x, inside, h, w, channel, G: tl.constexpr, D: tl.constexpr):
    """Addresses of the channels of one corner, and whether it lies in the map: (rows, D), (rows,)."""
    valid = inside & (y >= 0) & (y < h) & (x >= 0) & (x < w)
    pixel = first + y.to(first.dtype) * w + x
    return ((pixel * G + group) * D)[:, None] + channel[None, :], valid


@triton.jit
def add_sample(
    sums, input, first, group, inside, x, y, right, lower, weight, h, w, channel,
    G: tl.constexpr, D: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """``sums`` plus one weighted sample for each row; the map begins at pixel ``first``: (rows, D)."""
    weight = tl.where(inside, weight, 0.0)
    for corner in tl.static_range(4):
        step_x, step_y = corner % 2, corner // 2
        at, valid = _corner(first, group, y + step_y, x + step_x, inside, h, w, channel, G, D)
        share = (right if step_x else 1 - right) * (lower if step_y else 1 - lower) * weight
        values = tl.load(input + at, mask=valid[:, None] & (channel < D)[None, :], other=0.0).to(SUM)
        sums += tl.where(valid, share, 0.0)[:, None] * values
    return sums


@triton.jit
def _corner_grads(input, grad_input, at, valid, share, grads, channel, D: tl.constexpr, SUM: tl.constexpr):
    """Adds one corner's part of the input gradient; returns the gradient of the corner's share, (rows,)."""
    wanted = valid[:, None] & (channel < D)[None, :]
    values = tl.load(input + at, mask=wanted, other=0.0).to(SUM)
    tl.atomic_add(grad_input + at, share[:, None] * grads, mask=wanted, sem="relaxed")
    return tl.where(valid, tl.sum(values * grads, 1), 0.0)


@triton.jit
def sample_grads(
    grads, input, grad_input, first, group, inside, x, y, right, lower, weight, h, w, channel,
    G: tl.constexpr, D: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Adds one sample's part of the input gradient; returns the gradients of its weight, x and y, each (rows,)."""
    weight = tl.where(inside, weight, 0.0)
    weight_grad, grad_x, grad_y = tl.zeros_like(weight), tl.zeros_like(weight), tl.zeros_like(weight)
    for corner in tl.static_range(4):
        step_x, step_y = corner % 2, corner // 2
        at, valid = _corner(first, group, y + step_y, x + step_x, inside, h, w, channel, G, D)
        share_x = right if step_x else 1 - right
        share_y = lower if step_y else 1 - lower
        share_grad = _corner_grads(input, grad_input, at, valid, share_x * share_y * weight, grads, channel, D, SUM)
        weight_grad += share_x * share_y * share_grad
        grad_x += share_y * share_grad * (2 * step_x - 1)
        grad_y += share_x * share_grad * (2 * step_y - 1)
    return weight_grad, grad_x * weight, grad_y * weight


@triton.jit
def load_outputs(output, row, active, channel, D: tl.constexpr, SUM: tl.constexpr):
    """What stands in an output for each row: (rows, D)."""
    at = (row * D)[:, None] + channel[None, :]
    return tl.load(output + at, mask=active[:, None] & (channel < D)[None, :], other=0.0).to(SUM)


@triton.jit
def store_outputs(output, row, active, channel, sums, D: tl.constexpr):
    at = (row * D)[:, None] + channel[None, :]
    tl.store(output + at, sums.to(output.dtype.element_ty), mask=active[:, None] & (channel < D)[None, :])


@triton.jit
def softmax(at, active, BLOCK_TAPS: tl.constexpr, P: tl.constexpr, SUM: tl.constexpr):
    """Largest logit, sum of exponentials, and the weights themselves: (rows,), (rows,), (rows, BLOCK_TAPS)."""
    tap = tl.arange(0, BLOCK_TAPS)
    logits = tl.load(at[:, None] + tap[None, :], mask=active[:, None] & (tap < P)[None, :], other=0.0).to(SUM)
    logits = tl.where((tap < P)[None, :], logits, float("-inf"))
    top = tl.max(logits, 1)
    weights = tl.exp(logits - top[:, None])
    total = tl.sum(weights, 1)
    return top, total, weights / total[:, None]


@triton.jit
def logit_grads(weights, grads):
    """The gradients of logits from those of the weights that their softmax is: (rows, BLOCK_TAPS)."""
    return weights * (grads - tl.sum(weights * grads, 1)[:, None])


@triton.jit
def store_taps(at, active, numbers, BLOCK_TAPS: tl.constexpr, P: tl.constexpr):
    """Store one number a tap for each row, from ``at`` on."""
    tap = tl.arange(0, BLOCK_TAPS)
    mask = active[:, None] & (tap < P)[None, :]
    tl.store(at[:, None] + tap[None, :], numbers.to(at.dtype.element_ty), mask=mask)
