"""``internimage bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..bench.asked import Asked
    from ..bench.results import Results

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

Device = Annotated[str | None, typer.Option("--device", help="cpu (unless given), cuda, cuda:1, ...")]
DTypes = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE,...",
        help="float32, bfloat16, float16 or float64. For models on the CPU, bfloat16 means autocast.",
    ),
]
Threads = Annotated[int, typer.Option("--threads", help="Threads of the CPU.")]
Shapes = Annotated[
    str | None,
    typer.Option("--shapes", metavar="SHAPE,...", help="Sets of shapes (224, 800x1216, detr, ...) or shapes."),
]
Compare = Annotated[
    str | None,
    typer.Option("--compare", metavar="REF", help="Time another commit of this repository, too, in turns with this."),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Small shapes and few runs: whether it works, not how fast it is.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FOLDER", help="Write the results into this folder, as cpu-op-DATE.json."),
]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables to this file, in Markdown.")
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw roofline and bars: a .png or .svg file.")
]


@app.callback(invoke_without_command=True)
def bench(
    ctx: typer.Context,
    quick: Quick = False,
    json: options.Json = False,
    output: Output = None,
    markdown: Markdown = None,
    plot: Plot = None,
) -> None:
    """Time the operators and whole networks against what else computes the same.

    Every form is checked first; nothing is timed when the numbers do not agree. Without op, model or show, both are run
    on one thread of the CPU, which takes half an hour.

    Example: [bold]internimage bench op dcnv4 --plot dcnv4.png[/bold], or [bold]internimage bench --quick[/bold]
    """
    if ctx.invoked_subcommand is not None:
        if quick or json or output or markdown or plot:
            raise typer.BadParameter(f"options belong behind the word: internimage bench {ctx.invoked_subcommand} ...")
        return
    from ..bench.asked import Asked

    _run(None, Asked(quick=quick), json, output, markdown, plot)


@app.command()
def op(
    operators: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OPERATOR]...", help="dcnv3, dcnv4, ms_deform_attn; all unless given."),
    ] = None,
    device: Device = None,
    dtype: DTypes = None,
    threads: Threads = 1,
    shapes: Shapes = None,
    peers: Annotated[
        str | None,
        typer.Option(
            "--peers",
            metavar="PEER,...",
            help="Packages that compute the same: all that are here (unless given), none, or some of torchvision, "
            "transformers, mmcv, deformops, dcnv4.",
        ),
    ] = None,
    compare: Compare = None,
    quick: Quick = False,
    json: options.Json = False,
    output: Output = None,
    markdown: Markdown = None,
    plot: Plot = None,
) -> None:
    """Time operators: forward, and forward with backward.

    Shapes are written HxWxC/G or NxHxWxC/G; for ms_deform_attn H and W are those of an image whose four levels are
    looked at, by a query for each position or, with @Q behind the shape, by Q queries.

    Example: [bold]internimage bench op dcnv4 --shapes 56x56x128/4 --dtype bfloat16[/bold]
    """
    from ..bench.asked import Asked

    asked = Asked(tuple(operators or ()), device, dtype, threads, shapes, peers, compare, quick)
    _run("op", asked, json, output, markdown, plot)


@app.command()
def model(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Sizes that `internimage models` lists; internimage_t and flash_internimage_t unless given.",
        ),
    ] = None,
    device: Device = None,
    dtype: DTypes = None,
    threads: Threads = 1,
    shapes: Annotated[
        str | None,
        typer.Option("--shapes", metavar="SIZE,...", help="Images, HxW or NxHxW, or sets: 224, 8x224, 800x1216."),
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            "--peers",
            metavar="PEER,...",
            help="Models of timm: all (convnext_tiny, swin_tiny_patch4_window7_224, resnet50; unless given), none, or "
            "names.",
        ),
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="A training step instead of inference.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="With torch.compile, too.")] = False,
    features: Annotated[bool, typer.Option("--features", help="Feature extractors instead of classifiers.")] = False,
    compare: Compare = None,
    quick: Quick = False,
    json: options.Json = False,
    output: Output = None,
    markdown: Markdown = None,
    plot: Plot = None,
) -> None:
    """Time whole networks with random weights beside those of timm.

    Example: [bold]internimage bench model internimage_t --shapes 8x224x224 --dtype bfloat16[/bold]
    """
    from ..bench.asked import Asked

    asked = Asked(
        *(tuple(names or ()), device, dtype, threads, shapes, peers, compare, quick),
        train=train,
        compiled=compile,
        features=features,
    )
    _run("model", asked, json, output, markdown, plot)


@app.command()
def loader(
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="As train takes it; made-up JPEGs of 500x375 pixels unless given."),
    ] = None,
    workers: Annotated[
        str, typer.Option("--workers", metavar="N,...", help="Numbers of worker processes, 0 for none.")
    ] = "0,1,2",
    size: Annotated[int, typer.Option("--size", min=1, help="Side of the pictures that come out, in pixels.")] = 224,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures of a batch.")] = 64,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="Length of each measurement.")] = 10.0,
    target: Annotated[
        float | None, typer.Option("--target", metavar="IMAGES/S", help="Say how many workers so many images need.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Time reading, decoding and augmenting pictures for training.

    Example: [bold]internimage bench loader pictures/ --workers 1,4,8 --target 1500[/bold]
    """
    import tempfile

    from ..bench import loader as bench_loader
    from .output import print_json

    numbers = _worker_numbers(workers)
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            typer.echo("making up pictures", err=True)
            bench_loader.make_up(Path(folder))
        found = bench_loader.measure(
            *(data or folder, numbers, size, batch_size, seconds),
            say=lambda line: typer.echo(f"measuring {line}", err=True),
        )
    found["data"] = data or "made-up JPEGs of 500x375 pixels"
    found["workers_needed"] = None if target is None else bench_loader.workers_needed(found["rates"], target)
    print_json(found) if json else _show_loader(found, target)


