"""The Triton kernels of DCNv3 and their launch settings. Only ``gpu.py`` imports this file, at the first call.

H W input size, G groups, D channels per group, C = G*D, P taps. A row is one group of one output pixel; a program
takes a block of rows with all D channels and walks over the taps. Neighbouring rows are neighbouring groups, so that
the channels of a pixel are read and written side by side.

The geometry is compiled in: a network has few of them, and constant strides let the compiler widen its loads.
SUM is the type of coordinates and sums, INDEX that of addresses.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret  # fixed for the life of the process when kernels are defined

_SIZES = ["rows", "h", "w", "h_out", "w_out"]  # no kernel of their own for sizes of 1 or multiples of 16


def forward_setting(depth: int, taps: int) -> triton.Config:
    """How to launch the forward kernel for ``depth`` channels per group and ``taps`` sampling points."""
    return _by_class(_FORWARD_SETTINGS, max(depth, taps))


def backward_setting(depth: int, taps: int) -> triton.Config:
    """The same for the backward kernel, which holds more for each row."""
    return _by_class(_BACKWARD_SETTINGS, max(depth, taps))


# by the wider of D and P: about a thousand values a block forward, half of that backward
_FORWARD_SETTINGS = {
    16: triton.Config({"BLOCK_ROWS": 64, "UNROLL": 3}, num_warps=4),
    64: triton.Config({"BLOCK_ROWS": 32, "UNROLL": 3}, num_warps=4),
    256: triton.Config({"BLOCK_ROWS": 8, "UNROLL": 1}, num_warps=4),
    None: triton.Config({"BLOCK_ROWS": 1, "UNROLL": 1}, num_warps=4),
}
_BACKWARD_SETTINGS = {
    16: triton.Config({"BLOCK_ROWS": 32}, num_warps=4),
    64: triton.Config({"BLOCK_ROWS": 16}, num_warps=4),
    256: triton.Config({"BLOCK_ROWS": 4}, num_warps=4),
    None: triton.Config({"BLOCK_ROWS": 1}, num_warps=4),
}


def _by_class(settings: dict, width: int) -> triton.Config:
    return next(setting for limit, setting in settings.items() if limit is None or width <= limit)


@triton.jit
def _output_position(row, h_out, w_out, G: tl.constexpr):
    """Pixel number, group, image, y and x of each row."""
    pixel = row // G
    return pixel, row % G, pixel // (h_out * w_out), (pixel // w_out) % h_out, pixel % w_out


@triton.jit
def _sample(
    at, p, active, y_out, x_out, h, w,
    KERNEL_H: tl.constexpr, CENTER: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ORIGIN_Y: tl.constexpr, ORIGIN_X: tl.constexpr, SCALE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Where tap ``p`` samples: is it near the image, the cell's upper left corner, and the distance from there."""
    cell = p
    if CENTER >= 0:
        cell += (cell >= CENTER).to(tl.int32)
    offset_x = tl.load(at + 2 * p, mask=active, other=0.0).to(SUM)
    offset_y = tl.load(at + 2 * p + 1, mask=active, other=0.0).to(SUM)
    tap_x = ((cell // KERNEL_H) * DILATION_W).to(SUM)
    tap_y = ((cell % KERNEL_H) * DILATION_H).to(SUM)
    x = (x_out * STRIDE_W).to(SUM) + ORIGIN_X + (offset_x + tap_x) * SCALE
    y = (y_out * STRIDE_H).to(SUM) + ORIGIN_Y + (offset_y + tap_y) * SCALE
    inside = active & (x > -1) & (y > -1) & (x < w) & (y < h)  # false for NaN
    x, y = tl.where(inside, x, 0.0), tl.where(inside, y, 0.0)  # so that what is not near cannot poison the sums
    x0, y0 = tl.floor(x), tl.floor(y)
    return inside, x0.to(tl.int32), y0.to(tl.int32), x - x0, y - y0


@triton.jit
def _corner(image, group, y, x, inside, h, w, channel, G: tl.constexpr, D: tl.constexpr):
    """Addresses of the channels of one corner, and whether it lies in the image: (rows, D), (rows,)."""
    valid = inside & (y >= 0) & (y < h) & (x >= 0) & (x < w)
    pixel = (image * h + y) * w + x
    return ((pixel * G + group) * D)[:, None] + channel[None, :], valid


@triton.jit
def _softmax(at, active, BLOCK_TAPS: tl.constexpr, P: tl.constexpr, SUM: tl.constexpr):
    """Largest logit, sum of exponentials, and the weights themselves: (rows,), (rows,), (rows, BLOCK_TAPS)."""
    tap = tl.arange(0, BLOCK_TAPS)
    logits = tl.load(at[:, None] + tap[None, :], mask=active[:, None] & (tap < P)[None, :], other=0.0).to(SUM)
    logits = tl.where((tap < P)[None, :], logits, float("-inf"))
    top = tl.max(logits, 1)
    weights = tl.exp(logits - top[:, None])
    total = tl.sum(weights, 1)
    return top, total, weights / total[:, None]


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    input, offset, mask, output,
    rows, h, w, h_out, w_out, offset_row, mask_row,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    KERNEL_H: tl.constexpr, CENTER: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ORIGIN_Y: tl.constexpr, ORIGIN_X: tl.constexpr, SCALE: tl.constexpr,
    OFFSET_GROUP: tl.constexpr, MASK_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_TAPS: tl.constexpr, BLOCK_ROWS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(INDEX) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.arange(0, BLOCK_D)
    active = row < rows
    pixel, group, image, y_out, x_out = _output_position(row, h_out, w_out, G)
    offset_at = offset + pixel * offset_row + group * OFFSET_GROUP
    mask_at = mask + pixel * mask_row + group * MASK_GROUP
    if SOFTMAX:
        top, total, _ = _softmax(mask_at, active, BLOCK_TAPS, P, SUM)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_D), SUM)
    for p in tl.range(0, P, loop_unroll_factor=UNROLL):
        weight = tl.load(mask_at + p, mask=active, other=0.0).to(SUM)
        if SOFTMAX:
            weight = tl.exp(weight - top) / total
        inside, x, y, right, lower = _sample(
            offset_at, p, active, y_out, x_out, h, w, KERNEL_H, CENTER,
            STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, ORIGIN_Y, ORIGIN_X, SCALE, SUM,
        )  # fmt: skip
        weight = tl.where(inside, weight, 0.0)
        for corner in tl.static_range(4):
            step_x, step_y = corner % 2, corner // 2
            at, valid = _corner(image, group, y + step_y, x + step_x, inside, h, w, channel, G, D)
            share = (right if step_x else 1 - right) * (lower if step_y else 1 - lower) * weight
            values = tl.load(input + at, mask=valid[:, None] & (channel < D)[None, :], other=0.0).to(SUM)
            sums += tl.where(valid, share, 0.0)[:, None] * values
    at = (row * D)[:, None] + channel[None, :]
    tl.store(output + at, sums.to(output.dtype.element_ty), mask=active[:, None] & (channel < D)[None, :])


