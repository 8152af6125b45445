"""``internimage explain``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from . import options


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE|URL|-", help="The picture.")],
    stage: Annotated[int, typer.Option("--stage", help="1 to 4: maps at strides 4, 8, 16 and 32.")] = 2,
    block: Annotated[int, typer.Option("--block", help="Of that stage, from 0; -1 is the last.")] = -1,
    position: Annotated[
        str | None,
        typer.Option(
            "--position", metavar="X,Y", help="In pixels of the picture as the model sees it; the middle unless given."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="The drawing, .png or .jpg; named after the picture unless given.")
    ] = None,
    model: options.Model = None,
    weights: options.Weights = None,
    json: options.Json = False,
    device: options.Device = None,
    dtype: options.DType = "float32",
    backend: options.Backend = None,
) -> None:
    """Draw where DCNv3 or DCNv4 samples: every point of one output pixel, on the picture, sized by its weight.

    Beside it stands the grid that a plain convolution would look at. The picture is drawn as the model sees it, resized
    and cropped.

    Example: [bold]internimage explain photo.jpg --stage 3 --position 100,120 --output look.png[/bold]
    """
    from ..classifier import load
    from ..data.pictures import read_picture
    from ..draw import picture_format, save_picture
    from ..draw_sampling import draw_sampling
    from ..explain import sampling_points
    from ..files import make_folder
    from .classify import picture_name
    from .output import messenger, print_json, printable, text

    place = _as_position(position)
    if output is not None and os.path.realpath(output) == os.path.realpath(image):
        raise ValueError(f"--output {output} is the picture itself; choose another name")
    if output is not None:
        picture_format(output)
    make_folder(Path(".") if output is None else output.parent, "--output")
    picture = read_picture(image)
    classifier = load(model, weights=weights, device=device, dtype=dtype, backend=backend)
    batch = classifier.prepare(picture)[None].to(classifier.device, classifier.dtype)
    sampling = sampling_points(classifier.model, batch, stage, block, place)
    target = output or Path(f"{picture_name(image)}_stage{stage}_block{sampling.block}.png")
    save_picture(draw_sampling(classifier.preprocessing.frame(picture), sampling, classifier.name), target)
    if json:
        print_json({"model": classifier.name, "drawing": printable(target), **sampling.as_dict()})
    else:
        messenger().print(text(f"drawn in {target}"))


def _as_position(given: str | None) -> tuple[float, float] | None:
    if given is None:
        return None
    try:
        x, y = (float(part) for part in given.split(","))
    except ValueError:
        raise typer.BadParameter(f"{given!r}, expected X,Y such as 100,120", param_hint="--position") from None
    return x, y
