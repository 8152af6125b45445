"""One sitting: what was asked for is measured, and put together with the machine it was measured on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..devices import pick_device
from . import compare, images, machine, model, network_runs, networks, op, peers, results, targets
from .asked import Asked, dtypes
from .shapes import split_words

Progress = Callable[[str], None]


def measure(part: str | None, asked: Asked, progress: Progress = lambda line: None) -> results.Results:
    """Everything asked for: the ``part`` "op" or "model", or both for None.

    Raises:
        ValueError: an option does not fit; it is raised before anything is timed.
        BackendError: our kernel does not run here.
    """
    if os.environ.get("INTERNIMAGE_BACKEND"):
        raise ValueError("INTERNIMAGE_BACKEND is set, so that all forms would run on that backend; unset it first")
    _check(asked)
    device = _device(asked.device)
    measured = results.begin(asked.words(part), device, asked.quick, _plain(asked, device))
    steps = [step for name, step in (("op", _operators), ("model", _models)) if part in (None, name)]
    for prepare in [step(asked, device, progress) for step in steps]:  # bad words are found before any time is spent
        measured |= prepare(measured)
    if asked.compare:
        measured["compare"] = compare.run(part, asked, device, progress)
    return measured


def _check(asked: Asked) -> None:
    """What no machine can do, and what would be noticed only after the rest has been timed."""
    cores = os.cpu_count() or asked.threads
    if not 1 <= asked.threads <= cores:
        raise ValueError(f"--threads is {asked.threads}, expected 1 to {cores}, which this machine has")
    for name in ("device", "dtype", "shapes", "peers", "compare"):
        words = getattr(asked, name)
        if words is not None and not split_words(words):
            raise ValueError(f"--{name} is empty ({words!r}); leave it out for what is usual")
    if asked.train and asked.features:
        raise ValueError("--train and --features do not go together: a training step needs a classifier; leave one out")
    if asked.compare:
        compare.resolve(asked.compare)


def _device(word: str | None) -> torch.device:
    """The CPU unless another is asked for: what a table says must not depend on which card is free."""
    return pick_device(word or "cpu")


def _plain(asked: Asked, device: torch.device) -> dict[str, Any]:
    return {**dataclasses.asdict(asked), "names": list(asked.names), "device": str(device)}


Step = Callable[[results.Results], results.Results]


def _operators(asked: Asked, device: torch.device, progress: Progress) -> Step:
    op.require_kernel(device)
    chosen = dtypes(asked.dtype, (torch.float32,))
    settings = [
        op.Setting(
            device,
            dtype,
            asked.threads,
            op.QUICK_SECONDS if asked.quick else op.SECONDS,
            peers.chosen(asked.peers),
        )
        for dtype in chosen
    ]
    words = split_words(asked.shapes)
    for operator in op.chosen(asked.names):
        op.chosen_shapes(operator, words, settings[0], asked.quick)

    def run(measured: results.Results) -> results.Results:
        rows = []
        with _ceilings(asked, device, chosen, progress) as ceilings:
            for setting in settings:
                rows += op.run(asked.names, words, setting, asked.quick, progress)
        found = targets.of_operators(rows, device.type, ceilings[0].memory_gbytes_per_s)
        return {
            "op": rows,
            "peers": {name: reason or peers.version(name) for name, reason in settings[0].peers.items()},
            "ceilings": _joined(measured, ceilings),
            "targets": [*measured.get("targets", []), *([] if asked.quick else found)],
        }

    return run


@contextmanager
def _ceilings(
    asked: Asked, device: torch.device, chosen: Sequence[torch.dtype], progress: Progress
) -> Iterator[list[machine.Ceilings]]:
    """The ceilings in each dtype, measured before the block and after; the higher ones stand in the list behind it."""

    def measure_all() -> list[machine.Ceilings]:
        progress("the ceilings of this machine")
        return [machine.measure_ceilings(asked.quick, device, dtype, asked.threads) for dtype in chosen]

    found = measure_all()
    yield found
    found[:] = [machine.best_of(*pair) for pair in zip(found, measure_all(), strict=True)]


def _joined(measured: results.Results, ceilings: Sequence[machine.Ceilings]) -> list[dict[str, Any]]:
    """With those of an earlier part, one for each dtype."""
    known = {found["dtype"]: found for found in measured.get("ceilings", [])}
    return list((known | {ceiling.dtype: dataclasses.asdict(ceiling) for ceiling in ceilings}).values())


def _models(asked: Asked, device: torch.device, progress: Progress) -> Step:
    op.require_kernel(device)
    names = model.chosen_models(asked.names)
    sizes = images.chosen(split_words(asked.shapes), device, asked.quick, asked.features)
    usual = (torch.bfloat16,) if device.type == "cuda" else (torch.float32, torch.bfloat16)
    timm_names = networks.chosen_peers(asked.peers)
    settings = [
        network_runs.Setting(device, dtype, asked.threads, timm_names, asked.train, asked.compiled)
        for dtype in dtypes(asked.dtype, usual)
    ]

    def run(measured: results.Results) -> results.Results:
        runs, memory, time = [], [], []
        with _ceilings(asked, device, [setting.dtype for setting in settings], progress) as ceilings:
            for setting in settings:
                # a detector's size in half types adds minutes and says what the others say
                taken = [size for size in sizes if not size.features or setting is settings[0]]
                runs += model.run(names, taken, setting, progress)
                for size in taken if device.type == "cpu" and not asked.train else ():
                    if not size.features:
                        progress(f"where the time goes, {size}")
                        time += model.where_time_goes(names, size, setting)
                    elif setting.dtype is torch.float32:
                        progress(f"memory {size}")
                        memory += model.weigh(names, size, setting)
        found = targets.of_models(runs, memory, device.type)
        return {
            "model": {"runs": runs, "memory": memory, "where_time_goes": time},
            "ceilings": _joined(measured, ceilings),
            "targets": [*measured.get("targets", []), *([] if asked.quick else found)],
        }

    return run
