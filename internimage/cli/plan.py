"""``internimage plan``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, training

if TYPE_CHECKING:
    from ..planning.budget import Budget, Setting
    from ..recipes import ClassificationRecipe

    Rows = dict[tuple[str, bool], Budget]  # by strategy and offload

IMAGES_OF_A_PROCESS = 16  # for a model without a recipe
_COLUMNS = ("weights", "gradients", "optimizer", "average", "activations", "buffers", "total", "host")


def plan(
    name: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="As `internimage recipes list` shows them, or a model's name."),
    ],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Processes, each with a card of its own.")] = 1,
    memory: Annotated[
        float | None, typer.Option("--memory", metavar="GIB", help="Of each card, in GiB: what fits is said then.")
    ] = None,
    strategy: training.Strategy = None,
    offload: training.Offload = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images of an optimizer step, over all processes.")
    ] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", min=1, help="Their sides, in pixels.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = None,
    accumulation: training.Accumulation = 1,
    grad_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--grad-checkpointing/--no-grad-checkpointing", help="Compute blocks twice, keep their inputs only."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cuda or cpu: what half types do differs.")] = "cuda",
    json: options.Json = False,
) -> None:
    """Say how much memory training takes under each strategy, whether it fits, and what to change where it does not.

    Nothing is trained: the step runs on tensors without contents. What the driver takes and gaps between blocks of
    memory are not seen; a GiB is left for them.

    Example: [bold]internimage plan internimage_h_22kto1k_640 --gpus 8 --memory 80[/bold]
    """
    asked = {
        "processes": gpus,
        "strategy": strategy or ("single" if gpus == 1 else "ddp"),
        "offload": offload,
        "accumulation": accumulation,
        "batch_size": batch_size,
        "image_size": image_size,
        "dtype": dtype,
        "checkpointing": grad_checkpointing,
        "device": device,
    }
    setting = _setting(name, {key: value for key, value in asked.items() if value is not None})
    if memory is not None and not memory > 0:
        raise typer.BadParameter(f"{memory} GiB, expected a number above 0", param_hint="--memory")
    rows = _rows(setting)
    better = _better(setting, rows, memory)
    if json:
        from .output import print_json

        print_json(_as_json(name, setting, rows, memory, better))
        return
    _print(name, setting, rows, memory, better)


def _setting(name: str, asked: dict[str, Any]) -> Setting:
    """Of a recipe or of a model, with what was asked for in place of its own."""
    from ..models import INPUTS, list_models
    from ..planning.budget import Setting, setting_of
    from ..recipes import RECIPES, get_recipe

    for key, fits in (("dtype", ("float32", "bfloat16", "float16")), ("device", ("cuda", "cpu"))):
        if asked.get(key, fits[0]) not in fits:
            raise typer.BadParameter(f"{asked[key]!r}, expected one of {', '.join(fits)}", param_hint=f"--{key}")
    _check_strategy(asked["strategy"])
    if name not in RECIPES and name in list_models():
        images = IMAGES_OF_A_PROCESS * asked["processes"] * asked["accumulation"]
        return Setting(**{"model": name, "batch_size": images, "image_size": INPUTS[name].image_size, **asked})
    recipe = get_recipe(name)
    return setting_of(recipe, **{"num_classes": _classes(recipe), **asked})


def _check_strategy(name: str) -> None:
    from ..train.strategies import STRATEGIES

    if name not in STRATEGIES:
        raise typer.BadParameter(f"{name!r}, expected one of {', '.join(STRATEGIES)}", param_hint="--strategy")


def _classes(recipe: ClassificationRecipe) -> int | None:
    from ..recipes.classification import DATASETS

    return None if recipe.dataset is None else DATASETS[recipe.dataset]


def _rows(setting: Setting) -> Rows:
    """What each strategy takes, the one asked for among them."""
    from ..planning.budget import budget
    from ..planning.remedies import ways

    return {
        (strategy, offload): budget(replace(setting, strategy=strategy, offload=offload))
        for strategy, offload in dict.fromkeys(
            [*ways(setting.processes, setting.optimizer), (setting.strategy, setting.offload)]
        )
    }


def _better(setting: Setting, rows: Rows, memory: float | None) -> list[Setting] | None:
    """What to change; None where nothing needs to be, or no memory was named."""
    from ..planning.remedies import fits, remedies

    chosen = rows[setting.strategy, setting.offload]
    if memory is None or fits(chosen.total, memory, setting.device):
        return None
    return remedies(setting, memory)


def _arguments(setting: Setting, than: Setting) -> str:
    """What to add to the command line of ``than``."""
    words = []
    if setting.checkpointing and not than.checkpointing:
        words.append("--set grad_checkpointing=true")
    if setting.accumulation != than.accumulation:
        words.append(f"--accumulation {setting.accumulation}")
    if setting.strategy != than.strategy:
        words.append(f"--strategy {setting.strategy}")
    if setting.offload and not than.offload:
        words.append("--offload")
    return " ".join(words)


def _as_json(
    name: str,
    setting: Setting,
    rows: Rows,
    memory: float | None,
    better: list[Setting] | None,
) -> dict[str, Any]:
    from ..planning.remedies import fits, released_estimates

    strategies = []
    for (strategy, offload), each in rows.items():
        row = {"strategy": strategy, "offload": offload, **asdict(each), "total": each.total}
        row["fits"] = None if memory is None else fits(each.total, memory, setting.device)
        strategies.append(row)
    remedies = None if better is None else [_arguments(each, setting) for each in better]
    setting_fields = {**asdict(setting), "micro_batch_size": setting.micro_batch_size}
    return {
        "name": name,
        "setting": setting_fields,
        "memory_gib": memory,
        "strategies": strategies,
        "remedies": remedies,
        "released": released_estimates(setting),
    }


def _print(
    name: str,
    setting: Setting,
    rows: Rows,
    memory: float | None,
    better: list[Setting] | None,
) -> None:
    from ..planning.remedies import released_estimates
    from .output import printer, text

    console = printer()
    images = f"{setting.batch_size} images of {setting.image_size}x{setting.image_size} a step"
    parts = f"{setting.processes} x {setting.accumulation} micro-batches of {setting.micro_batch_size}"
    kept = "checkpointed blocks" if setting.checkpointing else "blocks not checkpointed"
    average = "an average of the weights" if setting.average else "no average"
    line = f"{name}: {images} ({parts}), {setting.dtype}, {setting.optimizer}, {average}, {kept}"
    console.print(text(f"{line}. GiB of each process:"))
    console.print(_table(setting, rows, memory))
    if setting.optimizer == "muon":
        console.print(text("muon wants whole weights and gradients: the strategies that shard them refuse it"))
    if better is not None:
        console.print(text(_advice(setting, memory, better)))
    _print_released(released_estimates(setting))


def _table(setting: Setting, rows: Rows, memory: float | None) -> Any:
    from rich.table import Table

    from ..planning.remedies import GIB, fits

    table = Table(box=None, header_style="bold")
    table.add_column("strategy")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    if memory is not None:
        table.add_column(f"fits {memory:g}")
    for (strategy, offload), each in rows.items():
        label = strategy + (" --offload" if offload else "")
        cells = [f"{getattr(each, column) / GIB:.2f}" for column in _COLUMNS]
        if memory is not None:
            cells.append("yes" if fits(each.total, memory, setting.device) else "no")
        chosen = (strategy, offload) == (setting.strategy, setting.offload)
        table.add_row(label, *cells, style="bold" if chosen else "")
    return table


def _advice(setting: Setting, memory: float | None, better: list[Setting]) -> str:
    chosen = setting.strategy + (" --offload" if setting.offload else "")
    if not better:
        return f"{chosen} does not fit {memory:g} GiB, and no change does: take smaller images or more processes"
    lines = [f"{chosen} does not fit {memory:g} GiB; these do:"]
    return "\n".join(lines + [f"  {_arguments(each, setting)}" for each in better])


def _print_released(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from .output import printer

    if not rows:
        return
    title = "\nInternImage-H as its authors state it: 8 cards, batch 16, accumulation 4"
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for heading in ("image", "strategy", "stated MiB", "our estimate"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    for row in rows:
        label = row["strategy"] + (" --offload" if row["offload"] else "")
        table.add_row(str(row["image_size"]), label, f"{row['stated_mib']:,}", f"{row['estimate_mib']:,}")
    printer().print(table)
    printer().print(
        "Estimate: micro-batches of 16, blocks checkpointed, float32 weights and gradients with float16 autocast, no "
        "average. Theirs: float16 weights and gradients; whether blocks were checkpointed is not said."
    )
