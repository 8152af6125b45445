"""Forward and backward on the GPU: prepares the tensors and launches the Triton kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..geometry import Geometry
from ..layout import by_group
from ..triton_backend import alert_not_deterministic, constants_of, launch, zeros_for_sums


def forward(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool = False) -> Tensor:
    """Shapes as in :func:`internimage.ops.dcnv3`; with ``softmax`` the mask holds logits.

    Offset and mask may have an axis for the groups, (N, H_out, W_out, G, P*2) and (N, H_out, W_out, G, P).
    """
    from . import triton_kernels as kernels

    output = input.new_empty(*offset.shape[:3], input.shape[-1])
    if output.numel() == 0:
        return output
    input, *lanes = input.contiguous(), *(by_group(tensor, geometry.groups) for tensor in (offset, mask))
    call = arguments(input, output, *lanes, geometry=geometry, softmax=softmax)
    setting = kernels.forward_setting(call["D"], geometry.taps)
    launch(kernels.forward_kernel, setting, input, *lanes, output, **call)
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
    """The gradients of input, offset and mask, the last two written ``into`` tensors where they are given.

    The order in which that of the input is summed up varies.
    """
    from . import triton_kernels as kernels

    grad_input = zeros_for_sums(input)
    grad_offset, grad_mask = into or (offset.new_empty(offset.shape), mask.new_empty(mask.shape))
    if grad_output.numel() == 0:
        return grad_input.to(input.dtype), grad_offset.zero_(), grad_mask.zero_()
    alert_not_deterministic()
    grad_output, input = grad_output.contiguous(), input.contiguous()
    lanes = [by_group(tensor, geometry.groups) for tensor in (offset, mask, grad_offset, grad_mask)]
    call = arguments(input, grad_output, *lanes, geometry=geometry, softmax=softmax)
    setting = kernels.backward_setting(call["D"], geometry.taps)
    launch(kernels.backward_kernel, setting, grad_output, input, *lanes[:2], grad_input, *lanes[2:], **call)
    return grad_input.to(input.dtype), grad_offset, grad_mask


def arguments(input: Tensor, output: Tensor, *lanes: Tensor, geometry: Geometry, softmax: bool) -> dict[str, Any]:
    """What the kernels take beside their tensors: sizes, and constants that are compiled in.

    Args:
        input: (N, H, W, C). output: (N, H_out, W_out, C).
        lanes: offset and mask, and for the backward kernel their gradients: (N*H_out*W_out, G, numbers), rows and
            groups at any distance.
    """
    n, h_out, w_out, _ = output.shape
    kernel_h, kernel_w = geometry.kernel_size
    origin_y, origin_x = geometry.origin()
    call = {
        "rows": n * h_out * w_out * geometry.groups,
        "h": input.shape[1],
        "w": input.shape[2],
        "h_out": h_out,
        "w_out": w_out,
        "KERNEL_H": kernel_h,
        "CENTER": (kernel_h * kernel_w) // 2 if geometry.remove_center else -1,
        "STRIDE_H": geometry.stride[0],
        "STRIDE_W": geometry.stride[1],
        "DILATION_H": geometry.dilation[0],
        "DILATION_W": geometry.dilation[1],
        "ORIGIN_Y": origin_y,
        "ORIGIN_X": origin_x,
        "SCALE": geometry.offset_scale,
    }
    for name, lane in zip(("offset", "mask", "grad_offset", "grad_mask"), lanes, strict=False):
        call[f"{name}_row"], call[f"{name.upper()}_GROUP"] = lane.stride(0), lane.stride(1)
    return call | constants_of(input, output, lanes, geometry.taps, softmax)
