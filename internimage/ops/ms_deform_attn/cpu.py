"""Forward and backward on the CPU: describes the attention to the C++ kernels in ``ops/native``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .. import native
from ..dispatch import Call
from ..native import DeformableProblem
from ..native.deformable import DeformableCall
from .levels import Sizes


def why_not(call: Call) -> list[str]:
    """Reasons to refuse ``call``."""
    reasons = []
    if call.device_type != "cpu":
        reasons.append(f"value is on {call.device_type}")
    if len(call.shape) == 3 and call.shape[1] >= 2**31:
        reasons.append("the levels have 2**31 pixels or more; the kernel counts them in 32 bits")
    error = native.load_error()
    if error:
        reasons.append(error)
    return reasons


def forward(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, softmax: bool = False) -> Tensor:
    """Shapes as in ``reference``; with ``softmax`` the weights are logits.

    Locations may be float32 beside half types.
    """
    n, queries = weights.shape[:2]
    call, _levels = _call(values, locations, weights, sizes, softmax)
    return call.forward(values.new_empty(n, queries, values.shape[-1]))


def backward(
    grad_output: Tensor,
    values: Tensor,
    locations: Tensor,
    weights: Tensor,
    sizes: Sizes,
    softmax: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of values, locations and weights."""
    grad_locations, grad_weights = (torch.empty(t.shape, dtype=t.dtype) for t in (locations, weights))
    call, _levels = _call(values, locations, weights, sizes, softmax)
    grad_values = call.backward(grad_output, grad_locations.unsqueeze(1), grad_weights.unsqueeze(1))
    return grad_values, grad_locations, grad_weights


def _call(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, softmax: bool):
    """The call, and the numbers that it points to."""
    levels = (ctypes.c_int64 * (2 * len(sizes)))(*(side for size in sizes for side in size))
    problem = DeformableProblem(
        h=1,
        w=values.shape[1],
        h_out=1,
        w_out=weights.shape[1],
        levels=ctypes.addressof(levels),
        level_count=len(sizes),
        points=weights.shape[3] // len(sizes),
    )
    tensors = (values, locations.unsqueeze(1), weights.unsqueeze(1))
    return DeformableCall(problem, *tensors, weights.shape[2], softmax), levels
