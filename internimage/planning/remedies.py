"""Whether a run fits the memory there is, and what to change where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..train.strategies.base import STRATEGIES, WHOLE
from .budget import CAN_OFFLOAD, Setting, budget

GIB = 2**30
RESERVE = 1.0
"""GiB of a card that no estimate sees: its context, the kernels, gaps between blocks of memory."""

RELEASED_H = {
    (640, "deepspeed-1", False): 22572,
    (640, "deepspeed-3", False): 20000,
    (640, "deepspeed-3", True): 19144,
    (384, "deepspeed-1", False): 16000,
    (384, "deepspeed-3", True): 11928,
}
"""MiB of each of 8 cards that the authors state for InternImage-H, by image size, strategy and offload.

They say batch 16 and accumulation 4. Weights and gradients are float16 there and float32 here; they do not say whether
blocks were checkpointed, nor what their buckets were.
"""


def ways(processes: int, optimizer: str = "adamw") -> Iterator[tuple[str, bool]]:
    """Strategies for so many processes, each without and, where it can, with offload."""
    names = [name for name in STRATEGIES if name != "single"] if processes > 1 else ["single", *STRATEGIES[2:]]
    if optimizer == "muon":
        names = [name for name in names if name in WHOLE]
    for name in names:
        yield name, False
    for name in names:
        if name in CAN_OFFLOAD and name != "deepspeed-1":
            yield name, True


def fits(total: int, memory_gib: float, device: str) -> bool:
    """Whether a device ("cuda" or "cpu") of so much memory is enough for so many bytes."""
    reserve = RESERVE if device == "cuda" else 0.0
    return total / GIB + reserve <= memory_gib


def remedies(setting: Setting, memory_gib: float, most: int = 3) -> list[Setting]:
    """Settings that fit and train the same steps, if in smaller micro-batches; the smallest change first."""
    largest = setting.micro_batch_size
    found: dict[tuple[str, bool, bool], Setting] = {}
    for candidate in _candidates(setting):
        kind = (candidate.strategy, candidate.offload, candidate.checkpointing)
        if kind in found or candidate == setting:
            continue
        if fits(budget(candidate, largest).total, memory_gib, setting.device):
            found[kind] = candidate
            if len(found) == most:
                break
    return list(found.values())


def _candidates(setting: Setting) -> Iterator[Setting]:
    """Smaller micro-batches, checkpointing, both; then the same under strategies that share out more."""
    order = [(setting.strategy, setting.offload)]
    order += [way for way in ways(setting.processes, setting.optimizer) if _shares_more(way, setting)]
    for strategy, offload in order:
        here = replace(setting, strategy=strategy, offload=offload)
        for checkpointing in dict.fromkeys((setting.checkpointing, True)):
            for accumulation in _accumulations(here):
                yield replace(here, checkpointing=checkpointing, accumulation=accumulation)


def _shares_more(way: tuple[str, bool], setting: Setting) -> bool:
    return STRATEGIES.index(way[0]) > 1 and way != (setting.strategy, setting.offload)


def _accumulations(setting: Setting) -> Iterator[int]:
    """As it is, and parts of a half, a quarter, ... down to one image."""
    accumulation = setting.accumulation
    while setting.batch_size % (setting.processes * accumulation) == 0:
        yield accumulation
        accumulation *= 2


def released_estimates(setting: Setting) -> list[dict[str, Any]]:
    """:data:`RELEASED_H`, each figure beside the estimate for that setting; [] for other models than H."""
    if setting.model != "internimage_h":
        return []
    rows = []
    for (size, strategy, offload), mib in RELEASED_H.items():
        theirs = replace(setting, image_size=size, strategy=strategy, offload=offload, dtype="float16", device="cuda")
        parts = {"processes": 8, "accumulation": 4, "batch_size": 8 * 4 * 16}
        theirs = replace(theirs, **parts, checkpointing=True, average=False)  # type: ignore[arg-type]
        estimate = round(budget(theirs).total / 2**20)
        row = {"image_size": size, "strategy": strategy, "offload": offload, "stated_mib": mib}
        rows.append({**row, "estimate_mib": estimate})
    return rows
