"""Encoded pictures kept in memory, all or one process's part: read from the disk once, decoded every time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from .dataset import Subset
from .order import EpochOrder, Share
from .pictures import PictureError
from .stored import StoredPictures

MODES = ("no", "part", "full", "memory")
_BLOCK = 64 * 2**20  # bytes of one tensor
_THREADS = 16  # readers while filling: a network disk answers many at a time
_PROBED = 100  # pictures measured to tell whether all will fit
_LEFT_FREE = 0.1  # share of the free memory that is not filled


class CachedPictures(StoredPictures):
    """Stored pictures, some of them in memory; the rest is read where it lies.

    The bytes are tensors, so that forked workers share them, and others are handed them through shared memory.
    """

    def __init__(self, pictures: StoredPictures, blocks: list[Tensor], place_of: Tensor) -> None:
        self.pictures, self.blocks, self.place_of = pictures, blocks, place_of
        self.names, self.labels, self.class_names = pictures.names, pictures.labels, pictures.class_names
        self.place, self.extras, self.at_least = pictures.place, pictures.extras, pictures.at_least

    @property
    def cached(self) -> int:
        """How many pictures are in memory."""
        return int((self.place_of[:, 0] >= 0).sum())

    def name(self, index: int) -> str:
        """What the picture is called where it lies."""
        return self.pictures.name(index)

    def read_bytes(self, index: int) -> bytes:
        """The file of one picture, from memory where it is there."""
        block, start, size = self.place_of[index].tolist()
        if block < 0:
            return self.pictures.read_bytes(index)
        return self.blocks[block][start : start + size].numpy().tobytes()


def cache_pictures(
    pictures: StoredPictures | Subset,
    mode: str,
    order: EpochOrder | None = None,
    share: Share | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StoredPictures | Subset:
    """Read files into memory ahead of training.

    Args:
        mode: "no" reads from the disk every time; "full" keeps every file in each process; "part" those whose index
            divided by the number of processes leaves ``share.rank``, as the released zip format does; "memory" the
            process's own part of an ``order`` that was made with as many parts as processes, so that after this
            nothing is read from the disk.
        progress: called with how many are read, of how many.

    Raises:
        ValueError: the mode is unknown, goes with other pictures, or the files do not fit into the free memory.
    """
    share = share or Share()
    if mode not in MODES:
        raise ValueError(f"cache is {mode!r}, expected one of {', '.join(MODES)}")
    if mode == "no":
        return pictures
    stored = pictures.dataset if isinstance(pictures, Subset) else pictures
    if not isinstance(stored, StoredPictures):
        raise ValueError(f"cache={mode!r} goes with pictures that lie in files; leave it at 'no' for these")
    if mode == "full":
        chosen = torch.arange(len(pictures))
    elif mode == "part":
        chosen = torch.arange(share.rank, len(pictures), share.world_size)
    else:
        if order is None or order.length != len(pictures) or order.parts != share.world_size:
            raise ValueError("cache='memory' needs the order of these pictures, with as many parts as processes")
        chosen = order.part(share.rank).sort().values
    if isinstance(pictures, Subset):
        return Subset(_fill(stored, pictures.indices[chosen], progress), pictures.indices)
    return _fill(stored, chosen, progress)


def _fill(pictures: StoredPictures, chosen: Tensor, progress: Callable[[int, int], None]) -> CachedPictures:
    """Read the chosen files, many at a time, into large tensors."""
    place_of = torch.full((len(pictures), 3), -1, dtype=torch.int64)
    blocks: list[Tensor] = []
    block = bytearray()
    with ThreadPoolExecutor(_THREADS) as readers:
        contents = _in_order(readers, lambda index: _bytes_or_none(pictures, index), chosen.tolist())
        for done, (index, data) in enumerate(contents, start=1):
            if data is not None:
                place_of[index] = torch.tensor((len(blocks), len(block), len(data)))
                block += data
            if len(block) > _BLOCK or (done == len(chosen) and block):
                blocks.append(torch.frombuffer(block, dtype=torch.uint8))
                block = bytearray()
            if done == min(_PROBED, len(chosen)):
                _check_room(place_of[:, 2].clamp(min=0).sum().item() / done * len(chosen), len(chosen))
            progress(done, len(chosen))
    return CachedPictures(pictures, blocks, place_of)


def _in_order(readers: ThreadPoolExecutor, read: Callable[[int], Any], indices: list[int]) -> Iterator[tuple[int, Any]]:
    """Index and result of each, never more than some ahead: results that nobody has taken yet fill the memory."""
    rest = iter(indices)
    waiting = [(index, readers.submit(read, index)) for index in islice(rest, 4 * _THREADS)]
    while waiting:
        index, result = waiting.pop(0)
        yield index, result.result()
        waiting += [(following, readers.submit(read, following)) for following in islice(rest, 1)]


def _bytes_or_none(pictures: StoredPictures, index: int) -> bytes | None:
    """None where it cannot be read: whoever asks for the picture is told why."""
    try:
        return pictures.read_bytes(index)
    except PictureError:
        return None


def _check_room(expected: float, count: int) -> None:
    free = _free_memory()
    if free is not None and expected > free * (1 - _LEFT_FREE):
        raise ValueError(
            f"{count:,} pictures take about {expected / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free; "
            "leave cache at 'no', or use more processes on more machines with 'memory'"
        )


def _free_memory() -> int | None:
    """Bytes that new data may take, None where the system does not say. Files that it keeps for speed count as free."""
    try:
        with open("/proc/meminfo") as file:
            sizes = dict(line.split(":", 1) for line in file)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
