"""``internimage evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..evaluate.classification import Scores


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|FILE]",
            help="A size, released checkpoint or file of weights; the embedded model unless given.",
        ),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", metavar="DIR|fashion-mnist", help="A folder of class folders, or Fashion-MNIST.")
    ] = "fashion-mnist",
    split: Annotated[str, typer.Option("--split", help="Which part of Fashion-MNIST: test or train.")] = "test",
    per_class: Annotated[
        Path | None, typer.Option("--per-class", metavar="FILE.csv", help="Write how often each class is right.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures at a time.")] = 64,
    download: Annotated[
        Path | None,
        typer.Option("--download", metavar="DIR", help="Fetch Fashion-MNIST into this folder first (30 MB)."),
    ] = None,
    json: options.Json = False,
    device: options.Device = None,
    dtype: options.DType = "float32",
    backend: options.Backend = None,
) -> None:
    """Measure how often a classifier is right: top-1 and top-5, in percent.

    Pictures that cannot be read are named and left out; the exit code is then 3.

    Example: [bold]internimage evaluate --data fashion-mnist --per-class classes.csv[/bold]
    """
    from ..classifier import load
    from ..data.classification import open_pictures
    from ..evaluate.classification import evaluate_classifier, match_by_order
    from ..files import make_folder
    from .data import fetch
    from .main import SKIPPED_SOME
    from .output import messenger, print_json, text
    from .progress import progress_bar

    pictures = open_pictures(fetch(data, download), split)
    classifier = load(model, device=device, dtype=dtype, backend=backend)
    if match_by_order(pictures.class_names, classifier.class_names):
        first, last = (f"{pictures.class_names[i]} is {classifier.class_names[i]}" for i in (0, -1))
        messenger().print(text(f"no class has a name that the model knows; taken by order: {first} ... {last}"))
    if per_class is not None:
        make_folder(per_class.parent, "--per-class")
    with progress_bar("evaluating") as bar:
        task = bar.add_task("", total=len(pictures))
        scores = evaluate_classifier(
            classifier, pictures, batch_size=batch_size, progress=lambda count: bar.advance(task, count)
        )
    if per_class is not None:
        scores.write_classes(per_class)
    if json:
        print_json({"model": classifier.name, "data": data, **scores.as_dict()})
    else:
        _print(scores, classifier)
    _report_unreadable(scores)
    if scores.unreadable:
        raise typer.Exit(SKIPPED_SOME)


def _print(scores: Scores, classifier: Classifier) -> None:
    from .output import printer, text

    top5 = "" if scores.top5 is None else f", top-5 {scores.top5:.2f} %"
    printer().print(
        text(
            f"{classifier.name}: top-1 {scores.top1:.2f} %{top5} of {scores.pictures:,} pictures "
            f"({scores.images_per_s:.0f} a second)"
        )
    )


def _report_unreadable(scores: Scores) -> None:
    from .output import messenger, text

    err = messenger()
    for reason in scores.unreadable:
        err.print(text(f"skipped: {reason}"))
    if scores.unreadable:
        total = scores.pictures + len(scores.unreadable)
        err.print(text(f"{len(scores.unreadable)} of {total} could not be read"))
