"""What ``train`` and ``finetune`` share: how a run is conducted, and what is told on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from ..processes import Processes
    from ..recipes import ClassificationRecipe
    from ..train.classification.source import Source
    from ..train.classification.task import ClassificationTask
    from ..train.state import TrainingState

Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        help="single, ddp, fsdp2, deepspeed-1, -2 or -3; single for one process, ddp for more unless given.",
        rich_help_panel="Scale",
    ),
]
Offload = Annotated[
    bool,
    typer.Option("--offload", help="Keep optimizer states in the memory of the host.", rich_help_panel="Scale"),
]
Accumulation = Annotated[
    int,
    typer.Option(
        "--accumulation",
        min=1,
        help="Micro-batches of each process a step; the batch size of the recipe stays what it is.",
        rich_help_panel="Scale",
    ),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Run the model through torch.compile.", rich_help_panel="Scale")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=0, help="Processes that read pictures, of each process that trains.", rich_help_panel="Data"
    ),
]
BadPictures = Annotated[
    str,
    typer.Option("--bad-pictures", help="skip those that cannot be read, or raise.", rich_help_panel="Data"),
]
Cache = Annotated[
    str,
    typer.Option(
        "--cache",
        help="Files kept in memory: no, full (all in each process) or part (its own).",
        rich_help_panel="Data",
    ),
]
FastDecode = Annotated[
    bool,
    typer.Option(
        "--fast-decode",
        help="Decode large JPEGs at a part of their size, at least four times the input's.",
        rich_help_panel="Data",
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic", help="Use only algorithms that give the same bits every time, also on a card.",
        rich_help_panel="Run",
    ),
]  # fmt: skip
SaveEvery = Annotated[
    int,
    typer.Option(
        "--save-every", min=0, help="Steps between checkpoints; 0 saves every two minutes.", rich_help_panel="Run"
    ),
]
Keep = Annotated[int, typer.Option("--keep", min=1, help="Checkpoints that stay.", rich_help_panel="Run")]
EvaluateEvery = Annotated[
    int, typer.Option("--evaluate-every", min=1, help="Epochs between evaluations.", rich_help_panel="Run")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --output, exactly.", rich_help_panel="Run")]
AutoResume = Annotated[
    bool,
    typer.Option(
        "--auto-resume", help="Continue the run in --output if there is one, else start it.", rich_help_panel="Run"
    ),
]


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a run is conducted, which no recipe says.

    How a step is shared out, over processes and accumulation, changes roundings, the draws of drop path and mixing, and
    what batch norms see; the rest changes roundings at most.

    ``pages`` are written after the training, into its folder: names, and what they show.
    """

    val: str = ""
    workers: int | None = None
    bad_pictures: str = "skip"
    cache: str = "no"
    fast_decode: bool = False
    device: str | None = None
    strategy: str | None = None
    offload: bool = False
    accumulation: int = 1
    compile: bool = False
    deterministic: bool = False
    save_every: int = 0
    keep: int = 2
    evaluate_every: int = 1
    resume: bool = False
    auto_resume: bool = False
    json: bool = False
    pages: Mapping[str, str] | None = None


def overridden(recipe: ClassificationRecipe, given: dict[str, Any], settings: list[str]) -> ClassificationRecipe:
    """The recipe with what the options of a command give, then what ``--set`` says."""
    from ..recipes.overrides import override
    from ..recipes.training import lasting

    if "epochs" in given:
        recipe = lasting(recipe, given["epochs"])
    if "lr" in given:  # both stay below it
        given |= {name: min(getattr(recipe, name), given["lr"]) for name in ("min_lr", "warmup_lr")}
    return override(replace(recipe, **given), settings)


def run(recipe: ClassificationRecipe, folder: Path, running: Running, parts: Any = None) -> int:
    """Train and write; returns the exit code.

    Args:
        parts: the pictures to learn from and those to measure on, where they are open already.
    """
    import torch

    from ..processes import lost_others, started_processes, stop_processes
    from .run_folder import claimed, newest_checkpoint

    processes = started_processes(running.device)
    try:
        with claimed(folder, processes):
            newest = newest_checkpoint(folder, processes, resume=running.resume, auto_resume=running.auto_resume)
            if running.deterministic:
                _be_deterministic()
            code = _run(recipe, _open(recipe, running, processes, parts), folder, running, processes, newest)
        processes.wait()  # launchers end all processes when one ends as stopped, and the first still writes
        return code
    except RuntimeError as error:
        first_line = (str(error).splitlines() or [""])[0]
        if isinstance(error, torch.OutOfMemoryError):
            raise MemoryError(f"{first_line}; see `internimage plan`, or take a larger --accumulation") from error
        if not lost_others(error):
            raise
        raise ConnectionError(f"another of the processes has ended; look for what it said ({first_line})") from error
    finally:
        stop_processes()


def _open(recipe: ClassificationRecipe, running: Running, processes: Processes, parts: Any) -> Source:
    """The pictures, with a bar while files are read."""
    from ..train.classification.sources import Reading, open_source
    from .progress import progress_bar

    workers = default_workers(processes) if running.workers is None else running.workers
    reading = Reading(
        val=running.val,
        workers=workers,
        bad=running.bad_pictures,
        cache=running.cache,
        fast_decode=running.fast_decode,
        accumulation=running.accumulation,
    )
    bar = progress_bar("reading")
    bar.disable = bar.disable or not processes.is_first
    with bar:
        task = bar.add_task("", total=None)
        return open_source(
            recipe, processes, reading, lambda done, total: bar.update(task, completed=done, total=total), parts
        )


