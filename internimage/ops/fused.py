"""Passes around the deformable layers, each fused into one reading and one writing of a map: inference on the CPU.

They give what the PyTorch modules named in each docstring give, up to float32 rounding. Training, other devices, graphs
that are being traced, and machines without the native kernels run those modules instead; ``takes`` says which.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from . import native
from .eager import in_forward_mode

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # a PyTorch built without it has none
_BIAS_GELU, _DEPTHWISE, _NORM, _ADD_NORM = range(4)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Hooks on all modules at once, as profilers and counters set them.
_GLOBAL_HOOKS = tuple(
    getattr(nn.modules.module, name, {}) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")
)


def seen_by_layers(x: Tensor) -> Tensor:
    """A float32 map in the dtype to which, under autocast, every layer that reads it would convert it for itself."""
    if x.dtype is not torch.float32 or torch.is_grad_enabled() or not (x.is_cpu and torch.is_autocast_enabled("cpu")):
        return x
    return x.to(torch.get_autocast_dtype("cpu"))


def takes(x: Tensor, *modules: nn.Module) -> bool:
    """Whether the fused passes may stand for ``modules`` on ``x``: plain inference on the CPU, nobody watching."""
    return _is_plain_inference(x) and _are_plain(modules, x)


def takes_all_of(module: Any, x: Tensor) -> bool:
    """The same for everything ``module`` is made of: its ``plain_parts()``, or () where something else stands there."""
    if not _is_plain_inference(x):
        return False
    parts = module.plain_parts()
    return bool(parts) and _are_plain(parts, x)


def _is_plain_inference(x: Tensor) -> bool:
    if type(x) is not Tensor or torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled():
        return False
    if not x.is_cpu or x.dtype not in _DTYPES or not x.numel() or x.is_neg():
        return False
    # under autocast maps are of its dtype
    if torch.is_autocast_enabled("cpu") and x.dtype is not torch.get_autocast_dtype("cpu"):
        return False
    if is_in_torch_dispatch_mode() or torch._C._are_functorch_transforms_active() or in_forward_mode(x):
        return False
    return not any(_GLOBAL_HOOKS) and _runs_here()


def _are_plain(modules: tuple[nn.Module, ...], x: Tensor) -> bool:
    """No hooks, no ``forward`` of an instance's own, no approximate GELU, norms of the channels; plain parameters."""
    dtype, channels = torch.float32 if torch.is_autocast_enabled("cpu") else x.dtype, x.shape[-1:]
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            return False
        kind = type(module)
        if kind is nn.GELU and module.approximate != "none":
            return False
        if kind is nn.LayerNorm and module.normalized_shape != channels:  # a size that PyTorch refuses is one too
            return False
        for parameter in module._parameters.values():
            if parameter is None and kind is not nn.LayerNorm:  # no bias
                continue
            if not _is_plain(parameter, dtype):
                return False
    return True


def _is_plain(parameter: Tensor | None, dtype: torch.dtype) -> bool:
    """No adapter or quantised weight; and packed, as the kernels read it."""
    if type(parameter) is not nn.Parameter or parameter.dtype is not dtype or not parameter.is_cpu:
        return False
    return parameter.is_contiguous() or parameter.dim() > 1  # matrices and kernels are read by their strides, or packed


def _runs_here() -> bool:
    """The kernels load; the environment's choice of another backend holds for these passes too."""
    return os.environ.get("INTERNIMAGE_BACKEND") in (None, "", "cpu") and native.load_error() is None


def weight_and_bias(module: nn.Module) -> tuple[Any, Any]:
    """Of a linear layer, norm or convolution, from its dictionary: an attribute of a module costs ten times as much."""
    parameters = module._parameters
    return parameters["weight"], parameters["bias"]


