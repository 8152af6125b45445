"""Joins the kernels to PyTorch for packed tensors: the registered operator for graphs, an autograd function else.

DCNv4 samples exactly as DCNv3 does; what differs is where offsets and masks lie. So the backends are those of DCNv3, on
views of the packed tensor and of its gradient.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..dcnv3.op import BACKENDS
from ..dispatch import Backend, named
from ..geometry import Geometry
from .packed import unpack, views


def forward(input: Tensor, offset_mask: Tensor, geometry: Geometry, softmax: bool, backend: Backend) -> Tensor:
    """The output (N, H_out, W_out, C)."""
    parts = unpack if backend.backward is None else views
    return backend.forward(input, *parts(offset_mask, geometry), geometry, softmax)


def backward(
    grad_output: Tensor, input: Tensor, offset_mask: Tensor, geometry: Geometry, softmax: bool, backend: Backend
) -> tuple[Tensor, Tensor]:
    """The gradients of both tensors; that of the unused numbers is zero."""
    assert backend.backward is not None, backend.name  # plain PyTorch forms never come here
    grad_offset_mask = offset_mask.new_empty(offset_mask.shape)
    grad_offset_mask[..., 3 * geometry.groups * geometry.taps :] = 0
    into = views(grad_offset_mask, geometry)
    offset, mask = views(offset_mask, geometry)
    grad_input, *_ = backend.backward(grad_output.contiguous(), input, offset, mask, geometry, softmax, into)
    return grad_input, grad_offset_mask


@torch.library.custom_op("internimage::dcnv4", mutates_args=())
def dcnv4_op(
    input: Tensor,
    offset_mask: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
    softmax: bool,
    backend: str,
) -> Tensor:
    geometry = Geometry.from_args(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    return forward(input, offset_mask, geometry, softmax, named(BACKENDS, backend))


@torch.library.custom_op("internimage::dcnv4_backward", mutates_args=())
def dcnv4_backward_op(
    grad_output: Tensor,
    input: Tensor,
    offset_mask: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
    softmax: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    geometry = Geometry.from_args(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    return backward(grad_output, input, offset_mask, geometry, softmax, named(BACKENDS, backend))


@dcnv4_op.register_fake
def _(input, offset_mask, *args):
    n, h_out, w_out, _ = offset_mask.shape
    return input.new_empty(n, h_out, w_out, input.shape[-1])


@dcnv4_backward_op.register_fake
def _(grad_output, input, offset_mask, *args):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (input, offset_mask))


def _save(ctx, inputs, output):
    input, offset_mask, *ctx.args = inputs
    ctx.save_for_backward(input, offset_mask)


def _backward(ctx, grad_output):
    grads = dcnv4_backward_op(grad_output.contiguous(), *ctx.saved_tensors, *ctx.args)
    return *grads, *(None for _ in ctx.args)


dcnv4_op.register_autograd(_backward, setup_context=_save)


class DCNv4Function(torch.autograd.Function):
    """The eager path: a third of the call overhead of the registered operator."""

    @staticmethod
    def forward(ctx, input, offset_mask, *call):
        ctx.save_for_backward(input, offset_mask)
        ctx.call = call
        return forward(input, offset_mask, *call)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        return *backward(grad_output, *ctx.saved_tensors, *ctx.call), None, None, None


def run(input: Tensor, offset_mask: Tensor, geometry: Geometry, softmax: bool, backend: Backend) -> Tensor:
    """Call ``backend`` by the road that fits: plain PyTorch, the registered operator in a graph, or autograd."""
    if backend.backward is None:
        return forward(input, offset_mask, geometry, softmax, backend)
    if torch.compiler.is_compiling():
        return dcnv4_op(input, offset_mask, *geometry.as_args(), softmax, backend.name)
    if torch.is_grad_enabled() and (input.requires_grad or offset_mask.requires_grad):
        return DCNv4Function.apply(input, offset_mask, geometry, softmax, backend)
    return forward(input, offset_mask, geometry, softmax, backend)
