"""Whole networks on one thread of the CPU: InternImage-T against timm's ConvNeXt-T and its own other operators."""

from __future__ import annotations

import copy
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ..layers import DCNv3, deform_conv
from ..models import create_model
from ..ops import native
from ..ops.dcnv3 import dcnv3_from_logits
from ..ops.dispatch import BackendError
from ..ops.geometry import Geometry
from .gate import Disagreement, require
from .timing import Candidate, Sample, median_ratio, one_thread, paired_samples

OURS, ON_GRID_SAMPLE, FREE, CONVNEXT = "internimage_t", "on grid_sample", "free operator", "convnext_tiny"
BOUND = 1e-4  # of the largest value; float32 through thirty blocks, whose offsets shift with the rounding before them


@dataclass(frozen=True)
class Task:
    """What is run: ``features_only`` or the classifier, on one image of ``size`` (height, width)."""

    name: str
    size: tuple[int, int]
    features_only: bool
    pairs: int
    over_convnext: float | None = None  # wanted: at most this many times ConvNeXt's time
    over_grid_sample: float | None = None  # wanted: at least so many times faster than on grid_sample
    memory: float | None = None  # wanted: at most this share of the peak memory on grid_sample


TASKS = (
    Task("classify", (224, 224), False, 31, over_convnext=1.25, over_grid_sample=1.5),
    Task("features", (800, 1216), True, 15, over_convnext=1.35, over_grid_sample=1.9, memory=0.5),
)
QUICK_TASKS = (Task("classify", (64, 64), False, 3), Task("features", (128, 160), True, 3))


@dataclass(frozen=True)
class Network:
    """A module, and what must be around its runs."""

    module: nn.Module
    around: Callable[[], AbstractContextManager]


def forms() -> list[str]:
    """The networks that are timed; ConvNeXt only where timm is installed."""
    return [OURS, ON_GRID_SAMPLE, FREE, *([CONVNEXT] if importlib.util.find_spec("timm") else [])]


def make_network(form: str, features_only: bool) -> Network:
    """One of :func:`forms`; all of InternImage have the same weights."""
    torch.manual_seed(0)
    if form == CONVNEXT:
        import timm

        return Network(timm.create_model(CONVNEXT, features_only=features_only).eval(), nullcontext)
    model = create_model(OURS, features_only=features_only).eval()
    scatter(model)
    return Network(model, AROUND[form])


def scatter(model: nn.Module) -> None:
    """Let the network sample as scattered as trained ones do, not at the regular taps it starts with.

    Offsets get a constant of two pixels standard deviation for each tap and about one pixel that changes from place to
    place; mask logits change too.
    """
    for module in model.modules():
        if isinstance(module, DCNv3):
            # the features that offsets are made of, GELU of a LayerNorm, have a mean square of 0.43
            nn.init.normal_(module.offset.weight, std=(0.43 * module.channels) ** -0.5)
            nn.init.normal_(module.offset.bias, std=2.0)
            nn.init.normal_(module.mask.weight, std=(0.43 * module.channels) ** -0.5)


@contextmanager
def operator(replacement: Callable[..., Tensor]) -> Iterator[list[int]]:
    """Every DCNv3 layer calls ``replacement`` for its core; all around it, fused passes included, stays as it is.

    Yields a list that has one entry for each call that was made.
    """
    made: list[int] = []

    def counted(
        input: Tensor, offset: Tensor, logits: Tensor, geometry: Geometry, backend: str | None = None, biases=None
    ) -> Tensor:
        made.append(1)
        return replacement(input, offset, logits, geometry, biases)

    with mock.patch.object(deform_conv, "dcnv3_from_logits", counted):
        yield made


def on(backend: str) -> Callable[..., Tensor]:
    """The core on a backend."""
    return lambda input, offset, logits, geometry, biases: dcnv3_from_logits(
        input, offset, logits, geometry, backend, biases
    )


def free(input: Tensor, offset: Tensor, logits: Tensor, geometry: Geometry, biases=None) -> Tensor:
    """A core that costs nothing: its input, which has the shape of its output here."""
    return input


AROUND: dict[str, Callable[[], AbstractContextManager]] = {
    OURS: nullcontext,
    ON_GRID_SAMPLE: lambda: operator(on("grid_sample")),
    FREE: lambda: operator(free),
}


