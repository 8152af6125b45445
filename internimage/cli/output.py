"""How commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

WIDTH_IN_FILES = 120  # columns where standard output is no terminal, so that names are not cut


def printer() -> Console:
    """For results."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH_IN_FILES)


def messenger() -> Console:
    """For progress and remarks, on standard error."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def print_json(results: Any) -> None:
    """One JSON object, in ASCII so that any terminal and any pipe takes it."""
    print(json.dumps(results, indent=2, allow_nan=False))


def text(words: object, style: str = "") -> Text:
    """Words as they are: no markup in them is followed, and undecodable parts of file names are spelled out."""
    return Text(printable(words), style=style)


def printable(words: object) -> str:
    """Words that every terminal takes."""
    return str(words).encode("utf-8", "backslashreplace").decode("utf-8")
