"""The page of a classification run, from where it stands."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...recipes import RECIPES, get_recipe
from ..report import Run, write_training_report
from ..state import TrainingState
from ..watchers import BEST, CURVE, METRICS
from .task import ClassificationTask

REPORT = "report.html"
_HOLDS = {
    BEST["model"]: "the best weights, by the held-out pictures",
    BEST["average"]: "the best average of the weights, by the held-out pictures",
    METRICS: "a row an epoch",
    CURVE: "the curves as a picture",
}


def write_run_report(
    task: ClassificationTask,
    state: TrainingState,
    folder: Path,
    finished: bool,
    more: Mapping[str, str] | None = None,
) -> Path:
    """Write ``report.html`` into the folder of the run; ``more`` files will lie there, and hold what is said."""
    recipe = task.recipe
    parent = recipe.name if recipe.name in RECIPES else recipe.parent
    final = folder / f"{recipe.name}.safetensors"
    files = {final.name: "the trained model, averaged where the recipe says so"} if finished else {}
    files |= {name: words for name, words in _HOLDS.items() if (folder / name).exists()}
    return write_training_report(
        folder / REPORT,
        Run(
            name=recipe.name,
            recipe=asdict(recipe),
            parent=asdict(get_recipe(parent)) if parent in RECIPES else None,
            parent_name=parent,
            history=state.history,
            seconds=state.seconds,
            data=_data(task),
            machine=_machine(state),
            finished=finished,
            skipped=task.source.skipped(),
            files={**files, **(more or {})},
            commands=_commands(final) if finished else (),
        ),
    )


def _data(task: ClassificationTask) -> dict[str, object]:
    return {
        "where": task.recipe.data,
        "trained on": task.fingerprint,
        "held out": f"{task.source.held_out_count:,} pictures",
        "steps of an epoch": f"{task.steps_per_epoch:,}",
    }


def _machine(state: TrainingState) -> dict[str, Any]:
    processes = state.processes
    card = torch.cuda.get_device_name(processes.device) if processes.device.type == "cuda" else platform.machine()
    return {
        "device": f"{processes.device} ({card})",
        "processes": f"{processes.world_size}, strategy {state.strategy.name}",
        "versions": f"internimage {__version__}, torch {torch.__version__}, python {platform.python_version()}",
    }


def _commands(model: Path) -> list[str]:
    return [
        f"internimage classify --model {shlex.quote(str(model))} photo.jpg",
        f"internimage evaluate {shlex.quote(str(model))} --data DIR    # of pictures that were not learnt",
    ]
