"""The bars of commands that take a while, on standard error and only where that is a terminal."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .output import messenger


def progress_bar(what: str) -> Progress:
    """A bar with counts, time taken and time left; tasks may change their ``description`` to say more."""
    console = messenger()
    return Progress(
        what,
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
