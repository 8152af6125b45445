"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer


def _not_empty(value: str | None) -> str | None:
    if value is not None and not value.strip():  # an unset variable of a shell; as a path it would be this folder
        raise typer.BadParameter("it is empty, expected a name, file or folder; leave the option out for the default")
    return value


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FILE",
        callback=_not_empty,
        help="A size or released checkpoint that `internimage models` lists, or a file of weights. "
        "Without it the small embedded model answers.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        callback=_not_empty,
        help="Weights for --model: a file, folder or released name.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps, ...; the fastest here unless given.")
]
DType = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")]
Backend = Annotated[
    str | None, typer.Option("--backend", help="How DCNv3 is computed; `internimage doctor` lists the ways.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
