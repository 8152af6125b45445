"""``python -m internimage.bench``: measure, print, and write down."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

SCHEMA = 1


class What(str, Enum):
    """What to measure."""

    op = "op"
    model = "model"


def bench(
    what: Annotated[
        What | None, typer.Argument(help="The operator alone, or whole networks; both unless given.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small shapes and few runs: whether it works, not how fast it is.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write them to cpu-DATE.json in this folder.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this file, in Markdown.")] = None,
) -> None:
    """Time DCNv3 and InternImage-T on one thread of the CPU against what else computes the same.

    Every form is checked first, and nothing is timed when the numbers do not agree.

    Example: python -m internimage.bench op --quick
    """
    from ..cli.output import printer
    from ..files import write_through
    from . import report

    results = measure(what, quick)
    report.show(results, printer())
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    dated = output / f"cpu-{results['date'][:10]}.json" if output else None
    for path, content in ((dated, text), (json_file, text), (markdown, report.markdown(results))):
        if path is None:
            continue
        with write_through(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
        typer.echo(f"wrote {path}", err=True)


def measure(what: What | None, quick: bool) -> dict[str, Any]:
    """Everything that was asked for, with the machine and the command that repeats it, as plain containers."""
    from . import machine, model, op

    if os.environ.get("INTERNIMAGE_BACKEND"):
        raise ValueError("INTERNIMAGE_BACKEND is set, so that all forms would run on that backend; unset it first")

    words = [what.value] if what else []
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "command": " ".join(["python -m internimage.bench", *words, *(["--quick"] if quick else [])]),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "quick": quick,
    }
    if what in (None, What.op):
        results["op"] = op.run(quick, _progress)
        results["ceilings"] = dataclasses.asdict(machine.measure_ceilings(quick))
    if what in (None, What.model):
        results["model"] = model.run(quick, progress=_progress)
    return results


def _progress(line: str) -> None:
    typer.echo(f"measuring {line}", err=True)


def main() -> None:
    """Errors that the message explains end in one line, without a traceback."""
    from ..ops.dispatch import BackendError

    try:
        typer.run(bench)
    except (ValueError, OSError, BackendError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
