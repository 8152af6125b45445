"""Attention's Triton kernels compile to machine code for cards that are not here."""

from __future__ import annotations

import os

import pytest
import torch

from internimage.ops import triton_launch
from internimage.ops.ms_deform_attn import gpu

from .attention_cases import AttentionInputs, draw_attention
from .compiling import Compiler, assert_machine_code

pytestmark = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter's kernels do not compile")

BOTH = pytest.mark.parametrize("direction", ["forward", "backward"])
LIKE_A_DETECTOR = ((8, 9), (4, 5), (2, 3), (1, 2))


@pytest.fixture
def compile_for(monkeypatch, tmp_path):
    """A function that calls the backend as for a card of some capability, and returns the compiled kernel."""
    from internimage.ops.ms_deform_attn import triton_kernels

    compiler = Compiler(triton_kernels, monkeypatch, tmp_path)

    def compile_for(capability: int, direction: str, inputs: AttentionInputs, softmax: bool = True):
        tensors = (inputs.value.flatten(2), inputs.locations.flatten(3), inputs.weights.flatten(3))
        call = (*tensors, inputs.sizes, softmax)
        if direction == "forward":
            return compiler.compiled(capability, gpu.forward, *call)
        return compiler.compiled(capability, gpu.backward, inputs.grad_output, *call)

    return compile_for


def inputs(dtype: torch.dtype, sizes=LIKE_A_DETECTOR, n=2, queries=7, heads=8, depth=32, points=4) -> AttentionInputs:
    return draw_attention(n, queries, heads, depth, sizes, points).to(dtype)


CARDS = [("forward", 80, torch.float16), ("backward", 90, torch.bfloat16), ("backward", 100, torch.float32)]


@pytest.mark.parametrize(("direction", "capability", "dtype"), CARDS, ids=str)
def test_compiles(compile_for, direction, capability, dtype):
    assert_machine_code(compile_for(capability, direction, inputs(dtype)), capability)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("softmax", [False, True], ids=["weights", "logits"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles_in_every_dtype(compile_for, capability, dtype, softmax, direction):
    assert_machine_code(compile_for(capability, direction, inputs(dtype), softmax), capability)


SHAPES = {
    "one_level": {"sizes": ((5, 4),), "heads": 1, "points": 1},
    "depth17": {"depth": 17, "heads": 3, "points": 3},
    "depth1": {"depth": 1},
    "depth1025": {"depth": 1025, "heads": 2},
    "many_levels": {"sizes": ((3, 4),) * 20, "points": 8},
}


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_compiles_for_every_class_of_shape(compile_for, shape, direction):
    assert_machine_code(compile_for(90, direction, inputs(torch.float16, **SHAPES[shape])), 90)


@pytest.mark.slow
@BOTH
def test_compiles_with_long_addresses(compile_for, direction, monkeypatch):
    short = compile_for(90, direction, inputs(torch.bfloat16))
    monkeypatch.setattr(triton_launch, "INT32_ADDRESSES", 0)
    long = compile_for(90, direction, inputs(torch.bfloat16))
    assert_machine_code(long, 90)
    assert long is not short


SIZES = [
    {},
    {"sizes": ((1, 1), (16, 16), (0, 3), (1, 2)), "n": 1},
    {"sizes": ((1, 32), (1, 1), (1, 1), (1, 1)), "queries": 16, "n": 16},
]


def test_every_size_of_map_and_batch_runs_the_same_kernel(compile_for):
    """A detector sees a new size with each picture and must not wait for a compiler each time."""
    kernels = {compile_for(90, "forward", inputs(torch.bfloat16, **sizes)) for sizes in SIZES}
    assert len(kernels) == 1


def test_channels_are_read_and_written_sixteen_bytes_at_a_time(compile_for):
    ptx = compile_for(80, "forward", inputs(torch.float16)).asm["ptx"]
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx
