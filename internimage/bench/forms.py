"""The ways to compute DCNv3 that are timed against each other; all take ``(input, offset, mask, groups)``.

Kernel 3x3, stride 1, padding 1, offset scale 1. N images, H W size, G groups, D channels per group, P taps, L = H*W.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from ..ops import dcnv3
from ..ops.dcnv3.reference import sampling_locations
from ..ops.geometry import Geometry

Form = Callable[[Tensor, Tensor, Tensor, int], Tensor]

OURS = "cpu"
GRID_SAMPLE_FORMS = ("gs", "gs4")
TORCHVISION = "deform_conv2d"


def gs(input: Tensor, offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """``grid_sample`` on a (N, H, W, G, P, 2) grid of positions: how the formula is usually written."""
    n, h, w, c = input.shape
    x, y = sampling_locations(offset, Geometry(groups=groups))  # (N, H, W, G, P)
    grid = torch.stack(((2 * x + 1) / w - 1, (2 * y + 1) / h - 1), -1)
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(n * groups, h * w, -1, 2)
    values = input.reshape(n, h * w, c).transpose(1, 2).reshape(n * groups, c // groups, h, w)
    sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = mask.reshape(n, h * w, groups, -1).transpose(1, 2).reshape(n * groups, 1, h * w, -1)
    output = (sampled * weights).sum(-1)  # (N*G, D, L)
    return output.reshape(n, c, h * w).transpose(1, 2).reshape(n, h, w, c)


def torchvision_form(input: Tensor, offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """``torchvision.ops.deform_conv2d`` with a weight of ones a channel; it counts taps y-major, and y before x."""
    n, h, w, c = input.shape
    taps = (3, 3)
    offset = offset.reshape(n, h, w, groups, *taps, 2).flip(-1).permute(0, 3, 5, 4, 6, 1, 2).reshape(n, -1, h, w)
    mask = mask.reshape(n, h, w, groups, *taps).permute(0, 3, 5, 4, 1, 2).reshape(n, -1, h, w)
    ones = input.new_ones(c, 1, *taps)
    return deform_conv2d(input.permute(0, 3, 1, 2), offset, ones, padding=1, mask=mask).permute(0, 2, 3, 1)


def _backend(name: str) -> Form:
    def form(input: Tensor, offset: Tensor, mask: Tensor, groups: int) -> Tensor:
        return dcnv3(input, offset, mask, groups=groups, backend=name)

    return form


FORMS: dict[str, Form] = {
    OURS: _backend("cpu"),
    "gs": gs,
    "gs4": _backend("grid_sample"),
    "reference": _backend("reference"),
    TORCHVISION: torchvision_form,
}
