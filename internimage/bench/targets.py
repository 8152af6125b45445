"""What is wanted, what came, and whether that is enough. The figures wanted are this project's own aims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from . import catalog
from .labels import BASELINE, FREE, ON_GRID_SAMPLE, split_label
from .operators import OURS
from .work import FORWARD

Row = dict[str, Any]

HALF_OVER_FLOAT = 1.0  # times as fast as float32, forward, on the CPU
ON_A_CARD = {"gs compiled": 8.0, "per level compiled": 1.0, "transformers": 1.0, "deformops": 1.0, "DCNv4": 1.5}
"""Times faster than each, at every shape that both take."""
HOST_MICROSECONDS = 30.0  # of an eager call above an empty launch
BANDWIDTH = 0.4  # of the copy that the card does, every number moved once


@dataclass(frozen=True)
class ModelTarget:
    """A model's time over that of the device's baseline, at most so much; ``batch`` and ``dtype`` say where."""

    model: str
    device: str
    task: str
    dtype: str
    batch: int
    at_most: float


MODEL_TARGETS = (
    *(ModelTarget("internimage_t", "cpu", "classify", "float32", batch, 1.20) for batch in (1, 8)),
    *(ModelTarget("flash_internimage_t", "cpu", "classify", "float32", batch, 1.12) for batch in (1, 8)),
    ModelTarget("internimage_t", "cpu", "classify", "bfloat16", 1, 1.5),
    ModelTarget("flash_internimage_t", "cpu", "classify", "bfloat16", 1, 1.35),
    ModelTarget("internimage_t", "cpu", "classify", "bfloat16", 8, 1.3),
    ModelTarget("flash_internimage_t", "cpu", "classify", "bfloat16", 8, 1.25),
    ModelTarget("internimage_t", "cpu", "features", "float32", 1, 1.35),
    ModelTarget("internimage_t", "cuda", "classify", "bfloat16", 128, 1 / 0.9),
    ModelTarget("flash_internimage_t", "cuda", "classify", "bfloat16", 128, 1.0),
    ModelTarget("internimage_t", "cuda", "train", "bfloat16", 128, 1.2),
)
OVER_GRID_SAMPLE = {("classify", 1): 1.5, ("features", 1): 1.9}
"""Times faster than the same network on grid_sample, float32, on the CPU."""
SIZES = {"classify": [224, 224], "train": [224, 224], "features": [800, 1216]}
"""Of the images; of others nothing is wanted."""
MEMORY = 0.5  # of the peak of the same network on grid_sample


def target(
    what: str, sense: str, wanted: float, got: float, aim: float | None = None, free: float | None = None
) -> Row:
    """One line of the table."""
    met = got <= wanted if sense == "<=" else got >= wanted
    return {"what": what, "sense": sense, "wanted": wanted, "aim": aim, "got": got, "free_operator": free, "met": met}


def of_operators(rows: Sequence[Row], device: str, copy_gbytes_per_s: float | None = None) -> list[Row]:
    """Of the rows of :func:`.op.run`, on a kind of device."""
    if device == "cuda":
        return [*_over_peers(rows), *_bandwidth(rows, copy_gbytes_per_s)]
    return [*_over_plain(rows), *_half_types(rows)]


def over_plain(row: Row, figure: str) -> float | None:
    """How many times faster ours is than the fastest plain PyTorch form of the row."""
    plain = catalog.OPERATORS[row["operator"]].plain
    times = [row["forms"][name][figure] for name in plain if name in row["forms"]]
    return min(times) / row["forms"][OURS][figure] if times else None


def _over_plain(rows: Iterable[Row]) -> list[Row]:
    found = []
    for row in rows:
        for wanted in catalog.OPERATORS[row["operator"]].wanted:
            if row["shape"] not in wanted.shapes or row["direction"] != wanted.direction or row["dtype"] != "float32":
                continue
            got = over_plain(row, "min_ms")
            if got is not None:
                what = f"{row['operator']} {row['shape']} {row['direction']}: fastest PyTorch form over ours"
                found.append(target(what, ">=", wanted.times, got, wanted.aim))
    return found


def _half_types(rows: Iterable[Row]) -> list[Row]:
    """The least, over the shapes, that bfloat16 is faster than float32."""
    least: dict[str, tuple[float, str]] = {}
    for row in rows:
        if row["direction"] == FORWARD and "bfloat16" in row["variants"]:
            ratio = row["forms"][OURS]["min_ms"] / row["variants"]["bfloat16"]["min_ms"]
            least[row["operator"]] = min(least.get(row["operator"], (ratio, row["shape"])), (ratio, row["shape"]))
    return [
        target(f"{name} forward: float32 over bfloat16, least ({shape})", ">=", HALF_OVER_FLOAT, ratio)
        for name, (ratio, shape) in least.items()
    ]


def _over_peers(rows: Iterable[Row]) -> list[Row]:
    """The least lead over each peer, for each operator, dtype and direction."""
    least: dict[tuple[str, ...], tuple[float, str]] = {}
    for row in rows:
        for peer in ON_A_CARD:
            if peer in row["forms"]:
                key = (row["operator"], row["dtype"], row["direction"], peer)
                ratio = row["forms"][peer]["median_ms"] / row["forms"][OURS]["median_ms"]
                least[key] = min(least.get(key, (ratio, row["shape"])), (ratio, row["shape"]))
    return [
        target(f"{operator} {dtype} {direction}: {peer} over ours, least ({shape})", ">=", ON_A_CARD[peer], ratio)
        for (operator, dtype, direction, peer), (ratio, shape) in least.items()
    ]


def _bandwidth(rows: Iterable[Row], copy_gbytes_per_s: float | None) -> list[Row]:
    if not copy_gbytes_per_s:
        return []
    return [
        target(
            f"{row['operator']} {row['dtype']} {row['shape']} forward: share of the copy bandwidth",
            ">=",
            BANDWIDTH,
            row["gbytes_per_s"] / copy_gbytes_per_s,
        )
        for row in rows
        if row["direction"] == FORWARD and row["operator"] in ("dcnv3", "dcnv4") and row["dtype"] == "float16"
    ]


def of_host_time(measured: Row | None) -> list[Row]:
    """Of what :mod:`.host_time` measures on a card."""
    return [
        target(f"{name}: host time above an empty launch, microseconds", "<=", HOST_MICROSECONDS, microseconds)
        for name, microseconds in (measured or {}).get("above_empty", {}).items()
    ]


def of_models(runs: Sequence[Row], memory: Sequence[Row], device: str) -> list[Row]:
    """Of the runs of :func:`.model.run` and the rows of :func:`.model.weigh`."""
    found = []
    for run in runs:
        if run["size"] != SIZES[run["task"]]:
            continue
        rows = {row["network"]: row for row in run["rows"]}
        place = f"{run['task']} {run['batch']}x{run['size'][0]}x{run['size'][1]} {run['dtype']}"
        found += _over_baseline(run, rows, place, device)
        found += _over_grid_sample(run, rows, place) if device == "cpu" else []
    return found + _memory(memory)


def _over_baseline(run: Row, rows: dict[str, Row], place: str, device: str) -> list[Row]:
    found = []
    for wanted in MODEL_TARGETS:
        label = wanted.model if device == "cpu" else f"{wanted.model} compiled"
        here = (wanted.device, wanted.task, wanted.dtype, wanted.batch)
        if (
            here != (device, run["task"], run["dtype"], run["batch"])
            or label not in rows
            or not _is_usual(run["baseline"], device)
        ):
            continue
        free = rows.get(f"{wanted.model} {FREE}", {}).get("over_baseline")
        what = f"{place}: {label} over {run['baseline']}"
        found.append(target(what, "<=", wanted.at_most, rows[label]["over_baseline"], free=free))
    return found


def _is_usual(baseline: str | None, device: str) -> bool:
    """Whether ratios are over the network that the figures wanted are about."""
    return baseline is not None and split_label(baseline)[0] == BASELINE[device]


def _over_grid_sample(run: Row, rows: dict[str, Row], place: str) -> list[Row]:
    wanted = OVER_GRID_SAMPLE.get((run["task"], run["batch"]))
    found = []
    for label, row in rows.items():
        if wanted is None or run["dtype"] != "float32" or row["variant"] != ON_GRID_SAMPLE:
            continue
        free = rows.get(f"{row['model']} {FREE}", {}).get("over_own")
        at_best = row["over_own"] / free if free else None
        found.append(target(f"{place}: {label} over ours", ">=", wanted, row["over_own"], free=at_best))
    return found


def _memory(memory: Sequence[Row]) -> list[Row]:
    peak = {row["network"]: row["resident_bytes"] or row["allocated_bytes"] for row in memory}
    found = []
    for label, size in peak.items():
        on_grid_sample = peak.get(f"{label} {ON_GRID_SAMPLE}")
        if on_grid_sample:
            free = peak.get(f"{label} {FREE}")
            at_best = free / on_grid_sample if free else None
            what = f"features: peak memory of {label} over that on grid_sample"
            found.append(target(what, "<=", MEMORY, size / on_grid_sample, free=at_best))
    return found
