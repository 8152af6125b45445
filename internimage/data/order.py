"""Which pictures a step takes: a function of seed and step, so that a run can begin anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """What one process takes of each step.

    A step of ``batch_size`` pictures is cut into ``world_size * accumulation`` equal consecutive shares; micro-batch
    ``a`` of process ``rank`` is share ``a * world_size + rank``.

    Raises:
        ValueError: a number is out of range.
    """

    rank: int = 0
    world_size: int = 1
    accumulation: int = 1

    def __post_init__(self) -> None:
        if self.world_size < 1 or self.accumulation < 1:
            raise ValueError(
                f"world_size is {self.world_size} and accumulation {self.accumulation}, expected 1 or more of each"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank is {self.rank}, expected 0 to {self.world_size - 1}")

    def micro_batch_size(self, batch_size: int) -> int:
        """Pictures of one micro-batch.

        Raises:
            ValueError: ``batch_size`` cannot be cut into equal shares.
        """
        shares = self.world_size * self.accumulation
        if batch_size < 1 or batch_size % shares:
            nearest = max(1, round(batch_size / shares)) * shares
            raise ValueError(
                f"batch_size is {batch_size}, expected a multiple of {shares} = {self.world_size} processes x "
                f"{self.accumulation} of accumulation, such as {nearest}"
            )
        return batch_size // shares

    def number(self, micro: int) -> int:
        """Which share of the step micro-batch ``micro`` of this process is."""
        return micro * self.world_size + self.rank


ALONE = Share()


class Place(NamedTuple):
    """A picture's place in a run: what its random changes follow from, and its index in the data set."""

    epoch: int
    position: int
    picture: int


class EpochOrder:
    """The order of pictures in each epoch, cut into steps; what does not fill a step is left out, other pictures each
    epoch.

    Args:
        length: pictures of the data set.
        batch_size: pictures of a step, over all processes and accumulation.
        parts: 1 lets every process see every picture over time. With the number of processes, each keeps to its own
            part, always the same for one ``seed``, and shuffles inside it: for pictures held in memory.

    Raises:
        ValueError: there are not enough pictures for a step.
    """

    def __init__(self, length: int, batch_size: int, seed: int, parts: int = 1) -> None:
        self.length, self.batch_size, self.seed, self.parts = length, batch_size, seed, parts
        if batch_size < 1 or parts < 1 or batch_size % parts:
            raise ValueError(f"batch_size is {batch_size}, expected 1 or more and a multiple of {parts} parts")
        self.steps_per_epoch = length // parts // (batch_size // parts)
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"{length:,} pictures do not fill a step of batch_size {batch_size}; "
                f"take {max(1, length // parts) * parts} or fewer"
            )
        self._epoch, self._indices = -1, torch.empty(0, dtype=torch.int64)

    def part(self, number: int) -> Tensor:
        """The indices of one part, (length // parts,), int64, in no order."""
        if self.parts == 1:
            return torch.arange(self.length)
        return self._parts()[number]

    def indices(self, epoch: int) -> Tensor:
        """(parts, length // parts), int64: the pictures of each part in the order of an epoch."""
        if self._epoch != epoch:
            generator = _generator(self.seed * 1_000_003 + epoch)
            if self.parts == 1:
                indices = torch.randperm(self.length, generator=generator)[None]
            else:
                rows = [part[torch.randperm(len(part), generator=generator)] for part in self._parts()]
                indices = torch.stack(rows)
            self._epoch, self._indices = epoch, indices
        return self._indices

    def micro_batch(self, step: int, share: Share, micro: int) -> list[Place]:
        """The pictures of micro-batch ``micro`` of a process in ``step``, which counts over all epochs."""
        size = share.micro_batch_size(self.batch_size)
        epoch, inside = divmod(step, self.steps_per_epoch)
        number = share.number(micro)
        first = inside * self.batch_size + number * size
        if self.parts == 1:
            chosen = self.indices(epoch)[0, first : first + size]
        else:
            start = (inside * share.accumulation + micro) * size
            chosen = self.indices(epoch)[share.rank, start : start + size]
        return [Place(epoch, first + i, index) for i, index in enumerate(chosen.tolist())]

    def micro_batches(self, first_step: int, last_step: int, share: Share) -> Iterator[list[Place]]:
        """Those of steps ``first_step`` up to, not including, ``last_step``, in order."""
        for step in range(first_step, last_step):
            for micro in range(share.accumulation):
                yield self.micro_batch(step, share, micro)

    def _parts(self) -> Tensor:
        each = self.length // self.parts
        shuffled = torch.randperm(self.length, generator=_generator(self.seed))
        return shuffled[: each * self.parts].view(self.parts, each)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
