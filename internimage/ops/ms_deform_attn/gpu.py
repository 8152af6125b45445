"""Forward and backward on the GPU: describes the attention to the Triton kernels and launches them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..layout import Lanes, lanes_of, reach_of
from ..triton_launch import Kernel, Problem, launch
from ..triton_sums import Sums
from .levels import Sizes

FORWARD = Kernel(".ms_deform_attn.triton_kernels", "forward_kernel")
BACKWARD = Kernel(".ms_deform_attn.triton_kernels", "backward_kernel")


def forward(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, softmax: bool = False) -> Tensor:
    """Shapes as in ``reference``; with ``softmax`` the weights are logits."""
    output = values.new_empty((*weights.shape[:2], values.shape[-1]))
    if output.numel() == 0:
        return output
    launch(problem_of(values.contiguous(), output, sizes, softmax, *_by_head(locations, weights)))
    return output


def backward(
    grad_output: Tensor,
    values: Tensor,
    locations: Tensor,
    weights: Tensor,
    sizes: Sizes,
    softmax: bool = False,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of values, locations and weights, the last two written ``into`` tensors where they are given.

    The order in which that of the values is summed up varies, unless torch is asked for deterministic algorithms.
    """
    grad_locations, grad_weights = into or (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (locations, weights)
    )
    if grad_output.numel() == 0:
        return torch.zeros_like(values), grad_locations.zero_(), grad_weights.zero_()
    lanes = _by_head(locations, weights, grad_locations, grad_weights)
    heads, taps = weights.shape[2:]
    sums = Sums.of(values, weights.shape[:3].numel(), taps)
    grad_output = grad_output.contiguous()
    launch(problem_of(values.contiguous(), grad_output, sizes, softmax, *lanes, sums=sums))
    return sums.finish(grad_output, values.shape[-1] // heads), grad_locations, grad_weights


def _by_head(*tensors: Tensor) -> list[Lanes]:
    """(N, Q, M, numbers) as lanes."""
    return [lanes_of(tensor.unsqueeze(1), tensor.shape[2]) for tensor in tensors]


def problem_of(
    values: Tensor, output: Tensor, sizes: Sizes, softmax: bool, *lanes: Lanes, sums: Sums | None = None
) -> Problem:
    """One launch of the forward kernel, or with ``sums`` of the backward kernel.

    Args:
        values: (N, S, M*D), packed.
        output: (N, Q, M*D), packed, or its gradient.
        lanes: locations and weights, and for the backward kernel their gradients.
        sums: where the gradient of the values goes.
    """
    n, pixels, c = values.shape
    queries = output.shape[1]
    locations, weights, *grads = lanes
    heads, taps = weights.tensor.shape[-2:]
    distances = tuple(distance for lane in lanes for distance in (lane.row, lane.group))

    def constants() -> dict[str, Any]:
        return _constants(heads, len(sizes), taps, softmax, distances) | (
            {} if sums is None else {"SCATTER": sums.scatter}
        )

    if sums is None:
        tensors: tuple[Tensor, ...] = (values, locations.tensor, weights.tensor, output)
    else:
        grad_lanes = (grad.tensor for grad in grads)
        tensors = (output, values, locations.tensor, weights.tensor, sums.total, *grad_lanes, sums.keys, sums.shares)
    return Problem(
        FORWARD if sums is None else BACKWARD,
        (heads, len(sizes), taps, softmax, c, distances, locations.tensor.dtype, sums is not None and sums.scatter),
        tensors,
        (queries, pixels, _as_numbers(sizes)),
        images=n,
        strips=1,
        length=queries,
        groups=heads,
        depth=c // heads,
        taps=taps,
        reach=max(pixels * c, reach_of(lanes, queries, heads, c)),
        constants=constants,
        zeroed=None if sums is None else sums.total,
    )


def _as_numbers(sizes: Sizes) -> tuple[int, ...]:
    """Heights and widths for the kernels, each as an odd number over 1: Triton compiles anew for 1 and for 16, 32, ...

    An empty level is -1 wide, so that no position lies between -1 and its width.
    """
    return tuple(2 * side + 5 for h, w in sizes for side in ((h, w) if h and w else (0, -1)))


def _constants(heads: int, levels: int, taps: int, softmax: bool, distances: tuple[int, ...]) -> dict[str, Any]:
    """What the kernels have compiled in of an attention."""
    own = ("LOCATION_ROW", "LOCATION_GROUP", "WEIGHT_ROW", "WEIGHT_GROUP")
    names = own + tuple("GRAD_" + name for name in own)
    constants = {"G": heads, "LEVELS": levels, "POINTS": taps // levels, "SOFTMAX": softmax}
    return constants | dict(zip(names, distances, strict=False))