@triton.jit
def _corner_grads(input, grad_input, at, valid, share, grads, channel, D: tl.constexpr, SUM: tl.constexpr):
    """Adds one corner's part of the input gradient; returns the gradient of the corner's share, (rows,)."""
    wanted = valid[:, None] & (channel < D)[None, :]
    values = tl.load(input + at, mask=wanted, other=0.0).to(SUM)
    tl.atomic_add(grad_input + at, share[:, None] * grads, mask=wanted, sem="relaxed")
    return tl.where(valid, tl.sum(values * grads, 1), 0.0)


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    grad_output, input, offset, mask, grad_input, grad_offset, grad_mask,
    rows, h, w, h_out, w_out, offset_row, mask_row, grad_offset_row, grad_mask_row,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    KERNEL_H: tl.constexpr, CENTER: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ORIGIN_Y: tl.constexpr, ORIGIN_X: tl.constexpr, SCALE: tl.constexpr,
    OFFSET_GROUP: tl.constexpr, MASK_GROUP: tl.constexpr,
    GRAD_OFFSET_GROUP: tl.constexpr, GRAD_MASK_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_TAPS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(INDEX) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel, tap = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_TAPS)
    active = row < rows
    pixel, group, image, y_out, x_out = _output_position(row, h_out, w_out, G)
    offset_at = offset + pixel * offset_row + group * OFFSET_GROUP
    mask_at = mask + pixel * mask_row + group * MASK_GROUP
    if SOFTMAX:
        top, total, weights = _softmax(mask_at, active, BLOCK_TAPS, P, SUM)
    at = (row * D)[:, None] + channel[None, :]
    grads = tl.load(grad_output + at, mask=active[:, None] & (channel < D)[None, :], other=0.0).to(SUM)
    weight_grads = tl.zeros((BLOCK_ROWS, BLOCK_TAPS), SUM)
    for p in range(P):
        weight = tl.load(mask_at + p, mask=active, other=0.0).to(SUM)
        if SOFTMAX:
            weight = tl.exp(weight - top) / total
        inside, x, y, right, lower = _sample(
            offset_at, p, active, y_out, x_out, h, w, KERNEL_H, CENTER,
            STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, ORIGIN_Y, ORIGIN_X, SCALE, SUM,
        )  # fmt: skip
        weight = tl.where(inside, weight, 0.0)
        weight_grad, grad_x, grad_y = tl.zeros_like(weight), tl.zeros_like(weight), tl.zeros_like(weight)
        for corner in tl.static_range(4):
            step_x, step_y = corner % 2, corner // 2
            at, valid = _corner(image, group, y + step_y, x + step_x, inside, h, w, channel, G, D)
            share_x = right if step_x else 1 - right
            share_y = lower if step_y else 1 - lower
            share_grad = _corner_grads(
                input, grad_input, at, valid, share_x * share_y * weight, grads, channel, D, SUM
            )  # fmt: skip
            weight_grad += share_x * share_y * share_grad
            grad_x += share_y * share_grad * (2 * step_x - 1)
            grad_y += share_x * share_grad * (2 * step_y - 1)
        weight_grads = tl.where((tap == p)[None, :], weight_grad[:, None], weight_grads)
        grad_at = grad_offset + pixel * grad_offset_row + group * GRAD_OFFSET_GROUP + 2 * p
        tl.store(grad_at, (grad_x * weight * SCALE).to(grad_offset.dtype.element_ty), mask=active)
        tl.store(grad_at + 1, (grad_y * weight * SCALE).to(grad_offset.dtype.element_ty), mask=active)
    if SOFTMAX:
        weight_grads = weights * (weight_grads - tl.sum(weights * weight_grads, 1)[:, None])
    at = (pixel * grad_mask_row + group * GRAD_MASK_GROUP)[:, None] + tap[None, :]
    tl.store(grad_mask + at, weight_grads.to(grad_mask.dtype.element_ty), mask=active[:, None] & (tap < P)[None, :])
