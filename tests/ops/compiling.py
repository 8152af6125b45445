"""Triton kernels compiled for cards that are not here, by the very calls that would launch them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")


class Card:
    """As much of a driver as compiling needs. The device's number is its capability: kernels are kept by device."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiler:
    """Makes the kernels of ``kernels`` stop before their launch, for as long as the patch lasts."""

    def __init__(self, kernels: ModuleType, patch: pytest.MonkeyPatch, folder: Path):
        self._patch, self._compiled = patch, []
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        for kernel in (kernels.forward_kernel, kernels.backward_kernel):
            patch.setattr(kernel, "run", self._compiles_only(kernel.run))

    def _compiles_only(self, run: Callable):
        def stop_there(*tensors, warmup, **arguments):
            self._compiled.append(run(*tensors, warmup=True, **arguments))

        return stop_there

    def compiled(self, capability: int, function: Callable, *arguments):
        """The kernel that ``function(*arguments)`` would launch on a card of that capability."""
        self._patch.setattr(triton.runtime.driver, "_active", Card(capability))
        function(*arguments)
        return self._compiled.pop()


def assert_machine_code(kernel, capability: int) -> None:
    assert kernel.asm["cubin"][:4] == b"\x7fELF" and len(kernel.asm["cubin"]) > 4096
    assert f".target sm_{capability}" in kernel.asm["ptx"]
