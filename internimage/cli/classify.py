"""``internimage classify``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from . import options

if TYPE_CHECKING:
    from PIL import Image
    from rich.progress import Progress
    from torch import Tensor

    from ..classifier import Classifier, Prediction


@dataclass(frozen=True)
class Answer:
    """One picture: what the command line calls it, the prediction, and where it was drawn."""

    picture: str
    prediction: Prediction
    drawn: Path | None


@dataclass
class Outcome:
    """What happened to the pictures, in their order; ``skipped`` has names and reasons."""

    answers: list[Answer] = field(default_factory=list)
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
        Path | None,
        typer.Option("--save-dir", help="Write each picture, its answer drawn under it, here as NAME.classified.png."),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option("--date", metavar="YYYY-MM-DD", help="When the pictures were taken; for internimage_h_meta."),
    ] = None,
    location: Annotated[
        str | None,
        typer.Option("--location", metavar="LAT,LON", help="Where, in degrees; north and east are positive."),
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
    from ..data.metadata import temporal_vector
    from ..data.pictures import find_pictures
    from ..files import make_folder
    from .main import SKIPPED_SOME
    from .output import print_json

    place = _as_location(location)
    temporal_vector(date)
    sources = find_pictures(images)
    if save_dir is not None:
        make_folder(save_dir, "--save-dir")
    classifier = load(model, weights=weights, device=device, dtype=dtype, backend=backend)
    metadata = classifier.prepare_metadata(1, date, place)
    outcome = _classify_all(classifier, sources, top, batch_size, save_dir, metadata)
    if json:
        print_json(_as_dict(classifier, outcome))
    elif outcome.answers:
        _print_table(classifier, outcome)
    _report_the_rest(outcome, len(sources), save_dir)
    if outcome.skipped:
        raise typer.Exit(SKIPPED_SOME if outcome.answers else 1)


def _classify_all(
    classifier: Classifier,
    sources: list[str],
    top: int,
    batch_size: int,
    save_dir: Path | None,
    metadata: tuple[Tensor, ...],
) -> Outcome:
    import torch

    from ..draw import draw_answer, save_picture
    from .progress import progress_bar

    outcome, drawn = Outcome(), _drawings(save_dir, sources)
    with progress_bar("classifying") as bar:
        task = bar.add_task("", total=len(sources))
        for start in range(0, len(sources), batch_size):
            batch = sources[start : start + batch_size]
            read = [
                entry for source in batch if (entry := _read(classifier, source, outcome, bar, save_dir is not None))
            ]
            bar.advance(task, len(batch))
            if not read:
                continue
            same_for_all = (vector.expand(len(read), -1) for vector in metadata)
            predictions = classifier.answers(torch.stack([tensor for _, tensor, _ in read]), top, *same_for_all)
            for (source, _, shown), prediction in zip(read, predictions, strict=True):
                path = None
                if shown is not None:
                    path = drawn(picture_name(source))
                    save_picture(draw_answer(shown, prediction.labels, prediction.probs, prediction.note), path)
                outcome.answers.append(Answer(source, prediction, path))
    return outcome


def _as_location(given: str | None) -> tuple[float, float] | None:
    from ..data.metadata import spatial_vector

    if given is None:
        return None
    try:
        latitude, longitude = (float(part) for part in given.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{given!r}, expected LAT,LON in degrees such as 48.1,11.6", param_hint="--location"
        ) from None
    spatial_vector(latitude, longitude)
    return latitude, longitude


def _read(
    classifier: Classifier, source: str, outcome: Outcome, bar: Progress, show: bool
) -> tuple[str, Tensor, Image.Image | None] | None:
    """A picture as the model takes it and, to ``show``, as people look at it; None when it cannot be read."""
    from ..data.pictures import PictureError, read_picture
    from ..draw import for_display
    from .output import text

    try:
        picture = read_picture(source)
    except PictureError as error:
        outcome.skipped.append((source, str(error)))
        bar.console.print(text(f"skipped: {error}"))
        return None
    return source, classifier.prepare(picture), for_display(picture) if show else None


def _drawings(folder: Path | None, sources: list[str]) -> Callable[[str], Path]:
    """Names for drawings in a folder: a second picture of the same name gets a number, and none replaces a source."""
    uses: Counter[str] = Counter()
    kept = {os.path.realpath(source) for source in sources} if folder else set()

    def name(stem: str) -> Path:
        uses[stem] += 1
        candidate = stem if uses[stem] == 1 else f"{stem}-{uses[stem]}"
        path = Path(folder or ".") / f"{candidate}.classified.png"  # so that it replaces no picture called NAME.png
        if (candidate != stem and uses[candidate]) or os.path.realpath(path) in kept:
            return name(stem)
        uses[candidate] = max(1, uses[candidate])
        return path

    return name


def picture_name(source: str) -> str:
    """What to call a drawing of a picture: the name of its file, without folder and suffix."""
    if source == "-":
        return "standard-input"
    name = urlsplit(source).path if "://" in source else source
    return Path(name).stem or "picture"


def _as_dict(classifier: Classifier, outcome: Outcome) -> dict[str, Any]:
    from .output import printable

    pictures = []
    for answer in outcome.answers:
        drawn = {"drawn": printable(answer.drawn)} if answer.drawn else {}
        pictures.append({"picture": printable(answer.picture), **answer.prediction.as_dict(), **drawn})
    skipped = [{"picture": printable(name), "reason": printable(reason)} for name, reason in outcome.skipped]
    return {"model": classifier.name, "note": classifier.note, "pictures": pictures, "skipped": skipped}


def _print_table(classifier: Classifier, outcome: Outcome) -> None:
    from rich import box
    from rich.table import Table

    from .output import printer, text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("picture", overflow="fold")
    table.add_column("answer", overflow="fold")
    table.add_column("probability", justify="right")
    single = len(outcome.answers) == 1
    if not single:
        table.add_column("then", overflow="fold", style="dim")
    for answer in outcome.answers:
        name, rows = answer.picture, list(zip(answer.prediction.labels, answer.prediction.probs, strict=True))
        if single:
            for rank, (label, prob) in enumerate(rows):
                style = "dim" if rank else "bold"
                table.add_row(text("" if rank else name), text(label, style), text(f"{prob:.1%}", style))
        else:
            then = ", ".join(f"{label} {prob:.0%}" for label, prob in rows[1:3])
            table.add_row(text(name), text(rows[0][0], "bold"), text(f"{rows[0][1]:.1%}", "bold"), text(then))
    console = printer()
    console.print(table)
    console.print(text(_caption(classifier), "dim"))


def _caption(classifier: Classifier) -> str:
    return f"{classifier.name}: {classifier.note}" if classifier.note else classifier.name


def _report_the_rest(outcome: Outcome, total: int, save_dir: Path | None) -> None:
    from .output import messenger, text

    err = messenger()
    if save_dir and outcome.answers:
        err.print(text(f"{len(outcome.answers)} drawn in {save_dir}"))
    if outcome.skipped:
        err.print(text(f"{len(outcome.skipped)} of {total} could not be read"))
