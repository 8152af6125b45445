"""Two parts of one data set: what is trained on and what is measured on."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_split(labels: Tensor, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of two parts, each class divided alike and at random, always the same for one ``seed``.

    Args:
        labels: (N,), int64.
        share: of each class that goes to the second part, 0 to below 1: at least one picture of each class of two or
            more, unless it is 0, and never the last one.

    Returns:
        Positions of the first and of the second part, ascending.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share held out is {share}, expected 0 to below 1")
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    members_of = labels.argsort(stable=True).split(labels.bincount().tolist())
    for members in filter(len, members_of):
        count = round(len(members) * share)
        if share:
            count = min(max(count, 1), len(members) - 1)
        held_out[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
