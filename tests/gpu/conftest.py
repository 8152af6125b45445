"""Where the tests of this folder run: on a card, or, those that are small enough, in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from tests.ops.cases import DEVICE


@pytest.fixture(autouse=True)
def all_bits_of_float32(monkeypatch):
    """Convolutions of cuDNN leave thirteen of them out unless told otherwise, more than these tests would forgive."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def device() -> str:
    """For tests that the interpreter runs too."""
    if DEVICE == "cuda":
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    pytest.skip("needs a card (python -m tests.gpu FOLDER), or TRITON_INTERPRET=1")


@pytest.fixture
def card() -> str:
    """For tests of what only a card has."""
    if DEVICE != "cuda":
        pytest.skip("needs a card (python -m tests.gpu FOLDER)")
    return "cuda"


@pytest.fixture
def gigabytes(card):
    """``gigabytes(30)`` skips the test on a card with less memory than that left."""

    def require(number: float) -> None:
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0] / 1e9
        if free < number:
            pytest.skip(f"needs {number} GB of the card's memory, {free:.0f} are free")

    return require


@pytest.fixture
def deterministic():
    yield torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms(False)
