"""Random changes of a whole batch at once: one affine sampling and one mask, cheap enough for a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far pictures are changed; each picture draws its own values. The default changes nothing.

    ``shift`` is a share of the picture's side, ``zoom`` of its size, ``rotate`` is in degrees, each to both sides.
    ``erase`` is the probability that a rectangle of 2 to 30 % of the area is filled with noise.
    """

    shift: float = 0.0
    zoom: float = 0.0
    rotate: float = 0.0
    flip: bool = False
    erase: float = 0.0


def augment(images: Tensor, size: int, how: Augmentation) -> Tensor:
    """Change and resize a batch.

    Args:
        images: (N, C, H, W), float, 0 to 1.
        size: side of the result in pixels.

    Returns:
        (N, C, size, size). What lies outside a picture is black. Random numbers come from torch's default generator.
    """
    n, c = images.shape[:2]
    grid = F.affine_grid(_random_affine(n, how, images.device), [n, c, size, size], align_corners=False)
    return _erase(F.grid_sample(images, grid, align_corners=False), how.erase)


def resize(images: Tensor, size: int) -> Tensor:
    """(N, C, H, W) to (N, C, size, size), bilinear; what :func:`augment` gives when it changes nothing."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def _random_affine(n: int, how: Augmentation, device: torch.device) -> Tensor:
    """(N, 2, 3) matrices from positions in the result to positions in the picture, both -1 to 1."""
    angle, zoom, shift_x, shift_y = (torch.rand(4, n, device=device) * 2 - 1).unbind()
    angle, scale = angle * math.radians(how.rotate), torch.exp2(zoom * math.log2(1 + how.zoom))
    mirror = torch.where((torch.rand(n, device=device) < 0.5) & how.flip, -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [mirror * cos, -sin, 2 * how.shift * shift_x, mirror * sin, cos, 2 * how.shift * shift_y]
    return torch.stack(rows, dim=1).view(n, 2, 3)


def _erase(images: Tensor, probability: float) -> Tensor:
    """Fill a random rectangle of some pictures with noise."""
    if probability == 0:
        return images
    n, _, height, width = images.shape
    chance, area, aspect, x, y = torch.rand(5, n, 1, device=images.device).unbind()
    area, aspect = 0.02 + 0.28 * area, torch.exp((aspect * 2 - 1) * math.log(3.0))
    half_h, half_w = (area * aspect).sqrt() / 2, (area / aspect).sqrt() / 2
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    inside = ((rows - y).abs() < half_h)[:, :, None] & ((columns - x).abs() < half_w)[:, None, :]
    inside &= (chance < probability)[:, :, None]
    return torch.where(inside[:, None], torch.rand_like(images), images)
