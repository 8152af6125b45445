"""The stage ``gpu-test``: every test of the Triton kernels and of training on a card, ``python -m tests.gpu FOLDER``.

It needs a CUDA machine with torch, Triton, timm, accelerate and pytest; nothing has to be installed. Groups of tests
that have finished are written to ``FOLDER/gpu-test.json`` one by one, with a table beside it, and the next call skips
them as long as the code is the same. One call takes less than nine minutes; what it had no time for, the next call
does. The exit status is 0 when everything has passed, 1 when something failed, 3 when something is left to do.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from internimage.files import write_through
from internimage.train.strategies.base import STRATEGIES

REPOSITORY = Path(__file__).resolve().parents[2]
DTYPES = ("torch.float64", "torch.float32", "torch.bfloat16", "torch.float16")
SECONDS = 510.0  # of one call, all groups together
LEAST = 20.0  # seconds that a group is begun with
WORKERS = min(8, os.cpu_count() or 1)  # most of the time goes into compiling kernels, one processor each


def _groups() -> dict[str, list[str]]:
    """Names, and what pytest is asked for; the longest first."""
    groups = {"models": ["tests/gpu/test_models.py"], "graphs": ["tests/gpu/test_graphs.py"]}
    training = "tests/gpu/test_training.py"
    groups |= {f"training by {name}": [training, "-k", f"strategy and {name}"] for name in STRATEGIES}
    groups["training, compiled"] = [training, "-k", "compiled"]
    groups["training, what is held"] = [training, "-k", "holds"]
    groups["training, the rest"] = [training, "-k", "not strategy and not compiled and not holds"]
    groups |= {"large": ["tests/gpu/test_large.py"], "calls": ["tests/gpu/test_calls.py"]}
    operators = ("dcnv3", "dcnv4", "ms_deform_attn")
    for operator in operators:
        groups[operator] = [f"tests/ops/{operator}_triton_cases.py", "-m", "not slow"]
    for operator in operators:
        for dtype in DTYPES:
            name = f"{operator} in {dtype.removeprefix('torch.')}"
            groups[name] = [f"tests/ops/{operator}_triton_cases.py", "-m", "slow", "-k", dtype]
    return groups


GROUPS = _groups()


def run(folder: Path, seconds: float = SECONDS, workers: int = WORKERS) -> dict[str, Any]:
    """Run what is not finished; returns the results, which are also in the folder."""
    deadline = time.monotonic() + seconds
    path = folder / "gpu-test.json"
    results = _begun(path)
    environment = _environment()
    with ThreadPoolExecutor(workers) as pool:
        waiting = {
            pool.submit(_run_group, arguments, deadline, environment): name
            for name, arguments in GROUPS.items()
            if not finished(results, name)
        }
        for done in as_completed(waiting):
            group = done.result()
            if group is None:
                continue
            results["groups"][waiting[done]] = group
            print(f"{waiting[done]}: {_in_words(group)}", flush=True)
            _write(path, results)
    _write(path, results)
    return results


def finished(results: dict[str, Any], name: str) -> bool:
    """Whether a group ran to its end and nothing failed."""
    group = results["groups"].get(name)
    return bool(group) and group["finished"] and not group["failures"]


def _begun(path: Path) -> dict[str, Any]:
    """What earlier calls have left, if it is of the same code on the same machine."""
    machine, code = _machine(), _code()
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["code"] == code and results["machine"] == machine:
            return results
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"stage": "gpu-test", "code": code, "machine": machine, "groups": {}}


def _machine() -> dict[str, str | None]:
    import torch

    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "card": card,
        "driver": _driver() if card else None,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "triton": triton_version,
    }


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def _code() -> str:
    """A digest of the package and of its tests: there may be no git on the machine."""
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        digest.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    for folder in ("internimage", "tests/gpu", "tests/ops", "tests/models", "tests/train"):
        yield from (REPOSITORY / folder).rglob("*.py")


def _run_group(arguments: list[str], deadline: float, environment: dict[str, str]) -> dict[str, Any] | None:
    """Run some tests in a process of their own; None when too little time is left to begin."""
    start = time.monotonic()
    if deadline - start < LEAST:
        return None
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-c", "tests/gpu/pytest.ini", "--rootdir", ".", *arguments]
        command += ["-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
        try:
            done = subprocess.run(
                command, cwd=REPOSITORY, env=environment, timeout=deadline - start, capture_output=True, text=True
            )
            status, output = done.returncode, done.stdout[-3000:] + done.stderr[-1000:]
        except subprocess.TimeoutExpired:
            status, output = None, ""
        counts = _read_report(report)
    counts |= {"finished": status in (0, 1), "seconds": round(time.monotonic() - start, 1)}  # 1: some failed
    if status not in (0, None):
        print(output, flush=True)
    if status not in (0, 1, None):
        counts["failures"].append(f"pytest ended with status {status}: {output[-300:]}")
    return counts


def _environment() -> dict[str, str]:
    import torch

    environment = dict(os.environ)
    if torch.cuda.is_available():
        environment["INTERNIMAGE_TEST_DEVICE"] = "cuda"
    elif environment.get("TRITON_INTERPRET") != "1":
        raise SystemExit(
            "torch finds no CUDA device; with TRITON_INTERPRET=1 the tests run, slowly, in the interpreter"
        )
    return environment


def _read_report(path: Path) -> dict[str, Any]:
    """Numbers of tests and what failed, from pytest's report; all zero where it did not come to write one."""
    counts: dict[str, Any] = {"passed": 0, "skipped": 0, "failures": [], "skips": []}
    if not path.is_file():
        return counts
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        failure = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        skip = case.find("skipped")
        if failure is not None:
            counts["failures"].append(f"{name}: {(failure.get('message') or '')[:300]}")
        elif skip is not None:
            counts["skipped"] += 1
            counts["skips"].append(f"{name}: {skip.get('message')}")
        else:
            counts["passed"] += 1
    return counts


