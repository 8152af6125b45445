"""``internimage finetune``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options, training

if TYPE_CHECKING:
    from ..data.dataset import PictureDataset
    from ..recipes import ClassificationRecipe

HELD_OUT = "held_out.html"
_SHOWS = "which of the held-out pictures are taken for what"


def finetune(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DIR|FILE|NAME",
            help="Your pictures: a folder a class, with train and val folders or without, a list, an archive, hf:NAME.",
        ),
    ],
    model: options.Model = None,
    val: Annotated[
        str | None,
        typer.Option("--val", metavar="DIR|FILE", help="What to measure on; else part of the pictures is held out."),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option("--held-out", help="The share of that part; by the number of pictures unless given."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Where to write; runs/finetune_NAME unless given.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=32, help="Side of the input in pixels; the model's unless given.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="By the number of pictures unless given.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images of one step over all processes.")
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Highest learning rate.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another run, another part held out.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, or bfloat16 or float16 for autocast.")] = "float32",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a field of the recipe; may come again."),
    ] = None,
    resume: training.Resume = False,
    auto_resume: training.AutoResume = False,
    workers: training.Workers = None,
    bad_pictures: training.BadPictures = "skip",
    cache: training.Cache = "no",
    fast_decode: training.FastDecode = False,
    strategy: training.Strategy = None,
    offload: training.Offload = False,
    accumulation: training.Accumulation = 1,
    compile: training.Compile = False,
    deterministic: training.Deterministic = False,
    save_every: training.SaveEvery = 0,
    keep: training.Keep = 2,
    evaluate_every: training.EvaluateEvery = 1,
    json: options.Json = False,
    device: options.Device = None,
) -> None:
    """Teach a trained model your own classes.

    The classes are what the folders are called. A part of each class is held out to measure on, unless there is one
    already. Epochs, learning rate, which levels learn, and how far pictures are changed follow from the number of
    pictures; the model prepares them as it was used to.

    Without --model the small embedded model learns, with no network; a released one, or a file of yours, knows more.

    Writes one file that classify, evaluate and internimage.load take, with the names of the classes inside. Beside it:
    report.html about the run, and held_out.html about which classes are taken for which.

    Example: [bold]internimage finetune pictures/ --model internimage_t[/bold]
    """
    from ..processes import is_first_process, launched
    from ..train.classification.finetuning import make_recipe, open_parts

    parts = open_parts(data, val, held_out, seed)
    recipe = make_recipe(parts, model, data, image_size, shares=launched() * accumulation)
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "dtype": dtype}
    recipe = training.overridden(recipe, {key: value for key, value in given.items() if value is not None}, set_ or [])
    folder = output or Path("runs") / f"finetune_{recipe.subject}"
    pictures, apart = parts.both()
    running = training.Running(
        workers=workers,
        bad_pictures=bad_pictures,
        cache=cache,
        fast_decode=fast_decode,
        device=device,
        strategy=strategy,
        offload=offload,
        accumulation=accumulation,
        compile=compile,
        deterministic=deterministic,
        save_every=save_every,
        keep=keep,
        evaluate_every=evaluate_every,
        resume=resume,
        auto_resume=auto_resume,
        json=json,
        pages={HELD_OUT: _SHOWS} if apart is not None else None,
    )
    code = training.run(recipe, folder, running, (pictures, apart))
    if code == 0 and apart is not None and is_first_process():
        _measure(folder, recipe, apart, running)
    raise typer.Exit(code)


def _measure(folder: Path, recipe: ClassificationRecipe, apart: PictureDataset, running: training.Running) -> None:
    """Write a page about the pictures held out: which classes are taken for which, and the worst mistakes."""
    from ..classifier import load
    from ..evaluate.classification import evaluate_classifier
    from ..evaluate.report import write_evaluation_report
    from ..evaluate.summary import summary_of
    from .output import messenger, text

    model = folder / f"{recipe.name}.safetensors"
    classifier = load(model, device=running.device)
    try:
        scores = evaluate_classifier(classifier, apart, batch_size=recipe.batch_size, workers=running.workers or 0)
    except ValueError as error:  # such as none that can be read; the model is trained and written all the same
        messenger().print(text(f"the held-out pictures are not measured: {error}"))
        return
    where = f"{recipe.data}, the part held out"
    page = write_evaluation_report(folder / HELD_OUT, summary_of(scores, classifier, apart, where, published=None))
    messenger().print(text(f"{page}: {_SHOWS}"))
    messenger().print(text(f"use it: internimage classify PICTURE --model {shlex.quote(str(model))}"))
