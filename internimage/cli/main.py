"""The command ``internimage``: finds the file of a verb when it is asked for, and turns errors into one line.

A verb is the function of the same name in the file of the same name, or a group of commands: a ``typer.Typer`` called
``app`` in that file. Files of verbs import torch and the rest inside their functions, so that help answers at once.

Exit codes: 0 done; 1 an error, told in one line; 2 the command line itself is wrong; 3 done, but some of the pictures
could not be read.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .._version import __version__

SKIPPED_SOME = 3


@dataclass(frozen=True)
class Verb:
    """What ``--help`` says of a verb, and the optional packages without which it cannot run."""

    summary: str
    extra: str = ""
    packages: tuple[str, ...] = ()


TRAIN = {"extra": "train", "packages": ("timm", "accelerate", "tensorboard", "torchmetrics")}
VERBS = {
    "classify": Verb("Say what is on pictures: files, folders, addresses, standard input."),
    "extract": Verb("Save what stages or modules compute for a picture."),
    "explain": Verb("Draw where DCNv3 or DCNv4 samples, on the picture."),
    "models": Verb("List models and released weights."),
    "weights": Verb("Download, convert and inspect weights."),
    "train": Verb("Train a model by a recipe.", **TRAIN),  # type: ignore[arg-type]
    "finetune": Verb("Teach a trained model your own classes.", **TRAIN),  # type: ignore[arg-type]
    "plan": Verb("Say how much memory training takes, under which strategy, and what to change."),
    "recipes": Verb("List, show and compare recipes to train by."),
    "evaluate": Verb("Measure accuracy on a data set.", **TRAIN),  # type: ignore[arg-type]
    "bench": Verb("Time operators and networks against what else computes the same."),
    "doctor": Verb("Show versions, devices, and which backends run here."),
    "demo": Verb("Classify forty real pictures and write a page about it."),
}


class VerbGroup(TyperGroup):
    """Commands that are imported when they are called, whatever ``--help`` shows of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _command(cmd_name) if cmd_name in VERBS else None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if ctx.params.get("debug") or not _is_expected(error):
                raise
            from .output import printable

            typer.echo(f"error: {printable(error)}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="InternImage: classify pictures, look inside, train.\n\nExample: [bold]internimage classify photo.jpg[/bold]",
    epilog="Exit codes: 0 done, 1 error, 2 wrong command line, 3 done but some pictures could not be read.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"internimage {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Options before the verb."""


@functools.cache
def _command(verb: str) -> Any:
    """The command of a verb, its file imported now; its callback asks for the packages of its extra first."""
    module = importlib.import_module(f".{verb}", __package__)
    verb_app = getattr(module, "app", None)
    if verb_app is None:
        verb_app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        verb_app.command(name=verb, short_help=VERBS[verb].summary)(getattr(module, verb))
    command = typer.main.get_command(verb_app)
    command.name = verb
    _unwrap(command)
    if VERBS[verb].packages and command.callback is not None:
        command.callback = _after_check(verb, command.callback)
    return command


def _unwrap(command: Any) -> None:
    """Help text that flows: lines end where the terminal does, not where they end in the source."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for part in getattr(command, "commands", {}).values():
        _unwrap(part)


def _after_check(verb: str, callback: Callable) -> Callable:
    @functools.wraps(callback)
    def checked(*args: Any, **kwargs: Any) -> Any:
        missing = [package for package in VERBS[verb].packages if importlib.util.find_spec(package) is None]
        if missing:
            line = f"pip install 'internimage-torch[{VERBS[verb].extra}]'"
            raise ValueError(f"`internimage {verb}` needs {', '.join(missing)}; type: {line}")
        return callback(*args, **kwargs)

    return checked


def _is_expected(error: Exception) -> bool:
    """Whether the message alone tells the person at the keyboard what to do."""
    if isinstance(error, BrokenPipeError):
        return False
    if isinstance(error, (ValueError, OSError, FloatingPointError, MemoryError)):
        return True
    dispatch = sys.modules.get("internimage.ops.dispatch")
    return dispatch is not None and isinstance(error, dispatch.BackendError)


def main() -> None:
    """The entry point of the installed command."""
    app()


if __name__ == "__main__":
    main()
