"""The tables of networks."""

from __future__ import annotations

from collections.abc import Sequence

from . import breakdown
from .labels import BASELINE
from .table import Results, Table, binary, number, ratio


def tables(model: Results, ceilings: Sequence[Results]) -> list[Table]:
    """Of every run, and of the memory."""
    found = []
    for run in model["runs"]:
        found.append(_networks(run, next((c for c in ceilings if c["dtype"] == run["dtype"]), None)))
        found += [_ratios(run)] if any(row["over_baseline"] or row["over_own"] for row in run["rows"]) else []
        found += [_breakdown(run, rows)] if (rows := _times_of(model, run)) else []
    return found + ([_peaks(model["memory"])] if model["memory"] else [])


def _networks(run: Results, ceilings: Results | None) -> Table:
    released = ("released TensorRT, images/s",) if any(row["released_images_per_s"] for row in run["rows"]) else ()
    return Table(
        f"{_title(run)}, {run['pairs']} pairs of runs",
        (
            *("network", "median ms", "10 to 90 %", "min ms", "images/s", "GFLOP/s", "of peak", "peak memory"),
            *released,
        ),
        [
            (
                *(row["network"], number(row["median_ms"]), f"{number(row['p10_ms'])} to {number(row['p90_ms'])}"),
                *(number(row["min_ms"]), number(row["images_per_s"]), *_speed(row, ceilings)),
                binary(row["peak_bytes"], ""),
                *(str(row["released_images_per_s"] or "") for _ in released),
            )
            for row in run["rows"]
        ],
        (
            "Offsets are random, two pixels standard deviation. Relative error before timing: "
            + ", ".join(f"{n} {e:.1e}" for n, e in run["errors"].items())
            + ".",
            "GFLOP/s: products, convolutions and operators of a forward pass; peak: of a matrix product in the dtype. "
            "Peak memory: as PyTorch's allocator counts, above weights and input.",
            *(f"Left out: {name}, {reason}." for name, reason in run["left_out"].items()),
            *(() if run["baseline"] else (_NO_PEERS,)),
        ),
    )


def _ratios(run: Results) -> Table:
    keys = ("over_baseline", "over_baseline_cpu_time", "over_own", "over_own_cpu_time")
    baseline = run["baseline"] or next(iter(BASELINE.values()))
    return Table(
        f"{_title(run)}: times over those of another network",
        ("network", f"over {baseline}", "CPU time", "over ours", "CPU time"),
        [(row["network"], *(ratio(row[key]) for key in keys)) for row in run["rows"]],
        (
            "Medians of the ratios of the pairs, on the clock and in processor time; below 1 is faster. Over ours: the "
            "same network on our operator.",
        ),
    )


def _title(run: Results) -> str:
    return f"{run['task']} {'x'.join(map(str, (run['batch'], *run['size'])))}, {run['precision']}"


def _speed(row: Results, ceilings: Results | None) -> tuple[str, str]:
    """GFLOP/s, and that as a share of a matrix product."""
    if row["gflops"] is None:
        return "", ""
    return number(row["gflops"]), f"{row['gflops'] / ceilings['gflops']:.0%}" if ceilings else ""


_NO_PEERS = "No network of timm was asked for, or timm is not installed (pip install timm)."


def _times_of(model: Results, run: Results) -> list[Results]:
    if run["task"] != "classify":
        return []
    return [row for row in model["where_time_goes"] if (row["batch"], row["dtype"]) == (run["batch"], run["dtype"])]


def _breakdown(run: Results, rows: list[Results]) -> Table:
    return Table(
        f"Where the time goes: {run['task']}, batch {run['batch']}, {run['precision']}, milliseconds",
        ("network", *breakdown.KINDS),
        [(row["network"], *(number(row["ms"][kind]) for kind in breakdown.KINDS)) for row in rows],
        ("By PyTorch's profiler, outside the timed runs; the last column is what the run takes beyond the kernels.",),
    )


def _peaks(rows: list[Results]) -> Table:
    return Table(
        "Peak memory of the feature extractors above weights and input",
        ("network", "input", "peak resident", "peak allocated"),
        [
            (
                row["network"],
                "x".join(map(str, row["size"])),
                *(binary(row[key]) for key in ("resident_bytes", "allocated_bytes")),
            )
            for row in rows
        ],
        (
            "Each in a fresh process. Resident: high-water mark of the process above what it held once the input "
            "existed. Allocated: as PyTorch's allocator counts.",
        ),
    )
