"""Deformable convolution v4: checks the arguments, picks a backend, calls it.

It samples as DCNv3 does, so this folder has no formula and no kernels of its own: ``op.py`` hands the backends of DCNv3
views of the packed tensor, ``cpu.py`` does so without making the views, ``packed.py`` knows the layout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import in_autocast_dtype, output_size_of, require_alike, require_axes, require_tensors, size_of_row
from ..dcnv3.reference import export_form
from ..dispatch import Call, choose
from ..geometry import Geometry, IntPair
from . import cpu, op
from .packed import pack_offset_mask, packed_channels, unpack

__all__ = ["dcnv4", "dcnv4_on_maps", "pack_offset_mask", "packed_channels"]


def dcnv4(
    input: Tensor,
    offset_mask: Tensor,
    kernel_size: IntPair = 3,
    *,
    stride: IntPair = 1,
    padding: IntPair = 1,
    dilation: IntPair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
    size: tuple[int, int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Deformable convolution v4: samples as :func:`internimage.ops.dcnv3`, offsets and masks in one packed tensor.

    With ``P`` taps, ``P = kernel_height * kernel_width`` (one fewer with ``remove_center``):

    Args:
        input: (N, H, W, C), float32, float64, float16 or bfloat16; C is a multiple of ``groups``. With ``size`` the
            pixels may stand in one row: (N, H*W, C).
        offset_mask: (N, H_out, W_out, K) or, with pixels in one row, (N, H_out*W_out, K); K is ``groups*P*3`` rounded
            up to a multiple of 8. For each group in turn: P offsets (x, y) in input pixels, then P mask values, used as
            given; what stands behind the last group is not read.
        kernel_size, stride, padding, dilation: an int or a pair (height, width).
        offset_scale: multiplies the taps and the learned offsets around the middle of the kernel.
        remove_center: leave out the middle tap; the kernel must be odd on both axes.
        softmax: take a softmax of the mask over the P taps of each group first.
        size: (H, W) of an input whose pixels stand in one row.
        backend: ``None`` picks the fastest that accepts these inputs; see ``available_backends()``.

    Returns:
        (N, H_out, W_out, C), or (N, H_out*W_out, C), in the dtype of ``input``. Samples outside the image, and samples
        at NaN or infinite positions, count as zero. Coordinates and sums are float32 for the half types.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the argument and both values.
        BackendError: the requested backend refuses these inputs; the message lists why.

    Source: Xiong et al. 2024, "Efficient Deformable ConvNets", arXiv 2401.06197.
    """
    geometry = Geometry.of(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    require_tensors(input=input, offset_mask=offset_mask)
    if size is None and input.dim() == 3:
        raise ValueError(
            f"input has shape {tuple(input.shape)}, expected four axes, or size=(H, W) of pixels in one row"
        )
    if size is None:
        return dcnv4_on_maps(input, offset_mask, geometry, softmax, backend)
    input, offset_mask = _as_maps(input, offset_mask, size, geometry)
    return dcnv4_on_maps(input, offset_mask, geometry, softmax, backend).flatten(1, 2)


def dcnv4_on_maps(
    input: Tensor,
    offset_mask: Tensor,
    geometry: Geometry,
    softmax: bool = False,
    backend: str | None = None,
    biases: cpu.Biases | None = None,
) -> Tensor:
    """:func:`dcnv4` of (N, H, W, C) maps with all of its geometry as one argument: what the layers run.

    ``biases``, where ``fused.takes`` the call, are added to input (C) and packed tensor (K), each where it is not None;
    the CPU kernel adds them on the way.
    """
    if biases is not None:
        if backend in (None, "cpu"):
            return cpu.forward(input, offset_mask, geometry, softmax, biases)
        tensors = zip((input, offset_mask), biases, strict=True)
        input, offset_mask = (tensor if bias is None else tensor + bias for tensor, bias in tensors)
    if input.is_meta:  # shapes only: no backend, no autocast, nothing to log
        _check(input, offset_mask, geometry)
        return op.dcnv4_op(input, offset_mask, *geometry.as_args(), softmax, "reference")
    input, offset_mask = in_autocast_dtype(input, offset_mask)
    _check(input, offset_mask, geometry)
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return export_form(input, *unpack(offset_mask, geometry), geometry, softmax)
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or offset_mask.requires_grad)
    call = Call("dcnv4", input.shape, input.dtype, input.device.type, geometry.groups, needs_grad)
    return op.run(input, offset_mask, geometry, softmax, choose(op.BACKENDS, call, backend))


def _as_maps(input: Tensor, offset_mask: Tensor, size: Sequence[int], geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Pixels in one row as maps."""
    require_axes(("N", "pixels", "channels"), input=input, offset_mask=offset_mask)
    size = size_of_row(size, input.shape[1])
    h_out, w_out = geometry.output_size(*size)
    if h_out < 1 or w_out < 1 or h_out * w_out != offset_mask.shape[1]:
        raise ValueError(
            f"offset_mask has {offset_mask.shape[1]} pixels, expected {max(h_out, 0)}x{max(w_out, 0)} for an input of "
            f"{size[0]}x{size[1]} with kernel_size={geometry.kernel_size}, stride={geometry.stride}, "
            f"padding={geometry.padding}, dilation={geometry.dilation}"
        )
    return input.unflatten(1, size), offset_mask.unflatten(1, (h_out, w_out))


def _check(input: Tensor, offset_mask: Tensor, geometry: Geometry) -> None:
    require_axes(("N", "height", "width", "channels"), input=input, offset_mask=offset_mask)
    require_alike("input", input=input, offset_mask=offset_mask)
    h_out, w_out = output_size_of(input, geometry)
    expected = (input.shape[0], h_out, w_out, packed_channels(geometry))
    if tuple(offset_mask.shape) != expected:
        used = 3 * geometry.groups * geometry.taps
        raise ValueError(
            f"offset_mask has shape {tuple(offset_mask.shape)}, expected {expected} = (N, H_out, W_out, groups*P*3 "
            f"rounded up to a multiple of 8)\n  with groups={geometry.groups}, kernel_size={geometry.kernel_size}, "
            f"P={geometry.taps}, hence {used} numbers used."
        )
