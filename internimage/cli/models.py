"""``internimage models``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..weights.catalog import Released

TASKS = ("classification", "detection", "segmentation", "driving", "all")


def models(
    word: Annotated[
        str | None, typer.Argument(metavar="WORD", help="Only names, models and datasets with this in them.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="One of " + ", ".join(TASKS) + ".")] = None,
    json: options.Json = False,
) -> None:
    """List the models, and the weights their authors released for them, with the scores they publish.

    Example: [bold]internimage models[/bold], or [bold]internimage models coco --task detection[/bold]
    """
    from ..weights import catalog

    if task is not None and task not in TASKS:
        raise typer.BadParameter(f"{task!r}, expected one of {', '.join(TASKS)}", param_hint="--task")
    shown = task or ("all" if json or word else "classification")
    entries = [entry for entry in catalog.released().values() if shown in ("all", entry.task) and _has(entry, word)]
    if json:
        from .output import print_json

        print_json({"sizes": _sizes(word), "released": [_as_json(entry) for entry in entries]})
        return
    _print_sizes(_sizes(word))
    _print_released(entries, len(catalog.released()), word)


def _has(entry: Released, word: str | None) -> bool:
    text = f"{entry.name} {entry.model} {entry.dataset} {entry.head}"
    return word is None or word.lower() in text.lower()


def _sizes(word: str | None) -> list[dict[str, Any]]:
    from ..models import list_models
    from ..weights import catalog

    rows = []
    for name in list_models():
        default = catalog.released().get(catalog.DEFAULTS.get(name, ""))
        weights = "comes with the package" if default is None else default.name
        if word is None or word.lower() in f"{name} {weights}".lower():
            params = _count(name) if default is None else default.params
            rows.append({"name": name, "params": params, "pretrained": weights})
    return rows


def _count(name: str) -> int:
    from ..models import create_model

    return sum(parameter.numel() for parameter in create_model(name, device="meta").parameters())


def _as_json(entry: Released) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "loads_into": entry.loads_into, "about_mib": entry.about_mib}


def _print_sizes(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from .output import printer

    if not rows:
        return
    table = Table(title="Models: internimage.create_model(NAME, pretrained=True)", title_justify="left", box=None)
    for heading, side in (("name", "left"), ("parameters", "right"), ("pretrained weights", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(row["name"], f"{row['params'] / 1e6:,.1f} M", row["pretrained"])
    printer().print(table)


def _print_released(entries: list[Released], total: int, word: str | None) -> None:
    from rich.table import Table

    from .output import printer

    console = printer()
    if not entries:
        console.print(f"no released file has {word!r} in its name; --task all lists all {total}")
        return
    table = Table(title="\nReleased weights: internimage weights download NAME", title_justify="left", box=None)
    for heading in ("name", "trained on", "input", "published", "about", "loads into"):
        table.add_column(
            heading, justify="right" if heading in ("about", "input") else "left", no_wrap=heading == "name"
        )
    for entry in entries:
        size = "x".join(map(str, dict.fromkeys(entry.resolution or ()))) or "-"
        scores = ", ".join(f"{name} {score:g}" for name, score in entry.scores.items())
        mib = "" if entry.about_mib is None else f"{entry.about_mib:,} MiB"
        table.add_row(entry.name, entry.dataset, size, scores, mib, entry.loads_into or "nothing yet")
    console.print(table)
    console.print(
        "Scores are their authors'; sizes are parameters in float32. The licence is MIT unless --json says otherwise."
    )
    if len(entries) < total:
        console.print(f"{len(entries)} of {total} files; --task all lists all, --json says everything known of each.")
