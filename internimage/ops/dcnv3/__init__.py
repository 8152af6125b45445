"""Deformable convolution v3: checks the arguments, picks a backend, calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import in_autocast_dtype, output_size_of, require_alike, require_axes, require_tensors
from ..dispatch import Call, choose
from ..geometry import Geometry, IntPair
from ..native.deformable import Biases
from . import cpu, op, reference


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: IntPair = 3,
    *,
    stride: IntPair = 1,
    padding: IntPair = 1,
    dilation: IntPair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Deformable convolution v3: a weighted sum of bilinear samples around each output pixel.

    With ``P`` taps, ``P = kernel_height * kernel_width`` (one fewer with ``remove_center``):

    Args:
        input: (N, H, W, C), float32, float64, float16 or bfloat16; C is a multiple of ``groups``.
        offset: (N, H_out, W_out, groups*P*2), x before y, in input pixels; scaled, like the taps, by ``offset_scale``.
            Taps run x-major: (-1,-1), (-1,0), (-1,1), (0,-1), ... as (x, y).
        mask: (N, H_out, W_out, groups*P), used as given; the ``DCNv3`` module applies a softmax over P.
        kernel_size, stride, padding, dilation: an int or a pair (height, width).
        offset_scale: multiplies the taps and the learned offsets around the middle of the kernel.
        remove_center: leave out the middle tap; the kernel must be odd on both axes.
        backend: ``None`` picks the fastest that accepts these inputs; see ``available_backends()``.

    Returns:
        (N, H_out, W_out, C) in the dtype of ``input``. Samples outside the image, and samples at NaN or infinite
        positions, count as zero. Coordinates and sums are float32 for the half types.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the argument and both values.
        BackendError: the requested backend refuses these inputs; the message lists why.

    Source: Wang et al. 2023, arXiv 2211.05778, equation 2.
    """
    geometry = Geometry.of(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    return _dcnv3(input, offset, mask, geometry, softmax=False, backend=backend)


def dcnv3_from_logits(
    input: Tensor,
    offset: Tensor,
    logits: Tensor,
    geometry: Geometry,
    backend: str | None = None,
    biases: Biases | None = None,
) -> Tensor:
    """:func:`dcnv3` with the softmax over the taps of each group inside: what the ``DCNv3`` module runs.

    ``biases``, where ``fused.takes`` the call, are added to input (C), offset (groups*P*2) and logits (groups*P), each
    where it is not None; the CPU kernel adds them on the way.
    """
    if biases is None:
        return _dcnv3(input, offset, logits, geometry, softmax=True, backend=backend)
    if backend in (None, "cpu"):
        return cpu.forward(input, offset, logits, geometry, True, biases)
    input, offset, logits = (
        tensor if bias is None else tensor + bias for tensor, bias in zip((input, offset, logits), biases, strict=True)
    )
    return _dcnv3(input, offset, logits, geometry, softmax=True, backend=backend)


def _dcnv3(input, offset, mask, geometry, softmax, backend):
    require_tensors(input=input, offset=offset, mask=mask)
    if input.is_meta:  # shapes only: no backend, no autocast, nothing to log
        _check(input, offset, mask, geometry)
        return op.dcnv3_op(input, offset, mask, *geometry.as_args(), softmax, "reference")
    input, offset, mask = in_autocast_dtype(input, offset, mask)
    _check(input, offset, mask, geometry)
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return reference.export_form(input, offset, mask, geometry, softmax)
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or offset.requires_grad or mask.requires_grad)
    call = Call("dcnv3", input.shape, input.dtype, input.device.type, geometry.groups, needs_grad)
    return op.run(input, offset, mask, geometry, softmax, choose(op.BACKENDS, call, backend))


def _check(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry) -> None:
    require_axes(("N", "height", "width", "channels"), input=input, offset=offset, mask=mask)
    require_alike("input", input=input, offset=offset, mask=mask)
    h_out, w_out = output_size_of(input, geometry)
    for name, tensor, per_tap in (("offset", offset, 2), ("mask", mask, 1)):
        expected = (input.shape[0], h_out, w_out, geometry.groups * geometry.taps * per_tap)
        if tuple(tensor.shape) != expected:
            layout = "groups*P*2" if per_tap == 2 else "groups*P"
            message = (
                f"{name} has shape {tuple(tensor.shape)}, expected {expected} = (N, H_out, W_out, {layout})\n"
                f"  with groups={geometry.groups}, kernel_size={geometry.kernel_size}, P={geometry.taps}."
            )
            if per_tap == 2 and tensor.shape[-1] * 2 == expected[-1]:
                message += " Half the width usually means one number a tap instead of (x, y)."
            raise ValueError(message)
