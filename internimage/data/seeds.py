"""Everything random is a function of numbers: a seed is mixed from them, and holds for a block of code."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mixed(*numbers: int) -> int:
    """A seed of 63 bits from whole numbers >= 0; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Python's, numpy's and torch's CPU generators start from ``numbers`` in the block, and go on as before after it.

    Libraries of augmentation draw from all three.
    """
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    seed = mixed(*numbers)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])
