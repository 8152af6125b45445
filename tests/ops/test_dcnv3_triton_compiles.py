"""The Triton kernels compile to machine code for cards that are not here, by the very calls that would launch them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from internimage.ops import triton_launch, triton_ordered
from internimage.ops.dcnv3 import gpu
from internimage.ops.dcnv4.packed import packed_channels, unpack
from internimage.ops.geometry import Geometry

from .cases import Inputs, draw
from .compiling import Compiler, assert_machine_code

pytestmark = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter's kernels do not compile")

BOTH = pytest.mark.parametrize("direction", ["forward", "backward"])
LIKE_T = Geometry(groups=4)


@pytest.fixture
def compile_for(monkeypatch, tmp_path):
    """A function that calls the backend as for a card of some capability, and returns the compiled kernel."""
    from internimage.ops.dcnv3 import triton_kernels

    compiler = Compiler(triton_kernels, monkeypatch, tmp_path)

    def compile_for(capability: int, direction: str, inputs: Inputs, softmax: bool = True):
        call = (inputs.input, inputs.offset, inputs.mask, inputs.geometry, softmax)
        if direction == "forward":
            return compiler.compiled(capability, gpu.forward, *call)
        return compiler.compiled(capability, gpu.backward, inputs.grad_output, *call)

    return compile_for


def inputs(dtype: torch.dtype, geometry: Geometry = LIKE_T, depth: int = 16, size=(2, 14, 14)) -> Inputs:
    return draw(size, depth, geometry).to(dtype)


CARDS = [(80, torch.float16), (90, torch.bfloat16), (100, torch.float32)]


@BOTH
@pytest.mark.parametrize(("capability", "dtype"), CARDS, ids=str)
def test_compiles(compile_for, capability, dtype, direction):
    assert_machine_code(compile_for(capability, direction, inputs(dtype)), capability)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles_in_every_dtype(compile_for, capability, dtype, softmax, direction):
    assert_machine_code(compile_for(capability, direction, inputs(dtype), softmax), capability)


SHAPES = {
    "internimage_h": (Geometry(groups=10), 32),
    "depth17": (Geometry(groups=3), 17),
    "depth1": (Geometry(groups=1), 1),
    "depth1025": (Geometry(groups=2), 1025),
    "remove_center": (Geometry((5, 5), padding=(2, 2), groups=3, offset_scale=0.3, remove_center=True), 16),
    "asymmetric": (Geometry((3, 6), (2, 1), (0, 3), (1, 2), 3, 1.5), 5),
    "kernel_31": (Geometry((31, 31), padding=(15, 15), groups=2), 16),
}


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_compiles_for_every_class_of_shape(compile_for, shape, direction):
    geometry, depth = SHAPES[shape]
    assert_machine_code(compile_for(90, direction, inputs(torch.float16, geometry, depth)), 90)


@BOTH
def test_compiles_with_long_addresses(compile_for, direction, monkeypatch):
    short = compile_for(90, direction, inputs(torch.bfloat16))
    monkeypatch.setattr(triton_launch, "INT32_ADDRESSES", 0)
    long = compile_for(90, direction, inputs(torch.bfloat16))
    assert_machine_code(long, 90)
    assert long is not short


@BOTH
def test_compiles_for_views_of_one_packed_tensor(compile_for, direction):
    """As DCNv4 has offsets and masks, with other strides between the groups."""
    packed = inputs(torch.float16)
    views = unpack(torch.zeros(2, 14, 14, packed_channels(LIKE_T), dtype=torch.float16), LIKE_T)
    packed = replace(packed, offset=views[0], mask=views[1])
    assert_machine_code(compile_for(90, direction, packed, softmax=False), 90)


@BOTH
def test_every_size_of_map_and_batch_runs_the_same_kernel(compile_for, direction):
    """A detector sees a new size with each picture and must not wait for a compiler each time."""
    kernels = {compile_for(90, direction, inputs(torch.bfloat16, size=size)) for size in SIZES}
    assert len(kernels) == 1


SIZES = [(2, 14, 14), (1, 1, 1), (16, 16, 16), (3, 1, 7), (1, 5, 32)]


def test_channels_are_read_and_written_sixteen_bytes_at_a_time(compile_for):
    ptx = compile_for(80, "forward", inputs(torch.float16)).asm["ptx"]
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_compiles_the_kernels_that_sum_in_order(compile_for, deterministic, monkeypatch):
    found = []
    run = triton_ordered.sum_parts_kernel.run

    def stop_there(*tensors, warmup, **arguments):
        found.append(run(*tensors, warmup=True, **arguments))

    monkeypatch.setattr(triton_ordered.sum_parts_kernel, "run", stop_there)
    notes = compile_for(90, "backward", inputs(torch.bfloat16))
    assert_machine_code(notes, 90)
    assert "red.global" not in notes.asm["ptx"] and "atom.global" not in notes.asm["ptx"]
    assert_machine_code(found[0], 90)
    assert "red.global" not in found[0].asm["ptx"] and "atom.global" not in found[0].asm["ptx"]
