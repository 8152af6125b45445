"""Correctness first: no speed is measured before the numbers agree."""

from __future__ import annotations

import torch
from torch import Tensor

BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""What a result in a dtype may be off, as a share of the largest value; the reasons stand in ``docs/benchmarks.md``."""


PEER_FACTOR = 20
"""How many times as much a package of others may be off and still be timed: some sum up in half types."""


class Disagreement(ValueError):
    """A form does not give the numbers it should, so timing it would mean nothing."""


def relative_error(got: Tensor, want: Tensor) -> float:
    """``max|got - want| / max|want|``; infinite for another shape or anything that is no number."""
    if got.shape != want.shape:
        return float("inf")
    error = (got.detach().double() - want.detach().double()).abs().max() / want.detach().double().abs().max()
    return error.item() if error.isfinite() else float("inf")


def require(what: str, got: Tensor, want: Tensor, bound: float) -> float:
    """The relative error of ``got``.

    Raises:
        Disagreement: it is larger than ``bound``.
    """
    error = relative_error(got, want)
    if not error <= bound:
        raise Disagreement(f"{what}: relative error {error:.2g}, allowed {bound:g}; nothing was timed")
    return error
