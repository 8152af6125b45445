"""Forward and backward on the GPU: describes the convolution to the Triton kernels and launches them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..geometry import Geometry
from ..layout import Lanes, lanes_of, reach_of
from ..triton_launch import Kernel, Problem, launch
from ..triton_sums import Sums

FORWARD = Kernel(".dcnv3.triton_kernels", "forward_kernel")
BACKWARD = Kernel(".dcnv3.triton_kernels", "backward_kernel")


def forward(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool = False) -> Tensor:
    """Shapes as in :func:`internimage.ops.dcnv3`; with ``softmax`` the mask holds logits.

    Offset and mask may have an axis for the groups, (N, H_out, W_out, G, P*2) and (N, H_out, W_out, G, P).
    """
    output = input.new_empty((*offset.shape[:3], input.shape[-1]))
    if output.numel() == 0:
        return output
    lanes = lanes_of(offset, geometry.groups), lanes_of(mask, geometry.groups)
    launch(problem_of(input.contiguous(), output, geometry, softmax, *lanes))
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

    The order in which that of the input is summed up varies, unless torch is asked for deterministic algorithms.
    """
    grad_offset, grad_mask = into or (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (offset, mask)
    )
    if grad_output.numel() == 0:
        return torch.zeros_like(input), grad_offset.zero_(), grad_mask.zero_()
    lanes = [lanes_of(tensor, geometry.groups) for tensor in (offset, mask, grad_offset, grad_mask)]
    sums = Sums.of(input, offset.shape[:3].numel() * geometry.groups, geometry.taps)
    grad_output = grad_output.contiguous()
    launch(problem_of(input.contiguous(), grad_output, geometry, softmax, *lanes, sums=sums))
    return sums.finish(grad_output, input.shape[-1] // geometry.groups), grad_offset, grad_mask


def problem_of(
    input: Tensor, output: Tensor, geometry: Geometry, softmax: bool, *lanes: Lanes, sums: Sums | None = None
) -> Problem:
    """One launch of the forward kernel, or with ``sums`` of the backward kernel.

    Args:
        input: (N, H, W, C), packed.
        output: (N, H_out, W_out, C), packed, or its gradient.
        lanes: offset and mask, and for the backward kernel their gradients.
        sums: where the gradient of the input goes.
    """
    n, h, w, c = input.shape
    _, h_out, w_out, _ = output.shape
    strips, width = _strips(w_out)
    offset, mask, *grads = lanes
    distances = tuple(distance for lane in lanes for distance in (lane.row, lane.group))

    def constants() -> dict[str, Any]:
        return _constants(geometry, softmax, distances) | ({} if sums is None else {"SCATTER": sums.scatter})

    if sums is None:
        tensors: tuple[Tensor, ...] = (input, offset.tensor, mask.tensor, output)
    else:
        grad_lanes = (grad.tensor for grad in grads)
        tensors = (output, input, offset.tensor, mask.tensor, sums.total, *grad_lanes, sums.keys, sums.shares)
    return Problem(
        FORWARD if sums is None else BACKWARD,
        (geometry, softmax, c, distances, sums is not None and sums.scatter),
        tensors,
        (strips, width, h, w, h_out, w_out),
        images=n,
        strips=strips,
        length=h_out * width,
        groups=geometry.groups,
        depth=c // geometry.groups,
        taps=geometry.taps,
        reach=max(h * w * c, reach_of(lanes, h_out * w_out, geometry.groups, c)),
        constants=constants,
        zeroed=None if sums is None else sums.total,
    )


@functools.cache
def _strips(w_out: int) -> tuple[int, int]:
    """Into how many strips an output is cut, and their width: about 8, and as few columns too many as can be."""
    width = min((8, 7, 9, 6, 10), key=lambda width: -w_out % width)
    width = min(width, w_out)
    return -(-w_out // width), width


def _constants(geometry: Geometry, softmax: bool, distances: tuple[int, ...]) -> dict[str, Any]:
    """What the kernels have compiled in of a convolution."""
    kernel_h, kernel_w = geometry.kernel_size
    origin_y, origin_x = geometry.origin()
    constants = {
        "G": geometry.groups,
        "KERNEL_H": kernel_h,
        "CENTER": (kernel_h * kernel_w) // 2 if geometry.remove_center else -1,
        "STRIDE_H": geometry.stride[0],
        "STRIDE_W": geometry.stride[1],
        "DILATION_H": geometry.dilation[0],
        "DILATION_W": geometry.dilation[1],
        "ORIGIN_Y": origin_y,
        "ORIGIN_X": origin_x,
        "SCALE": geometry.offset_scale,
        "SOFTMAX": softmax,
    }
    own = ("OFFSET_ROW", "OFFSET_GROUP", "MASK_ROW", "MASK_GROUP")
    names = own + tuple("GRAD_" + name for name in own)
    return constants | dict(zip(names, distances, strict=False))
