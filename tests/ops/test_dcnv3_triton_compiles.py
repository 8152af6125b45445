"""The Triton kernels compile to machine code for cards that are not here, as PyTorch would launch them there."""

from __future__ import annotations

import os

import pytest
import torch

from internimage.ops.dcnv3 import gpu
from internimage.ops.geometry import Geometry

triton = pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = [
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter is on: its kernels do not compile"),
    pytest.mark.usefixtures("empty_cache"),
]

BOTH = pytest.mark.parametrize("direction", ["forward", "backward"])
T_STAGE_1 = Geometry(groups=4)
POINTERS = {torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compile_for(
    capability: int, direction: str, dtype: torch.dtype, geometry=T_STAGE_1, depth=16, softmax=True, **changes
):
    """The compiled kernel of one call on a 56x56 map; ``changes`` replace constants."""
    from internimage.ops.dcnv3 import triton_kernels

    rows = [torch.empty(2 * 56 * 56, geometry.groups * geometry.taps * per_tap, device="meta") for per_tap in (2, 1)]
    input = torch.empty(2, 56, 56, geometry.groups * depth, dtype=dtype, device="meta")
    sizes, constants = gpu.arguments(input, *rows, input.shape, geometry, softmax)
    setting = getattr(triton_kernels, f"{direction}_setting")(depth, geometry.taps)
    constants |= setting.kwargs | changes
    kernel = getattr(triton_kernels, f"{direction}_kernel")
    signature = {name: type_of(name, dtype, sizes, constants) for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if signature[name][0] == "*"}
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target, {"num_warps": setting.num_warps, **gpu.COMPILER_OPTIONS})


def type_of(name: str, dtype: torch.dtype, sizes: dict, constants: dict) -> str:
    if name in constants:
        return "constexpr"
    if name in sizes:
        return "i32"
    return POINTERS[gpu._sum_dtype(dtype) if name == "grad_input" else dtype]


def assert_machine_code(kernel, capability: int) -> None:
    assert kernel.asm["cubin"][:4] == b"\x7fELF" and len(kernel.asm["cubin"]) > 4096
    assert f".target sm_{capability}" in kernel.asm["ptx"]


@BOTH
@pytest.mark.parametrize(
    ("capability", "dtype"), [(80, torch.float16), (90, torch.bfloat16), (100, torch.float32)], ids=str
)
def test_compiles(capability, dtype, direction):
    assert_machine_code(compile_for(capability, direction, dtype), capability)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
@pytest.mark.parametrize("dtype", POINTERS, ids=str)
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles_in_every_dtype(capability, dtype, softmax, direction):
    assert_machine_code(compile_for(capability, direction, dtype, softmax=softmax), capability)


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
def test_compiles_for_every_class_of_shape(shape, direction):
    geometry, depth = SHAPES[shape]
    assert_machine_code(compile_for(90, direction, torch.float16, geometry, depth), 90)


@pytest.mark.slow
@BOTH
def test_compiles_with_long_addresses(direction):
    assert_machine_code(compile_for(90, direction, torch.float16, INDEX=triton.language.int64), 90)


def test_channels_are_read_and_written_sixteen_bytes_at_a_time():
    ptx = compile_for(80, "forward", torch.float16).asm["ptx"]
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx
