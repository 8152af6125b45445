"""Results to tables, on the terminal and in Markdown; both come from what the JSON file holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from .forms import OURS
from .work import FORWARD

Results = dict[str, Any]

BUSY_LOAD = 1.5
_BUSY = "The machine was busy: times are too long, and ratios less sure; repeat at a quiet moment."


@dataclass(frozen=True)
class Table:
    """Rows of words under a title, and lines that say how to read them."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def tables(results: Results) -> list[Table]:
    """Of everything that was measured."""
    found = []
    if results.get("op"):
        found += [_forms(results["op"]), _variants(results["op"]), _ceilings(results), _extra_memory(results["op"])]
    if results.get("model"):
        found += [*(_networks(run) for run in results["model"]["runs"]), _peaks(results["model"])]
        found += [_targets(results["model"]["targets"])] if results["model"]["targets"] else []
    return found


def header(results: Results) -> list[str]:
    """Machine, versions, commit, date and the command that repeats the figures."""
    machine, load = results["machine"], results["machine"]["load_average"]
    caches = ", ".join(f"{level} {_binary(size)}" for level, size in machine["caches"].items())
    return [
        f"{machine['cpu']}, {machine['cores']} cores ({machine['system']}; {caches or 'caches unknown'}), "
        f"load average {'unknown' if load is None else format(load, '.1f')}, kernels with {machine['instruction_set']}",
        ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + f", commit {results['commit'] or 'unknown'}, {results['date']}",
        f"Again: `{results['command']}`",
        *([_BUSY] if load is not None and load > BUSY_LOAD else []),
    ]


def show(results: Results, console: Console) -> None:
    """Print everything."""
    for line in header(results):
        console.print(line, markup=False)
    for table in tables(results):
        rich_table = RichTable(
            title=table.title, title_justify="left", caption="\n".join(table.notes), caption_justify="left"
        )
        for index, column in enumerate(table.columns):
            rich_table.add_column(column, justify="left" if index == 0 else "right")
        for row in table.rows:
            rich_table.add_row(*row)
        console.print(rich_table)


def markdown(results: Results) -> str:
    """The same as a piece of a Markdown page."""
    parts = ["\n".join(f"- {line}" for line in header(results))]
    for table in tables(results):
        lines = [f"### {table.title}", ""]
        lines += [_line(table.columns), _line(("---", *("---:" for _ in table.columns[1:])))]
        lines += [_line(row) for row in table.rows]
        lines += ["", *(f"{note}  " for note in table.notes[:-1]), *table.notes[-1:]] if table.notes else []
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _forms(rows: list[Results]) -> Table:
    names = list(rows[0]["ms"])
    return Table(
        "dcnv3, float32, one thread: milliseconds, minimum of many",
        (
            "shape",
            "direction",
            *("ours" if name == OURS else name for name in names),
            "faster grid_sample / ours",
            "wanted",
        ),
        [
            (
                row["shape"],
                row["direction"],
                *(_number(row["ms"][name]) for name in names),
                f"{row['ratio']:.1f}x",
                f">= {row['wanted']:g}x" if row["wanted"] else "",
            )
            for row in rows
        ],
        (_slowest_case(rows), f"Largest relative error of any form before timing: {_worst_error(rows):.1e}."),
    )


def _slowest_case(rows: list[Results]) -> str:
    """Where ours leads least, over all forms, torchvision's apart."""
    nearest = min(rows, key=lambda row: row["ratio_to_nearest"])
    torchvision = min(row["ratio_to_torchvision"] for row in rows)
    return (
        f"Nearest that any other form comes: {nearest['ratio_to_nearest']:.1f}x our time ({nearest['shape']}, "
        f"{nearest['direction']}); torchvision's deform_conv2d at its nearest: {torchvision:.1f}x."
    )


def _worst_error(rows: list[Results]) -> float:
    return max(row["errors"][name] for row in rows for name in row["ms"])


def _variants(rows: list[Results]) -> Table:
    names = list(rows[0]["variant_ms"])
    return Table(
        "Ours with lower instruction sets (float32), and in other dtypes (the best one): milliseconds",
        ("shape", "direction", "float32", *names),
        [
            (
                row["shape"],
                row["direction"],
                _number(row["ms"][OURS]),
                *(_number(row["variant_ms"][name]) for name in names),
            )
            for row in rows
        ],
    )