def _worker_numbers(text: str) -> list[int]:
    numbers = [int(part) if part.strip().isdigit() else -1 for part in text.split(",")]
    if min(numbers) < 0:
        raise typer.BadParameter(f"--workers is {text!r}, expected numbers such as 0,2,4")
    return numbers


def _show_loader(found: dict[str, Any], target: float | None) -> None:
    from .output import printer, text

    cpu = found["machine"]["cpu"]
    lines = [f"{found['data']}: {found['pictures']:,} pictures, to {found['image_size']} pixels, on {cpu}"]
    lines += [f"  {name.replace('_', ' '):<20}{value:8.2f} ms a picture" for name, value in found["steps_ms"].items()]
    for rate in found["rates"]:
        core = f", {rate['images_per_core_s']:,.1f} a second of one core" if rate["images_per_core_s"] else ""
        lines.append(f"  {rate['workers']} workers{rate['images_per_s']:18,.1f} images/s{core}")
    if found["workers_needed"] is not None:
        lines.append(f"  {target:g} images/s need {found['workers_needed']:.1f} workers, a core each")
    printer().print(text("\n".join(lines)))


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Results that the benchmark wrote.")],
    markdown: Markdown = None,
    plot: Plot = None,
) -> None:
    """Print the tables of results files, and draw them, without measuring anything.

    Several files become one page, each with its own head; a picture is drawn of the first.

    Example: [bold]internimage bench show benchmarks/results/cpu-2026-11-25.json --plot speed.svg[/bold]
    """
    from ..bench import report, results
    from .output import printer

    _check(None, markdown, plot)
    read = [results.read(file) for file in files]
    for found in read:
        report.show(found, printer())
    _write(read[0], None, None, plot)
    if markdown:
        results.write_text("\n".join(report.markdown(found) for found in read), markdown)
        typer.echo(f"wrote {markdown}", err=True)


def _run(
    part: str | None, asked: Asked, json: bool, output: Path | None, markdown: Path | None, plot: Path | None
) -> None:
    """Measure, print, and write what was asked for."""
    from ..bench import report, session

    _check(output, markdown, plot)
    found = session.measure(part, asked, lambda line: typer.echo(f"measuring {line}", err=True))
    if json:
        from .output import print_json

        print_json(found)
    else:
        from .output import printer

        report.show(found, printer())
    _write(found, output, markdown, plot)  # behind the tables, which are worth having should this fail


def _check(output: Path | None, markdown: Path | None, plot: Path | None) -> None:
    """What cannot be written is found before long work is done for it."""
    from ..files import check_file, make_folder

    if plot is not None:
        from ..canvas import picture_format

        check_file(plot, "--plot")
        picture_format(plot, "--plot")
    if markdown is not None:
        check_file(markdown, "--markdown")
    if output is not None:
        make_folder(output, "--output")


def _write(found: Results, output: Path | None, markdown: Path | None, plot: Path | None) -> None:
    from ..bench import report, results

    wrote: list[Any] = []
    if output:
        results.write(found, output / results.file_name(found))
        wrote.append(output / results.file_name(found))
    if markdown:
        results.write_text(report.markdown(found), markdown)
        wrote.append(markdown)
    if plot:
        from ..bench import chart

        chart.save(found, plot)
        wrote.append(plot)
    for path in wrote:
        typer.echo(f"wrote {path}", err=True)
