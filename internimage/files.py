"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def make_folder(folder: str | Path, option: str) -> None:
    """Make a folder, and prove that a file can be made in it before long work is done for it.

    Raises:
        OSError: it cannot; the message names the ``option`` that asks for it.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{option} {folder} is a file, expected a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{option}: no file can be made in {folder} ({reason}); choose another folder") from error


def check_file(path: str | Path, option: str) -> None:
    """Prove that a file of this name can be written before long work is done for it.

    Raises:
        OSError: it cannot; the message names the ``option`` that asks for it.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{option} {path} is a folder, expected the name of a file")
    make_folder(path.parent, option)


@contextmanager
def sole_writer(folder: str | Path) -> Iterator[bool]:
    """Whether no other process is in such a block for this folder; a process that is killed has left it.

    True where the system or the file system cannot tell, as on Windows.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    lock = Path(folder) / ".lock"
    while True:
        with open(lock, "w") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not shared with workers that live on
                alone = True
            except (BlockingIOError, PermissionError):
                alone = False
            except OSError:  # a network file system that does not lock
                alone = True
            if alone and not _is_still(lock, file):
                continue  # the one before took it away meanwhile
            try:
                yield alone
            finally:
                if alone:
                    lock.unlink(missing_ok=True)
            return


def _is_still(path: Path, file: IO[str]) -> bool:
    """Whether a file that was opened is what its path leads to."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def remove_unfinished(folder: str | Path) -> None:
    """Remove what :func:`write_through` left there when it was killed; for a folder that nobody else writes to now."""
    for path in Path(folder).glob(".*.part"):
        path.unlink(missing_ok=True)


@contextmanager
def write_through(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well and removed when it does not.

    The contents are on the disk before the name is, so that a machine that loses power leaves no half of a file either.
    Folders on the way are made. Whoever writes it, the file may be read by those who may read new files of this user.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        temporary.chmod(mode)  # safetensors writes files that only their owner reads
        _flush(temporary)
        temporary.replace(path)
        with suppress(OSError):  # Windows opens no folders, and some network disks flush none
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Put the contents of a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