def _ceilings(results: Results) -> Table:
    ceilings = results["ceilings"]
    return Table(
        "What ours achieves of what one thread here can do",
        ("shape", "direction", "GFLOP/s", "of peak", "tensors GB/s", "of copy", "corners GB/s", "of L2 copy"),
        [
            (
                row["shape"],
                row["direction"],
                f"{row['gflops']:.1f}",
                f"{row['gflops'] / ceilings['gflops']:.0%}",
                f"{row['gbytes_per_s']:.1f}",
                f"{row['gbytes_per_s'] / ceilings['memory_gbytes_per_s']:.0%}",
                f"{row['corner_gbytes_per_s']:.1f}",
                f"{row['corner_gbytes_per_s'] / ceilings['l2_gbytes_per_s']:.0%}",
            )
            for row in results["op"]
        ],
        (
            f"Peak: {ceilings['gflops']:.0f} GFLOP/s, a float32 matrix product. "
            f"Copy: {ceilings['memory_gbytes_per_s']:.1f} GB/s larger than the caches, "
            f"{ceilings['l2_gbytes_per_s']:.1f} GB/s within L2, reads and writes counted. All in the same process.",
            "Flop: output pixels x G x P x (8 D + 16) forward, x (16 D + 40) backward. Tensors: each moved once. "
            "Corners: four of D channels a sample, three times in backward.",
        ),
    )


def _extra_memory(rows: list[Results]) -> Table:
    names = list(rows[0]["extra_bytes"])
    return Table(
        "Peak allocation beyond the output (forward), beyond the three gradients (backward alone)",
        ("shape", "pass", *("ours" if name == OURS else name for name in names)),
        [
            (
                row["shape"],
                "forward" if row["direction"] == FORWARD else "backward",
                *(_binary(row["extra_bytes"][name]) for name in names),
            )
            for row in rows
        ],
        ("As PyTorch's allocator counts; a few KiB of scratch a thread inside the C++ are not in it.",),
    )


def _networks(run: Results) -> Table:
    return Table(
        f"{run['task']}, {run['size'][0]}x{run['size'][1]}, batch 1, float32, one thread, {run['pairs']} pairs",
        ("network", "min ms", "median ms", "over convnext_tiny", "in CPU time", "over ours", "in CPU time"),
        [
            (
                _network(row["form"]),
                _number(row["min_ms"]),
                _number(row["median_ms"]),
                *(
                    _ratio(row[key])
                    for key in ("over_convnext", "over_convnext_cpu_time", "over_ours", "over_ours_cpu_time")
                ),
            )
            for row in run["rows"]
        ],
        (
            "Ratios are medians over the pairs. Offsets are random, two pixels standard deviation.",
            f"Relative error before timing: {run['error']:.1e}.",
            *(() if any(row["over_convnext"] for row in run["rows"]) else (_NO_TIMM,)),
        ),
    )


_NO_TIMM = "convnext_tiny is left out: it comes with timm, which is not installed (pip install timm)."


def _network(form: str) -> str:
    return form if "_" in form.split()[0] else f"internimage_t {form}"


def _peaks(model: Results) -> Table:
    return Table(
        "Peak memory of the feature extractors above weights and input",
        ("network", "input", "peak resident", "peak allocated"),
        [
            (
                _network(row["form"]),
                "x".join(map(str, row["size"])),
                *(_binary(row[key]) for key in ("resident_bytes", "allocated_bytes")),
            )
            for row in model["memory"]
        ],
        (
            "Each in a fresh process. Resident: high-water mark of the process above what it held once the input "
            "existed. Allocated: as PyTorch's allocator counts.",
        ),
    )


def _targets(targets: list[Results]) -> Table:
    return Table(
        "What is wanted, what came, and what an operator that costs nothing would give",
        ("what", "wanted", "got", "free operator", "met"),
        [
            (
                t["what"],
                f"{t['sense']} {t['wanted']:g}",
                f"{t['got']:.2f}",
                f"{t['free_operator']:.2f}",
                "yes" if t["met"] else "no",
            )
            for t in targets
        ],
    )


def _number(value: float) -> str:
    """Three figures."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _binary(size: int | None) -> str:
    if size is None:
        return "not known"
    if abs(size) < 2**10:
        return f"{size} B"
    return f"{size / 2**10:.0f} KiB" if abs(size) < 2**20 else f"{size / 2**20:.1f} MiB"
