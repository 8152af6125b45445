"""Launch settings measured on this machine: when they are looked for, and the file that keeps them.

Nothing is measured unasked. Inside ``with autotune():``, or everywhere with ``INTERNIMAGE_AUTOTUNE=1``, the first call
of each class of shapes times a few settings on the card, which takes a second or two, and the fastest is kept in
``launch_settings.json`` in the folder ``INTERNIMAGE_CACHE`` or ``~/.cache/internimage``. From then on every process
finds it there, asked or not.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..files import write_through

logger = logging.getLogger("internimage")
FORMAT = "internimage launch settings 1"
Setting = tuple[int, ...]

_asked = 0
generation = 0
"""Rises when other settings may apply from here on; whoever keeps a setting asks again then."""


@contextmanager
def autotune() -> Iterator[None]:
    """In this block operators on a card measure launch settings for classes of shapes that they meet first.

    Example:
        >>> with internimage.ops.autotune():
        ...     model(images).sum().backward()
    """
    global _asked, generation
    _asked, generation = _asked + 1, generation + 1
    try:
        yield
    finally:
        _asked, generation = _asked - 1, generation + 1


def asked() -> bool:
    """Whether settings are to be measured."""
    return _asked > 0 or os.environ.get("INTERNIMAGE_AUTOTUNE", "0").lower() in ("1", "true", "yes", "on")


def setting_for(key: str, candidates: Sequence[Setting], seconds: Callable[[Setting], float] | None = None) -> Setting:
    """The setting to launch a class of calls with.

    Args:
        key: names the class: kernel, card, versions, shapes.
        candidates: what may be tried; the first is what nobody measured.
        seconds: how long a launch with a setting takes, ``math.inf`` where it does not run; None where nothing can be
            measured now.
    """
    known = _settings(path()).get(key)
    if known is not None and known in candidates:
        return known
    if seconds is None or not asked() or len(candidates) < 2:
        return candidates[0]
    best = min(candidates, key=seconds)
    logger.info("launch setting %s measured for %s", best, key)
    _keep(key, best)
    return best


def path() -> Path:
    """The file that keeps what was measured."""
    folder = os.environ.get("INTERNIMAGE_CACHE") or Path.home() / ".cache" / "internimage"
    return Path(folder).expanduser() / "launch_settings.json"


def _keep(key: str, setting: Setting) -> None:
    """Add to the file, beside what other processes have put there meanwhile."""
    file = path()
    measured = _settings(file) | {key: setting}
    _settings.cache_clear()
    settings = _settings(file)
    settings |= measured
    contents = {"format": FORMAT, "settings": {name: list(value) for name, value in sorted(settings.items())}}
    try:
        with write_through(file) as temporary:
            temporary.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        logger.warning("launch settings are not kept: %s", error)


@functools.cache
def _settings(file: Path) -> dict[str, Setting]:
    """What the file holds, read once; nothing where there is none, or where it is damaged or not ours."""
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
        if contents["format"] != FORMAT:
            raise ValueError(f"its format is {contents['format']!r}, expected {FORMAT!r}")
        return {str(key): tuple(int(number) for number in value) for key, value in contents["settings"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("%s is ignored: %s", file, error)
        return {}
