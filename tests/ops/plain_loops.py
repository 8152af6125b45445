"""The operators in plain Python loops: output and gradients, so simple that nobody can doubt them. For tiny maps.

Written from the formulas alone; they share no line with the package, not even the order of the taps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor


def corners(at_x: float, at_y: float, h: int, w: int) -> Iterator[tuple[int, int, float, float, int, int]]:
    """The pixels around a position that lie on the map: column, row, shares along x and y, and their signs."""
    if not (-1 < at_x < w and -1 < at_y < h):  # a comparison with NaN is false
        return
    left, top = math.floor(at_x), math.floor(at_y)
    right, lower = at_x - left, at_y - top
    for column, share_x, sign_x in ((left, 1 - right, -1), (left + 1, right, 1)):
        for row, share_y, sign_y in ((top, 1 - lower, -1), (top + 1, lower, 1)):
            if 0 <= column < w and 0 <= row < h:
                yield column, row, share_x, share_y, sign_x, sign_y


def dcnv3_loops(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    grad_output: Tensor,
    *,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, and the gradients of ``sum(output * grad_output)`` for input, offset and mask; all float64."""
    (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dil_h, dil_w) = kernel_size, stride, padding, dilation
    n, h, w, c = input.shape
    h_out = (h + 2 * pad_h - (dil_h * (kernel_h - 1) + 1)) // stride_h + 1
    w_out = (w + 2 * pad_w - (dil_w * (kernel_w - 1) + 1)) // stride_w + 1
    depth = c // groups
    half_h, half_w = (dil_h * (kernel_h - 1)) // 2, (dil_w * (kernel_w - 1)) // 2
    output = torch.zeros(n, h_out, w_out, c, dtype=torch.float64).numpy()
    grad_input, grad_offset, grad_mask = (
        torch.zeros_like(t, dtype=torch.float64).numpy() for t in (input, offset, mask)
    )
    values, shifts, weights, grads = (t.double().tolist() for t in (input, offset, mask, grad_output))
    for image, y, x, g in product(range(n), range(h_out), range(w_out), range(groups)):
        tap = g * (kernel_h * kernel_w - int(remove_center)) - 1
        for i, j in product(range(kernel_w), range(kernel_h)):
            if remove_center and (i, j) == (kernel_w // 2, kernel_h // 2):
                continue
            tap += 1
            weight = weights[image][y][x][tap]
            shift_x, shift_y = shifts[image][y][x][2 * tap], shifts[image][y][x][2 * tap + 1]
            at_x = half_w - pad_w + x * stride_w - half_w * offset_scale + (i * dil_w + shift_x) * offset_scale
            at_y = half_h - pad_h + y * stride_h - half_h * offset_scale + (j * dil_h + shift_y) * offset_scale
            for column, row, share_x, share_y, sign_x, sign_y in corners(at_x, at_y, h, w):
                for channel in range(g * depth, (g + 1) * depth):
                    value, grad = values[image][row][column][channel], grads[image][y][x][channel]
                    output[image, y, x, channel] += weight * share_x * share_y * value
                    grad_input[image, row, column, channel] += weight * share_x * share_y * grad
                    grad_mask[image, y, x, tap] += share_x * share_y * value * grad
                    slope = weight * value * grad * offset_scale
                    grad_offset[image, y, x, 2 * tap] += slope * sign_x * share_y
                    grad_offset[image, y, x, 2 * tap + 1] += slope * sign_y * share_x
    return tuple(torch.from_numpy(t) for t in (output, grad_input, grad_offset, grad_mask))


def attention_loops(
    value: Tensor, locations: Tensor, weights: Tensor, grad_output: Tensor, sizes: tuple[tuple[int, int], ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, and the gradients of ``sum(output * grad_output)`` for value, locations and weights; all float64.

    Shapes as in :func:`internimage.ops.ms_deform_attn`.
    """
    n, _, heads, depth = value.shape
    queries, points = weights.shape[1], weights.shape[4]
    output = torch.zeros(n, queries, heads * depth, dtype=torch.float64).numpy()
    grad_value, grad_locations, grad_weights = (
        torch.zeros_like(t, dtype=torch.float64).numpy() for t in (value, locations, weights)
    )
    values, places, shares, grads = (t.double().tolist() for t in (value, locations, weights, grad_output))
    for image, query, head in product(range(n), range(queries), range(heads)):
        first = 0  # pixel of the level
        for level, (h, w) in enumerate(sizes):
            for point in range(points):
                x, y = places[image][query][head][level][point]
                weight = shares[image][query][head][level][point]
                lane = (image, query, head, level, point)
                for column, row, share_x, share_y, sign_x, sign_y in corners(x * w - 0.5, y * h - 0.5, h, w):
                    pixel = first + row * w + column
                    for channel in range(depth):
                        value_here = values[image][pixel][head][channel]
                        grad = grads[image][query][head * depth + channel]
                        output[image, query, head * depth + channel] += weight * share_x * share_y * value_here
                        grad_value[image, pixel, head, channel] += weight * share_x * share_y * grad
                        grad_weights[lane] += share_x * share_y * value_here * grad
                        grad_locations[(*lane, 0)] += weight * value_here * grad * sign_x * share_y * w
                        grad_locations[(*lane, 1)] += weight * value_here * grad * sign_y * share_x * h
            first += h * w
    return tuple(torch.from_numpy(t) for t in (output, grad_value, grad_locations, grad_weights))
