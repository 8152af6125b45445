"""``internimage weights``: download, convert, inspect."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..weights.checkpoint import Checkpoint

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Download, convert and inspect weights.\n\n"
    "Example: [bold]internimage weights download internimage_t_1k_224[/bold]",
)
Ema = Annotated[bool, typer.Option("--ema", help="The averaged weights of a training checkpoint.")]


@app.command()
def download(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Released names, addresses, or repositories as owner/name.")
    ],
    json: options.Json = False,
) -> None:
    """Fetch released weights once; a dropped connection is taken up where it broke.

    They are kept in the folder INTERNIMAGE_CACHE names, else in the cache of huggingface_hub; HF_HUB_OFFLINE=1 uses
    only what is there.

    Example: [bold]internimage weights download internimage_t_1k_224[/bold]
    """
    from ..weights import catalog, hub
    from .output import print_json

    entries = [None if _is_address(name) else catalog.get(name) for name in names]  # all names before any download
    paths = {}
    for name, entry in zip(names, entries, strict=True):
        path = hub.download(entry) if entry is not None else _fetch(name)
        paths[name] = str(path)
        if not json:
            print(path)
    if json:
        print_json(paths)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A file, folder or released name.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A file; a folder for hf.")],
    to: Annotated[str, typer.Option("--to", help="released (.pth), hf (a folder), or safetensors (one file).")],
    ema: Ema = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at DST.")] = False,
    json: options.Json = False,
) -> None:
    """Write a classification model or backbone in another form, bit for bit.

    Example: [bold]internimage weights convert internimage_t_1k_224.pth tiny.safetensors --to safetensors[/bold]
    """
    from ..weights.convert import FORMATS
    from ..weights.convert import convert as convert_weights
    from .output import print_json

    if to not in FORMATS:
        raise typer.BadParameter(f"--to is {to!r}, expected one of {', '.join(FORMATS)}")
    written = convert_weights(source, target, to, ema=ema, force=force)
    if json:
        print_json({"source": source, "target": str(written), "to": to})
    else:
        print(f"wrote {written}")


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A file, folder or released name.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    ema: Ema = False,
    json: options.Json = False,
) -> None:
    """Say what a file of weights holds: which network, how many classes, what lies beside the weights.

    Nothing in the file is run.

    Example: [bold]internimage weights inspect checkpoint.pth[/bold]
    """
    from ..weights.checkpoint import open_checkpoint
    from .output import print_json, printer, text

    summary = summarize(open_checkpoint(source, ema=ema), tensors)
    if json:
        print_json(summary)
        return
    console = printer()
    for label, value in summary.items():
        if label == "tensor_shapes":
            for name, shape in value.items():
                console.print(text(f"  {name} {tuple(shape)}"))
        elif value not in (None, [], ""):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            console.print(text(f"{label.replace('_', ' '):<14} {shown}"))


def summarize(checkpoint: Checkpoint, with_tensors: bool) -> dict[str, Any]:
    """What :func:`inspect` shows, ready for JSON."""
    import math

    from ..weights.architecture import architecture_of
    from ..weights.report import WeightsError

    shapes = checkpoint.shapes
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for _, tensor in checkpoint.tensors()})
    summary: dict[str, Any] = {
        "source": checkpoint.name,
        "files": len(checkpoint.parts),
        "tensors": len(shapes),
        "values": sum(math.prod(shape) for shape in shapes.values()),
        "dtypes": dtypes,
    }
    try:
        config, classes = architecture_of(checkpoint)
        summary |= {"model": _size_of(config), "classes": classes}
    except WeightsError:
        summary |= {"model": "none of the known sizes", "classes": None}
    card = checkpoint.card
    if card is not None:
        size = None if card.preprocessing is None else card.preprocessing.image_size
        summary |= {"name": card.name, "image_size": size, "note": card.note}
    summary |= {"beside_them": [str(key) for key in checkpoint.extra], "notes": checkpoint.notes}
    if with_tensors:
        summary["tensor_shapes"] = {key: list(shape) for key, shape in shapes.items()}
    return summary


def _size_of(config: Any) -> str:
    from ..backbones import SIZES

    told_by = operator.attrgetter("core_op", "channels", "depths", "use_metadata")
    known = (name for name, size in SIZES.items() if told_by(size) == told_by(config))
    return next(known, f"channels {config.channels}, depths {list(config.depths)}")


def _is_address(name: str) -> bool:
    from ..weights import catalog, hub

    return name.startswith(("https://", "http://")) or (catalog.find(name) is None and hub.looks_like_repository(name))


def _fetch(name: str) -> Path:
    from ..weights import hub

    return hub.download_address(name) if name.startswith("http") else hub.download_repository(name)
