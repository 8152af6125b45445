"""From checked tensors to a backend: plain PyTorch, the registered operator, or an autograd function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .dispatch import Backend, BackendError

_OWN_MEMORY = (Tensor, nn.Parameter)


class Kernels(torch.autograd.Function):
    """Forward and backward of a backend: a third of the call overhead of the registered operator."""

    @staticmethod
    def forward(ctx, backend, call, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.backend, ctx.call = backend, call
        return backend.forward(*tensors, *call)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        grad_output = grad_output.contiguous().resolve_neg()
        return None, None, *ctx.backend.backward(grad_output, *ctx.saved_tensors, *ctx.call)


def run(backend: Backend, tensors: tuple[Tensor, ...], call: tuple, in_graph: Callable[[], Tensor]) -> Tensor:
    """``backend.forward(*tensors, *call)`` with its gradients; ``in_graph`` calls the registered operator instead."""
    if backend.backward is None:
        return backend.forward(*tensors, *call)
    if torch.compiler.is_compiling():
        return in_graph()
    if torch._C._are_functorch_transforms_active():
        raise BackendError(
            f'torch.func transforms do not see into backend {backend.name!r}; pass backend="reference", same numbers'
        )
    if in_forward_mode(*tensors):
        raise BackendError(
            f'derivatives in forward mode do not see into backend {backend.name!r}; pass backend="reference", same '
            "numbers"
        )
    if _go_through_the_dispatcher(tensors):
        return in_graph()
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return Kernels.apply(backend, call, *tensors)
    return backend.forward(*tensors, *call)


def in_forward_mode(*tensors: Tensor) -> bool:
    """Whether a tensor carries a derivative of ``torch.autograd.forward_ad``."""
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _go_through_the_dispatcher(tensors: tuple[Tensor, ...]) -> bool:
    """Whether a kernel cannot read them as they are: no memory, signs to be flipped, somebody who traces the call."""
    if is_in_torch_dispatch_mode():
        return True
    return any(type(tensor) not in _OWN_MEMORY or tensor.is_neg() for tensor in tensors)
