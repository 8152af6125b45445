"""Multi-scale deformable attention as the benchmark sees it.

N images, Q queries, M heads of D channels, L levels of S pixels in all, P points. The ``fixed`` part of a call is the
sizes of the levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import ms_deform_attn
from ..ops.ms_deform_attn import reference
from . import peers
from .operators import BACKENDS, COMPILER, OURS, Form, Inputs, Operator, Wanted, compiled, in_float32
from .shapes import ATTENTION_NOTATION, POINTS, AttentionShape, parse_attention
from .work import BOTH, FORWARD

Sizes = tuple[tuple[int, int], ...]
SPREAD = 4.0  # pixels of a level, standard deviation of the points around their reference
OFF_GRID_LINES = 0.02  # px


def make(shape: AttentionShape, seed: int = 0) -> Inputs:
    """Float32: the points of a query lie around one place, some pixels apart on each level, a few outside.

    The places are random for a given number of queries, as a decoder's, and else the positions themselves, in order.
    """
    generator = torch.Generator().manual_seed(seed)
    n, queries, heads, levels = shape.batch, shape.looks, shape.heads, shape.levels
    depth = shape.channels // heads
    sizes = torch.tensor(levels).flip(-1).view(1, 1, 1, -1, 1, 2)  # (width, height)
    centers = torch.rand(n, queries, 2, generator=generator) if shape.queries else _positions(levels).repeat(n, 1, 1)
    noise = torch.randn(n, queries, heads, len(levels), POINTS, 2, generator=generator)
    pixels = centers.view(n, queries, 1, 1, 1, 2) * sizes - 0.5 + SPREAD * noise
    cell = pixels.floor()
    pixels = cell + (pixels - cell).clamp(OFF_GRID_LINES, 1 - OFF_GRID_LINES)
    weights = torch.randn(n, queries, heads, len(levels) * POINTS, generator=generator).softmax(-1)
    value = torch.randn(n, shape.positions, heads, depth, generator=generator)
    grad = torch.randn(n, queries, shape.channels, generator=generator)
    tensors = {
        "value": value,
        "sampling_locations": (pixels + 0.5) / sizes,
        "attention_weights": weights.unflatten(-1, (-1, POINTS)),
    }
    return Inputs(tensors, grad, levels)


def _positions(levels: Sizes) -> Tensor:
    """Middles of all pixels of all levels, (S, 2) as x and y from 0 to 1."""
    middles = []
    for height, width in levels:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        middles.append(torch.stack((x, y), -1).flatten(0, 1))
    return torch.cat(middles)


def exact(inputs: Inputs) -> tuple[Tensor, ...]:
    """Output and three gradients by the reference in float64, one head after the other."""
    value, locations, weights = (tensor.double() for tensor in inputs.tensors.values())
    grads = inputs.grad_output.double().unflatten(-1, (value.shape[2], -1))
    parts = []
    for head in range(value.shape[2]):
        only = slice(head, head + 1)
        arguments = (value[:, :, head], locations[:, :, only].flatten(3), weights[:, :, only].flatten(3))
        leaves = [argument.detach().requires_grad_() for argument in arguments]
        output = reference.four_corners(leaves[0], leaves[1], leaves[2], inputs.fixed)
        parts.append((output.detach(), *torch.autograd.grad(output, leaves, grads[:, :, head])))
    outputs, grad_values, grad_locations, grad_weights = zip(*parts, strict=True)
    return (
        torch.cat(outputs, -1),
        torch.stack(grad_values, 2),
        torch.cat(grad_locations, 2).reshape(locations.shape),
        torch.cat(grad_weights, 2).reshape(weights.shape),
    )


def per_level(value: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """A ``grid_sample`` a level, the samples stacked, weighed, and summed: the usual fallback of detectors' code."""
    n, _, heads, depth = value.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, N*M, Q, P, 2)
    maps = value.permute(0, 2, 3, 1).reshape(n * heads, depth, -1).split([h * w for h, w in sizes], dim=-1)
    sampled = [
        F.grid_sample(level.unflatten(-1, size), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for level, size, grid in zip(maps, sizes, grids, strict=True)
    ]
    weighed = torch.stack(sampled, -2).flatten(-2) * weights.transpose(1, 2).reshape(n * heads, 1, queries, -1)
    return weighed.sum(-1).view(n, heads * depth, queries).transpose(1, 2)


def _backend(name: str):
    return lambda value, locations, weights, sizes: ms_deform_attn(value, sizes, locations, weights, backend=name)


def transformers_form(value: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """The pure PyTorch attention inside the Deformable DETR of ``transformers``."""
    attend = peers.module("transformers").MultiScaleDeformableAttention()
    shapes, starts = _on_device(sizes, value)
    return attend(value, shapes, list(sizes), starts, locations, weights, 64)


def mmcv_form(value: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """The pure PyTorch attention of ``mmcv``."""
    return peers.module("mmcv").multi_scale_deformable_attn_pytorch(value, _sizes_tensor(sizes), locations, weights)


def deformops_form(value: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """The attention of the package ``deformops``."""
    shapes, starts = _on_device(sizes, value)
    return peers.module("deformops").msda(value, shapes, starts, locations, weights)


_kept: dict[tuple[Sizes, str], tuple[Tensor, Tensor]] = {}


def _on_device(sizes: Sizes, like: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes and first pixels of the levels, kept on the device: no peer pays for a copy to the card at each call."""
    key = (sizes, str(like.device))
    if key not in _kept:
        shapes = _sizes_tensor(sizes)
        areas = shapes.prod(-1)
        _kept[key] = shapes.to(like.device), (areas.cumsum(0) - areas).to(like.device)
    return _kept[key]


def _sizes_tensor(sizes: Sizes) -> Tensor:
    return torch.tensor(sizes)


def forms(device: str) -> dict[str, Form]:
    """On a kind of device, in the order of the tables."""
    return {
        OURS: Form(_backend(BACKENDS[device])),
        "per level": Form(in_float32(per_level)),
        "gs4": Form(in_float32(_backend("grid_sample"))),
        **({"per level compiled": Form(compiled(in_float32(per_level)), COMPILER)} if device == "cuda" else {}),
        "reference": Form(_backend("reference"), seldom=True),
        "transformers": Form(in_float32(transformers_form), "transformers"),
        "mmcv": Form(in_float32(mmcv_form), "mmcv"),
        "deformops": Form(deformops_form, "deformops"),
    }


_DECODER, _ENCODER = AttentionShape(800, 1216, 256, 8, queries=900), AttentionShape(800, 1216, 256, 8)
_BOTH = (str(_DECODER), str(_ENCODER))

MS_DEFORM_ATTN = Operator(
    name="ms_deform_attn",
    sets={
        "detr": (_DECODER, _ENCODER),
        "2xdetr": (AttentionShape(800, 1216, 256, 8, 900, 2), AttentionShape(800, 1216, 256, 8, None, 2)),
        "quick": (AttentionShape(64, 96, 32, 4, queries=20), AttentionShape(64, 96, 32, 4)),
    },
    usual={"cpu": ("detr",), "cuda": ("detr", "2xdetr")},
    parse=parse_attention,
    notation=ATTENTION_NOTATION,
    make=make,
    exact=exact,
    forms=forms,
    plain=("per level", "gs4", "transformers", "mmcv"),
    wanted=(Wanted(_BOTH, FORWARD, 4.0), Wanted(_BOTH, BOTH, 3.0)),
)
