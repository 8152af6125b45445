"""DCNv4's calls are those of DCNv3 with offsets and masks in one tensor; packed here by loops, not by the package."""

from __future__ import annotations

import torch
from torch import Tensor

from internimage.ops import dcnv4

from .cases import Inputs, Result, as_keywords


def pack(inputs: Inputs, unused: float = float("nan")) -> Tensor:
    """Offsets and mask of each group side by side, and ``unused`` behind the last group up to a multiple of 8."""
    groups, taps = inputs.geometry.groups, inputs.geometry.taps
    parts = []
    for group in range(groups):
        parts.append(inputs.offset[..., 2 * taps * group : 2 * taps * (group + 1)])
        parts.append(inputs.mask[..., taps * group : taps * (group + 1)])
    used = 3 * groups * taps
    width = used if used % 8 == 0 else used + 8 - used % 8
    parts.append(inputs.mask.new_full((*inputs.mask.shape[:3], width - used), unused))
    return torch.cat(parts, -1)


def unpack(packed: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets and mask in the layout of DCNv3, and what stands behind the last group."""
    groups, taps = inputs.geometry.groups, inputs.geometry.taps
    offsets, masks = [], []
    for group in range(groups):
        start = 3 * taps * group
        offsets.append(packed[..., start : start + 2 * taps])
        masks.append(packed[..., start + 2 * taps : start + 3 * taps])
    return torch.cat(offsets, -1), torch.cat(masks, -1), packed[..., 3 * groups * taps :]


def forward_packed(inputs: Inputs, offset_mask: Tensor, backend: str | None, softmax: bool = False) -> Tensor:
    return dcnv4(inputs.input, offset_mask, **as_keywords(inputs.geometry), softmax=softmax, backend=backend)


def run_packed(inputs: Inputs, backend: str | None, softmax: bool = False, offset_mask: Tensor | None = None) -> Result:
    """Output and gradients as of DCNv3; that of the unused numbers must be zero, though they are NaN themselves."""
    offset_mask = pack(inputs) if offset_mask is None else offset_mask
    leaves = [tensor.detach().requires_grad_() for tensor in (inputs.input, offset_mask)]
    output = dcnv4(*leaves, **as_keywords(inputs.geometry), softmax=softmax, backend=backend)
    grad_input, grad_packed = torch.autograd.grad(output, leaves, inputs.grad_output)
    grad_offset, grad_mask, grad_unused = unpack(grad_packed, inputs)
    assert not grad_unused.any()
    return Result(output.detach(), grad_input, grad_offset, grad_mask)
