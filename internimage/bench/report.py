"""Results to tables, on the terminal and in Markdown; both come from what the JSON file holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import breakdown, targets
from .gate import BOUNDS
from .labels import BASELINE
from .operators import OURS
from .shapes import parse_attention
from .work import FORWARD

if TYPE_CHECKING:
    from rich.console import Console

Results = dict[str, Any]

BUSY_LOAD = 1.5
_BUSY = "The machine was busy: times are too long, and ratios less sure; repeat at a quiet moment."
_WORDS = {"min_ms": "minimum of many", "median_ms": "median"}


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
    if results.get("targets"):
        found.append(_targets(results["targets"]))
    if results.get("op"):
        found += _operators(results)
    if results.get("model"):
        found += _models(results["model"], results.get("ceilings", []))
    if results.get("compare"):
        found.append(_compare(results["compare"]))
    return found


def header(results: Results) -> list[str]:
    """Machine, versions, commit, date and the command that repeats the figures."""
    machine, load = results["machine"], results["machine"]["load_average"]
    caches = ", ".join(f"{level} {binary(size)}" for level, size in machine["caches"].items())
    on_card = machine.get("device") is not None
    busy = load is not None and load > BUSY_LOAD and not on_card
    return [
        *([_card(machine["device"])] if on_card else []),
        f"{machine['cpu']}, {machine['cores']} cores ({machine['system']}; {caches or 'caches unknown'}), "
        f"load average {'unknown' if load is None else format(load, '.1f')}"
        + ("" if on_card else f", kernels with {machine['instruction_set']}, {threads_in_words(results)}"),
        ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + f", commit {results['commit'] or 'unknown'}, {results['date']}",
        f"Again: `{results['command']}`",
        *([_BUSY] if busy else []),
    ]


def _card(card: Results) -> str:
    return (
        f"{card['name']}, {card['memory_bytes'] / 2**30:.0f} GiB, sm_{card['capability'].replace('.', '')}, "
        f"driver {card['driver'] or 'unknown'}, CUDA {card['cuda']}"
    )


def threads_in_words(results: Results) -> str:
    """How many computed."""
    count = results["setting"]["threads"]
    return "one thread" if count == 1 else f"{count} threads"


def show(results: Results, console: Console) -> None:
    """Print everything."""
    from rich.table import Table as RichTable

    for line in header(results):
        console.print(line, markup=False)
    for table in tables(results):
        rich_table = RichTable(
            title=table.title, title_justify="left", caption="\n".join(table.notes), caption_justify="left"
        )
        for index, column in enumerate(table.columns):
            rich_table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
        for row in table.rows:
            rich_table.add_row(*row)
        console.print(rich_table)


def markdown(results: Results) -> str:
    """The same as a piece of a Markdown page."""
    parts = ["\n".join(f"- {line}" for line in header(results))]
    parts += [_as_markdown(table) for table in tables(results)]
    return "\n\n".join(parts) + "\n"


def _as_markdown(table: Table) -> str:
    lines = [f"### {table.title}", ""]
    lines += [_line(table.columns), _line(("---", *("---:" for _ in table.columns[1:])))]
    lines += [_line(row) for row in table.rows]
    lines += ["", *(f"{note}  " for note in table.notes[:-1]), *table.notes[-1:]] if table.notes else []
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _targets(rows: Sequence[Results]) -> Table:
    """What is wanted comes first: it is what one looks for."""
    return Table(
        "What is wanted, what came, and what an operator that costs nothing would give",
        ("what", "wanted", "got", "free operator", "met"),
        [
            (
                row["what"],
                f"{row['sense']} {row['wanted']:.3g}" + (f" (aim {row['aim']:g})" if row["aim"] else ""),
                f"{row['got']:.2f}",
                ratio(row["free_operator"]),
                "yes" if row["met"] else "no",
            )
            for row in rows
        ],
    )


def _operators(results: Results) -> list[Table]:
    found = []
    groups = list(dict.fromkeys((row["operator"], row["dtype"]) for row in results["op"]))
    for operator, dtype in groups:
        rows = [row for row in results["op"] if (row["operator"], row["dtype"]) == (operator, dtype)]
        title = f"{operator}, {dtype}"
        found += [_forms(title, rows, results), _spread(title, rows)]
        found += [_variants(title, rows)] if any(row["variants"] for row in rows) else []
        ceilings = next((c for c in results["ceilings"] if c["dtype"] == dtype), None)
        found += [_achieved(title, rows, ceilings)] if ceilings else []
        found.append(_extra_memory(title, rows))
    return found


def figure(results: Results) -> str:
    """Which figure is compared where these results come from; see :func:`.op.statistic`."""
    return "median_ms" if results["machine"].get("device") else "min_ms"


def _names(rows: Sequence[Results], key: str = "forms") -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row[key]))


def _forms(title: str, rows: list[Results], results: Results) -> Table:
    names, key = _names(rows), figure(results)
    cells = []
    for row in rows:
        lead = targets.over_plain(row, key)
        times = (_ms(row["forms"].get(name), key) for name in names)
        cells.append((row["shape"], row["direction"], *times, "" if lead is None else f"{lead:.1f}x"))
    return Table(
        f"{title}: milliseconds, {_WORDS[key]}",
        ("shape", "direction", *names, "fastest PyTorch form / ours"),
        cells,
        (
            *_left_out(rows),
            *_queries(rows),
            *_less_exact(rows),
            f"Largest relative error of any form before timing: {_worst(rows):.1e}.",
        ),
    )


def _left_out(rows: list[Results]) -> tuple[str, ...]:
    reasons = {name: reason for row in rows for name, reason in row["left_out"].items()}
    return tuple(f"Left out: {name}, {reason}." for name, reason in reasons.items())


def _queries(rows: list[Results]) -> tuple[str, ...]:
    """What a shape of attention stands for."""
    if rows[0]["operator"] != "ms_deform_attn":
        return ()
    found = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        parsed = parse_attention(shape)
        if parsed is not None:
            levels = ", ".join(f"{h}x{w}" for h, w in parsed.levels)
            found.append(f"{shape}: {parsed.looks} queries at the {parsed.positions} positions of levels {levels}.")
    return tuple(found)


def _worst(rows: list[Results]) -> float:
    return max(form["error"] for row in rows for form in row["forms"].values())


def _less_exact(rows: list[Results]) -> tuple[str, ...]:
    """Packages of others that are off by more than ours may be."""
    worst: dict[str, float] = {}
    for row in rows:
        for name, form in row["forms"].items():
            worst[name] = max(worst.get(name, 0.0), form["error"])
    bound = next(bound for dtype, bound in BOUNDS.items() if str(dtype) == f"torch.{rows[0]['dtype']}")
    return tuple(
        f"{name} is off by up to {error:.1e}; of ours {bound:g} is allowed."
        for name, error in worst.items()
        if error > bound
    )


def _spread(title: str, rows: list[Results]) -> Table:
    names = _names(rows)
    return Table(
        f"{title}: median (tenth to ninetieth percentile) in milliseconds",
        ("shape", "direction", *names),
        [(row["shape"], row["direction"], *(_range(row["forms"].get(name)) for name in names)) for row in rows],
    )


def _variants(title: str, rows: list[Results]) -> Table:
    names = _names(rows, "variants")
    return Table(
        f"{title}: ours on lower instruction sets, and in other dtypes on the best: milliseconds, minimum of many",
        ("shape", "direction", rows[0]["dtype"], *names),
        [
            (
                *(row["shape"], row["direction"], _ms(row["forms"][OURS], "min_ms")),
                *(_ms(row["variants"].get(name), "min_ms") for name in names),
            )
            for row in rows
        ],
    )


def _achieved(title: str, rows: list[Results], ceilings: Results) -> Table:
    return Table(
        f"{title}: what ours achieves of what this machine can do",
        ("shape", "direction", "GFLOP/s", "of peak", "tensors GB/s", "of copy", "corners GB/s", "of L2 copy"),
        [
            (
                *(row["shape"], row["direction"], number(row["gflops"]), f"{row['gflops'] / ceilings['gflops']:.0%}"),
                number(row["gbytes_per_s"]),
                f"{row['gbytes_per_s'] / ceilings['memory_gbytes_per_s']:.0%}",
                number(row["corner_gbytes_per_s"]),
                f"{row['corner_gbytes_per_s'] / ceilings['l2_gbytes_per_s']:.0%}",
            )
            for row in rows
        ],
        (
            f"Peak: {ceilings['gflops']:.0f} GFLOP/s, a matrix product in {ceilings['dtype']}. "
            f"Copy: {number(ceilings['memory_gbytes_per_s'])} GB/s larger than the caches, "
            f"{number(ceilings['l2_gbytes_per_s'])} GB/s within L2, reads and writes counted. All in the same process.",
            "Flop: samples x (8 D + 16) forward, x (16 D + 40) backward. Tensors: each moved once. "
            "Corners: four of D channels a sample, three times in backward.",
        ),
    )


def _extra_memory(title: str, rows: list[Results]) -> Table:
    names = [
        name for name in _names(rows) if any(row["forms"].get(name, {}).get("extra_bytes") is not None for row in rows)
    ]
    return Table(
        f"{title}: peak allocation beyond the output (forward), beyond the gradients (backward alone)",
        ("shape", "pass", *names),
        [
            (
                row["shape"],
                "forward" if row["direction"] == FORWARD else "backward",
                *(binary(row["forms"].get(name, {}).get("extra_bytes"), "") for name in names),
            )
            for row in rows
        ],
        ("As PyTorch's allocator counts; a few KiB of scratch a thread inside the C++ are not in it.",),
    )


def _models(model: Results, ceilings: Sequence[Results]) -> list[Table]:
    found = []
    for run in model["runs"]:
        found.append(_networks(run, next((c for c in ceilings if c["dtype"] == run["dtype"]), None)))
        found += [_breakdown(run, rows)] if (rows := _times_of(model, run)) else []
    return found + ([_peaks(model["memory"])] if model["memory"] else [])


def _networks(run: Results, ceilings: Results | None) -> Table:
    baseline = run["baseline"] or next(iter(BASELINE.values()))
    size = "x".join(map(str, (run["batch"], *run["size"])))
    released = ("released TensorRT, images/s",) if any(row["released_images_per_s"] for row in run["rows"]) else ()
    return Table(
        f"{run['task']} {size}, {run['precision']}, {run['pairs']} pairs",
        (
            *("network", "median ms", "10 to 90 %", "min ms", "images/s", "GFLOP/s", "of peak", "peak memory"),
            *(f"over {baseline}", "CPU time", "over ours", "CPU time", *released),
        ),
        [
            (
                *(row["network"], number(row["median_ms"]), f"{number(row['p10_ms'])} to {number(row['p90_ms'])}"),
                *(number(row["min_ms"]), number(row["images_per_s"]), *_speed(row, ceilings)),
                binary(row["peak_bytes"], ""),
                *(
                    ratio(row[key])
                    for key in ("over_baseline", "over_baseline_cpu_time", "over_own", "over_own_cpu_time")
                ),
                *(str(row["released_images_per_s"] or "") for _ in released),
            )
            for row in run["rows"]
        ],
        (
            "Ratios are medians over the pairs, on the clock and in processor time; over ours: the same network on our "
            "operator. Offsets are random, two pixels standard deviation.",
            "Relative error before timing: " + ", ".join(f"{n} {e:.1e}" for n, e in run["errors"].items()) + ".",
            "GFLOP/s: products, convolutions and operators of a forward pass; peak: of a matrix product in the dtype. "
            "Peak memory: as PyTorch's allocator counts, above weights and input.",
            *(f"Left out: {name}, {reason}." for name, reason in run["left_out"].items()),
            *(() if run["baseline"] else (_NO_PEERS,)),
        ),
    )


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


def _compare(compare: Results) -> Table:
    return Table(
        f"This tree beside {compare['ref']} ({compare['commit']}), in turns",
        ("what", "this ms", f"{compare['ref']} ms", f"{compare['ref']} / this"),
        [(row["what"], *((row["left_out"], "", "") if row["left_out"] else _compared(row))) for row in compare["rows"]],
        ("Minimum of many; the ratio is the median over the turns, above 1 where this tree is faster.",),
    )


def _compared(row: Results) -> tuple[str, str, str]:
    return number(row["this_ms"]), number(row["ref_ms"]), f"{row['ratio']:.2f}"


def _ms(form: Results | None, key: str) -> str:
    return "" if form is None else number(form[key])


def _range(form: Results | None) -> str:
    if form is None:
        return ""
    return f"{number(form['median_ms'])} ({number(form['p10_ms'])}-{number(form['p90_ms'])})"


def number(value: float) -> str:
    """Three figures."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Two decimals, or nothing."""
    return "" if value is None else f"{value:.2f}"


def binary(size: int | None, unknown: str = "not known") -> str:
    """Bytes in words."""
    if size is None:
        return unknown
    if abs(size) < 2**10:
        return f"{size} B"
    return f"{size / 2**10:.0f} KiB" if abs(size) < 2**20 else f"{size / 2**20:.1f} MiB"
