"""The tables of operators."""

from __future__ import annotations

from collections.abc import Sequence

from . import targets
from .gate import BOUNDS
from .operators import OURS
from .shapes import parse_attention
from .table import Results, Table, binary, number
from .work import FORWARD

_WORDS = {"min_ms": "minimum of many", "median_ms": "median"}


def tables(results: Results) -> list[Table]:
    """Of every operator and dtype."""
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


def _ms(form: Results | None, key: str) -> str:
    return "" if form is None else number(form[key])


def _range(form: Results | None) -> str:
    if form is None:
        return ""
    return f"{number(form['median_ms'])} ({number(form['p10_ms'])}-{number(form['p90_ms'])})"
