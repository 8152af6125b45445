"""How much a call has to compute and to move: the formulas behind GFLOP/s and GB/s, the same for all operators.

Per sample, a point at which a vector of D channels is interpolated:

- forward: 4 corners x D channels x 2 flop, and 16 for position, fractions, corner weights and mask;
- backward: 4 corners x D channels x 4 flop (spread to the input; products for offset and mask), and 40.
"""

from __future__ import annotations

from dataclasses import dataclass

FORWARD, BACKWARD, BOTH = "forward", "backward", "forward+backward"
_CHANNEL_FLOPS = {FORWARD: 4 * 2, BACKWARD: 4 * 4}
_WEIGHT_FLOPS = {FORWARD: 16, BACKWARD: 40}
_CORNER_PASSES = {FORWARD: 1, BACKWARD: 3}  # backward reads the input, and reads and writes its gradient


@dataclass(frozen=True)
class Work:
    """What one call is made of: samples of ``depth`` channels, and numbers in its arguments and in its output."""

    samples: int
    depth: int
    arguments: int
    outputs: int


def flops(work: Work, direction: str) -> int:
    """Floating-point operations of one call, a multiply-add being two."""
    if direction == BOTH:
        return flops(work, FORWARD) + flops(work, BACKWARD)
    return work.samples * (_CHANNEL_FLOPS[direction] * work.depth + _WEIGHT_FLOPS[direction])


def tensor_bytes(work: Work, direction: str, itemsize: int = 4) -> int:
    """Bytes moved if every number were read or written exactly once: the least that memory has to carry."""
    if direction == BOTH:
        return tensor_bytes(work, FORWARD, itemsize) + tensor_bytes(work, BACKWARD, itemsize)
    return itemsize * (work.outputs + work.arguments * (1 if direction == FORWARD else 2))


def corner_bytes(work: Work, direction: str, itemsize: int = 4) -> int:
    """Bytes of the four corners of every sample: what the kernel moves between caches and registers."""
    if direction == BOTH:
        return corner_bytes(work, FORWARD, itemsize) + corner_bytes(work, BACKWARD, itemsize)
    return itemsize * work.samples * 4 * work.depth * _CORNER_PASSES[direction]
