"""The pieces that the Triton kernels of all operators are made of. Only these import it, at the first call.

H W size of a map, G groups (or heads), D channels per group, C = G*D, P taps. A row is one group of one output. A
program takes some rows of one group of one image with all their channels and walks over the taps.

Blocks have three axes, (PIECES, ROWS, WIDTH): a row's channels are PIECES pieces of WIDTH channels, and a thread holds
one vector of each piece of one row. So what is computed once a row, (1, ROWS, 1), serves several vectors, and as all of
it lies where the channels lie nothing has to change threads.

SUM is the type of coordinates and sums, INDEX that of addresses within an image.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret  # fixed for the life of the process when kernels are defined
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def rows_of(parts, strips, G: tl.constexpr, ROWS: tl.constexpr, INDEX: tl.constexpr):
    """What this program takes: image, strip, group, and the numbers of its rows within them, (1, ROWS, 1).

    Each group of each strip of an image is cut in ``parts`` of ROWS rows. Programs of the same place follow each other,
    so that what their groups read side by side is read once.
    """
    program = tl.program_id(0)
    place = program // G
    number = (place % parts).to(INDEX) * ROWS + tl.arange(0, ROWS)[None, :, None]
    strip = place // parts
    return (strip // strips).to(tl.int64), strip % strips, (program % G).to(INDEX), number


@triton.jit
def channels_of(PIECES: tl.constexpr, WIDTH: tl.constexpr):
    """(PIECES, 1, WIDTH)."""
    return tl.arange(0, PIECES)[:, None, None] * WIDTH + tl.arange(0, WIDTH)[None, None, :]


@triton.jit
def cell_of(x, y, active, h, w, SUM: tl.constexpr):
    """Is a position near the map, the cell's upper left corner, and the distance from there."""
    inside = active & (x > -1) & (y > -1) & (x < w.to(SUM)) & (y < h.to(SUM))  # false for NaN
    x, y = tl.where(inside, x, 0.0), tl.where(inside, y, 0.0)  # so that what is not near cannot poison the sums
    left, top = tl.floor(x), tl.floor(y)
    return inside, left.to(tl.int32), top.to(tl.int32), x - left, y - top


