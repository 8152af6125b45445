"""The report of what the compiler makes of the Triton kernels, and what the kernels promise in it."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from internimage.bench import resources
from internimage.bench.resources import CLASSES, ShapeClass, measure

pytestmark = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter's kernels do not compile")

SPILLS = 16  # bytes: two registers around the loop; in it there is nothing to spare them for


@pytest.fixture(autouse=True)
def own_triton_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def test_no_warp_waits_for_another():
    """There are no barriers, and in the forward pass no shared memory: a row's numbers are where its channels are."""
    shape = ShapeClass("dcnv3", torch.bfloat16, 4, 16, softmax=True)
    forward, backward = measure(shape, 90)
    assert (forward.kernel, backward.kernel) == ("forward", "backward")
    assert forward.shared == forward.barriers == forward.spilled == 0
    assert forward.registers <= 80 and forward.per_channel < 22
    assert backward.registers <= 80 and backward.per_channel < 55 and backward.barriers == 0


def test_the_table_has_a_line_a_kernel():
    rows = measure(ShapeClass("ms_deform_attn", torch.float16, 8, 32, softmax=False), 100)
    lines = resources.table(rows).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| ms_deform_attn float16 8x32 | forward | 100 |")


@pytest.mark.slow
@pytest.mark.parametrize("capability", resources.CAPABILITIES)
@pytest.mark.parametrize("shape", CLASSES, ids=str)
def test_no_class_spills(shape, capability):
    for row in measure(shape, capability):
        assert row.spilled <= SPILLS, row
        assert row.registers <= 128, row
        assert row.barriers == 0 and (row.kernel == "backward" or row.shared == 0), row
