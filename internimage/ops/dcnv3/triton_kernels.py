"""The Triton kernels of DCNv3. Only ``gpu.py`` imports this file, at the first call.

The words are those of ``ops/triton_bilinear.py``; a row is one group of one output pixel. The geometry is compiled in,
and so is the distance between rows: a network has few of them, and constants let the compiler widen its loads.
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

# no kernel of their own for sizes of 1 or multiples of 16
_SIZES = ["parts", "strips", "width", "h", "w", "h_out", "w_out"]


@triton.jit
def _origins(
    number, strip, width, h_out, w_out, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    ORIGIN_Y: tl.constexpr, ORIGIN_X: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Whether there is an output pixel, its number, and where its tap (0, 0) samples without learned offset, (x, y).

    Pixels are taken in strips of ``width`` columns, line by line, so that those of a program are near each other in
    both directions and find in the cache what others of them have read.
    """
    y_out = number // width
    x_out = strip * width + (number - y_out * width)
    active = (y_out < h_out) & (x_out < w_out)
    x, y = (x_out * STRIDE_W).to(SUM) + ORIGIN_X, (y_out * STRIDE_H).to(SUM) + ORIGIN_Y
    return active, y_out * w_out + x_out, x, y


@triton.jit
def _sample(
    at, p, active, origin_x, origin_y, h, w,
    KERNEL_H: tl.constexpr, CENTER: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    SCALE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The cell that tap ``p`` samples."""
    cell = p
    if CENTER >= 0:
        cell = p + (p >= CENTER)
    offset_x = tl.load(at + 2 * p, mask=active, other=0.0).to(SUM)
    offset_y = tl.load(at + 2 * p + 1, mask=active, other=0.0).to(SUM)
    x = origin_x + (offset_x + cell // KERNEL_H * DILATION_W) * SCALE
    y = origin_y + (offset_y + cell % KERNEL_H * DILATION_H) * SCALE
    return cell_of(x, y, active, h, w, SUM)


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    input, offset, mask, output,
    parts, strips, width, h, w, h_out, w_out,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    KERNEL_H: tl.constexpr, CENTER: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ORIGIN_Y: tl.constexpr, ORIGIN_X: tl.constexpr, SCALE: tl.constexpr,
    OFFSET_ROW: tl.constexpr, OFFSET_GROUP: tl.constexpr, MASK_ROW: tl.constexpr, MASK_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    PIECES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    image, strip, group, number = rows_of(parts, strips, G, ROWS, INDEX)
    channel = channels_of(PIECES, WIDTH)
    active, pixel, origin_x, origin_y = _origins(
        number, strip, width, h_out, w_out, STRIDE_H, STRIDE_W, ORIGIN_Y, ORIGIN_X, SUM
    )  # fmt: skip
    before = image * h_out * w_out
    offset_at = offset + before * OFFSET_ROW + (pixel * OFFSET_ROW + group * OFFSET_GROUP)
    mask_at = mask + before * MASK_ROW + (pixel * MASK_ROW + group * MASK_GROUP)
    at = input + image * h * w * (G * D) + (group * D + channel)
    if SOFTMAX:
        top, inverse = softmax(mask_at, active, P, P <= 32, SUM)
    sums = tl.zeros((PIECES, ROWS, WIDTH), SUM)
    for p in tl.range(0, P, loop_unroll_factor=UNROLL):
        weight = tl.load(mask_at + p, mask=active, other=0.0).to(SUM)
        if SOFTMAX:
            weight = softmax_weight(weight, top)
        inside, x, y, right, lower = _sample(
            offset_at, p, active, origin_x, origin_y, h, w, KERNEL_H, CENTER, DILATION_H, DILATION_W, SCALE, SUM
        )  # fmt: skip
        sums = add_sample(sums, at, channel < D, inside, x, y, right, lower, weight, h, w, G * D, SUM, INDEX)
    if SOFTMAX:
        sums *= inverse
    output += before * (G * D) + (pixel * (G * D) + group * D + channel)
    tl.store(output, sums.to(output.dtype.element_ty), mask=active & (channel < D))


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    grad_output, input, offset, mask, grad_input, grad_offset, grad_mask, keys, shares,
    parts, strips, width, h, w, h_out, w_out,
    G: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
    KERNEL_H: tl.constexpr, CENTER: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ORIGIN_Y: tl.constexpr, ORIGIN_X: tl.constexpr, SCALE: tl.constexpr,
    OFFSET_ROW: tl.constexpr, OFFSET_GROUP: tl.constexpr, MASK_ROW: tl.constexpr, MASK_GROUP: tl.constexpr,
    GRAD_OFFSET_ROW: tl.constexpr, GRAD_OFFSET_GROUP: tl.constexpr,
    GRAD_MASK_ROW: tl.constexpr, GRAD_MASK_GROUP: tl.constexpr,
    SOFTMAX: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr, SCATTER: tl.constexpr, TAPS: tl.constexpr,
    PIECES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    image, strip, group, number = rows_of(parts, strips, G, ROWS, INDEX)
    channel = channels_of(1, WIDTH)
    active, pixel, origin_x, origin_y = _origins(
        number, strip, width, h_out, w_out, STRIDE_H, STRIDE_W, ORIGIN_Y, ORIGIN_X, SUM
    )  # fmt: skip
    before = image * h_out * w_out
    offset_at = offset + before * OFFSET_ROW + (pixel * OFFSET_ROW + group * OFFSET_GROUP)
    mask_at = mask + before * MASK_ROW + (pixel * MASK_ROW + group * MASK_GROUP)
    grad_offset_at = grad_offset + before * GRAD_OFFSET_ROW + (pixel * GRAD_OFFSET_ROW + group * GRAD_OFFSET_GROUP)
    grad_mask_at = grad_mask + before * GRAD_MASK_ROW + (pixel * GRAD_MASK_ROW + group * GRAD_MASK_GROUP)
    at = input + image * h * w * (G * D) + (group * D + channel)
    into = grad_input + image * h * w * (G * D) + (group * D + channel)
    first_key = image * h * w * G + group
    keys += ((before + pixel) * G + group) * (4 * P)
    shares += ((before + pixel) * G + group) * (4 * P)
    grad_output += before * (G * D) + (pixel * (G * D) + group * D + channel)
    grads = load_pieces(grad_output, channel, active, D, PIECES, SUM)
    top, inverse = softmax(mask_at, active, P, False, SUM) if SOFTMAX else (0.0, 1.0)
    tap = tl.arange(0, TAPS)[None, None, :]
    weight_grads = tl.zeros((1, ROWS, TAPS), SUM)
    for p in range(P):
        weight = tl.load(mask_at + p, mask=active, other=0.0).to(SUM)
        if SOFTMAX:
            weight = softmax_weight(weight, top) * inverse
        inside, x, y, right, lower = _sample(
            offset_at, p, active, origin_x, origin_y, h, w, KERNEL_H, CENTER, DILATION_H, DILATION_W, SCALE, SUM
        )  # fmt: skip
        weight_grad, grad_x, grad_y = sample_grads(
            grads, at, into, channel, inside, x, y, right, lower, weight, h, w, G * D, D, SCATTER, SUM, INDEX
        )  # fmt: skip
        if not SCATTER:
            note_parts(keys + 4 * p, shares + 4 * p, first_key, active, inside, x, y, right, lower, weight, h, w, G)
        store_pairs(grad_offset_at + 2 * p, active, grad_x * SCALE, grad_y * SCALE)
        weight_grads = tl.where(tap == p, weight_grad, weight_grads)
    store_weight_grads(grad_mask_at, mask_at, active, weight_grads, top, inverse, P, TAPS, SOFTMAX)
