"""How much a call of DCNv3 has to compute and to move: the formulas behind GFLOP/s and GB/s.

Per sample, of which there are output pixels x G x P, with D channels per group:

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
class Shape:
    """Input (1, height, width, channels), kernel 3x3, stride 1, padding 1."""

    height: int
    width: int
    channels: int
    groups: int
    taps: int = 9

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels} G={self.groups}"

    @property
    def samples(self) -> int:
        """Points at which a vector of ``depth`` channels is interpolated."""
        return self.height * self.width * self.groups * self.taps

    @property
    def depth(self) -> int:
        """Channels per group, D."""
        return self.channels // self.groups


def flops(shape: Shape, direction: str) -> int:
    """Floating-point operations of one call, a multiply-add being two."""
    if direction == BOTH:
        return flops(shape, FORWARD) + flops(shape, BACKWARD)
    return shape.samples * (_CHANNEL_FLOPS[direction] * shape.depth + _WEIGHT_FLOPS[direction])


def tensor_bytes(shape: Shape, direction: str, itemsize: int = 4) -> int:
    """Bytes moved if every tensor were read or written exactly once: the least that memory has to carry."""
    if direction == BOTH:
        return tensor_bytes(shape, FORWARD, itemsize) + tensor_bytes(shape, BACKWARD, itemsize)
    arguments = shape.height * shape.width * shape.channels + 3 * shape.samples  # input, offset and mask
    output = shape.height * shape.width * shape.channels
    return itemsize * (output + arguments * (1 if direction == FORWARD else 2))


def corner_bytes(shape: Shape, direction: str, itemsize: int = 4) -> int:
    """Bytes of the four corners of every sample: what the kernel moves between caches and registers."""
    if direction == BOTH:
        return corner_bytes(shape, FORWARD, itemsize) + corner_bytes(shape, BACKWARD, itemsize)
    return itemsize * shape.samples * 4 * shape.depth * _CORNER_PASSES[direction]
