"""Random calls of the operators for hypothesis: any geometry, dtype and memory layout, offsets that go anywhere."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from internimage.ops.geometry import Geometry

from .attention_cases import AttentionInputs, draw_attention
from .cases import DTYPES, Inputs, draw

LAYOUTS = ("packed", "channels_first", "expanded", "sliced")


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def geometries(draw_from: st.DrawFn) -> Geometry:
    kernel_size = draw_from(pairs(1, 5))
    odd = kernel_size[0] % 2 and kernel_size[1] % 2 and kernel_size != (1, 1)
    return Geometry(
        kernel_size,
        stride=draw_from(pairs(1, 3)),
        padding=draw_from(pairs(0, 4)),
        dilation=draw_from(pairs(1, 3)),
        groups=draw_from(st.integers(1, 4)),
        offset_scale=draw_from(st.sampled_from([1.0, 2.0, 0.5, 1.3, 0.0, -0.7])),
        remove_center=bool(odd) and draw_from(st.booleans()),
    )


@st.composite
def calls(draw_from: st.DrawFn) -> Inputs:
    """A call whose numbers are exact in its dtype, with the offsets of some samples far, NaN, infinite or whole."""
    geometry = draw_from(geometries())
    n, h, w = draw_from(st.integers(0, 2)), draw_from(st.integers(1, 9)), draw_from(st.integers(1, 9))
    depth = draw_from(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12, 16, 19, 33]))
    spread, seed = draw_from(st.sampled_from([0.0, 0.5, 3.0])), draw_from(st.integers(0, 999))
    inputs = fitting(geometry, (n, h, w), depth, spread, seed)
    inputs = inputs.to(draw_from(st.sampled_from(DTYPES)))
    inputs = replace(inputs, offset=with_specials(inputs.offset, draw_from(st.booleans())))
    return inputs.map(lambda tensor: laid_out(tensor, draw_from(st.sampled_from(LAYOUTS))))


def fitting(geometry: Geometry, size: tuple[int, int, int], depth: int, spread: float = 1.5, seed: int = 0) -> Inputs:
    """A call of that size; where the kernel does not fit into it, with more padding."""
    if min(geometry.output_size(*size[1:])) < 1:
        missing = max(geometry.dilation[axis] * (geometry.kernel_size[axis] - 1) for axis in (0, 1))
        geometry = replace(geometry, padding=(missing, missing))
    return draw(size, depth, geometry, spread, seed)


def with_specials(offset: Tensor, wanted: bool) -> Tensor:
    """A tenth of the numbers replaced by what must not be trusted."""
    if not wanted or offset.numel() == 0:
        return offset
    largest = torch.finfo(offset.dtype).max
    specials = offset.new_tensor(
        [float("nan"), float("inf"), float("-inf"), largest, -largest, 1e4, -1e4, 1.0, -3.0, 7.0]
    )
    random = torch.Generator().manual_seed(offset.numel())
    chosen = specials[torch.randint(len(specials), offset.shape, generator=random)]
    return torch.where(torch.rand(offset.shape, generator=random) < 0.1, chosen, offset)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Such a tensor with other strides; ``expanded`` repeats its first image."""
    if layout == "channels_first":
        return tensor.movedim(-1, 1).contiguous().movedim(1, -1)
    if layout == "expanded" and tensor.shape[0]:
        return tensor[:1].expand_as(tensor)
    if layout == "sliced":
        return F.pad(tensor, (1, 2), value=float("nan"))[..., 1:-2]  # whoever reads beside it reads NaN
    return tensor


@st.composite
def attention_calls(draw_from: st.DrawFn) -> AttentionInputs:
    """A call of attention, likewise: any levels, empty ones too, and locations that go anywhere."""
    n, queries, heads = (draw_from(st.integers(low, high)) for low, high in ((0, 2), (0, 4), (1, 3)))
    sizes = tuple(draw_from(st.lists(pairs(0, 7), min_size=1, max_size=5)))
    depth = draw_from(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12, 16, 19, 33]))
    points, seed = draw_from(st.integers(1, 5)), draw_from(st.integers(0, 999))
    beyond = draw_from(st.sampled_from([0.0, 0.3, 3.0]))
    inputs = draw_attention(n, queries, heads, depth, sizes, points, beyond, seed)
    inputs = inputs.to(draw_from(st.sampled_from(DTYPES)))
    inputs = replace(inputs, locations=with_specials(inputs.locations, draw_from(st.booleans())))
    return inputs.map(lambda tensor: laid_out(tensor, draw_from(st.sampled_from(LAYOUTS))))
