"""``internimage evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..evaluate.answers import Answers
    from ..evaluate.classes import ClassMatch
    from ..evaluate.classification import Scores
    from ..evaluate.pictures import Data
    from ..processes import Processes


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|FILE]",
            help="A size, released checkpoint or file of weights; the embedded model unless given.",
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DIR|FILE|NAME",
            help="Class folders, a list, an archive, shards, hf:NAME, or fashion-mnist.",
        ),
    ] = "fashion-mnist",
    split: Annotated[
        str | None, typer.Option("--split", help="train, val or test; val unless given, test of Fashion-MNIST.")
    ] = None,
    per_class: Annotated[
        Path | None, typer.Option("--per-class", metavar="FILE.csv", help="Write how often each class is right.")
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option("--confusion", metavar="FILE.png", help="Draw which classes are taken for which.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE.html|DIR", help="Write a page about it; in a folder, with the two files above."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures at a time, in each process.")] = 64,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that read pictures, for each process that computes.")
    ] = 0,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FILE|DIR", help="Keep what is counted here, and go on from it."),
    ] = None,
    download: Annotated[
        Path | None,
        typer.Option("--download", metavar="DIR", help="Fetch Fashion-MNIST into this folder first (30 MB)."),
    ] = None,
    json: options.Json = False,
    device: options.Device = None,
    dtype: options.DType = "float32",
    backend: options.Backend = None,
) -> None:
    """Measure how often a classifier is right: top-1 and top-5, in percent, and the cross-entropy.

    Released models are measured as their authors did, and the published value stands beside ours: the shorter side
    resized to the model's size (bicubic), the middle cut out, float32. A model of ImageNet-22K answers for classes of
    ImageNet-1K with those 1000 outputs.

    Under torchrun the processes share the pictures; each counts once.

    Pictures that cannot be read are named and left out; the exit code is then 3.

    Example: [bold]internimage evaluate internimage_t --data imagenet/val --workers 4 --per-class classes.csv[/bold]
    """
    from ..classifier import load
    from ..evaluate.classes import match_outputs
    from ..evaluate.classification import scores_of
    from ..processes import started_processes, stop_processes
    from .data import fetch
    from .main import SKIPPED_SOME

    processes = started_processes(device)
    try:
        pictures = _open(fetch(data, download), split)
        classifier = load(model, device=processes.device, dtype=dtype, backend=backend)
        match = match_outputs(pictures.class_names, classifier.class_names)
        outputs = Outputs.asked(per_class, confusion, report)
        if processes.is_first:
            outputs.check(resume)
            _remark(match, pictures)
        asking: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "resume": resume}
        answers = _ask(classifier, pictures, match, processes, asking)
        if not processes.is_first:
            return
        scores = scores_of(answers, match)
        outputs.write(scores, classifier, pictures, data)
        _show(scores, classifier, pictures, data, json)
        if scores.unreadable:
            raise typer.Exit(SKIPPED_SOME)
    finally:
        stop_processes()


def _open(data: str, split: str | None) -> Data:
    """The pictures to measure on."""
    from ..data.formats import FASHION_MNIST, find_format, open_dataset
    from ..evaluate.pictures import as_data

    if split is None:
        split = "test" if find_format(data, "test")[0] == FASHION_MNIST else "val"
    return as_data(open_dataset(data, split))


@dataclass(frozen=True)
class Outputs:
    """The files that were asked for."""

    per_class: Path | None
    confusion: Path | None
    report: Path | None

    @classmethod
    def asked(cls, per_class: Path | None, confusion: Path | None, report: Path | None) -> Outputs:
        """A folder for the page takes the other two as well."""
        if report is not None and (report.is_dir() or not report.suffix):
            return cls(
                per_class or report / "classes.csv", confusion or report / "confusion.png", report / "index.html"
            )
        return cls(per_class, confusion, report)

    def check(self, resume: Path | None) -> None:
        """Refuse before any work what could not be written after it."""
        from ..draw import picture_format
        from ..evaluate.state import state_file
        from ..files import check_file

        if self.confusion is not None:
            picture_format(self.confusion)
        if self.report is not None and self.report.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--report {self.report} ends in {self.report.suffix!r}, expected .html, or a folder")
        asked = {"--per-class": self.per_class, "--confusion": self.confusion, "--report": self.report}
        asked["--resume"] = None if resume is None else state_file(resume)
        for option, path in asked.items():
            if path is not None:
                check_file(path, option)

    def write(self, scores: Scores, classifier: Classifier, pictures: Data, data: str) -> None:
        """Write them."""
        from ..evaluate.confusion import save_confusion
        from ..evaluate.published import published_top1
        from ..evaluate.report import write_evaluation_report
        from ..evaluate.summary import summary_of

        if self.per_class is not None:
            scores.write_classes(self.per_class)
        if self.confusion is not None:
            save_confusion(scores.class_names, scores.confusion, self.confusion)
        if self.report is not None:
            published = published_top1(classifier.name, len(pictures.class_names))
            write_evaluation_report(self.report, summary_of(scores, classifier, pictures, data, published))


def _remark(match: ClassMatch, pictures: Data) -> None:
    """Say what a person might not expect of the classes."""
    from .output import messenger, text

    err = messenger()
    for remark in match.remarks(pictures.class_names):
        err.print(text(remark))


def _ask(
    classifier: Classifier, pictures: Data, match: ClassMatch, processes: Processes, asking: dict[str, Any]
) -> Answers:
    """All answers, with a bar; Ctrl-C keeps what there is where ``--resume`` says so."""
    import contextlib

    from ..evaluate.asking import ask_about_all
    from ..train.interrupt import StopOnSignal
    from .output import messenger, text
    from .progress import progress_bar

    stop = StopOnSignal()
    keeps = asking["resume"] is not None  # else an interruption ends it at once
    bar = progress_bar("evaluating")
    bar.disable = bar.disable or not processes.is_first
    with stop if keeps else contextlib.nullcontext(), bar:
        task = bar.add_task("", total=len(pictures))
        answers = ask_about_all(
            classifier,
            pictures,
            match,
            processes=processes,
            should_stop=stop,
            progress=lambda count: bar.advance(task, count),
            **asking,
        )
    left = len(answers.pending)
    if left:
        if processes.is_first:
            done = len(pictures) - left
            messenger().print(text(f"stopped after {done:,} of {len(pictures):,} pictures; the same command goes on"))
        raise typer.Exit(128 + (stop.signal or 15))
    return answers


def _show(scores: Scores, classifier: Classifier, pictures: Data, data: str, json: bool) -> None:
    from ..evaluate.published import published_top1
    from .output import messenger, print_json, printer, text

    published = published_top1(classifier.name, len(pictures.class_names))
    if json:
        print_json({"model": classifier.name, "data": data, "published_top1": published, **scores.as_dict()})
    else:
        beside = "" if published is None else f" (published {published:.1f})"
        top5 = "" if scores.top5 is None else f", top-5 {scores.top5:.2f} %"
        printer().print(
            text(
                f"{classifier.name}: top-1 {scores.top1:.2f} %{beside}{top5} of {scores.pictures:,} pictures, "
                f"cross-entropy {scores.loss:.4f} ({scores.images_per_s:.0f} a second, "
                f"{scores.model_images_per_s:.0f} by the model alone)"
            )
        )
    for reason in scores.unreadable:
        messenger().print(text(f"skipped: {reason}"))
    if scores.unreadable:
        total = scores.pictures + len(scores.unreadable)
        messenger().print(text(f"{len(scores.unreadable)} of {total} could not be read"))
