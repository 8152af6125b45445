"""What the operator's tests share: the backends that run here, named calls, and how to run and compare them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from internimage.ops import dcnv3, native
from internimage.ops.dcnv3 import dcnv3_from_logits
from internimage.ops.dcnv3.reference import sampling_locations
from internimage.ops.geometry import Geometry
from tests.tolerances import NEAR_LATTICE_PX, assert_close

needs_kernel = pytest.mark.skipif(native.load_error() is not None, reason=f"backend 'cpu': {native.load_error()}")

BACKENDS = ["reference", "grid_sample", pytest.param("cpu", marks=needs_kernel)]
"""The Triton kernels run on the CPU only in their interpreter; they have test files of their own."""

DEVICE = os.environ.get("INTERNIMAGE_TEST_DEVICE", "cpu")
"""Where the tensors of named calls are made: "cuda" for the tests of the Triton kernels on a card (``tests/gpu``)."""

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Result(NamedTuple):
    output: Tensor
    grad_input: Tensor
    grad_offset: Tensor
    grad_mask: Tensor


@dataclass(frozen=True)
class Inputs:
    """The tensors of one call, the gradient that comes back included, and its geometry."""

    input: Tensor
    offset: Tensor
    mask: Tensor
    grad_output: Tensor
    geometry: Geometry

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        tensors = (self.input, self.offset, self.mask, self.grad_output)
        return Inputs(*map(function, tensors), self.geometry)

    def to(self, kind: torch.dtype | str) -> Inputs:
        """In another dtype, or on another device."""
        return self.map(lambda tensor: tensor.to(kind))


@dataclass(frozen=True)
class Case:
    """A call by its shapes. ``size`` is (N, H, W); ``depth`` is channels per group."""

    name: str
    size: tuple[int, int, int] = (2, 5, 6)
    depth: int = 4
    geometry: Geometry = Geometry(groups=2)
    offset_std: float = 1.5

    def __str__(self) -> str:
        return self.name

    def make(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
        """Rounded to ``dtype``, so that whoever computes in float64 sees the same numbers."""
        return draw(self.size, self.depth, self.geometry, self.offset_std, seed).to(dtype).to(DEVICE)


def draw(size: tuple[int, int, int], depth: int, geometry: Geometry, offset_std: float = 1.5, seed: int = 0) -> Inputs:
    """Normal inputs, offsets of ``offset_std`` pixels, positive masks; float64."""
    n, h, w = size
    h_out, w_out = geometry.output_size(h, w)
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    return Inputs(
        normal(n, h, w, geometry.groups * depth),
        normal(n, h_out, w_out, geometry.groups * geometry.taps * 2) * offset_std,
        torch.rand(n, h_out, w_out, geometry.groups * geometry.taps, generator=random, dtype=torch.float64),
        normal(n, h_out, w_out, geometry.groups * depth),
        geometry,
    )


CASES = [
    Case("base"),
    Case("zero_offsets", offset_std=0.0),
    Case("far_offsets", offset_std=30.0),
    Case("stride2", (1, 7, 6), geometry=Geometry(stride=(2, 2), groups=2)),
    Case("dilation2", (1, 7, 6), geometry=Geometry(padding=(2, 2), dilation=(2, 2), groups=2)),
    Case("asymmetric", (2, 7, 5), 3, Geometry((3, 5), (2, 1), (0, 3), (1, 2), 3, 1.5)),
    Case("even_kernel", (1, 5, 6), geometry=Geometry((2, 4), padding=(1, 2), groups=2)),
    Case("even_kernel_dilation", (1, 5, 6), geometry=Geometry((2, 4), (1, 1), (2, 3), (3, 2), 2, 1.5)),
    Case("pointwise", geometry=Geometry((1, 1), padding=(0, 0), groups=2)),
    Case("kernel5", (1, 6, 5), geometry=Geometry((5, 5), padding=(2, 2), groups=1)),
    Case("remove_center", geometry=Geometry(groups=2, remove_center=True)),
    Case("remove_center_3x5", (1, 5, 6), geometry=Geometry((3, 5), padding=(1, 2), groups=2, remove_center=True)),
    Case("scale2", geometry=Geometry(groups=2, offset_scale=2.0)),
    Case("scale_half", geometry=Geometry(groups=2, offset_scale=0.5)),
    Case("scale_negative", geometry=Geometry(groups=2, offset_scale=-1.5)),
    Case("no_padding", geometry=Geometry(padding=(0, 0), groups=2)),
    Case("padding_beyond_the_map", (1, 2, 3), geometry=Geometry(padding=(4, 5), groups=1)),
    Case("one_channel", depth=1, geometry=Geometry(groups=1)),
    Case("depth5", (1, 5, 6), 5, Geometry(groups=3)),
    Case("depth8", (1, 5, 6), 8),
    Case("depth16", (1, 4, 5), 16),
    Case("depth17", (1, 4, 3), 17),
    Case("depth32", (1, 4, 3), 32),
    Case("depth40", (1, 3, 4), 40),
    Case("depth67", (1, 3, 4), 67, Geometry(groups=1)),
    Case("one_pixel", (2, 1, 1)),
    Case("one_row", (1, 1, 9)),
    Case("one_column", (1, 9, 1)),
    Case("empty_batch", (0, 4, 5)),
]


def as_keywords(geometry: Geometry) -> dict:
    """The arguments of ``dcnv3`` that give this geometry."""
    names = ("kernel_size", "stride", "padding", "dilation", "groups", "offset_scale", "remove_center")
    return {name: getattr(geometry, name) for name in names}


def forward(inputs: Inputs, backend: str | None, softmax: bool = False) -> Tensor:
    """The public function, or with ``softmax`` the private one whose mask holds logits."""
    if softmax:
        return dcnv3_from_logits(inputs.input, inputs.offset, inputs.mask, inputs.geometry, backend)
    return dcnv3(inputs.input, inputs.offset, inputs.mask, **as_keywords(inputs.geometry), backend=backend)


def run(inputs: Inputs, backend: str | None, softmax: bool = False) -> Result:
    """Output and the three gradients; strides of the inputs are kept."""
    leaves = [tensor.detach().requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]
    output = forward(Inputs(*leaves, inputs.grad_output, inputs.geometry), backend, softmax)
    return Result(output.detach(), *torch.autograd.grad(output, leaves, inputs.grad_output))


def near_lattice(inputs: Inputs, within: float = NEAR_LATTICE_PX) -> Tensor:
    """Which elements of the offset gradient belong to samples that close to a grid line, where it jumps."""
    near = torch.zeros(*inputs.offset.shape[:3], inputs.geometry.groups, inputs.geometry.taps, dtype=torch.bool)
    near = near.to(inputs.offset.device)
    for position in sampling_locations(inputs.offset.double(), inputs.geometry):
        near |= (position - position.round()).abs() < within
    return near.unsqueeze(-1).expand(*near.shape, 2).reshape(inputs.offset.shape)


def assert_same(got: Result, want: Result, what: str, ignore: Tensor | None = None) -> None:
    """Compare output and gradients by the table's row ``what``; of the offset gradient only what ``ignore`` leaves."""
    for name, a, b in zip(Result._fields, got, want, strict=True):
        if name == "grad_offset" and ignore is not None:
            a, b = a.masked_fill(ignore, 0), b.masked_fill(ignore, 0)
        try:
            assert_close(a, b, what)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def off_lattice(inputs: Inputs, distance: float = 0.05) -> Inputs:
    """The same call with every sample at least ``distance`` from a grid line, for one without an offset_scale of 0."""
    n, h_out, w_out, _ = inputs.offset.shape
    geometry, scale = inputs.geometry, inputs.geometry.offset_scale
    moves = []
    for position in sampling_locations(inputs.offset, geometry):
        fraction = position - position.floor()
        moves.append((fraction.clamp(distance, 1 - distance) - fraction) / scale)
    move = torch.stack(moves, -1).reshape(inputs.offset.shape)
    return replace(inputs, offset=inputs.offset + move)


def tolerance_row(backend: str) -> str:
    """The row of the tolerance table for a backend."""
    return "export form" if backend == "grid_sample" else "operator"
