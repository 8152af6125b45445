"""``internimage extract``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from torch import Tensor


def extract(
    image: Annotated[str | None, typer.Argument(metavar="IMAGE|URL|-", help="The picture; comes first.")] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="LAYER", hidden=True)] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            metavar="LAYER...",
            help="stage1 to stage4 (or c2 to c5), or names of modules; several, separated by blanks or commas.",
        ),
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write them: FILE.safetensors or FILE.npz.")] = None,
    list_names: Annotated[bool, typer.Option("--list", help="Show the names of all layers and stop.")] = False,
    model: options.Model = None,
    weights: options.Weights = None,
    json: options.Json = False,
    device: options.Device = None,
    dtype: options.DType = "float32",
    backend: options.Backend = None,
) -> None:
    """Save what stages or modules compute for a picture, and show the shapes.

    A module that runs several times gives several entries, called name#0, name#1 and so on.

    Example: [bold]internimage extract photo.jpg --layers stage1 stage4 --save features.safetensors[/bold]
    """
    from .. import features
    from ..classifier import load
    from ..data.pictures import read_picture
    from ..files import make_folder

    if image is None and not list_names:
        raise typer.BadParameter("no picture; internimage extract --list shows the layers without one")
    if save is not None:
        features.check_suffix(save)
        make_folder(save.parent, "--save")
    classifier = load(model, weights=weights, device=device, dtype=dtype, backend=backend)
    if list_names or image is None:
        _print_names(features.layer_names(classifier.model), json)
        return
    wanted = [name for given in [*(layers or []), *(more or [])] for name in given.split(",") if name]
    batch = classifier.prepare(read_picture(image))[None].to(classifier.device, classifier.dtype)
    found = features.extract(classifier.model, batch, wanted)
    if save is not None:
        features.save_features(found, save)
    _print_shapes(found, save, json)


def _print_names(names: list[str], json: bool) -> None:
    from .output import print_json

    if json:
        print_json({"layers": names})
    else:
        print("\n".join(names))


def _print_shapes(found: dict[str, Tensor], save: Path | None, json: bool) -> None:
    from rich import box
    from rich.table import Table

    from .output import messenger, print_json, printable, printer, text

    rows = {name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in found.items()}
    if json:
        entries = {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in rows.items()}
        print_json({"layers": entries, "saved": None if save is None else printable(save)})
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("shape")
    table.add_column("numbers")
    for name, (shape, dtype) in rows.items():
        table.add_row(text(name), " x ".join(map(str, shape)), dtype)
    printer().print(table)
    if save is not None:
        messenger().print(text(f"saved in {save}"))
