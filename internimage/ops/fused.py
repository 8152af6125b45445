"""Passes of the network around DCNv3, each fused into one reading and one writing of the map, for inference on the CPU.

They give what the PyTorch modules named in each docstring give, up to float32 rounding. Training, other devices, graphs
that are being traced, and machines without the native kernels run those modules instead; ``takes`` says which.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import native

_BIAS_GELU, _DEPTHWISE, _NORM = range(3)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def takes(x: Tensor, *modules: nn.Module) -> bool:
    """Whether the fused passes may stand for ``modules`` on ``x``: plain inference on the CPU, nobody watching."""
    if type(x) is not Tensor or torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled():
        return False
    if not x.is_cpu or x.dtype not in _DTYPES or not x.numel():
        return False
    parameters = x.dtype
    if torch.is_autocast_enabled("cpu"):  # then maps are of its dtype, and parameters float32
        if x.dtype is not torch.get_autocast_dtype("cpu"):
            return False
        parameters = torch.float32
    return _are_plain(modules, parameters) and _runs_here()


def _are_plain(modules: tuple[nn.Module, ...], dtype: torch.dtype) -> bool:
    """No hooks, no approximate GELU, no adapter or quantised weight in place of the parameters."""
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks:
            return False
        if type(module) is nn.GELU and module.approximate != "none":
            return False
        for parameter in module._parameters.values():
            if parameter is None and isinstance(module, nn.Linear):  # it has no bias
                continue
            if type(parameter) is not nn.Parameter or parameter.dtype is not dtype or not parameter.is_cpu:
                return False
    return True


def _runs_here() -> bool:
    """The kernels load; the environment's choice of another backend holds for these passes too."""
    return os.environ.get("INTERNIMAGE_BACKEND") in (None, "", "cpu") and native.load_error() is None


def add_bias_gelu_(x: Tensor, bias: Tensor) -> Tensor:
    """``gelu(x + bias)`` over the last axis, in place; ``x`` is contiguous."""
    problem = _problem(_BIAS_GELU, x, bias)
    problem.output, problem.bias = x.data_ptr(), bias.data_ptr()
    native.library().internimage_fused(problem)
    return x


def norm_gelu(x: Tensor, norm: nn.LayerNorm, gelu: bool) -> Tensor:
    """``norm(x)`` over the last axis, and its GELU if asked for."""
    x = x.contiguous()
    problem = _problem(_NORM, x, norm.weight)
    output = torch.empty_like(x)
    problem.output, problem.gelu = output.data_ptr(), gelu
    _place_norm(problem, norm)
    native.library().internimage_fused(problem)
    return output


def norm_and_sum(x: Tensor, norm: nn.LayerNorm, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """``norm(x)`` and ``x + bias`` over the last axis: what a residual branch begins with, and what it is added to."""
    x = x.contiguous()
    problem = _problem(_NORM, x, norm.weight)
    output, sum = torch.empty_like(x), torch.empty_like(x)
    problem.output, problem.sum = output.data_ptr(), sum.data_ptr()
    problem.bias = None if bias is None else bias.data_ptr()
    _place_norm(problem, norm)
    native.library().internimage_fused(problem)
    return output, sum


def add_product_(output: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Add ``x @ weight.T`` over the last axis to ``output``, in place; ``output`` is contiguous."""
    if torch.is_autocast_enabled("cpu"):  # which converts the weight, once in its region, for ``linear`` but not here
        return output.add_(F.linear(x, weight))
    output.view(-1, output.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), weight.t())
    return output


def depthwise_norm_gelu(x: Tensor, conv: nn.Conv2d, norm: nn.LayerNorm) -> Tensor:
    """``gelu(norm(conv(x)))`` for a depthwise ``conv`` without dilation, (N, H, W, C) to (N, H_out, W_out, C)."""
    x = x.contiguous()
    n, h, w, c = x.shape
    problem = _problem(_DEPTHWISE, x, conv.weight)
    problem.h, problem.w = h, w
    problem.kernel_h, problem.kernel_w = conv.kernel_size
    problem.stride_h, problem.stride_w = conv.stride
    problem.padding_h, problem.padding_w = map(int, conv.padding)
    problem.h_out = (h + 2 * problem.padding_h - problem.kernel_h) // problem.stride_h + 1
    problem.w_out = (w + 2 * problem.padding_w - problem.kernel_w) // problem.stride_w + 1
    problem.rows = n * problem.h_out
    output = x.new_empty(n, problem.h_out, problem.w_out, c)
    problem.output = output.data_ptr()
    weight, bias = conv.weight.contiguous(), conv.bias
    assert bias is not None
    problem.weight, problem.bias = weight.data_ptr(), bias.data_ptr()
    _place_norm(problem, norm)
    native.library().internimage_fused(problem)
    return output


def _place_norm(problem: native.FusedProblem, norm: nn.LayerNorm) -> None:
    problem.norm_weight, problem.norm_bias, problem.eps = norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps


def _problem(kind: int, x: Tensor, parameter: Tensor) -> native.FusedProblem:
    return native.FusedProblem(
        input=x.data_ptr(),
        pass_=kind,
        storage=native.STORAGE[x.dtype],
        parameters=native.STORAGE[parameter.dtype],
        rows=x.numel() // x.shape[-1],
        channels=x.shape[-1],
    )