@triton.jit
def corner_of(corner: tl.constexpr, inside, x, y, right, lower, weight, h, w):
    """Whether a corner of the cell lies in the map, and its share of a sample of that weight.

    Corners are numbered row by row. A position near the map leaves it on one side at most.
    """
    across = (x < w - 1) if corner % 2 else (x >= 0)
    down = (y < h - 1) if corner // 2 else (y >= 0)
    share = weight * (lower if corner // 2 else 1 - lower) * (right if corner % 2 else 1 - right)
    return inside & across & down, share


@triton.jit
def add_sample(
    sums, at, wanted, inside, x, y, right, lower, weight, h, w,
    C: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """``sums`` plus one weighted sample for each row; ``at`` are the channels ``wanted`` of the map's first pixel."""
    weight = tl.where(inside, weight, 0.0)
    at += (y * w.to(INDEX) + x) * C
    for corner in tl.static_range(4):
        valid, share = corner_of(corner, inside, x, y, right, lower, weight, h, w)
        here = at + corner % 2 * C + corner // 2 * w.to(INDEX) * C
        sums += share * tl.load(here, mask=valid & wanted, other=0.0).to(SUM)
    return sums


@triton.jit
def load_pieces(at, channel, active, D: tl.constexpr, PIECES: tl.constexpr, SUM: tl.constexpr):
    """The channels from ``at`` on, piece by piece: PIECES blocks as wide as ``channel``, (1, ROWS, WIDTH)."""
    pieces = ()
    for piece in tl.static_range(PIECES):
        first = piece * channel.shape[2]
        pieces += (tl.load(at + first, mask=active & (channel < D - first), other=0.0).to(SUM),)  # type: ignore[assignment]
    return pieces


@triton.jit
def _corner_grad(
    grads, at, into, channel, valid, share, D: tl.constexpr, SCATTER: tl.constexpr, SUM: tl.constexpr
):  # fmt: skip
    """Adds one corner's part of the input gradient; returns the gradient of the corner's share, (1, ROWS, 1)."""
    products = tl.zeros_like(grads[0])
    for piece in tl.static_range(len(grads)):
        first = piece * channel.shape[2]
        wanted = valid & (channel < D - first)
        products += tl.load(at + first, mask=wanted, other=0.0).to(SUM) * grads[piece]
        if SCATTER:
            tl.atomic_add(into + first, share * grads[piece], mask=wanted, sem="relaxed")
    return tl.where(valid, tl.sum(products, 2, keep_dims=True), 0.0)


@triton.jit
def sample_grads(
    grads, at, into, channel, inside, x, y, right, lower, weight, h, w,
    C: tl.constexpr, D: tl.constexpr, SCATTER: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Adds one sample's part of the input gradient; returns the gradients of its weight, x and y, each (1, ROWS, 1).

    ``grads`` are pieces of the output's gradient. ``into`` lies as ``at`` does; without SCATTER nothing is added to it.
    """
    weight = tl.where(inside, weight, 0.0)
    place = (y * w.to(INDEX) + x) * C
    found = ()
    for corner in tl.static_range(4):
        valid, share = corner_of(corner, inside, x, y, right, lower, weight, h, w)
        here = place + corner % 2 * C + corner // 2 * w.to(INDEX) * C
        found += (_corner_grad(grads, at + here, into + here, channel, valid, share, D, SCATTER, SUM),)  # type: ignore[assignment]
    above, below = found[1] - found[0], found[3] - found[2]  # type: ignore[misc]
    first, second = found[0] + right * above, found[2] + right * below  # type: ignore[misc]
    return first + lower * (second - first), (above + lower * (below - above)) * weight, (second - first) * weight


@triton.jit
def softmax(at, active, P: tl.constexpr, WRITTEN_OUT: tl.constexpr, SUM: tl.constexpr):
    """For each row the largest logit, times log2(e), and one over the sum of what :func:`softmax_weight` gives.

    Written out it needs no exchange between threads, but registers for all taps.
    """
    top = tl.load(at, mask=active, other=0.0).to(SUM)
    total = tl.zeros_like(top)
    if WRITTEN_OUT:
        for p in tl.static_range(1, P):
            top = tl.maximum(top, tl.load(at + p, mask=active, other=0.0).to(SUM))
        top *= LOG2_E
        for p in tl.static_range(P):
            total += softmax_weight(tl.load(at + p, mask=active, other=0.0).to(SUM), top)
    else:
        for p in range(1, P):
            top = tl.maximum(top, tl.load(at + p, mask=active, other=0.0).to(SUM))
        top *= LOG2_E
        for p in range(P):
            total += softmax_weight(tl.load(at + p, mask=active, other=0.0).to(SUM), top)
    return top, 1 / total


@triton.jit
def softmax_weight(logit, top):
    """The weight of a tap before it is divided by the sum of all."""
    return tl.exp2(logit * LOG2_E - top)


@triton.jit
def store_pairs(at, active, x, y):
    """Store two numbers for each row side by side, from ``at`` on."""
    pairs = tl.reshape(tl.join(x, y), (1, active.shape[1], 2))
    tl.store(at + tl.arange(0, 2)[None, None, :], pairs.to(at.dtype.element_ty), mask=active)


@triton.jit
def store_weight_grads(
    at, weights_at, active, grads, top, inverse, P: tl.constexpr, TAPS: tl.constexpr, SOFTMAX: tl.constexpr
):
    """Store the gradients of the weights of all taps, or of the logits whose softmax they are.

    ``grads`` are those of the weights, (1, ROWS, TAPS), of which P are there.
    """
    tap = tl.arange(0, TAPS)[None, None, :]
    mask = active & (tap < P)
    if SOFTMAX:
        logits = tl.load(weights_at + tap, mask=mask, other=float("-inf")).to(grads.dtype)
        weights = softmax_weight(logits, top) * inverse
        grads = weights * (grads - tl.sum(weights * grads, 2, keep_dims=True))
    tl.store(at + tap, grads.to(at.dtype.element_ty), mask=mask)
