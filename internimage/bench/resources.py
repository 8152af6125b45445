"""What the compiler makes of the Triton kernels: registers, spills, shared memory, instructions; no card is needed.

``python -m internimage.bench.resources`` prints a table for sm_80, sm_90 and sm_100 from Triton's own tools.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..ops import triton_launch
from ..ops.dcnv3 import gpu as dcnv3
from ..ops.geometry import Geometry
from ..ops.ms_deform_attn import gpu as attention
from ..ops.triton_settings import Setting

CAPABILITIES = (80, 90, 100)
LEVELS = ((100, 152), (50, 76), (25, 38), (13, 19))


@dataclass(frozen=True)
class ShapeClass:
    """A class of calls: what is compiled in, and one size that belongs to it."""

    operator: str
    dtype: torch.dtype
    groups: int
    depth: int
    softmax: bool
    batch: int = 64

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.operator} {dtype} {self.groups}x{self.depth}{' softmax' if self.softmax else ''}"


CLASSES = (
    ShapeClass("dcnv3", torch.float16, 4, 32, False),
    ShapeClass("dcnv3", torch.float16, 4, 16, True),
    ShapeClass("dcnv3", torch.bfloat16, 4, 16, True),
    ShapeClass("dcnv3", torch.bfloat16, 10, 32, True),
    ShapeClass("dcnv3", torch.float32, 4, 16, True),
    ShapeClass("dcnv3", torch.float32, 4, 32, False),
    ShapeClass("dcnv4", torch.float16, 4, 32, False),
    ShapeClass("dcnv4", torch.bfloat16, 4, 16, False),
    ShapeClass("dcnv3", torch.float16, 3, 17, True),
    ShapeClass("ms_deform_attn", torch.float16, 8, 32, False),
    ShapeClass("ms_deform_attn", torch.bfloat16, 8, 32, True),
    ShapeClass("ms_deform_attn", torch.float32, 8, 32, False),
)


@dataclass(frozen=True)
class Resources:
    """Of one kernel. ``per_channel``: instructions of the loop over taps, for a sample and channel of one thread."""

    kernel: str
    shape: ShapeClass
    capability: int
    threads: int
    registers: int
    spilled: int
    shared: int
    instructions: int
    barriers: int
    per_channel: float


class Card:
    """As much of a driver as compiling needs. The device's number is its capability: kernels are kept by device."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def only_compiled(capability: int) -> Iterator[list[tuple[str, Setting, int, Any]]]:
    """In this block launches compile for a card and stop there.

    Gives a list that grows: the kernel's name, its setting, channels of a thread, and what was compiled.
    """
    from triton.runtime import driver

    found: list[tuple[str, Setting, int, Any]] = []

    def compile_only(problem: triton_launch.Problem) -> None:
        setting = triton_launch.settings_of(problem)[0]
        constants = triton_launch.constants_of(problem, setting)
        arguments = (*problem.tensors, problem.parts(setting.rows)[0], *problem.sizes)
        options = {"num_warps": setting.warps, **triton_launch.COMPILER_OPTIONS}
        run = problem.kernel.load().run
        compiled = run(*arguments, grid=(1,), warmup=True, **constants, **options)
        channels = constants["PIECES"] * constants["WIDTH"] // setting.lanes
        found.append((problem.kernel.name.removesuffix("_kernel"), setting, channels, compiled))

    before, launch = driver._active, (dcnv3.launch, attention.launch)
    driver._active = Card(capability)
    dcnv3.launch = attention.launch = compile_only
    try:
        yield found
    finally:
        driver._active = before
        dcnv3.launch, attention.launch = launch


def measure(shape: ShapeClass, capability: int) -> list[Resources]:
    """The forward and the backward kernel of a class, with the settings that are taken unmeasured."""
    with only_compiled(capability) as found:
        for call in _calls(shape):
            call()
    return [_resources(shape, capability, *one) for one in found]


def _calls(shape: ShapeClass) -> Sequence[Callable[[], Any]]:
    if shape.operator == "ms_deform_attn":
        return _attention_calls(shape)
    geometry = Geometry(groups=shape.groups)
    size, taps, groups = (shape.batch, 56, 56), geometry.taps, shape.groups
    input = _nowhere(*size, groups * shape.depth, dtype=shape.dtype)
    if shape.operator == "dcnv4":
        packed = _nowhere(*size, groups, 3 * taps, dtype=shape.dtype)
        offset, mask = packed.split((2 * taps, taps), -1)
    else:
        offset, mask = (_nowhere(*size, groups, numbers, dtype=shape.dtype) for numbers in (2 * taps, taps))
    return (
        lambda: dcnv3.forward(input, offset, mask, geometry, shape.softmax),
        lambda: dcnv3.backward(input, input, offset, mask, geometry, shape.softmax),
    )


def _attention_calls(shape: ShapeClass) -> Sequence[Callable[[], Any]]:
    pixels, taps, heads = sum(h * w for h, w in LEVELS), 4 * len(LEVELS), shape.groups
    values = _nowhere(2, pixels, heads * shape.depth, dtype=shape.dtype)
    locations, weights = (_nowhere(2, pixels, heads, numbers, dtype=shape.dtype) for numbers in (2 * taps, taps))
    return (
        lambda: attention.forward(values, locations, weights, LEVELS, shape.softmax),
        lambda: attention.backward(values, values, locations, weights, LEVELS, shape.softmax),
    )


def _nowhere(*size: int, dtype: torch.dtype) -> Tensor:
    """A tensor of that size and type that is never read: memory that the system does not back."""
    return torch.empty(size, dtype=dtype)


def _resources(
    shape: ShapeClass, capability: int, name: str, setting: Setting, channels: int, compiled: Any
) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(compiled.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", str(binary))
        lines = _tool("nvdisasm", "-c", str(binary)).splitlines()
    instructions, loop = _instructions(lines)
    return Resources(
        name,
        shape,
        capability,
        32 * setting.warps,
        _number(r"REG:(\d+)", usage),
        _number(r"STACK:(\d+)", usage),
        compiled.metadata.shared,
        len(instructions),
        sum("BAR.SYNC" in instruction for instruction in instructions[loop]),
        (loop.stop - loop.start) / setting.unroll / channels,
    )


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if not found:
        raise ValueError(f"no {pattern} in what cuobjdump says: {text[-200:]!r}")
    return int(found[1])


def _tool(name: str, *arguments: str) -> str:
    """What a program of Triton's NVIDIA backend prints."""
    import triton

    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=True).stdout


def _instructions(lines: Sequence[str]) -> tuple[list[str], slice]:
    """The instructions of a kernel, and those of its longest loop, which is that over the taps."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in lines:
        if label := re.match(r"\s*(\.L_\S+):", line):
            labels[label[1]] = len(instructions)
        if found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(found[1])
    loop = slice(0, 0)
    for end, instruction in enumerate(instructions):
        jump = re.search(r"BRA.*?`\((\.L_\S+)\)", instruction)
        start = labels.get(jump[1], end) if jump else end
        if end - start > loop.stop - loop.start:
            loop = slice(start, end + 1)
    return instructions, loop


def table(rows: Sequence[Resources]) -> str:
    """In Markdown."""
    lines = [
        "| class | kernel | sm | threads | registers | spilled bytes | shared bytes | instructions | barriers a loop "
        "| instructions a sample and channel |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.shape} | {row.kernel} | {row.capability} | {row.threads} | {row.registers} | {row.spilled} "
            f"| {row.shared} | {row.instructions} | {row.barriers} | {row.per_channel:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([row for capability in CAPABILITIES for shape in CLASSES for row in measure(shape, capability)]))
