"""The page that a run leaves: what was trained on what, how it went, and how to use what came out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..page import Html, code, drawing, figures, pairs_table, paragraph, section, table, unreadable, write_page
from .curves import draw_curves, is_loss, score_columns, words_for


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run was and came to, in plain data; what is empty is left out of the page.

    Attributes:
        name: the title of the page.
        recipe: every field of the recipe with its value; mappings inside are taken apart.
        parent: the same of the recipe it was made from, and ``parent_name``; what differs between the two is listed.
        data: what to know of the data, as name and value: where it lies, how many pictures and classes.
        machine: likewise of the machine: devices, processes, strategy, versions.
        history: a row an epoch, as :func:`~internimage.train.curves.draw_curves` takes it.
        seconds: that the run took, over all sittings.
        finished: False where it was stopped before its end.
        skipped: the reasons why pictures were left out, one each.
        files: name of a file that was written, and what is in it.
        commands: lines to type that use these files.
        note: a sentence under the title.
    """

    name: str
    recipe: Mapping[str, object]
    history: Sequence[Mapping[str, float]]
    seconds: float
    parent: Mapping[str, object] | None = None
    parent_name: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=dict)
    finished: bool = True
    skipped: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    note: str = ""


def write_training_report(path: str | Path, run: Run) -> Path:
    """Write the page of a run, one HTML file that opens without a network. Returns ``path``."""
    return write_page(
        path,
        run.name,
        paragraph(run.note),
        paragraph("" if run.finished else "This run was stopped before its end; --resume goes on with it."),
        _figures(run),
        section("How it went", _curves(run.history), _best_table(run.history)),
        section("What came out", table(("file", "holds"), run.files.items()), code(run.commands)),
        section("Data", pairs_table(run.data), unreadable(run.skipped)),
        _recipe(run),
        section("Machine", pairs_table(run.machine)),
        section("Every epoch", _every_epoch(run.history)),
    )


def best_values(history: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """The best value of each loss and score, and the first epoch that had it; numbers that are not finite never."""
    found: dict[str, tuple[float, float]] = {}
    columns = dict.fromkeys(name for row in history for name in row)
    scores = score_columns(history)
    for name in columns:
        if name not in scores and not is_loss(name):
            continue
        sign = -1 if is_loss(name) else 1
        rows = [(sign * row[name], row["epoch"]) for row in history if math.isfinite(row.get(name, math.nan))]
        if rows:
            value, epoch = max(rows, key=lambda pair: pair[0])
            found[name] = (sign * value, epoch)
    return found


def differences(recipe: Mapping[str, object], parent: Mapping[str, object]) -> list[tuple[str, object, object]]:
    """(field, value here, value there) of the fields that are not the same, mappings inside taken apart."""
    here, there = _flat(recipe), _flat(parent)
    names = dict.fromkeys((*here, *there))
    return [(name, here.get(name, "-"), there.get(name, "-")) for name in names if here.get(name) != there.get(name)]


def in_words(seconds: float) -> str:
    """A time as people say it: "42 s", "7 min 5 s", "3 h 20 min"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _figures(run: Run) -> Html:
    """The best of each score, then epochs and time."""
    best = best_values(run.history)
    scores = [(f"{best[name][0]:.2f} %", words_for(name)) for name in score_columns(run.history) if name in best]
    epochs = f"{run.history[-1]['epoch']:g}" if run.history else "0"
    asked = run.recipe.get("epochs")
    of = f" of {asked}" if asked is not None and not run.finished else ""
    return figures([*scores[:4], (f"{epochs}{of}", "epochs"), (in_words(run.seconds), "training time")])


def _curves(history: Sequence[Mapping[str, float]]) -> Html:
    try:
        return drawing(draw_curves(history))
    except ValueError as error:
        return paragraph(f"No curves: {error}.")


def _best_table(history: Sequence[Mapping[str, float]]) -> Html:
    rows = [(words_for(name), f"{value:.4g}", f"{epoch:g}") for name, (value, epoch) in best_values(history).items()]
    return table(("", "best", "in epoch"), rows, numbers=(1, 2))


def _recipe(run: Run) -> Html:
    parts = []
    if run.parent is not None:
        changed = differences(run.recipe, run.parent)
        parent = run.parent_name or "its parent"
        parts.append(paragraph(f"Differs from {parent} in:" if changed else f"It is {parent}, unchanged."))
        parts.append(table(("field", "here", parent), changed))
    everything = table(("field", "value"), _flat(run.recipe).items())
    parts.append(Html(f"<details><summary>Every field</summary>{everything}</details>") if everything else Html(""))
    return section("Recipe", *parts)


def _every_epoch(history: Sequence[Mapping[str, float]]) -> Html:
    columns = list(dict.fromkeys(name for row in history for name in row))
    heads = [column if column in ("epoch", "step", "lr", "seconds") else words_for(column) for column in columns]
    rows = [[f"{row[name]:.6g}" if name in row else "" for name in columns] for row in history]
    return table(heads, rows, numbers=range(len(columns)))


def _flat(fields: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Fields with those of mappings inside as "outer.inner"."""
    flat: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value  # as JSON has them
    return flat
