"""``internimage demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def demo(
    output: Annotated[Path, typer.Option("--output", help="The folder to write to.")] = Path("demo_output"),
    json: options.Json = False,
) -> None:
    """Classify forty real pictures with the embedded model, draw the answers, and write a page about it.

    Works without network. Example: [bold]internimage demo --output demo_output[/bold]
    """
    from ..demo import run
    from .output import print_json, printable, printer, text

    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file, expected a folder")
    result = run(output)
    total, note = len(result.pictures), result.pictures[0].prediction.note
    if json:
        print_json(
            {
                "right": result.right,
                "total": total,
                "seconds": round(result.seconds, 3),
                "note": note,
                "page": printable(result.page),
                "wrong": [
                    {"picture": shown.name, "truth": shown.truth, "answer": shown.prediction.top}
                    for shown in result.pictures
                    if not shown.right
                ],
            }
        )
        return
    console = printer()
    console.print(text(f"{result.right} of {total} pictures right, in {result.seconds:.1f} s ({note})", "bold"))
    for shown in result.pictures:
        if not shown.right:
            console.print(text(f"  wrong: {shown.name} is {shown.truth}, answered {shown.prediction.top}"))
    console.print(text(f"Look at {result.page}; the drawn pictures are in {result.folder / 'pictures'}"))
