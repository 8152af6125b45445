"""The results file: one JSON object, whose keys and units docs/benchmarks.md lists. Schema 2."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import torch

from ..files import write_through
from . import machine

SCHEMA = 2
_ALWAYS = ("schema", "command", "date", "commit", "machine", "versions", "quick", "setting")

Results = dict[str, Any]


def begin(command: str, device: torch.device, quick: bool, setting: dict[str, Any]) -> Results:
    """The head of a results file: what was asked for, when, and on which machine."""
    return {
        "schema": SCHEMA,
        "command": command,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(device),
        "versions": machine.versions(),
        "quick": quick,
        "setting": setting,
    }


def text(results: Results) -> str:
    """As it stands in the file."""
    return json.dumps(results, indent=1, allow_nan=False) + "\n"


def write(results: Results, path: Path) -> None:
    """Write the file; it appears whole or not at all."""
    write_text(text(results), path)


def write_text(words: str, path: Path) -> None:
    """Write any text the same way."""
    with write_through(path) as temporary:
        temporary.write_text(words, encoding="utf-8")


def read(path: Path) -> Results:
    """A results file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no results file, or one of another schema.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); expected a file that internimage bench wrote") from error
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise ValueError(
            f"{path} has schema {schema!r}, expected {SCHEMA}; measure again, or use the version it is from"
        )
    missing = [key for key in _ALWAYS if key not in results]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it is no whole results file of internimage bench")
    return results


def file_name(results: Results) -> str:
    """Such as ``cpu-2026-11-25.json``: what was measured on, which part when it is one, and the day."""
    card = results["machine"]["device"]
    where = card["name"].lower().replace(" ", "-") if card else "cpu"
    part = "" if ("op" in results) == ("model" in results) else "-op" if "op" in results else "-model"
    quick = "-quick" if results["quick"] else ""  # never in the place of figures
    return f"{where}{part}{quick}-{results['date'][:10]}.json"
