"""Where a deformable operator samples: kernel, stride, padding, dilation, groups and offset scale, checked once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

IntPair = int | Sequence[int]


def as_pair(name: str, value: IntPair, minimum: int) -> tuple[int, int]:
    """``value`` as ``(height, width)``; raises ValueError when it is not one or two integers >= ``minimum``."""
    if type(value) is int and value >= minimum:  # nearly always; the operators check at every call
        return value, value
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and v >= minimum for v in pair):
        raise ValueError(f"{name} is {value!r}, expected an int >= {minimum} or a pair (height, width) of them")
    return pair


@dataclass(frozen=True)
class Geometry:
    """The fixed part of a deformable convolution. Pairs are ``(height, width)``."""

    kernel_size: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_scale: float = 1.0
    remove_center: bool = False

    @classmethod
    def of(
        cls,
        kernel_size: IntPair,
        stride: IntPair,
        padding: IntPair,
        dilation: IntPair,
        groups: int,
        offset_scale: float,
        remove_center: bool,
    ) -> Geometry:
        """Accepts an int or a pair for each axis argument; raises ValueError for values that mean nothing."""
        kernel = as_pair("kernel_size", kernel_size, 1)
        if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
            raise ValueError(f"groups is {groups!r}, expected an int >= 1")
        # math.isfinite cannot be traced; NaN fails the comparison too
        if not isinstance(offset_scale, (int, float)) or not abs(offset_scale) < math.inf:
            raise ValueError(f"offset_scale is {offset_scale!r}, expected a finite number")
        if not isinstance(remove_center, bool):
            raise ValueError(f"remove_center is {remove_center!r}, expected True or False")
        if remove_center and (kernel[0] % 2 == 0 or kernel[1] % 2 == 0):
            raise ValueError(f"remove_center needs a kernel that is odd on both axes, got kernel_size={kernel}")
        if remove_center and kernel == (1, 1):
            raise ValueError("remove_center with kernel_size=(1, 1) leaves no tap to sample")
        return cls(
            kernel,
            as_pair("stride", stride, 1),
            as_pair("padding", padding, 0),
            as_pair("dilation", dilation, 1),
            groups,
            float(offset_scale),
            remove_center,
        )

    @property
    def taps(self) -> int:
        """Sampling points per output pixel and group, ``P``."""
        return self.kernel_size[0] * self.kernel_size[1] - int(self.remove_center)

    def tap_positions(self) -> list[tuple[int, int]]:
        """The taps as ``(x, y)`` in dilated kernel coordinates, x-major: as offset and mask have them."""
        kernel_h, kernel_w = self.kernel_size
        center = (kernel_w // 2, kernel_h // 2) if self.remove_center else None
        grid = [(i, j) for i in range(kernel_w) for j in range(kernel_h) if (i, j) != center]
        return [(i * self.dilation[1], j * self.dilation[0]) for i, j in grid]

    def half_extent(self) -> tuple[int, int]:
        """Half of the dilated kernel, ``(height, width)``, rounded down: what ``offset_scale`` leaves in place."""
        return (
            self.dilation[0] * (self.kernel_size[0] - 1) // 2,
            self.dilation[1] * (self.kernel_size[1] - 1) // 2,
        )

    def origin(self) -> tuple[float, float]:
        """Where tap (0, 0) of output pixel (0, 0) samples without learned offset, ``(y, x)``."""
        half_h, half_w = self.half_extent()
        return (
            half_h - self.padding[0] - half_h * self.offset_scale,
            half_w - self.padding[1] - half_w * self.offset_scale,
        )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Output ``(height, width)`` for an input of that size; zero or negative when the kernel does not fit."""
        return tuple(  # type: ignore[return-value]
            (size + 2 * pad - (dilation * (kernel - 1) + 1)) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                (height, width), self.padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        )

    def as_args(self) -> tuple:
        """The fields as plain lists and numbers, in the order of the registered operator's schema."""
        return (
            list(self.kernel_size),
            list(self.stride),
            list(self.padding),
            list(self.dilation),
            self.groups,
            self.offset_scale,
            self.remove_center,
        )

    @classmethod
    def from_args(cls, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center) -> Geometry:
        """The inverse of :meth:`as_args`, without checks."""
        return cls(
            tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), groups, offset_scale, remove_center
        )
