"""What the tests of multi-scale deformable attention share: named calls, and how to run and compare them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from internimage.ops import ms_deform_attn, ms_deform_attn_packed
from tests.tolerances import NEAR_LATTICE_PX, assert_close

from .cases import DEVICE

Sizes = tuple[tuple[int, int], ...]


class AttentionResult(NamedTuple):
    output: Tensor
    grad_value: Tensor
    grad_locations: Tensor
    grad_weights: Tensor


@dataclass(frozen=True)
class AttentionInputs:
    """The tensors of one call, the gradient that comes back included, and the sizes of the levels."""

    value: Tensor
    locations: Tensor
    weights: Tensor
    grad_output: Tensor
    sizes: Sizes

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.value, self.locations, self.weights

    def map(self, function: Callable[[Tensor], Tensor]) -> AttentionInputs:
        return AttentionInputs(*map(function, (*self.tensors, self.grad_output)), self.sizes)

    def to(self, kind: torch.dtype | str) -> AttentionInputs:
        """In another dtype, or on another device."""
        return self.map(lambda tensor: tensor.to(kind))

    def leaves(self) -> AttentionInputs:
        """The same call, with gradients for its three tensors."""
        return AttentionInputs(*(t.detach().requires_grad_() for t in self.tensors), self.grad_output, self.sizes)


@dataclass(frozen=True)
class AttentionCase:
    """A call by its shapes; locations reach ``beyond`` times the size of a level outside it."""

    name: str
    sizes: Sizes = ((4, 5), (2, 3))
    n: int = 2
    queries: int = 5
    heads: int = 2
    depth: int = 4
    points: int = 3
    beyond: float = 0.3

    def __str__(self) -> str:
        return self.name

    def make(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> AttentionInputs:
        """Rounded to ``dtype``, so that whoever computes in float64 sees the same numbers."""
        shape = (self.n, self.queries, self.heads, self.depth, self.sizes, self.points)
        return draw_attention(*shape, self.beyond, seed).to(dtype).to(DEVICE)


def draw_attention(
    n: int, queries: int, heads: int, depth: int, sizes: Sizes, points: int, beyond: float = 0.3, seed: int = 0
) -> AttentionInputs:
    """Normal values, locations from ``-beyond`` to ``1 + beyond``, positive weights; float64."""
    random = torch.Generator().manual_seed(seed)
    pixels = sum(h * w for h, w in sizes)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    def even(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random, dtype=torch.float64)

    return AttentionInputs(
        normal(n, pixels, heads, depth),
        even(n, queries, heads, len(sizes), points, 2) * (1 + 2 * beyond) - beyond,
        even(n, queries, heads, len(sizes), points),
        normal(n, queries, heads * depth),
        sizes,
    )


ATTENTION_CASES = [
    AttentionCase("base"),
    AttentionCase("one_level", ((5, 6),), points=4),
    AttentionCase("four_levels", ((5, 4), (3, 4), (2, 2), (1, 1)), n=1, points=4),
    AttentionCase("seven_levels", ((2, 3),) * 7, n=1, points=1),
    AttentionCase("empty_level_first", ((0, 4), (3, 2))),
    AttentionCase("empty_level_between", ((2, 3), (5, 0), (0, 0), (3, 2))),
    AttentionCase("empty_levels_only", ((0, 3), (2, 0))),
    AttentionCase("one_pixel_levels", ((1, 1), (1, 1), (1, 1))),
    AttentionCase("rows_and_columns", ((1, 9), (7, 1))),
    AttentionCase("far_away", beyond=20.0),
    AttentionCase("one_head_one_channel", heads=1, depth=1, points=1),
    AttentionCase("depth5", heads=3, depth=5),
    AttentionCase("depth8", depth=8),
    AttentionCase("depth16", depth=16, n=1),
    AttentionCase("depth17", depth=17, n=1),
    AttentionCase("depth32", depth=32, n=1),
    AttentionCase("depth67", depth=67, n=1, heads=1),
    AttentionCase("many_points", ((3, 4),), n=1, heads=1, points=37),
    AttentionCase("one_query", queries=1),
    AttentionCase("no_query", queries=0),
    AttentionCase("empty_batch", n=0),
]


def attend(inputs: AttentionInputs, backend: str | None, softmax: bool = False) -> Tensor:
    """The public function, or with ``softmax`` the packed one, whose weights are logits."""
    if not softmax:
        return ms_deform_attn(inputs.value, inputs.sizes, inputs.locations, inputs.weights, backend=backend)
    return ms_deform_attn_packed(inputs.value, inputs.sizes, pack(inputs), backend=backend)


def pack(inputs: AttentionInputs) -> Tensor:
    """Locations, then logits, of each query and head in one row."""
    return torch.cat((inputs.locations.flatten(3), inputs.weights.flatten(3)), -1)


def run_attention(inputs: AttentionInputs, backend: str | None, softmax: bool = False) -> AttentionResult:
    """Output and the three gradients; strides of the inputs are kept."""
    inputs = inputs.leaves()
    output = attend(inputs, backend, softmax)
    return AttentionResult(output.detach(), *torch.autograd.grad(output, inputs.tensors, inputs.grad_output))


def positions(inputs: AttentionInputs) -> Tensor:
    """Where each point samples, in pixels, (x, y); float64."""
    sides = torch.tensor([(w, h) for h, w in inputs.sizes], dtype=torch.float64, device=inputs.locations.device)
    return inputs.locations.double() * sides.view(1, 1, 1, -1, 1, 2) - 0.5


def near_grid_line(inputs: AttentionInputs, within: float = NEAR_LATTICE_PX) -> Tensor:
    """Which elements of the location gradient belong to samples that close to a grid line, where it jumps."""
    place = positions(inputs)
    return ((place - place.round()).abs() < within).any(-1, keepdim=True).expand_as(place)


def off_grid_lines(inputs: AttentionInputs, distance: float = 0.05) -> AttentionInputs:
    """The same call with every sample at least ``distance`` pixels from a grid line; float64, no empty levels."""
    place = positions(inputs)
    fraction = place - place.floor()
    place = place.floor() + fraction.clamp(distance, 1 - distance)
    sides = torch.tensor([(w, h) for h, w in inputs.sizes], dtype=torch.float64)
    return replace(inputs, locations=(place + 0.5) / sides.view(1, 1, 1, -1, 1, 2))


def assert_same_attention(got: AttentionResult, want: AttentionResult, what: str, ignore: Tensor | None = None) -> None:
    """Compare output and gradients by the table's row ``what``; of the location gradient what ``ignore`` leaves."""
    for name, a, b in zip(AttentionResult._fields, got, want, strict=True):
        if name == "grad_locations" and ignore is not None:
            a, b = a.masked_fill(ignore, 0), b.masked_fill(ignore, 0)
        try:
            assert_close(a, b, what)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
