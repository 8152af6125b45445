"""DCNv3 in plain Python loops: output and gradients, so simple that nobody can doubt them. For tiny maps.

Written from the formula alone; it shares no line with the package, not even the order of the taps.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor


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
            if not (-1 < at_x < w and -1 < at_y < h):  # a comparison with NaN is false
                continue
            left, top = math.floor(at_x), math.floor(at_y)
            right, lower = at_x - left, at_y - top
            corners = (
                (left, top, 1 - right, 1 - lower, -1, -1),
                (left + 1, top, right, 1 - lower, 1, -1),
                (left, top + 1, 1 - right, lower, -1, 1),
                (left + 1, top + 1, right, lower, 1, 1),
            )
            for column, row, share_x, share_y, sign_x, sign_y in corners:
                if not (0 <= column < w and 0 <= row < h):
                    continue
                for channel in range(g * depth, (g + 1) * depth):
                    value, grad = values[image][row][column][channel], grads[image][y][x][channel]
                    output[image, y, x, channel] += weight * share_x * share_y * value
                    grad_input[image, row, column, channel] += weight * share_x * share_y * grad
                    grad_mask[image, y, x, tap] += share_x * share_y * value * grad
                    slope = weight * value * grad * offset_scale
                    grad_offset[image, y, x, 2 * tap] += slope * sign_x * share_y
                    grad_offset[image, y, x, 2 * tap + 1] += slope * sign_y * share_x
    return tuple(torch.from_numpy(t) for t in (output, grad_input, grad_offset, grad_mask))
