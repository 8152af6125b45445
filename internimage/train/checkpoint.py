"""What a resumed run needs, in one file, whatever engine wrote it; and the folder that keeps the last of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import write_through

FORMAT = "internimage training state 2"
_NAME = re.compile(r"checkpoint_(\d{8,})\.pt")


class Checkpoints:
    """The checkpoints of a run: ``checkpoint_00001234.pt``, named by the steps done, of which the last ``keep`` stay.

    A file of this name is always whole: it is written under another name, flushed to the disk, and renamed.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected 1 or more checkpoints")
        self.folder, self.keep = Path(folder), keep

    def save(self, contents: Mapping[str, Any]) -> Path:
        """Write one of ``contents["step"]`` steps, then remove what is older than the last ``keep``.

        Raises:
            OSError: the disk is full or cannot be written; those before are as they were.
        """
        path = self.folder / f"checkpoint_{contents['step']:08d}.pt"
        try:
            with write_through(path) as temporary, open(temporary, "wb") as file:
                torch.save({"format": FORMAT, **contents}, file)
        except (OSError, RuntimeError) as error:
            reason = error if isinstance(error, OSError) else error.__context__  # torch hides what the file said
            if not isinstance(reason, OSError):
                raise
            raise OSError(
                f"{path} cannot be written ({reason.strerror or reason}); the checkpoints before it are as they were: "
                "make room, and continue with --resume"
            ) from error
        for old in self.all()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def all(self) -> list[Path]:
        """By the number of steps, the newest last."""
        if not self.folder.is_dir():
            return []
        found = [(int(match.group(1)), path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def newest(self) -> Path | None:
        """The one to resume from, if there is any."""
        found = self.all()
        return found[-1] if found else None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a file of :meth:`Checkpoints.save`; nothing in it is executed.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; start without --resume")
    try:
        # mapped, not read: each process takes its part of a file that all processes of a machine share
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises several kinds for what is no file of its own
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(
            f"{path} is not a training checkpoint, or damaged: {reason}; remove it to go on from the one before"
        ) from error
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{path} is not a training checkpoint of internimage; those are named checkpoint_STEP.pt")
    return saved
