"""Joins the backends to PyTorch: the operator that is registered for graphs, and its gradient."""

import torch
from torch import Tensor

from .. import eager, triton_backend
from ..dispatch import Backend, named
from . import cpu, gpu, reference
from .levels import Sizes, in_a_row, in_pairs

BACKENDS = (
    Backend("triton", triton_backend.why_not, gpu.forward, gpu.backward, triton_backend.automatic),
    Backend("cpu", cpu.why_not, cpu.forward, cpu.backward),
    # grid_sample leaves the gradient on a grid line to rounding, so it is picked unnamed for inference only
    Backend("grid_sample", reference.why_not, reference.export_form, automatic=lambda call: not call.needs_grad),
    Backend("reference", reference.why_not, reference.four_corners),
)


@torch.library.custom_op("internimage::ms_deform_attn", mutates_args=())
def ms_deform_attn_op(
    values: Tensor, locations: Tensor, weights: Tensor, sizes: list[int], softmax: bool, backend: str
) -> Tensor:
    return named(BACKENDS, backend).forward(values, locations, weights, in_pairs(sizes), softmax)


@torch.library.custom_op("internimage::ms_deform_attn_backward", mutates_args=())
def ms_deform_attn_backward_op(
    grad_output: Tensor,
    values: Tensor,
    locations: Tensor,
    weights: Tensor,
    sizes: list[int],
    softmax: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    run_backward = named(BACKENDS, backend).backward
    assert run_backward is not None, backend  # plain PyTorch forms never come here
    return run_backward(grad_output, values, locations, weights, in_pairs(sizes), softmax)


@ms_deform_attn_op.register_fake
def _(values, locations, weights, *args):
    return values.new_empty(*weights.shape[:2], values.shape[-1])


@ms_deform_attn_backward_op.register_fake
def _(grad_output, values, locations, weights, *args):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (values, locations, weights))


def _save(ctx, inputs, output):
    *tensors, ctx.sizes, ctx.softmax, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_output):
    args = (*ctx.saved_tensors, ctx.sizes, ctx.softmax, ctx.backend)
    return *ms_deform_attn_backward_op(grad_output.contiguous(), *args), None, None, None


ms_deform_attn_op.register_autograd(_backward, setup_context=_save)


def run(values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, softmax: bool, backend: Backend) -> Tensor:
    """Call ``backend`` by the road that fits; see :func:`internimage.ops.eager.run`."""

    def in_graph() -> Tensor:
        return ms_deform_attn_op(values, locations, weights, in_a_row(sizes), softmax, backend.name)

    return eager.run(backend, (values, locations, weights), (sizes, softmax), in_graph)
