"""``internimage recipes``: list, show, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from rich.table import Table

    from ..recipes import ClassificationRecipe
    from ..recipes.overrides import Difference

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="List, show and compare recipes to train by.\n\n"
    "Example: [bold]internimage recipes show internimage_t_1k_224[/bold]",
)
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a field first, such as lr=1e-4; may be given repeatedly."),
]

GROUPS = {
    "recipe": ("name", "parent", "released", "seed"),
    "model": (
        *("model", "model_changes", "drop_path_rate", "pretrained", "head_start", "head_init_scale"),
        *("metadata", "frozen_levels", "stored_dtype"),
    ),
    "pictures": (
        *("data", "dataset", "source", "cache", "held_out", "subject", "image_sizes", "channels", "mean", "std"),
        *("interpolation", "crop", "dark_background"),
    ),
    "augmentation": ("augmentation", "transform", "mixing", "label_smoothing"),
    "schedule": (
        *("epochs", "batch_size", "schedule", "lr", "min_lr", "warmup_lr", "warmup_epochs", "rates_for_batch"),
        *("decay_epochs", "decay_rate"),
    ),
    "optimizer": (
        *("optimizer", "betas", "eps", "momentum", "weight_decay", "layer_decay", "dcn_lr_mul", "clip_grad"),
        *("ema_decay", "ema_warmup", "dtype", "grad_checkpointing"),
    ),
}
"""The fields as ``show`` prints them, inner ones under the field that they stand in."""
_BY_SOURCE = {"memory": "transform", "files": "augmentation"}  # what a recipe of this source has no use for


@app.command(name="list")
def list_(
    word: Annotated[
        str | None, typer.Argument(metavar="WORD", help="Only names, models and data sets with this in them.")
    ] = None,
    json: options.Json = False,
) -> None:
    """List the recipes, with their cost and the score their authors publish.

    Example: [bold]internimage recipes list 22kto1k[/bold]
    """
    from ..recipes import RECIPES

    rows = [_row(name) for name in RECIPES]
    shown = [
        row for row in rows if word is None or word.lower() in f"{row['name']} {row['model']} {row['data']}".lower()
    ]
    if json:
        from .output import print_json

        print_json({"recipes": shown})
        return
    _print_list(shown, len(rows), word)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe that `internimage recipes list` shows.")],
    changes: Set = None,
    json: options.Json = False,
) -> None:
    """Show what a recipe says: cost, results, every field, and what differs from the recipe it is a variant of.

    Example: [bold]internimage recipes show internimage_l_22kto1k_384 --set batch_size=64[/bold]
    """
    from ..recipes import get_recipe, override
    from ..recipes.catalog import description, remarks

    recipe = override(get_recipe(name), changes or ())
    if json:
        import dataclasses

        from .output import print_json

        said = {"description": description(name), "remarks": remarks(name)}
        variant = [_as_json(row) for row in _from_parent(get_recipe(name))]
        print_json({**said, "fields": dataclasses.asdict(recipe), "differs_from_parent": variant})
        return
    _print_recipe(recipe, {"": description(name), **remarks(name)})
    _print_differences(get_recipe(name), recipe)


@app.command()
def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="A recipe.")],
    right: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    json: options.Json = False,
) -> None:
    """Show the fields in which two recipes differ.

    Example: [bold]internimage recipes diff internimage_t_1k_224 internimage_s_1k_224[/bold]
    """
    from ..recipes import differences, get_recipe
    from .output import print_json, printer

    rows = differences(get_recipe(left), get_recipe(right))
    if json:
        print_json({"left": left, "right": right, "differences": [_as_json(row) for row in rows]})
    elif not rows:
        printer().print(f"{left} and {right} differ in nothing but their names")
    else:
        printer().print(_difference_table(rows, left, right))


def _row(name: str) -> dict[str, Any]:
    """What the list says of a recipe."""
    from ..recipes import get_recipe
    from ..recipes.catalog import remarks

    recipe, said = get_recipe(name), remarks(name)
    return {
        "name": name,
        "model": recipe.model,
        "data": recipe.dataset or recipe.data or "your own",
        "image_size": recipe.image_size,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "cost": said["Cost"],
        "published": said.get("Published", "none.").rstrip("."),
        "ours": said["Ours"].rstrip("."),
    }


def _searched(row: dict[str, Any]) -> str:
    return f"{row['name']} {row['model']} {row['data']}".lower()


def _print_list(rows: list[dict[str, Any]], total: int, word: str | None) -> None:
    from .output import printer

    console = printer()
    if not rows:
        console.print(f"no recipe has {word!r} in its name, model or data; there are {total}")
        return
    table = _table("Recipes: internimage train NAME --data DIR")
    for heading in ("name", "model", "data", "pixels", "epochs", "batch", "published"):
        right = heading in ("pixels", "epochs", "batch")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        numbers = (str(row["image_size"]), str(row["epochs"]), f"{row['batch_size']:,}")
        score = row["published"].partition(";")[0].removesuffix(" top-1")
        table.add_row(row["name"], row["model"], row["data"], *numbers, score)
    console.print(table)
    console.print(
        "Scores are top-1 by their authors. `internimage recipes show NAME` has the cost, our score and every field."
    )
    if len(rows) < total:
        console.print(f"{len(rows)} of {total} recipes.")


def _print_recipe(recipe: ClassificationRecipe, said: dict[str, str]) -> None:
    from ..recipes.overrides import flat
    from .output import printer, text

    console = printer()
    for label, words in said.items():
        console.print(text(f"{label}: {words}" if label else words))
    values = flat(recipe)
    table = _table("")
    for group, fields in GROUPS.items():
        table.add_row(text(group, "bold"))
        for field in fields:
            if field != _BY_SOURCE[recipe.source]:
                for key in [key for key in values if key == field or key.startswith(f"{field}.")]:
                    table.add_row(text(f"  {key}"), text(_written(key, values[key], recipe)))
    console.print(table)


def _print_differences(recipe: ClassificationRecipe, changed: ClassificationRecipe) -> None:
    """From the parent, and by ``--set``."""
    from ..recipes import differences
    from .output import printer

    console, rows, overrides = printer(), _from_parent(recipe), differences(recipe, changed)
    if rows:
        console.print(_difference_table(rows, recipe.parent, recipe.name, "\nWhat differs from its parent"))
    elif recipe.parent:
        console.print(f"\nThe settings are those of {recipe.parent}.")
    if overrides:
        console.print(_difference_table(overrides, recipe.name, "--set", "\nWhat --set changes"))


def _written(key: str, value: Any, recipe: ClassificationRecipe) -> str:
    """A value as ``--set`` takes it; beside a rate that is stated for another batch size what it comes to."""
    words = _plain(value)
    if recipe.rates_for_batch is not None and key in recipe.rates._fields and value:
        words += f"   (for {recipe.rates_for_batch} images; {getattr(recipe.rates, key):g} for {recipe.batch_size})"
    return words


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value)) or "none of them"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value) or "(empty)"


def _from_parent(recipe: ClassificationRecipe) -> list[Difference]:
    from ..recipes import differences, get_recipe

    return differences(get_recipe(recipe.parent), recipe) if recipe.parent else []


def _as_json(row: Difference) -> dict[str, Any]:
    return {"key": row.key, "left": row.left, "right": row.right}


def _difference_table(rows: list[Difference], left: str, right: str, title: str = "") -> Table:
    from .output import text

    table = _table(title)
    for heading in ("field", left, right):
        table.add_column(heading)
    for row in rows:
        table.add_row(row.key, text(_plain(row.left)), text(_plain(row.right)))
    return table


def _table(title: str) -> Table:
    from rich.table import Table

    return Table(title=title or None, title_justify="left", box=None)