def add_bias_gelu_(x: Tensor, bias: Tensor) -> Tensor:
    """``gelu(x + bias)`` over the last axis, in place; ``x`` is contiguous."""
    problem = _problem(_BIAS_GELU, x, bias)
    problem.output, problem.bias = problem.input, bias.data_ptr()
    native.library().internimage_fused(problem)
    return x


def norm_gelu(x: Tensor, norm: nn.LayerNorm, gelu: bool) -> Tensor:
    """``norm(x)`` over the last axis, and its GELU if asked for."""
    x = x.contiguous()
    output = torch.empty_like(x)
    problem = _with_norm(_NORM, x, output, norm)
    problem.gelu = gelu
    native.library().internimage_fused(problem)
    return output


def add_norm(residual: Tensor, x: Tensor, norm: nn.LayerNorm, scale: Tensor | None) -> Tensor:
    """``residual + scale * norm(x)`` over the last axis: how a branch ends that is normalised behind."""
    residual, x = residual.contiguous(), x.contiguous()
    output = torch.empty_like(x)
    problem = _with_norm(_ADD_NORM, x, output, norm)
    problem.residual = residual.data_ptr()
    if scale is not None:
        problem.scale = scale.data_ptr()
    native.library().internimage_fused(problem)
    return output


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias + residual`` over the last axis.

    In float32 by oneDNN, which PyTorch carries but asks for other dtypes only: it needs no second pass for what is
    added, and repacks weights in less time than the library behind ``F.linear``.
    """
    if x.dtype is torch.float32 and _ONEDNN is not None and torch.backends.mkldnn.enabled:
        if residual is None:
            return _ONEDNN(x, weight, bias, "none", [], "")
        return _ONEDNN.binary(x, residual, weight, bias, "add")
    output = F.linear(x, weight, bias)
    return output if residual is None else output.add_(residual)


def depthwise_norm_gelu(x: Tensor, conv: nn.Conv2d, norm: nn.LayerNorm) -> Tensor:
    """``gelu(norm(conv(x)))`` for a depthwise ``conv`` without dilation, (N, H, W, C) to (N, H_out, W_out, C)."""
    x = x.contiguous()
    n, h, w, c = x.shape
    (kernel_h, kernel_w), (stride_h, stride_w) = conv.kernel_size, conv.stride
    padding_h, padding_w = map(int, conv.padding)
    h_out, w_out = (h + 2 * padding_h - kernel_h) // stride_h + 1, (w + 2 * padding_w - kernel_w) // stride_w + 1
    output = x.new_empty(n, h_out, w_out, c)
    problem = _with_norm(_DEPTHWISE, x, output, norm)
    problem.rows, problem.h, problem.w, problem.h_out, problem.w_out = n * h_out, h, w, h_out, w_out
    problem.kernel_h, problem.kernel_w, problem.stride_h, problem.stride_w = kernel_h, kernel_w, stride_h, stride_w
    problem.padding_h, problem.padding_w = padding_h, padding_w
    weight, bias = weight_and_bias(conv)
    weight = weight.contiguous()
    problem.weight, problem.bias = weight.data_ptr(), None if bias is None else bias.data_ptr()
    native.library().internimage_fused(problem)
    return output


def _problem(kind: int, x: Tensor, parameter: Tensor) -> native.FusedProblem:
    problem, channels = native.FusedProblem(), x.shape[-1]
    problem.pass_, problem.input, problem.storage = kind, x.data_ptr(), native.STORAGE[x.dtype]
    problem.parameters, problem.channels = native.STORAGE[parameter.dtype], channels
    problem.rows = x.numel() // channels
    return problem


def _with_norm(kind: int, x: Tensor, output: Tensor, norm: nn.LayerNorm) -> native.FusedProblem:
    weight, bias = weight_and_bias(norm)
    problem = _problem(kind, x, weight)
    problem.output, problem.eps = output.data_ptr(), norm.eps
    problem.norm_weight, problem.norm_bias = weight.data_ptr(), bias.data_ptr()
    return problem
