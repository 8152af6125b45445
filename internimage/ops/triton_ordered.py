"""The input gradient summed up in one fixed order, where torch asks for determinism. Imported by the kernels only.

A backward kernel adds each row's gradient, times a share, to four places of the input gradient for every tap. With
atomic additions the order changes from run to run. Here it notes the four places and shares instead; a stable sort puts
those of one place side by side, in the order of rows and taps, and a program sums up each place from first to last.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_bilinear import channels_of, corner_of


@triton.jit
def note_parts(keys, shares, first_key, active, inside, x, y, right, lower, weight, h, w, G: tl.constexpr):
    """Note one sample's four parts for each row, from ``keys`` and ``shares`` on; a corner outside the map is -1.

    A key counts groups: D channels of the input gradient each. ``first_key`` is that of the map's first pixel.
    """
    weight = tl.where(inside, weight, 0.0)
    for corner in tl.static_range(4):
        valid, share = corner_of(corner, inside, x, y, right, lower, weight, h, w)
        pixel = (y + corner // 2) * w.to(tl.int64) + x + corner % 2
        tl.store(keys + corner, tl.where(valid, first_key + pixel * G, -1), mask=active)
        tl.store(shares + corner, share, mask=active)


@triton.jit(do_not_specialize=["places"])
def sum_parts_kernel(
    grad_output, order, shares, starts, grad_input,
    places,
    D: tl.constexpr, PARTS: tl.constexpr, SUM: tl.constexpr,
    PIECES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sums up ROWS places of the input gradient; the parts of place i are ``order[starts[i]:starts[i + 1]]``."""
    place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[None, :, None]
    active = place < places
    channel = channels_of(PIECES, WIDTH)
    wanted = channel < D
    first = tl.load(starts + place, mask=active, other=0)
    count = tl.load(starts + place + 1, mask=active, other=0) - first
    sums = tl.zeros((PIECES, ROWS, WIDTH), SUM)
    longest = tl.max(tl.reshape(count, (ROWS,)), 0)
    i = longest * 0
    while i < longest:
        there = i < count
        part = tl.load(order + first + i, mask=there, other=0)
        share = tl.load(shares + part, mask=there, other=0.0)
        row = part // PARTS
        sums += share * tl.load(grad_output + row * D + channel, mask=there & wanted, other=0.0).to(SUM)
        i += 1
    tl.store(grad_input + place * D + channel, sums.to(grad_input.dtype.element_ty), mask=active & wanted)
