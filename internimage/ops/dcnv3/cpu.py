"""Forward and backward on the CPU: prepares the tensors and calls the C++ in ``ops/native``."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from ..dispatch import Call
from ..geometry import Geometry
from ..layout import by_group

Biases = tuple[Tensor | None, Tensor | None, Tensor | None]


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
    biases: Biases = (None, None, None),
) -> Tensor:
    """Shapes as in :func:`internimage.ops.dcnv3`; with ``softmax`` the mask holds logits.

    Offset and mask may have an axis for the groups, (N, H_out, W_out, G, P*2) and (N, H_out, W_out, G, P). With ``softmax``, ``biases`` of input (C), offset (G*P*2) and mask (G*P), contiguous and of the same dtype, are
    added on the way.
    """
    call = _Call(input, offset, mask, geometry, softmax)
    for name, bias in zip(("input_bias", "offset_bias", "mask_bias"), biases, strict=True):
        setattr(call.problem, name, None if bias is None else bias.data_ptr())
    output = input.new_empty(*offset.shape[:3], input.shape[-1])
    call.problem.output = output.data_ptr()
    native.library().internimage_deformable_forward(call.problem)
    return output


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
    call, grad_output = _Call(input, offset, mask, geometry, softmax), grad_output.contiguous()
    sum_dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    grad_input = torch.zeros(input.shape, dtype=sum_dtype)
    grad_offset, grad_mask = into or (torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in (offset, mask))
    call.problem.grad_output = grad_output.data_ptr()
    call.problem.grad_input = grad_input.data_ptr()
    for name, grad in (("grad_offset", grad_offset), ("grad_mask", grad_mask)):
        call.place(name, by_group(grad, geometry.groups))
    native.library().internimage_deformable_backward(call.problem)
    return grad_input.to(input.dtype), grad_offset, grad_mask


class _Call:
    """The problem as the kernels want it, and the tensors it points to, which must outlive the call."""

    def __init__(self, input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool) -> None:
        self.input = input.contiguous()
        self.offset, self.mask = by_group(offset, geometry.groups), by_group(mask, geometry.groups)
        n, h, w, c = input.shape
        h_out, w_out = offset.shape[1:3]
        origin_y, origin_x = geometry.origin()
        self.problem = native.DeformableProblem(
            input=self.input.data_ptr(),
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
            origin_y=origin_y,
            origin_x=origin_x,
            offset_scale=geometry.offset_scale,
        )
        self.place("offset", self.offset)
        self.place("mask", self.mask)

    def place(self, name: str, tensor: Tensor) -> None:
        """Where a tensor (rows, groups, numbers) lies, as the fields of that name."""
        setattr(self.problem, name, tensor.data_ptr())
        setattr(self.problem, f"{name}_row", tensor.stride(0))
        setattr(self.problem, f"{name}_group", tensor.stride(1))
