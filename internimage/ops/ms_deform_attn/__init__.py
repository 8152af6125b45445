"""Multi-scale deformable attention: checks the arguments, picks a backend, calls it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import in_autocast_dtype, require_alike, require_axes, require_tensors
from ..dispatch import Call, choose
from . import op, reference
from .levels import Sizes, as_sizes, in_a_row

__all__ = ["ms_deform_attn", "ms_deform_attn_packed"]


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[Sequence[int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    softmax: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Multi-scale deformable attention: for each query and head a weighted sum of bilinear samples from all levels.

    Args:
        value: (N, S, M, D), float32, float64, float16 or bfloat16: M heads of D channels at the S pixels of all
            levels, one level behind the other, each row by row.
        spatial_shapes: (height, width) of each of the L levels, as pairs of ints, or as a tensor (L, 2), which is read
            to the host at every call. A level may be empty.
        sampling_locations: (N, Q, M, L, P, 2), x before y, 0 to 1 over a level: a location samples at pixel
            ``location * size - 0.5``. May be float32 beside half types, which are coarse for it (bfloat16 knows a
            location to 1/512 of a level); autocast leaves float32 locations alone.
        attention_weights: (N, Q, M, L, P), used as given; usually a softmax over L*P.
        softmax: take the softmax over L*P of each query and head first.
        backend: ``None`` picks the fastest that accepts these inputs; see ``available_backends()``.

    Returns:
        (N, Q, M*D) in the dtype of ``value``. Samples outside a level, and samples at NaN or infinite locations, count
        as zero. Coordinates and sums are float32 for the half types.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the argument and both values.
        BackendError: the requested backend refuses these inputs; the message lists why.

    Source: Zhu et al. 2021, "Deformable DETR", arXiv 2010.04159, equation 3.
    """
    sizes = as_sizes(spatial_shapes)
    require_tensors(value=value, sampling_locations=sampling_locations, attention_weights=attention_weights)
    n, heads = _checked_value(value, sizes)
    require_axes(("N", "Q", "heads", "levels", "points", "2"), sampling_locations=sampling_locations)
    queries, points = sampling_locations.shape[1], max(1, sampling_locations.shape[4])
    for name, tensor, expected in (
        ("sampling_locations", sampling_locations, (n, queries, heads, len(sizes), points, 2)),
        ("attention_weights", attention_weights, (n, queries, heads, len(sizes), points)),
    ):
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected {expected} for value of {tuple(value.shape)} and "
                f"{len(sizes)} levels"
            )
    tensors = (value.flatten(2), sampling_locations.flatten(3), attention_weights.flatten(3))
    return _attend(*tensors, sizes, softmax, backend)


def ms_deform_attn_packed(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[Sequence[int]],
    locations_logits: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """:func:`ms_deform_attn` in the packed layout of DCNv4's attention, with its softmax.

    Args:
        value, spatial_shapes, backend: as there.
        locations_logits: (N, Q, M, L*P*3): for each query and head, L*P locations (x, y), then L*P logits of the
            attention weights, whose softmax over L*P is taken here.

    Returns, raises: as there.

    Source: Xiong et al. 2024, "Efficient Deformable ConvNets", arXiv 2401.06197.
    """
    sizes = as_sizes(spatial_shapes)
    require_tensors(value=value, locations_logits=locations_logits)
    n, heads = _checked_value(value, sizes)
    require_axes(("N", "Q", "heads", "L*P*3"), locations_logits=locations_logits)
    numbers = locations_logits.shape[3]
    if tuple(locations_logits.shape[::2]) != (n, heads) or numbers % (3 * len(sizes)) or not numbers:
        raise ValueError(
            f"locations_logits has shape {tuple(locations_logits.shape)}, expected ({n}, Q, {heads}, a multiple of "
            f"{3 * len(sizes)}) for value of {tuple(value.shape)}, {len(sizes)} levels"
        )
    locations, logits = locations_logits.split((numbers // 3 * 2, numbers // 3), dim=-1)
    return _attend(value.flatten(2), locations, logits, sizes, True, backend)


def _checked_value(value: Tensor, sizes: Sizes) -> tuple[int, int]:
    """Images and heads of a value (N, S, M, D) that fits the levels."""
    require_axes(("N", "S", "heads", "channels"), value=value)
    n, pixels, heads, depth = value.shape
    if heads < 1 or depth < 1:
        raise ValueError(f"value has shape {tuple(value.shape)}, expected at least one head of at least one channel")
    total = sum(h * w for h, w in sizes)
    if pixels != total:
        shown = ", ".join(f"{h}x{w}" for h, w in sizes)
        raise ValueError(f"value has {pixels} pixels, expected {total} for the levels {shown} of spatial_shapes")
    return n, heads


def _attend(
    values: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, softmax: bool, backend: str | None
) -> Tensor:
    """Values (N, S, M*D), locations (N, Q, M, L*P*2), weights or logits (N, Q, M, L*P)."""
    if not values.is_meta:
        values, weights = in_autocast_dtype(values, weights)
        locations = locations if locations.dtype == torch.float32 else in_autocast_dtype(locations)[0]
    named = {"value": values, "sampling_locations": locations, "attention_weights": weights}
    require_alike("value", **named, finer="sampling_locations")
    if values.is_meta:  # shapes only: no backend, no autocast, nothing to log
        return op.ms_deform_attn_op(values, locations, weights, in_a_row(sizes), softmax, "reference")
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return reference.export_form(values, locations, weights, sizes, softmax)
    tensors = (values, locations, weights)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    call = Call("ms_deform_attn", values.shape, values.dtype, values.device.type, weights.shape[2], needs_grad)
    return op.run(*tensors, sizes, softmax, choose(op.BACKENDS, call, backend))
