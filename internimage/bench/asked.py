"""What the command was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from . import op
from .shapes import split_words


@dataclasses.dataclass(frozen=True)
class Asked:
    """The options of the command, as they were typed; None is what is usual."""

    names: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None
    threads: int = 1
    shapes: str | None = None
    peers: str | None = None
    compare: str | None = None
    quick: bool = False
    train: bool = False
    compiled: bool = False
    features: bool = False

    def words(self, part: str | None) -> str:
        """The command that asks for the same."""
        options = (
            *(("--device", self.device), ("--dtype", self.dtype), ("--shapes", self.shapes), ("--peers", self.peers)),
            ("--threads", None if self.threads == 1 else str(self.threads)),
            ("--compare", self.compare),
        )
        flags = (
            *(("--quick", self.quick), ("--train", self.train)),
            *(("--compile", self.compiled), ("--features", self.features)),
        )
        words = ["internimage bench", *([part] if part else []), *self.names]
        words += [f"{name} {value}" for name, value in options if value]
        return " ".join([*words, *(name for name, on in flags if on)])


def dtypes(words: str | None, usual: Sequence[torch.dtype]) -> tuple[torch.dtype, ...]:
    """The dtypes of a comma list.

    Raises:
        ValueError: one is none that is timed.
    """
    known = {str(dtype).removeprefix("torch."): dtype for dtype in op.DTYPES}
    for word in split_words(words):
        if word not in known:
            raise ValueError(f"--dtype {word!r} is not timed; expected some of {', '.join(known)}")
    return tuple(known[word] for word in split_words(words)) or tuple(usual)
