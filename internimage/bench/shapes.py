"""The shapes that operators are timed at: how they are written, and the sets that have names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .work import Work

STRIDES = (8, 16, 32, 64)  # of the four levels that detectors attend to
POINTS = 4  # samples of a head on a level


@dataclass(frozen=True)
class MapShape:
    """Input (batch, height, width, channels) of a deformable convolution, kernel 3x3, stride 1, padding 1."""

    height: int
    width: int
    channels: int
    groups: int
    batch: int = 1
    taps: int = 9

    def __str__(self) -> str:
        batch = f"{self.batch}x" if self.batch > 1 else ""
        return f"{batch}{self.height}x{self.width}x{self.channels}/{self.groups}"

    @property
    def work(self) -> Work:
        """Offsets and masks are three numbers a sample; what packing adds is not counted."""
        pixels = self.batch * self.height * self.width
        samples = pixels * self.groups * self.taps
        values = pixels * self.channels
        return Work(samples, self.channels // self.groups, values + 3 * samples, values)


@dataclass(frozen=True)
class AttentionShape:
    """Queries that look at four levels of strides 8 to 64 of an image (batch, height, width), at four points each.

    ``queries`` None is one query for every position of all levels, as in a detector's encoder.
    """

    height: int
    width: int
    channels: int
    heads: int
    queries: int | None = None
    batch: int = 1

    def __str__(self) -> str:
        batch = f"{self.batch}x" if self.batch > 1 else ""
        at = "" if self.queries is None else f"@{self.queries}"
        return f"{batch}{self.height}x{self.width}x{self.channels}/{self.heads}{at}"

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level."""
        return tuple((-(-self.height // stride), -(-self.width // stride)) for stride in STRIDES)

    @property
    def positions(self) -> int:
        """Pixels of all levels, S."""
        return sum(h * w for h, w in self.levels)

    @property
    def looks(self) -> int:
        """Queries of one image."""
        return self.positions if self.queries is None else self.queries

    @property
    def work(self) -> Work:
        """Locations and weights are three numbers a sample."""
        samples = self.batch * self.looks * self.heads * len(self.levels) * POINTS
        values = self.batch * self.positions * self.channels
        return Work(samples, self.channels // self.heads, values + 3 * samples, self.batch * self.looks * self.channels)


Shape = MapShape | AttentionShape
MAP_NOTATION = "HxWxC/G or NxHxWxC/G, G a divisor of C, as in 56x56x128/4"
ATTENTION_NOTATION = (
    "HxWxC/M or NxHxWxC/M, image size, channels and heads, M a divisor of C, with @Q for Q queries: 800x1216x256/8@900"
)
_N = r"(\d{1,9})"  # longer ones pass what PyTorch takes
_WRITTEN = re.compile(rf"(?:{_N}x)?{_N}x{_N}x{_N}/{_N}(?:@{_N})?", re.ASCII)


def parse_map(text: str) -> MapShape | None:
    """The shape that is written as :data:`MAP_NOTATION` says, or None."""
    numbers = _numbers(text)
    if numbers is None or numbers[5] is not None:
        return None
    batch, height, width, channels, groups, _ = numbers
    return MapShape(height, width, channels, groups, batch or 1)


def parse_attention(text: str) -> AttentionShape | None:
    """The shape that is written as :data:`ATTENTION_NOTATION` says, or None."""
    numbers = _numbers(text)
    if numbers is None:
        return None
    batch, height, width, channels, heads, queries = numbers
    return AttentionShape(height, width, channels, heads, queries, batch or 1)


def _numbers(text: str) -> list[Any] | None:
    found = _WRITTEN.fullmatch(text)
    if found is None:
        return None
    numbers = [None if number is None else int(number) for number in found.groups()]
    if any(number == 0 for number in numbers) or numbers[3] % numbers[4]:  # type: ignore[operator]
        return None
    return numbers


def choose(
    words: Sequence[str],
    operator: str,
    sets: Mapping[str, tuple[Shape, ...]],
    parse: Callable[[str], Shape | None],
    notation: str,
) -> tuple[Shape, ...]:
    """The shapes that ``words`` name: each the name of a set, or a shape.

    Raises:
        ValueError: a word is neither.
    """
    chosen: list[Shape] = []
    for word in words:
        shape = parse(word)
        if word not in sets and shape is None:
            raise ValueError(
                f"--shapes {word!r} is no shape of {operator}; expected a set ({', '.join(sets)}), or {notation}"
            )
        chosen += sets[word] if word in sets else [shape]  # type: ignore[list-item]
    return tuple(dict.fromkeys(chosen))


def split_words(text: str | None) -> list[str]:
    """The words of a comma list."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]
