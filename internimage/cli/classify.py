"""``internimage classify``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from . import options

if TYPE_CHECKING:
    from PIL import Image

    from ..classifier import Classifier, Prediction


@dataclass
class Outcome:
    """What happened to the pictures, in their order."""

    answers: list[tuple[str, Prediction]] = field(default_factory=list)
    drawn: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def classify(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE|FOLDER|URL|-...", help="Pictures; - reads one from standard input.")
    ],
    model: options.Model = None,
    weights: options.Weights = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many answers a picture.")] = 5,
    json: options.Json = False,
    save_dir: Annotated[
        Path | None, typer.Option("--save-dir", help="Write each picture with its answer drawn under it here.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures at a time.")] = 32,
    device: options.Device = None,
    dtype: options.DType = "float32",
    backend: options.Backend = None,
) -> None:
    """Say what is on pictures.

    Pictures that cannot be read are named, skipped and counted; the exit code is then 3, or 1 when none could be read.

    Example: [bold]internimage classify photo.jpg holiday/ --top 3 --save-dir answers[/bold]
    """
    from ..classifier import load
    from ..data.pictures import find_pictures
    from .main import SKIPPED_SOME
    from .output import print_json

    sources = find_pictures(images)
    if save_dir is not None and save_dir.exists() and not save_dir.is_dir():
        raise ValueError(f"--save-dir {save_dir} is a file, expected a folder")
    classifier = load(model, weights=weights, device=device, dtype=dtype, backend=backend)
    outcome = _classify_all(classifier, sources, top, batch_size, save_dir)
    if json:
        print_json(_as_dict(classifier, outcome))
    elif outcome.answers:
        _print_table(classifier, outcome)
    _report_the_rest(outcome, len(sources), save_dir)
    if outcome.skipped:
        raise typer.Exit(SKIPPED_SOME if outcome.answers else 1)


def _classify_all(
    classifier: Classifier, sources: list[str], top: int, batch_size: int, save_dir: Path | None
) -> Outcome:
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from ..data.pictures import PictureError, read_picture
    from ..draw import for_display
    from .output import messenger, text

    outcome = Outcome()
    err = messenger()
    bar = Progress(
        "classifying", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err, transient=True,
        disable=len(sources) < 2 or not err.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=len(sources))
        for start in range(0, len(sources), batch_size):
            names, tensors, shown = [], [], []
            for source in sources[start : start + batch_size]:
                try:
                    picture = read_picture(source)
                    tensors.append(classifier.prepare(picture))
                    names.append(source)
                    shown.append(for_display(picture) if save_dir else None)
                except PictureError as error:
                    outcome.skipped.append((source, str(error)))
                    bar.console.print(text(f"skipped: {error}"))
                bar.advance(task)
            if not tensors:
                continue
            for name, prediction, small in zip(
                names, classifier.answers(torch.stack(tensors), top), shown, strict=True
            ):
                outcome.answers.append((name, prediction))
                if save_dir and small is not None:
                    outcome.drawn[name] = str(_save_drawing(small, name, prediction, save_dir, outcome))
    return outcome


def _save_drawing(picture: Image.Image, source: str, prediction: Prediction, folder: Path, outcome: Outcome) -> Path:
    """The drawing under the name of its picture; a second picture of that name gets a number."""
    from ..draw import draw_answer, save_picture

    taken = set(outcome.drawn.values())
    path = next(path for path in _candidates(folder, picture_name(source)) if str(path) not in taken)
    save_picture(draw_answer(picture, prediction.labels, prediction.probs, prediction.note), path)
    return path


def picture_name(source: str) -> str:
    """What to call a drawing of a picture: the name of its file, without folder and suffix."""
    if source == "-":
        return "standard-input"
    name = urlsplit(source).path if "://" in source else source
    return Path(name).stem or "picture"


def _candidates(folder: Path, stem: str) -> Iterator[Path]:
    yield folder / f"{stem}.png"
    number = 2
    while True:
        yield folder / f"{stem}-{number}.png"
        number += 1


def _as_dict(classifier: Classifier, outcome: Outcome) -> dict[str, Any]:
    from .output import printable

    pictures = []
    for name, prediction in outcome.answers:
        drawn = {"drawn": printable(outcome.drawn[name])} if name in outcome.drawn else {}
        pictures.append({"picture": printable(name), **prediction.as_dict(), **drawn})
    skipped = [{"picture": printable(name), "reason": printable(reason)} for name, reason in outcome.skipped]
    return {"model": classifier.name, "note": classifier.note, "pictures": pictures, "skipped": skipped}


def _print_table(classifier: Classifier, outcome: Outcome) -> None:
    from rich import box
    from rich.table import Table

    from .output import printer, text

    table = Table(box=box.SIMPLE_HEAD, caption=text(_caption(classifier)), caption_justify="left", pad_edge=False)
    table.add_column("picture", overflow="fold")
    table.add_column("answer", overflow="fold")
    table.add_column("probability", justify="right")
    single = len(outcome.answers) == 1
    if not single:
        table.add_column("then", overflow="fold", style="dim")
    for name, prediction in outcome.answers:
        rows = list(zip(prediction.labels, prediction.probs, strict=True))
        if single:
            for rank, (label, prob) in enumerate(rows):
                style = "dim" if rank else "bold"
                table.add_row(text("" if rank else name), text(label, style), text(f"{prob:.1%}", style))
        else:
            then = ", ".join(f"{label} {prob:.0%}" for label, prob in rows[1:3])
            table.add_row(text(name), text(rows[0][0], "bold"), text(f"{rows[0][1]:.1%}", "bold"), text(then))
    printer().print(table)


def _caption(classifier: Classifier) -> str:
    return f"{classifier.name}: {classifier.note}" if classifier.note else classifier.name


def _report_the_rest(outcome: Outcome, total: int, save_dir: Path | None) -> None:
    from .output import messenger, text

    err = messenger()
    if outcome.drawn:
        err.print(text(f"{len(outcome.drawn)} drawn in {save_dir}"))
    if outcome.skipped:
        err.print(text(f"{len(outcome.skipped)} of {total} could not be read"))