def _in_words(group: dict[str, Any]) -> str:
    words = f"{group['passed']} passed, {len(group['failures'])} failed, {group['skipped']} skipped"
    return f"{words} in {group['seconds']:.0f} s" + ("" if group["finished"] else ", cut off")


def table(results: dict[str, Any]) -> str:
    """In Markdown."""
    machine = results["machine"]
    lines = [
        f"Tests of the Triton kernels and of training on {machine['card']}, driver {machine['driver']}, "
        f"torch {machine['torch']}, Triton {machine['triton']}, Python {machine['python']}; {results['date']}, "
        f"code {results['code']}.",
        "",
        "| group | passed | failed | skipped | seconds | finished |",
        "|---|---|---|---|---|---|",
    ]
    for name in GROUPS:
        group = results["groups"].get(name)
        if not group:
            lines.append(f"| {name} | | | | | not begun |")
            continue
        numbers = f"{group['passed']} | {len(group['failures'])} | {group['skipped']} | {group['seconds']:.0f}"
        lines.append(f"| {name} | {numbers} | {'yes' if group['finished'] else 'no'} |")
    failures = [failure for group in results["groups"].values() for failure in group["failures"]]
    return "\n".join(lines + [""] * bool(failures) + [f"- {failure}" for failure in failures]) + "\n"


def _write(path: Path, results: dict[str, Any]) -> None:
    results["date"] = datetime.date.today().isoformat()
    with write_through(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with write_through(path.with_suffix(".md")) as temporary:
        temporary.write_text(table(results), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where gpu-test.json and gpu-test.md are written and looked for")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no group goes on longer than this")
    arguments = parser.parse_args()
    results = run(arguments.folder, arguments.seconds)
    print("\n" + table(results))
    groups = results["groups"].values()
    if any(group["failures"] for group in groups):
        return 1
    return 0 if all(finished(results, name) for name in GROUPS) else 3


if __name__ == "__main__":
    sys.exit(main())
