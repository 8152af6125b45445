"""Forward and backward on the GPU: prepares the tensors and launches the Triton kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..layout import by_group
from ..triton_backend import alert_not_deterministic, constants_of, launch, zeros_for_sums
from .levels import Sizes


def forward(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, softmax: bool = False) -> Tensor:
    """Shapes as in ``reference``; with ``softmax`` the weights are logits."""
    from . import triton_kernels as kernels

    output = values.new_empty(*weights.shape[:2], values.shape[-1])
    if output.numel() == 0:
        return output
    values, *lanes = values.contiguous(), *_by_head(locations, weights)
    call = arguments(values, output, *lanes, sizes=sizes, softmax=softmax)
    setting = kernels.forward_setting(call["D"], call["P"])
    launch(kernels.forward_kernel, setting, values, *lanes, output, **call)
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

    The order in which that of the values is summed up varies.
    """
    from . import triton_kernels as kernels

    grad_values = zeros_for_sums(values)
    grad_locations, grad_weights = into or (locations.new_empty(locations.shape), weights.new_empty(weights.shape))
    if grad_output.numel() == 0:
        return grad_values.to(values.dtype), grad_locations.zero_(), grad_weights.zero_()
    alert_not_deterministic()
    grad_output, values = grad_output.contiguous(), values.contiguous()
    lanes = _by_head(locations, weights, grad_locations, grad_weights)
    call = arguments(values, grad_output, *lanes, sizes=sizes, softmax=softmax)
    setting = kernels.backward_setting(call["D"], call["P"])
    launch(kernels.backward_kernel, setting, grad_output, values, *lanes[:2], grad_values, *lanes[2:], **call)
    return grad_values.to(values.dtype), grad_locations, grad_weights


def _by_head(*tensors: Tensor) -> list[Tensor]:
    """(N, Q, M, numbers) as (N*Q, M, numbers)."""
    return [by_group(tensor.unsqueeze(1), tensor.shape[2]) for tensor in tensors]


def arguments(values: Tensor, output: Tensor, *lanes: Tensor, sizes: Sizes, softmax: bool) -> dict[str, Any]:
    """What the kernels take beside their tensors: sizes, and constants that are compiled in.

    Args:
        values: (N, S, M*D). output: (N, Q, M*D).
        lanes: locations and weights, and for the backward kernel their gradients: (N*Q, M, numbers), rows and heads at
            any distance.
    """
    from . import triton_kernels as kernels

    _, heads, taps = lanes[1].shape
    call = {
        "rows": output.shape[0] * output.shape[1] * heads,
        "queries": output.shape[1],
        "pixels": values.shape[1],
        "sizes": kernels.as_numbers(sizes),
        "LEVELS": len(sizes),
        "POINTS": taps // len(sizes),
    }
    for name, lane in zip(("location", "weight", "grad_location", "grad_weight"), lanes, strict=False):
        call[f"{name}_row"], call[f"{name.upper()}_GROUP"] = lane.stride(0), lane.stride(1)
    return call | constants_of(values, output, lanes, taps, softmax)
