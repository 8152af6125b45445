"""How many threads and rows the Triton kernels are launched with: what is tried, what is taken unmeasured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

THREADS_OF_A_FULL_CARD = 2**17  # about a thousand for each multiprocessor
WIDEST_VECTOR = 16  # bytes that a thread reads or adds to at once


class Setting(NamedTuple):
    """``lanes`` threads share a row, a program has 32 times ``warps`` threads, loops are unrolled ``unroll`` times."""

    lanes: int
    warps: int
    unroll: int

    @property
    def rows(self) -> int:
        """Rows of a program."""
        return max(1, 32 * self.warps // self.lanes)


class Pieces(NamedTuple):
    """A row's channels as the kernels take them: ``pieces`` times ``width``."""

    pieces: int
    width: int


def pieces_of(depth: int, vector: int, setting: Setting) -> Pieces:
    """Blocks for ``depth`` channels of which a thread takes ``vector`` at once."""
    whole = next_power_of_2(depth)
    width = min(whole, setting.lanes * vector)
    return Pieces(whole // width, width)


def vector_of(depth: int, size: int, widest: int = WIDEST_VECTOR) -> int:
    """Channels of ``size`` bytes that a thread takes at once: a power of 2 that divides ``depth``."""
    return min(depth & -depth, max(1, widest // size))


def candidates(depth: int, vector: int, size: int, rows: int, forward: bool) -> Sequence[Setting]:
    """Settings worth trying, the one to take unmeasured first.

    Args:
        depth: channels of a row.
        vector: channels that a thread takes at once.
        size: bytes of a channel where they are read (forward) or added up (backward).
        rows: rows of all images.
    """
    whole = next_power_of_2(depth)
    vectors = whole // vector
    # 32 bytes a thread, so that a position is computed once for two vectors; from two threads to eight vectors each
    lanes = max(min(2, vectors), min(vectors, whole * size // 32), vectors // 8)
    lanes = min(lanes, 128)
    if lanes > 32:
        warps = 4
    elif forward:  # the more rows a program has, the more of what it reads it has read before
        warps = 4 if rows * lanes >= THREADS_OF_A_FULL_CARD else 1
    else:  # what changes threads stays within the only warp, and nobody waits
        warps = 1
    first = Setting(lanes, warps, 3 if forward else 1)
    tried = [first]
    for other_lanes in (lanes, 2 * lanes, lanes // 2):
        for other_warps in (4, 2, 8, 1):
            for unroll in (3, 1) if forward else (1,):
                setting = Setting(other_lanes, other_warps, unroll)
                fits = 1 <= other_lanes <= vectors and vectors // other_lanes <= 8 and other_lanes <= 32 * other_warps
                if fits and setting not in tried:
                    tried.append(setting)
    return tried


def next_power_of_2(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
