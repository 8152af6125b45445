"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FILE",
        help="A size or released checkpoint that `internimage models` lists, or a file of weights. "
        "Without it the small embedded model answers.",
    ),
]
Weights = Annotated[
    str | None, typer.Option("--weights", metavar="FILE", help="Weights for --model: a file, folder or released name.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps, ...; the fastest here unless given.")
]
DType = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")]
Backend = Annotated[
    str | None, typer.Option("--backend", help="How DCNv3 is computed; `internimage doctor` lists the ways.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
