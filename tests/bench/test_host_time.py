"""How long a call keeps the host, measured without a card."""

from __future__ import annotations

import pytest
import torch

from internimage.bench import host_time
from internimage.ops import triton_launch

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_measures_every_operator_up_to_the_driver():
    before = dict(triton_launch._launches), triton_launch._first_launch
    result = host_time.measure(calls=20)
    assert result["card"] is None and result["empty_launch"] is None
    assert result["above_empty"].keys() == {"dcnv3", "dcnv4", "ms_deform_attn"}
    assert all(0 < microseconds < 10_000 for microseconds in result["above_empty"].values())
    assert (triton_launch._launches, triton_launch._first_launch) == before
