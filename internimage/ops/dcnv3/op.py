"""Joins the backends to PyTorch: the operator that is registered for graphs, and its gradient."""

import torch
from torch import Tensor

from .. import eager, triton_backend
from ..dispatch import Backend, named
from ..geometry import Geometry
from . import cpu, gpu, reference

BACKENDS = (
    Backend("triton", triton_backend.why_not, gpu.forward, gpu.backward, triton_backend.automatic),
    Backend("cpu", cpu.why_not, cpu.forward, cpu.backward),
    # grid_sample leaves the offset gradient on a grid line to rounding, so it is picked unnamed for inference only
    Backend("grid_sample", reference.why_not, reference.export_form, automatic=lambda call: not call.needs_grad),
    Backend("reference", reference.why_not, reference.dcnv3),
)


@torch.library.custom_op("internimage::dcnv3", mutates_args=())
def dcnv3_op(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
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
    return named(BACKENDS, backend).forward(input, offset, mask, geometry, softmax)


@torch.library.custom_op("internimage::dcnv3_backward", mutates_args=())
def dcnv3_backward_op(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
    softmax: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    geometry = Geometry.from_args(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    run_backward = named(BACKENDS, backend).backward
    assert run_backward is not None, backend  # plain PyTorch forms never come here
    return run_backward(grad_output, input, offset, mask, geometry, softmax)


@dcnv3_op.register_fake
def _(input, offset, mask, *args):
    n, h_out, w_out, _ = offset.shape
    return input.new_empty(n, h_out, w_out, input.shape[-1])


@dcnv3_backward_op.register_fake
def _(grad_output, input, offset, mask, *args):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (input, offset, mask))


def _save(ctx, inputs, output):
    input, offset, mask, *ctx.args = inputs
    ctx.save_for_backward(input, offset, mask)


def _backward(ctx, grad_output):
    grads = dcnv3_backward_op(grad_output.contiguous(), *ctx.saved_tensors, *ctx.args)
    return *grads, *(None for _ in ctx.args)


dcnv3_op.register_autograd(_backward, setup_context=_save)


def run(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry, softmax: bool, backend: Backend) -> Tensor:
    """Call ``backend`` by the road that fits; see :func:`internimage.ops.eager.run`."""

    def in_graph() -> Tensor:
        return dcnv3_op(input, offset, mask, *geometry.as_args(), softmax, backend.name)

    return eager.run(backend, (input, offset, mask), (geometry, softmax), in_graph)