def run(
    quick: bool = False, tasks: Sequence[Task] | None = None, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Time and weigh the networks.

    Returns:
        ``runs``: a row a network for each task; ``memory``: a row a network; ``targets``: what is wanted, what came,
        and what an operator that costs nothing would give; ``forms``: the networks.

    Raises:
        Disagreement: the networks do not compute the same.
    """
    if native.load_error():
        raise BackendError(f"there is nothing to time: {native.load_error()}")
    tasks = tasks or (QUICK_TASKS if quick else TASKS)
    results: dict[str, Any] = {"forms": forms(), "runs": [], "memory": []}
    with one_thread(), torch.inference_mode():
        for task in tasks:
            progress(f"{task.name} {task.size[0]}x{task.size[1]}")
            results["runs"].append(measure(task))
    for task in tasks:
        if task.features_only:
            progress(f"memory {task.size[0]}x{task.size[1]}")
            results["memory"] += [{"size": list(task.size), "form": form, **peaks(form, task)} for form in forms()]
    return {**results, "targets": [target for task in tasks for target in targets(task, results)]}


def measure(task: Task) -> dict[str, Any]:
    """Check that InternImage computes the same on both operators, then time all networks in turns."""
    image = torch.randn(1, 3, *task.size, generator=torch.Generator().manual_seed(0))
    networks = {form: make_network(form, task.features_only) for form in forms()}
    error = gate(networks[OURS].module, image, exact=not task.features_only)
    candidates = [
        Candidate(form, lambda module=network.module: module(image), network.around)  # type: ignore[misc]
        for form, network in networks.items()
    ]
    samples = paired_samples(candidates, task.pairs)
    rows = [{"form": form, **_figures(samples[form], samples)} for form in networks]
    return {"task": task.name, "size": list(task.size), "pairs": task.pairs, "error": error, "rows": rows}


def _figures(own: list[Sample], samples: dict[str, list[Sample]]) -> dict[str, float | None]:
    walls = [sample.wall for sample in own]
    figures: dict[str, float | None] = {"min_ms": 1e3 * min(walls), "median_ms": 1e3 * statistics.median(walls)}
    for name, baseline in (("convnext", samples.get(CONVNEXT)), ("ours", samples[OURS])):
        figures[f"over_{name}"] = median_ratio(own, baseline) if baseline else None
        figures[f"over_{name}_cpu_time"] = median_ratio(own, baseline, "cpu") if baseline else None
    return figures


def gate(model: nn.Module, image: Tensor, exact: bool) -> float:
    """The relative error of the network, against its float64 copy on the formula, or against itself on grid_sample.

    Raises:
        Disagreement: it is too large, or an operator was not replaced where it should be, so that nothing would be
            compared.
    """
    layers = sum(isinstance(module, DCNv3) for module in model.modules())
    if exact:
        with operator(on("reference")) as made:
            want = copy.deepcopy(model).double()(image.double())
    else:
        with operator(on("grid_sample")) as made:
            want = model(image)
    if len(made) != layers:
        raise Disagreement(f"{len(made)} of {layers} operators were replaced; nothing was timed")
    pairs = zip(_as_list(model(image)), _as_list(want), strict=True)
    return max(require(f"{OURS}, output {i}", got, right, BOUND) for i, (got, right) in enumerate(pairs))


def _as_list(output: Tensor | list[Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def peaks(form: str, task: Task) -> dict[str, int | None]:
    """Peak memory above weights and input, in a process of its own; see :func:`.memory.network_peaks`."""
    command = [sys.executable, "-m", "internimage.bench.memory", form, *map(str, task.size)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"measuring the memory of {form} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def targets(task: Task, results: dict[str, Any]) -> list[dict[str, Any]]:
    """What is wanted of ``task``, what came, whether that is enough, and what a free operator would give."""
    size = list(task.size)
    rows = {row["form"]: row for run in results["runs"] if run["size"] == size for row in run["rows"]}
    found = []
    if task.over_convnext is not None and CONVNEXT in rows:
        got, at_best = (rows[form]["over_convnext"] for form in (OURS, FREE))
        found.append(_target(task, "time over convnext_tiny", "<=", task.over_convnext, got, at_best))
    if task.over_grid_sample is not None:
        got = rows[ON_GRID_SAMPLE]["over_ours"]
        at_best = got / rows[FREE]["over_ours"]
        found.append(_target(task, "time on grid_sample over ours", ">=", task.over_grid_sample, got, at_best))
    if task.memory is not None:
        weighed = {row["form"]: row for row in results["memory"] if row["size"] == size}
        peak = {form: row["resident_bytes"] or row["allocated_bytes"] for form, row in weighed.items()}
        got, at_best = (peak[form] / peak[ON_GRID_SAMPLE] for form in (OURS, FREE))
        found.append(_target(task, "peak memory over that on grid_sample", "<=", task.memory, got, at_best))
    return found


def _target(task: Task, what: str, sense: str, wanted: float, got: float, free_operator: float) -> dict[str, Any]:
    return {
        "what": f"{task.name} {task.size[0]}x{task.size[1]}: {what}",
        "sense": sense,
        "wanted": wanted,
        "got": got,
        "free_operator": free_operator,
        "met": got <= wanted if sense == "<=" else got >= wanted,
    }
