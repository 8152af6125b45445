"""Whole networks: InternImage beside timm's, and beside itself with another operator, all in turns."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models import get_config, list_models
from . import breakdown, counting, images, networks
from .gate import Disagreement, require
from .images import Size
from .labels import BASELINE, COMPILED, GRAPH, RELEASED_IMAGES_PER_S, VARIANTS, split_label
from .memory import enough_for, peak_allocation
from .network_runs import Setting, candidates, converts, inference, name_of, precision
from .networks import Network
from .op import require_kernel
from .timing import Candidate, Sample, clock_of, figures, median_ratio, paired_samples, threads

OURS = ("internimage_t", "flash_internimage_t")
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2, torch.float64: 1e-9}
"""Of the largest value, through thirty blocks whose offsets shift with the rounding before them."""
CLASSIFY, FEATURES, TRAIN = "classify", "features", "train"


def chosen_models(names: Sequence[str]) -> tuple[str, ...]:
    """The architectures of these names, the two of size T when there is none.

    Raises:
        ValueError: there is no such architecture, or it is not for color images.
    """
    known = [name for name in list_models() if get_config(name).in_chans == images.CHANNELS]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no model {name!r} to time; expected some of {', '.join(known)}")
    return tuple(dict.fromkeys(names or OURS))


def run(
    names: Sequence[str],
    sizes: Sequence[Size],
    setting: Setting,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """A run of :func:`measure` for each size.

    Raises:
        Disagreement: a network does not compute the same on our operator and on the formula.
    """
    require_kernel(setting.device)
    with threads(setting.threads):
        found = []
        for size in sizes:
            progress(f"{kind(size, setting)} {size} {name_of(setting.dtype)}")
            with enough_for(f"networks at {size}"):
                found.append(measure(names, size, setting))
        return found


def kind(size: Size, setting: Setting) -> str:
    """What the networks do at this size."""
    return TRAIN if setting.train else FEATURES if size.features else CLASSIFY


def measure(names: Sequence[str], size: Size, setting: Setting) -> dict[str, Any]:
    """Check our networks, then time all in turns; docs/benchmarks.md says what stands in the result."""
    image = images.make(size).to(setting.device)
    if setting.compiled:
        torch.compiler.reset()  # what earlier runs compiled counts towards its limits, and holds memory
    every, left_out = _networks(names, size, setting)
    with inference(setting):
        errors = {n.label: gate(n, image[:1], setting) for n in every if n.model and not n.variant}
    runs = [run for network in every for run in candidates(network, image, setting)]
    samples = paired_samples(runs, setting.pairs or size.pairs, setting.clock or clock_of(setting.device))
    about = {network.label: _weight(network, image, setting) for network in every}
    peak = {candidate.name: _peak(candidate, setting) for candidate in runs}
    del runs
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
    return {
        "task": kind(size, setting),
        "batch": size.batch,
        "size": [size.height, size.width],
        "dtype": name_of(setting.dtype),
        "precision": precision(setting),
        "pairs": setting.pairs or size.pairs,
        "errors": errors,
        "left_out": left_out,
        "baseline": _baseline(samples, setting),
        "rows": [
            {
                **_row(label, samples, size, setting),
                **_speed(samples[label], about.get(label)),
                "peak_bytes": peak[label],
            }
            for label in samples
        ],
    }


def _weight(network: Network, image: Tensor, setting: Setting) -> float | None:
    """Gflop of a forward pass on one image, times the batch; of a training step nothing is said."""
    if setting.train:
        return None
    one = image[:1].to(setting.dtype) if converts(setting) else image[:1]
    return len(image) * counting.gflop(network, one)


def _peak(candidate: Candidate, setting: Setting) -> int | None:
    """Of an eager run; compiled and recorded ones hold their memory between runs."""
    if split_label(candidate.name)[1] in (COMPILED, GRAPH):
        return None
    with candidate.around():
        return peak_allocation(candidate.run, setting.device)


def _speed(samples: Sequence[Sample], gflop: float | None) -> dict[str, float | None]:
    seconds = statistics.median(sample.wall for sample in samples)
    return {"gflop": gflop, "gflops": gflop / seconds if gflop else None}


def _networks(names: Sequence[str], size: Size, setting: Setting) -> tuple[list[Network], dict[str, str]]:
    """Ours, with their variants, and the peers that take the size."""
    every: list[Network] = []
    left_out: dict[str, str] = {}
    for name in names:
        every += networks.make(name, size.features, setting.variants)
    for name in setting.peers:
        try:
            every.append(networks.make_peer(name, size.features, (size.height, size.width)))
        except (AssertionError, TypeError) as error:  # a network of timm that takes one size of images only
            left_out[name] = f"does not take {size.height}x{size.width} ({error})"
    for network in every:
        network.module.to(setting.device)
        if converts(setting):
            network.module.to(setting.dtype)
    return every, left_out


def candidates_of(names: Sequence[str], size: Size, setting: Setting) -> list[Candidate]:
    """What :func:`measure` times, unchecked."""
    image = images.make(size).to(setting.device)
    return [run for network in _networks(names, size, setting)[0] for run in candidates(network, image, setting)]


def gate(network: Network, image: Tensor, setting: Setting) -> float:
    """The relative error of a network of ours on one image.

    In float32 a small one is compared with its float64 copy on the formula; at sizes where that takes minutes, and in
    half types, the network is compared with itself on ``grid_sample`` in the same precision.

    Raises:
        Disagreement: it is too large, or an operator was not replaced where it should be, so that nothing would be
            compared.
    """
    model = network.module
    image = image.to(setting.dtype) if converts(setting) else image
    if setting.dtype is torch.float32 and image.shape[-1] * image.shape[-2] <= 256**2:
        with networks.operator(networks.on("reference")) as made:
            want = copy.deepcopy(model).double()(image.double())
    else:
        with networks.operator(networks.on("grid_sample")) as made:
            want = model(image)
    layers = networks.cores(model)
    if len(made) != layers:
        raise Disagreement(f"{network.label}: {len(made)} of {layers} operators were replaced; nothing was timed")
    pairs = zip(_as_list(model(image)), _as_list(want), strict=True)
    bound = BOUNDS[setting.dtype]
    return max(require(f"{network.label}, output {i}", got, right, bound) for i, (got, right) in enumerate(pairs))


def _as_list(output: Tensor | list[Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def _baseline(samples: dict[str, list[Sample]], setting: Setting) -> str | None:
    """The network that ratios are over: the usual one of the device, or the first peer; compiled where all are."""
    names = [name for name in (BASELINE.get(setting.device.type, ""), *setting.peers) if name in samples]
    if not names:
        return None
    return f"{names[0]} {COMPILED}" if f"{names[0]} {COMPILED}" in samples else names[0]


def _row(label: str, samples: dict[str, list[Sample]], size: Size, setting: Setting) -> dict[str, Any]:
    own = samples[label]
    name, variant = split_label(label)
    over = {"baseline": _baseline(samples, setting), "own": name if variant in VARIANTS else None}
    row: dict[str, Any] = {"network": label, "model": name, "variant": variant, **dataclasses.asdict(figures(own))}
    row["images_per_s"] = size.batch / statistics.median(sample.wall for sample in own)
    row["released_images_per_s"] = RELEASED_IMAGES_PER_S.get(name) if variant == GRAPH else None
    for key, other in over.items():
        row[f"over_{key}"] = median_ratio(own, samples[other]) if other else None
        row[f"over_{key}_cpu_time"] = median_ratio(own, samples[other], "cpu") if other else None
    return row


def where_time_goes(names: Sequence[str], size: Size, setting: Setting) -> list[dict[str, Any]]:
    """Shares of the run of each network that is no variant, by kind of work; on the CPU only."""
    image = images.make(size)
    image = image.to(setting.dtype) if converts(setting) else image
    plain = dataclasses.replace(setting, variants=())
    every, _ = _networks(names, size, plain)
    rows = []
    with threads(setting.threads), inference(setting):
        for network in every:
            shares = breakdown.shares(lambda network=network: network.module(image))  # type: ignore[misc]
            rows.append({"network": network.label, "batch": size.batch, "dtype": name_of(setting.dtype), "ms": shares})
    return rows


def weigh(names: Sequence[str], size: Size, setting: Setting) -> list[dict[str, Any]]:
    """Peak memory of each feature extractor above weights and input, in a process of its own each; on the CPU only."""
    labels = [f"{name} {variant}".strip() for name in names for variant in ("", *setting.variants)]
    return [
        {"size": [size.height, size.width], "network": label, **peaks(label, (size.height, size.width))}
        for label in (*labels, *setting.peers)
    ]


def peaks(label: str, size: tuple[int, int]) -> dict[str, int | None]:
    """See :func:`.network_memory.network_peaks`."""
    command = [sys.executable, "-m", "internimage.bench.network_memory", label, *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"measuring the memory of {label} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])
