"""Results to tables, on the terminal and in Markdown; both come from what the JSON file holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from . import network_tables, op_tables
from .table import Results, Table, binary, number, ratio

if TYPE_CHECKING:
    from rich.console import Console

BUSY_LOAD = 1.5
_BUSY = "The machine was busy: times are too long, and ratios less sure; repeat at a quiet moment."


def tables(results: Results) -> list[Table]:
    """Of everything that was measured."""
    found = []
    if results.get("targets"):
        found.append(_targets(results["targets"]))
    if results.get("op"):
        found += op_tables.tables(results)
    if results.get("model"):
        found += network_tables.tables(results["model"], results.get("ceilings", []))
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
            whole = index == 0 or column == "direction"  # what tells rows apart is not broken
            rich_table.add_column(column, justify="left" if index == 0 else "right", no_wrap=whole, overflow="fold")
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


def _compare(compare: Results) -> Table:
    return Table(
        f"This tree beside {compare['ref']} ({compare['commit']}), in turns",
        ("what", "this ms", f"{compare['ref']} ms", f"{compare['ref']} / this"),
        [(row["what"], *((row["left_out"], "", "") if row["left_out"] else _compared(row))) for row in compare["rows"]],
        ("Minimum of many; the ratio is the median over the turns, above 1 where this tree is faster.",),
    )


def _compared(row: Results) -> tuple[str, str, str]:
    return number(row["this_ms"]), number(row["ref_ms"]), f"{row['ratio']:.2f}"
