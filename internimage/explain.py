"""A look inside: where a DCNv3 or DCNv4 layer samples a picture. ``draw_sampling`` makes a drawing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .devices import check_numbers
from .layers.dcnv4 import DCNv4
from .layers.deform_conv import DCNv3
from .ops.dcnv3.reference import sampling_locations


@dataclass(frozen=True, kw_only=True)
class SamplingPoints:
    """Where one output pixel of a layer looks. Coordinates are pixels of the model's input, 0 the middle of the first.

    Attributes:
        points: (G, P, 2) sampling positions as (x, y), float32; they may lie outside the picture.
        weights: (G, P); of DCNv3 those of a group add up to 1, of DCNv4 they have either sign and any sum.
        grid: (P, 2) where a plain convolution of that kernel and dilation would look.
        center: (x, y) of the output pixel in the picture.
        output_pixel: (column, row) of the output pixel in its map.
        stride: pixels of the picture between neighbours of the map.
        stage, block: which layer, counted from 1 and from 0.
        operator: "DCNv3" or "DCNv4".
    """

    points: Tensor
    weights: Tensor
    grid: Tensor
    center: tuple[float, float]
    output_pixel: tuple[int, int]
    stride: int
    stage: int
    block: int
    operator: str = "DCNv3"

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON; a coordinate that is no number is None."""
        finite = torch.isfinite(self.points)
        points = [
            [[v if ok else None for v, ok in zip(*pair, strict=True)] for pair in zip(*group, strict=True)]
            for group in zip(self.points.tolist(), finite.tolist(), strict=True)
        ]
        return {
            **{
                name: getattr(self, name) for name in ("operator", "stage", "block", "stride", "output_pixel", "center")
            },
            **{"points": points, "weights": self.weights.tolist(), "grid": self.grid.tolist()},
        }


@torch.no_grad()
def sampling_points(
    model: nn.Module,
    image: Tensor,
    stage: int = 3,
    block: int = -1,
    position: tuple[float, float] | None = None,
) -> SamplingPoints:
    """Where the DCNv3 or DCNv4 layer of a block samples ``image`` for one output pixel.

    Args:
        model: a classifier of :func:`internimage.create_model` or a bare backbone.
        image: (1, C, H, W) or (C, H, W), preprocessed.
        stage: 1 to 4, at strides 4, 8, 16 and 32.
        block: of that stage, from 0; negative numbers count from the end.
        position: (x, y) in pixels of ``image``; the nearest output pixel is taken. None is the middle.

    Raises:
        ValueError: there is no such stage, block or position, or the model gives NaN.
    """
    image = image[None] if image.dim() == 3 else image
    if image.dim() != 4 or image.shape[0] != 1:
        raise ValueError(f"image has shape {tuple(image.shape)}, expected one picture (1, C, H, W)")
    height, width = image.shape[-2:]
    x, y = position if position is not None else ((width - 1) / 2, (height - 1) / 2)
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"position is ({x:g}, {y:g}), expected x from 0 to {width - 1} and y from 0 to {height - 1}")
    layer, block = _find_layer(model, stage, block)
    offset, weights = _run(model, layer, image)
    check_numbers(torch.cat((offset, weights), -1), offset.dtype)
    geometry, stride = layer.geometry, 4 * 2 ** (stage - 1)
    # output pixel i of every 3x3, stride 2 convolution on the way is centred on its input's pixel 2i
    column, row = min(round(x / stride), offset.shape[2] - 1), min(round(y / stride), offset.shape[1] - 1)
    at_x, at_y = sampling_locations(offset.float(), geometry)
    plain_x, plain_y = sampling_locations(torch.zeros_like(offset, dtype=torch.float32), geometry)
    points, grid = torch.stack((at_x, at_y), -1), torch.stack((plain_x, plain_y), -1)  # (1, H, W, G, P, 2)
    return SamplingPoints(
        points=(points[0, row, column] * stride).cpu(),
        weights=weights[0, row, column].reshape(geometry.groups, geometry.taps).cpu(),
        grid=_unscaled(grid[0, row, column, 0], geometry.offset_scale, (column, row)).cpu() * stride,
        center=(float(column * stride), float(row * stride)),
        output_pixel=(column, row),
        stride=stride,
        stage=stage,
        block=block,
        operator=type(layer).__name__,
    )


def _find_layer(model: nn.Module, stage: int, block: int) -> tuple[DCNv3 | DCNv4, int]:
    backbone = getattr(model, "backbone", model)
    levels = getattr(backbone, "levels", None)
    if levels is None:
        raise ValueError(f"{type(model).__name__} has no levels; expected a classifier or an InternImage backbone")
    if not 1 <= stage <= len(levels):
        raise ValueError(f"stage is {stage}, expected 1 to {len(levels)}")
    blocks = levels[stage - 1].blocks
    if not -len(blocks) <= block < len(blocks):
        raise ValueError(f"block is {block}, expected 0 to {len(blocks) - 1}: stage {stage} has {len(blocks)} blocks")
    return blocks[block].dcn, block % len(blocks)


def _run(model: nn.Module, layer: DCNv3 | DCNv4, image: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (1, H, W, G*P*2) and weights (1, H, W, G*P) of the layer while the model looks at the image."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        getattr(model, "backbone", model)(image)
    finally:
        handle.remove()
    if isinstance(layer, DCNv4):
        offset, mask = layer.sampling(seen[0])
        return offset.flatten(3), mask.float().flatten(3)
    _, offset, logits = layer.sampling(seen[0])
    return offset, logits.float().unflatten(-1, (layer.geometry.groups, -1)).softmax(-1).flatten(3)


def _unscaled(grid: Tensor, offset_scale: float, center: tuple[int, int]) -> Tensor:
    """The grid that ``offset_scale`` has stretched around its middle, back at the spacing of a plain convolution."""
    middle = grid.new_tensor(center)
    return middle + (grid - middle) / (offset_scale or 1.0)
