"""Keeps the input of a block alone for the backward pass, which then computes the block once more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def computed_twice(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, to be computed again for its gradients; statistics of batch norm take in the batch once."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    if not norms or torch.compiler.is_compiling():  # the compiler takes no contexts, and sees the statistics change
        return _checkpointed(block, x)
    return _checkpointed(block, x, context_fn=lambda: (nullcontext(), _untracked(norms)))


def _checkpointed(block: nn.Module, x: Tensor, **how: Any) -> Tensor:
    result: Tensor = checkpoint(block, x, use_reentrant=False, **how)
    return result


@contextmanager
def _untracked(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norm that normalises by the batch, as before, and takes nothing of it into its statistics."""
    momenta = [norm.momentum for norm in norms]
    counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    counts = [counter.clone() for counter in counters]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for counter, count in zip(counters, counts, strict=True):
            counter.copy_(count)
