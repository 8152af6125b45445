"""``internimage train``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options, training

if TYPE_CHECKING:
    from ..recipes import ClassificationRecipe


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]", help="One of `internimage recipes list`; own_pictures for --data DIR alone."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR|FILE|NAME",
            help="Pictures to train on, instead of the recipe's: class folders, a list, shards, ...",
            rich_help_panel="Data",
        ),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(
            "--val", metavar="DIR|FILE|NAME", help="What to measure on; else part of --data.", rich_help_panel="Data"
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Where to write; runs/RECIPE unless given.")
    ] = None,
    resume: training.Resume = False,
    auto_resume: training.AutoResume = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A tiny run on made-up pictures, to see that it works.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a field of the recipe; may come again."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Instead of the recipe's; fewer shorten the warm-up too.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images of one step over all processes.")
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Highest learning rate, instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed, another run.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, or bfloat16 or float16 for autocast.")] = None,
    download: Annotated[
        Path | None,
        typer.Option(
            "--download",
            metavar="DIR",
            help="Fetch Fashion-MNIST into this folder first (30 MB).",
            rich_help_panel="Data",
        ),
    ] = None,
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
    print_slurm: Annotated[
        bool,
        typer.Option(
            "--print-slurm",
            help="Print a batch script that runs this command on a cluster, and stop.",
            rich_help_panel="Scale",
        ),
    ] = False,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Of that script.", rich_help_panel="Scale")] = 1,
    processes_per_node: Annotated[
        int, typer.Option("--processes-per-node", min=1, help="Of that script: cards.", rich_help_panel="Scale")
    ] = 8,
    json: options.Json = False,
    device: options.Device = None,
) -> None:
    """Train a classifier by a recipe, on one processor or on many cards.

    Writes the trained model as one file that classify, evaluate and internimage.load take.

    Beside it: the best weights so far, metrics.csv, curve.png and TensorBoard's events, and checkpoints every two
    minutes and on Ctrl-C or SIGTERM, from which --resume continues bit for bit.

    Several processes: torchrun --nproc-per-node 8 -m internimage train RECIPE ..., accelerate launch or --print-slurm.

    Example, with a folder a class in pictures/: [bold]internimage train --data pictures/ --epochs 20[/bold]
    """
    if recipe is None and data is None and not smoke:
        raise typer.BadParameter("name a recipe (`internimage recipes list`), or give --data DIR")
    chosen = _recipe(recipe, data, download, smoke)
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "dtype": dtype}
    chosen = training.overridden(chosen, {key: value for key, value in given.items() if value is not None}, set_ or [])
    folder = output or Path("runs") / chosen.name
    if print_slurm:
        _print_slurm(chosen, nodes, processes_per_node, device)
        return
    running = training.Running(
        val=val or "",
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
    )
    raise typer.Exit(training.run(chosen, folder, running))


def _print_slurm(recipe: ClassificationRecipe, nodes: int, per_node: int, device: str | None) -> None:
    """The script for the command as it was typed, without what makes the script."""
    from ..train.slurm import slurm_script

    words, skip = [], False
    for word in sys.argv[1:]:
        name = word.split("=")[0]
        if skip or name in ("--print-slurm", "--nodes", "--processes-per-node"):
            skip = not skip and name != "--print-slurm" and "=" not in word
            continue
        words.append(word)
    if "--auto-resume" not in words:
        words.append("--auto-resume")
    command = ["python", "-m", "internimage", *words]
    print(
        slurm_script(command, name=recipe.name, nodes=nodes, processes_per_node=per_node, cards=device != "cpu"),
        end="",
    )


def _recipe(name: str | None, data: str | None, download: Path | None, smoke: bool) -> ClassificationRecipe:
    from ..data.formats import FASHION_MNIST
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
