"""Where the Triton backends sum up the gradient of an input, to which every tap adds in four places.

Usually by atomic additions, in an order that varies from run to run. Where torch is asked for deterministic algorithms
the backward kernel notes places and shares instead, a stable sort puts those of one place side by side, and a second
kernel sums up each place from first to last: the same bits every time, for more memory (about 28 bytes a tap and
corner) and time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .triton_settings import candidates, pieces_of, vector_of


@dataclass(frozen=True)
class Sums:
    """What a backward kernel writes the gradient of its input to.

    With ``scatter`` ``total`` is shaped like the input, float32 for the half types, and the other two are empty.
    Without, ``keys`` and ``shares`` hold four numbers for each tap of each row.
    """

    input: Tensor
    total: Tensor
    keys: Tensor
    shares: Tensor
    scatter: bool

    @classmethod
    def of(cls, input: Tensor, rows: int, taps: int) -> Sums:
        """For that many rows of all images, a group of an output each."""
        scatter = not torch.are_deterministic_algorithms_enabled()
        dtype = input.dtype if input.dtype == torch.float64 else torch.float32
        total = torch.zeros(input.shape if scatter else 0, dtype=dtype, device=input.device)
        parts = 0 if scatter else rows * taps * 4
        keys = torch.empty(parts, dtype=torch.int64, device=input.device)
        return cls(input, total, keys, torch.empty(parts, dtype=dtype, device=input.device), scatter)

    def finish(self, grad_output: Tensor, depth: int) -> Tensor:
        """The gradient of the input, in its dtype, once the backward kernel has run.

        Args:
            grad_output: the packed gradient of the output, rows of ``depth`` channels.
        """
        if self.scatter:
            return self.total.to(self.input.dtype)
        gradient = torch.empty(self.input.shape, dtype=self.input.dtype, device=self.input.device)
        places = gradient.numel() // depth
        keys, order = torch.sort(self.keys, stable=True)
        starts = torch.searchsorted(keys, torch.arange(places + 1, device=keys.device))
        parts = self.keys.numel() * depth // grad_output.numel()
        _sum_parts(grad_output, order, self.shares, starts, gradient, depth, parts)
        return gradient


def _sum_parts(
    grad_output: Tensor, order: Tensor, shares: Tensor, starts: Tensor, gradient: Tensor, depth: int, parts: int
) -> None:
    import triton.language as tl

    from .triton_launch import COMPILER_OPTIONS, on_device
    from .triton_ordered import sum_parts_kernel

    places = gradient.numel() // depth
    size = grad_output.element_size()
    vector = vector_of(depth, size)
    setting = candidates(depth, vector, size, places, forward=True)[0]
    pieces = pieces_of(depth, vector, setting)
    total = tl.float64 if shares.dtype == torch.float64 else tl.float32
    with on_device(gradient.device):
        sum_parts_kernel[(-(-places // setting.rows),)](
            grad_output, order, shares, starts, gradient, places,
            D=depth, PARTS=parts, SUM=total, PIECES=pieces.pieces, WIDTH=pieces.width, ROWS=setting.rows,
            num_warps=setting.warps, **COMPILER_OPTIONS,
        )  # fmt: skip
