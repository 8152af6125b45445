"""``internimage train``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    import torch

    from ..data.labelled import LabelledImages
    from ..recipes import ClassificationRecipe
    from ..train.checkpoint import TrainingState
    from ..train.classification import ClassificationTask

CHECKPOINT, METRICS, CURVE = "checkpoint.pt", "metrics.csv", "curve.png"


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="internimage_femto, or own_pictures, which --data DIR alone means."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR|fashion-mnist", help="A folder of class folders, or Fashion-MNIST."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Where to write; runs/RECIPE unless given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output, exactly.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A tiny run on made-up pictures, to see that it works.")
    ] = False,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Instead of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Highest learning rate, instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed, another run.")] = None,
    download: Annotated[
        Path | None,
        typer.Option("--download", metavar="DIR", help="Fetch Fashion-MNIST into this folder first (30 MB)."),
    ] = None,
    json: options.Json = False,
    device: options.Device = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, or bfloat16 for autocast.")] = "float32",
) -> None:
    """Train a classifier by a recipe.

    Writes the trained model as one file that classify, evaluate and internimage.load take.

    Beside it: metrics.csv and curve.png after each epoch, and a checkpoint every two minutes
    and on Ctrl-C, from which --resume continues.

    Example, with a folder a class in pictures/: [bold]internimage train --data pictures/ --epochs 20[/bold]
    """
    from ..devices import pick_device

    if recipe is None and data is None and not smoke:
        raise typer.BadParameter("name a recipe, internimage_femto or own_pictures, or give --data DIR")
    chosen = _recipe(recipe, data, download, smoke)
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "dtype": dtype}
    chosen = replace(chosen, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    folder = output or Path("runs") / chosen.name
    _check_output(folder, resume)
    where = pick_device(device)
    raise typer.Exit(_run(chosen, folder, where, resume, json))


def _recipe(name: str | None, data: str | None, download: Path | None, smoke: bool) -> ClassificationRecipe:
    from ..data.classification import FASHION_MNIST
    from ..recipes import get_recipe
    from ..recipes.classification import smoke as cut_down
    from .data import fetch

    if name is None:
        name = "internimage_femto" if data in (None, FASHION_MNIST) else "own_pictures"
    recipe = get_recipe(name)
    if smoke:
        return cut_down(recipe)
    recipe = replace(recipe, data=fetch(data or recipe.data, download))
    if data not in (None, FASHION_MNIST):
        recipe = replace(recipe, subject="")
    if not recipe.data:
        raise typer.BadParameter(f"the recipe {name} trains on your own pictures: give --data DIR")
    return recipe


def _check_output(folder: Path, resume: bool) -> None:
    """Refuse before any work what would only fail, or destroy a run, later."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file, expected a folder")
    if (folder / CHECKPOINT).exists() and not resume:
        raise ValueError(f"{folder} holds a run already; continue it with --resume, or choose another --output")
    if resume and not (folder / CHECKPOINT).exists():
        raise FileNotFoundError(f"there is nothing to resume in {folder}; leave out --resume to start")


def _run(recipe: ClassificationRecipe, folder: Path, device: torch.device, resume: bool, json: bool) -> int:
    """Train and write; returns the exit code."""
    from ..files import make_folder
    from ..train.classification import ClassificationTask, save_classifier, split_pictures
    from ..train.interrupt import StopOnSignal
    from ..train.loop import fit, new_state
    from .output import messenger, print_json, printer, text

    task = ClassificationTask(recipe, *split_pictures(recipe, _read(recipe)), device)
    state = new_state(task, recipe)
    if resume:
        state.load(folder / CHECKPOINT)
    make_folder(folder, "--output")
    err = messenger()
    err.print(text(_introduction(task, state, folder)))
    with StopOnSignal() as stop, _Report(task, folder, state.step) as report:
        finished = fit(task, state, folder / CHECKPOINT, report, stop)
    model = folder / f"{recipe.name}.safetensors"
    if not finished:
        err.print(text(f"stopped after step {state.step}; the same command with --resume continues"))
        return 128 + stop.signal
    save_classifier(task, state, model)
    last = state.history[-1]
    if json:
        print_json({"recipe": recipe.name, "model": str(model), "steps": state.step, **last})
    else:
        score = f", top-1 {last['top1']:.2f} % of {len(task.held_out):,} held-out pictures" if "top1" in last else ""
        printer().print(text(f"{model}: {state.step:,} steps in {state.seconds / 60:.1f} minutes{score}"))
    return 0


def _read(recipe: ClassificationRecipe) -> LabelledImages:
    """The pictures, with a bar while files are read, and a word on those that cannot be."""
    from ..train.classification import read_pictures
    from .output import messenger, text
    from .progress import progress_bar

    with progress_bar("reading") as bar:
        task = bar.add_task("", total=None)
        pictures = read_pictures(recipe, lambda done, total: bar.update(task, completed=done, total=total))
    for reason in pictures.unreadable:
        messenger().print(text(f"skipped: {reason}"))
    return pictures


def _introduction(task: ClassificationTask, state: TrainingState, folder: Path) -> str:
    parameters = sum(parameter.numel() for parameter in task.model.parameters())
    start = f", from step {state.step}" if state.step else ""
    return (
        f"{task.recipe.name}: {parameters:,} parameters, {len(task.trained_on):,} pictures of "
        f"{len(task.trained_on.class_names)} classes, {len(task.held_out):,} more held out, "
        f"{task.recipe.epochs} epochs of {task.steps_per_epoch} steps{start}; writing to {folder}"
    )


class _Report:
    """Shows how it goes, and writes the table and the curve after each epoch."""

    def __init__(self, task: ClassificationTask, folder: Path, step: int) -> None:
        from .progress import progress_bar

        self.recipe, self.folder = task.recipe, folder
        self.bar = progress_bar("training")
        self.line = self.bar.add_task("", total=task.recipe.epochs * task.steps_per_epoch, completed=step)
        self.rate, self.loss, self.last = 0.0, 0.0, time.perf_counter()

    def __enter__(self) -> _Report:
        self.bar.start()
        self.last = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def stepped(self, state: TrainingState, loss: float) -> None:
        """Smoothed loss and images a second."""
        now = time.perf_counter()
        rate = self.recipe.batch_size / (now - self.last)
        self.rate = rate if not self.rate else 0.95 * self.rate + 0.05 * rate
        self.loss = loss if not self.loss else 0.95 * self.loss + 0.05 * loss
        self.last = now
        self.bar.update(self.line, completed=state.step, description=f"loss {self.loss:.3f}, {self.rate:.0f} images/s")

    def finished_epoch(self, state: TrainingState) -> None:
        """A line, the table and the curve."""
        from ..train.metrics import draw_curve, write_metrics
        from .output import text

        row = state.history[-1]
        score = f", top-1 {row['top1']:.2f} % of the held-out pictures" if "top1" in row else ""
        left = state.seconds / row["epoch"] * (self.recipe.epochs - row["epoch"]) / 60
        self.bar.console.print(
            text(
                f"epoch {row['epoch']:g} of {self.recipe.epochs}: loss {row['train_loss']:.3f}{score}, {self.rate:.0f} "
                f"images/s, {left:.0f} minutes left"
            )
        )
        write_metrics(state.history, self.folder / METRICS)
        draw_curve(state.history, self.folder / CURVE)
        self.last = time.perf_counter()
