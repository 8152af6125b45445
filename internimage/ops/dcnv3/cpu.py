"""Forward and backward on the CPU: prepares the tensors and calls the C++ in ``ops/native``."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from ..dispatch import Call
from ..geometry import Geometry


def why_not(call: Call) -> list[str]:
    """Reasons to refuse ``call``."""
    reasons = []
    if call.device_type != "cpu":
        reasons.append(f"input is on {call.device_type}")
    error = native.load_error()
    if error:
        reasons.append(error)
    return reasons


def forward(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool = False) -> Tensor:
    """Shapes as in :func:`internimage.ops.dcnv3`; with ``softmax`` the mask holds logits."""
    input, offset, mask = input.contiguous(), _rows(offset), _rows(mask)
    output = input.new_empty(*offset.shape[:3], input.shape[-1])
    problem = _problem(input, offset, mask, geometry, softmax)
    problem.output = output.data_ptr()
    native.library().internimage_dcnv3_forward(problem)
    return output


def backward(
    grad_output: Tensor, input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, offset and mask."""
    grad_output, input, offset, mask = grad_output.contiguous(), input.contiguous(), _rows(offset), _rows(mask)
    sum_dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    grad_input = torch.zeros(input.shape, dtype=sum_dtype)
    grad_offset = torch.empty(offset.shape, dtype=offset.dtype)
    grad_mask = torch.empty(mask.shape, dtype=mask.dtype)
    problem = _problem(input, offset, mask, geometry, softmax)
    problem.grad_output = grad_output.data_ptr()
    problem.grad_input = grad_input.data_ptr()
    problem.grad_offset = grad_offset.data_ptr()
    problem.grad_mask = grad_mask.data_ptr()
    native.library().internimage_dcnv3_backward(problem)
    return grad_input.to(input.dtype), grad_offset, grad_mask


def _rows(tensor: Tensor) -> Tensor:
    """The tensor as rows of packed channels at one distance; a slice of the channels already is, so it is not copied."""
    n, h, w, c = tensor.shape
    row = tensor.stride(2)
    regular = tensor.stride(3) == 1 and row >= c and tensor.stride(1) == w * row and (n == 1 or tensor.stride(0) == h * w * row)
    return tensor if regular else tensor.contiguous()


def _problem(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool) -> native.Dcnv3Problem:
    n, h, w, c = input.shape
    _, h_out, w_out, _ = offset.shape
    origin_y, origin_x = geometry.origin()
    return native.Dcnv3Problem(
        input=input.data_ptr(),
        offset=offset.data_ptr(),
        mask=mask.data_ptr(),
        storage=native.STORAGE[input.dtype],
        softmax=softmax,
        remove_center=geometry.remove_center,
        n=n,
        h=h,
        w=w,
        h_out=h_out,
        w_out=w_out,
        groups=geometry.groups,
        depth=c // geometry.groups,
        kernel_h=geometry.kernel_size[0],
        kernel_w=geometry.kernel_size[1],
        stride_h=geometry.stride[0],
        stride_w=geometry.stride[1],
        dilation_h=geometry.dilation[0],
        dilation_w=geometry.dilation[1],
        offset_row=offset.stride(2),
        mask_row=mask.stride(2),
        origin_y=origin_y,
        origin_x=origin_x,
        offset_scale=geometry.offset_scale,
    )
