"""Joins the backends to PyTorch for packed tensors: the operator that is registered for graphs, and its gradient.

DCNv4 samples exactly as DCNv3 does; what differs is where offsets and masks lie. So the backends are those of DCNv3, on
views of the packed tensor and of its gradient.
"""

from dataclasses import replace

import torch
from torch import Tensor

from .. import eager
from ..dcnv3 import op as dcnv3_op
from ..dispatch import Backend, named
from ..geometry import Geometry
from . import cpu
from .packed import unpack, views


def _on_packed_tensors(backend: Backend) -> Backend:
    """A backend of DCNv3 as one of DCNv4."""
    run_backward = backend.backward
    parts = views if run_backward else unpack  # plain PyTorch is differentiated through the parts

    def on_views(input: Tensor, offset_mask: Tensor, geometry: Geometry, softmax: bool) -> Tensor:
        return backend.forward(input, *parts(offset_mask, geometry), geometry, softmax)

    def backward(grad_output: Tensor, input: Tensor, offset_mask: Tensor, geometry: Geometry, softmax: bool):
        assert run_backward is not None
        grad_offset_mask = offset_mask.new_empty(offset_mask.shape)
        grad_offset_mask[..., 3 * geometry.groups * geometry.taps :].zero_()  # what is not read has no influence
        offset, mask = views(offset_mask, geometry)
        into = views(grad_offset_mask, geometry)
        grad_input, *_ = run_backward(grad_output, input, offset, mask, geometry, softmax, into)
        return grad_input, grad_offset_mask

    forward = cpu.forward if backend.name == "cpu" else on_views
    return replace(backend, forward=forward, backward=backward if run_backward else None)


BACKENDS = tuple(_on_packed_tensors(backend) for backend in dcnv3_op.BACKENDS)


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
    return named(BACKENDS, backend).forward(input, offset_mask, geometry, softmax)


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
    run_backward = named(BACKENDS, backend).backward
    assert run_backward is not None, backend  # plain PyTorch forms never come here
    return run_backward(grad_output, input, offset_mask, geometry, softmax)


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


def run(input: Tensor, offset_mask: Tensor, geometry: Geometry, softmax: bool, backend: Backend) -> Tensor:
    """Call ``backend`` by the road that fits; see :func:`internimage.ops.eager.run`."""

    def in_graph() -> Tensor:
        return dcnv4_op(input, offset_mask, *geometry.as_args(), softmax, backend.name)

    return eager.run(backend, (input, offset_mask), (geometry, softmax), in_graph)