def default_workers(processes: Processes) -> int:
    """A reader for each core of a machine but one, shared out, at most eight; none where there is one core or two."""
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sharing = processes.on_this_machine
    if processes.own_cores is not None:  # nothing to share out
        cores, sharing = min(cores, processes.own_cores), 1
    return min(8, (cores - 1) // sharing) if cores > 2 else 0


def _be_deterministic() -> None:
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def _run(
    recipe: ClassificationRecipe,
    source: Source,
    folder: Path,
    running: Running,
    processes: Processes,
    newest: Path | None,
) -> int:
    from ..files import remove_unfinished
    from ..train.checkpoint import Checkpoints, read_checkpoint
    from ..train.classification.run_report import write_run_report
    from ..train.classification.task import ClassificationTask
    from ..train.interrupt import StopOnSignal
    from ..train.loop import Conduct, fit
    from ..train.state import new_state
    from ..train.strategies import make_strategy
    from .output import messenger, text
    from .training_progress import Progress

    checkpoints = Checkpoints(folder, running.keep)
    task = ClassificationTask(recipe, source, fresh=newest is None)
    strategy = make_strategy(running.strategy, processes, running.offload, running.compile)
    state = new_state(task, recipe, strategy)
    if newest:
        state.load(read_checkpoint(newest), newest)
    conduct = Conduct(
        accumulation=running.accumulation,
        save_every_steps=running.save_every,
        evaluate_every=running.evaluate_every,
    )
    if not processes.is_first:
        with StopOnSignal() as stop:
            finished = fit(state, checkpoints, [], conduct, stop)
        _final_weights(state)
        return 0 if finished else 128 + stop.signal
    remove_unfinished(folder)
    err = messenger()
    err.print(text(introduction(task, state, folder)))
    for line in [*task.remarks, *remarks_on_average(recipe, state.total_steps)]:
        err.print(text(line))
    with StopOnSignal() as stop, Progress(state) as progress:
        finished = fit(state, checkpoints, [*writers(state, folder), progress], conduct, stop)
    weights = _final_weights(state)
    for reason in task.source.skipped():
        err.print(text(f"skipped: {reason}"))
    if not finished:
        write_run_report(task, state, folder, finished=False)
        err.print(text(f"stopped after step {state.step}; the same command with --resume continues"))
        return 128 + stop.signal if stop.signal else 1
    _finish(task, state, weights, folder, running)
    return 0


def remarks_on_average(recipe: ClassificationRecipe, steps: int) -> list[str]:
    """That a run is too short for its average of the weights, which is what is written in the end."""
    span = 1 / (1 - recipe.ema_decay)
    if not recipe.ema_decay or recipe.ema_warmup or steps > 3 * span:
        return []
    return [
        f"the average of the weights spans {span:,.0f} steps and the run has {steps:,}: initial values stay in it; add "
        "--set ema_warmup=true, or --set ema_decay=0 for none"
    ]


def _final_weights(state: TrainingState) -> dict[str, Tensor]:
    from ..train.loop import full_weights

    return full_weights(state, "average")


def writers(state: TrainingState, folder: Path) -> list[Any]:
    """What writes files while a run goes on."""
    from ..train.watchers import BestWeights, Tables, TensorBoard

    return [Tables(folder), BestWeights(folder), TensorBoard(folder, state.step)]


def introduction(task: ClassificationTask, state: TrainingState, folder: Path) -> str:
    """What is about to be done, in one line."""
    recipe, processes = task.recipe, state.processes
    start = f", from step {state.step}" if state.step else ""
    many = f" on {processes.world_size} processes ({state.strategy.name})" if processes.world_size > 1 else ""
    held_out = f", {task.source.held_out_count:,} more held out" if task.source.held_out_count else ""
    return (
        f"{recipe.name}: {state.parameters:,} parameters, {task.fingerprint}{held_out}, {recipe.epochs} epochs of "
        f"{task.steps_per_epoch} steps{many}{start}; writing to {folder}"
    )


def _finish(
    task: ClassificationTask, state: TrainingState, weights: dict[str, Tensor], folder: Path, running: Running
) -> None:
    """Write the trained model and say how good it is."""
    from ..train.classification.run_report import write_run_report
    from .output import print_json, printer, text

    last = state.history[-1]
    prefix = "ema_" if state.average is not None else ""
    scores = {name: last[f"{prefix}{name}"] for name in ("top1", "top5") if f"{prefix}{name}" in last}
    model = folder / f"{task.recipe.name}.safetensors"
    task.save(model, weights, scores)
    report = write_run_report(task, state, folder, finished=True, more=running.pages)
    if running.json:
        told = {"model": str(model), "report": str(report), "steps": state.step}
        print_json({"recipe": task.recipe.name, **told, **last})
        return
    score = f", top-1 {scores['top1']:.2f} % of the held-out pictures" if scores else ""
    printer().print(text(f"{model}: {state.step:,} steps in {state.seconds / 60:.1f} minutes{score}; {report}"))
