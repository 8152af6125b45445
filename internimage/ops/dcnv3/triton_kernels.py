"""The Triton kernels of DCNv3 and their launch settings. Only ``gpu.py`` imports this file, at the first call.

The words are those of ``ops/triton_bilinear.py``; a row is one group of one output pixel. The geometry is compiled in:
a network has few of them, and constant strides let the compiler widen its loads.
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

_SIZES = ["rows", "h", "w", "h_out", "w_out"]  # no kernel of their own for sizes of 1 or multiples of 16


def forward_setting(depth: int, taps: int) -> triton.Config:
    """How to launch the forward kernel for ``depth`` channels per group and ``taps`` sampling points."""
    return by_class(_FORWARD_SETTINGS, max(depth, taps))


def backward_setting(depth: int, taps: int) -> triton.Config:
    """The same for the backward kernel, which holds more for each row."""
    return by_class(_BACKWARD_SETTINGS, max(depth, taps))


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
    """The cell that tap ``p`` samples."""
    cell = p
    if CENTER >= 0:
        cell += (cell >= CENTER).to(tl.int32)
    offset_x = tl.load(at + 2 * p, mask=active, other=0.0).to(SUM)
    offset_y = tl.load(at + 2 * p + 1, mask=active, other=0.0).to(SUM)
    tap_x = ((cell // KERNEL_H) * DILATION_W).to(SUM)
    tap_y = ((cell % KERNEL_H) * DILATION_H).to(SUM)
    x = (x_out * STRIDE_W).to(SUM) + ORIGIN_X + (offset_x + tap_x) * SCALE
    y = (y_out * STRIDE_H).to(SUM) + ORIGIN_Y + (offset_y + tap_y) * SCALE
    return cell_of(x, y, active, h, w)


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
    first = image * h * w
    offset_at = offset + pixel * offset_row + group * OFFSET_GROUP
    mask_at = mask + pixel * mask_row + group * MASK_GROUP
    if SOFTMAX:
        top, total, _ = softmax(mask_at, active, BLOCK_TAPS, P, SUM)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_D), SUM)
    for p in tl.range(0, P, loop_unroll_factor=UNROLL):
        weight = tl.load(mask_at + p, mask=active, other=0.0).to(SUM)
        if SOFTMAX:
            weight = tl.exp(weight - top) / total
        inside, x, y, right, lower = _sample(
            offset_at, p, active, y_out, x_out, h, w, KERNEL_H, CENTER,
            STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, ORIGIN_Y, ORIGIN_X, SCALE, SUM,
        )  # fmt: skip
        sums = add_sample(
            sums, input, first, group, inside, x, y, right, lower, weight, h, w, channel, G, D, SUM
        )  # fmt: skip
    store_outputs(output, row, active, channel, sums, D)


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
    first = image * h * w
    offset_at = offset + pixel * offset_row + group * OFFSET_GROUP
    mask_at = mask + pixel * mask_row + group * MASK_GROUP
    grad_offset_at = grad_offset + pixel * grad_offset_row + group * GRAD_OFFSET_GROUP
    if SOFTMAX:
        top, total, weights = softmax(mask_at, active, BLOCK_TAPS, P, SUM)
    grads = load_outputs(grad_output, row, active, channel, D, SUM)
    weight_grads = tl.zeros((BLOCK_ROWS, BLOCK_TAPS), SUM)
    for p in range(P):
        weight = tl.load(mask_at + p, mask=active, other=0.0).to(SUM)
        if SOFTMAX:
            weight = tl.exp(weight - top) / total
        inside, x, y, right, lower = _sample(
            offset_at, p, active, y_out, x_out, h, w, KERNEL_H, CENTER,
            STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, ORIGIN_Y, ORIGIN_X, SCALE, SUM,
        )  # fmt: skip
        weight_grad, grad_x, grad_y = sample_grads(
            grads, input, grad_input, first, group, inside, x, y, right, lower, weight, h, w, channel, G, D, SUM
        )  # fmt: skip
        weight_grads = tl.where((tap == p)[None, :], weight_grad[:, None], weight_grads)
        at = grad_offset_at + 2 * p
        tl.store(at, (grad_x * SCALE).to(grad_offset.dtype.element_ty), mask=active)
        tl.store(at + 1, (grad_y * SCALE).to(grad_offset.dtype.element_ty), mask=active)
    if SOFTMAX:
        weight_grads = logit_grads(weights, weight_grads)
    at = grad_mask + pixel * grad_mask_row + group * GRAD_MASK_GROUP
    store_taps(at, active, weight_grads, BLOCK_TAPS, P)
