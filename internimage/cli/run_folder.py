"""The folder of a run: whose it is, and what lies there to go on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..processes import Processes


def newest_checkpoint(folder: Path, processes: Processes, *, resume: bool, auto_resume: bool) -> Path | None:
    """What to go on from; refuses before any work what would only fail, or destroy a run, later."""
    from ..train.checkpoint import Checkpoints

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file, expected a folder")
    newest = Checkpoints(folder).newest()
    seen = sorted({str(path) for path in processes.gather(newest)})  # nobody writes before all have looked
    if len(seen) > 1:
        raise ValueError(
            f"the processes see different checkpoints, {seen[0]} and {seen[1]}; --output must be one folder that all "
            "machines share"
        )
    if newest and not (resume or auto_resume):
        raise ValueError(f"{folder} holds a run already; continue it with --resume, or choose another --output")
    if resume and not newest:
        raise FileNotFoundError(f"there is nothing to resume in {folder}; leave out --resume to start")
    return newest


@contextmanager
def claimed(folder: Path, processes: Processes) -> Iterator[None]:
    """Nobody else trains into this folder meanwhile: two runs would remove each other's checkpoints."""
    from ..files import make_folder, sole_writer

    made = processes.is_first and not folder.exists()
    if processes.is_first:
        make_folder(folder, "--output")
    try:
        with sole_writer(folder) if processes.is_first else nullcontext(True) as alone:
            if any(processes.any_of(not alone)):
                raise ValueError(f"another run is writing to {folder}; stop it, or choose another --output")
            yield
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()  # nothing came of it
