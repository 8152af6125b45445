"""Forward and backward on the CPU: describes the convolution to the C++ kernels in ``ops/native``."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .. import native
from ..dispatch import Call
from ..geometry import Geometry
from ..native import DeformableProblem
from ..native.deformable import Biases, DeformableCall


def why_not(call: Call) -> list[str]:
    """Reasons to refuse ``call``."""
    reasons = []
    if call.device_type != "cpu":
        reasons.append(f"input is on {call.device_type}")
    if len(call.shape) == 4 and call.shape[1] * call.shape[2] >= 2**31:
        reasons.append("the map has 2**31 pixels or more; the kernel counts them in 32 bits")
    error = native.load_error()
    if error:
        reasons.append(error)
    return reasons


def forward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    geometry: Geometry,
    softmax: bool = False,
    biases: Biases | None = None,
) -> Tensor:
    """Shapes as in :func:`internimage.ops.dcnv3`; with ``softmax`` the mask holds logits.

    Offset and mask may have an axis for the groups, (N, H_out, W_out, G, P*2) and (N, H_out, W_out, G, P).
    ``biases`` of input (C), offset (G*P*2) and mask (G*P), contiguous and of one dtype, are added on the way.
    """
    output = input.new_empty(*offset.shape[:3], input.shape[-1])
    return call_of(input, offset, mask, geometry, softmax).forward(output, biases)


def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    geometry: Geometry,
    softmax: bool = False,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, offset and mask, the last two written ``into`` tensors where they are given."""
    grad_offset, grad_mask = into or (torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in (offset, mask))
    grad_input = call_of(input, offset, mask, geometry, softmax).backward(grad_output, grad_offset, grad_mask)
    return grad_input, grad_offset, grad_mask


def call_of(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool) -> DeformableCall:
    """The convolution as the kernels take it."""
    problem = DeformableProblem.from_buffer_copy(_described(geometry))
    _, problem.h, problem.w, _ = input.shape
    _, problem.h_out, problem.w_out = offset.shape[:3]
    return DeformableCall(problem, input, offset, mask, geometry.groups, softmax)


@functools.lru_cache
def _described(geometry: Geometry) -> bytes:
    """The part of the problem that is the same at every call: a network has few geometries and many calls."""
    origin_y, origin_x = geometry.origin()
    return bytes(
        DeformableProblem(
            remove_center=geometry.remove_center,
            kernel_h=geometry.kernel_size[0],
            kernel_w=geometry.kernel_size[1],
            stride_h=geometry.stride[0],
            stride_w=geometry.stride[1],
            dilation_h=geometry.dilation[0],
            dilation_w=geometry.dilation[1],
            origin_y=origin_y,
            origin_x=origin_x,
            offset_scale=geometry.offset_scale,
            offset_bias_group=2 * geometry.taps,
            mask_bias_group=geometry.taps,
        )
    )
