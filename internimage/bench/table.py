"""A table as words, and numbers as words; what prints them is in :mod:`.report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of words under a title, and lines that say how to read them."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def number(value: float) -> str:
    """Three figures."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Two decimals, or nothing."""
    return "" if value is None else f"{value:.2f}"


def binary(size: int | None, unknown: str = "not known") -> str:
    """Bytes in words."""
    if size is None:
        return unknown
    if abs(size) < 2**10:
        return f"{size} B"
    return f"{size / 2**10:.0f} KiB" if abs(size) < 2**20 else f"{size / 2**20:.1f} MiB"
