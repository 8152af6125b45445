"""Another commit of this project beside this tree: both are timed in turns, by the benchmark of this tree."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from . import images, model, op
from .asked import Asked, dtypes
from .shapes import split_words
from .work import BOTH, FORWARD

HERE = Path(__file__).parents[2]
TURNS, QUICK_TURNS = 7, 2
SECONDS, QUICK_SECONDS = 0.3, 0.02  # of a turn, for each tree
_BUILD_SECONDS = 900
Case = dict[str, Any]


def run(part: str | None, asked: Asked, device: torch.device, progress: Callable[[str], None]) -> dict[str, Any]:
    """Ratios of the times of another commit to those of this tree, for all that ``asked`` names.

    Returns:
        ``ref``, ``commit``, and ``rows``: what was run, milliseconds of both (the least), and ``ratio``, the median
        over the turns of the other's time over this tree's, above 1 where this tree is faster.

    Raises:
        ValueError: this is no clone of the repository, there is no such commit, or it cannot be built.
    """
    assert asked.compare is not None
    commit = resolve(asked.compare)
    turns, seconds = (QUICK_TURNS, QUICK_SECONDS) if asked.quick else (TURNS, SECONDS)
    rows = []
    on_cpu = device.type == "cpu"
    with tree_of(commit, build=on_cpu, progress=progress) as other, ExitStack() as stack:
        trees = {"this": HERE, "ref": other}
        sides = {name: stack.enter_context(_Worker.started(tree, on_cpu)) for name, tree in trees.items()}
        for case in cases(part, asked, device):
            progress(f"beside {asked.compare}: {_title(case)}")
            rows.append({"what": _title(case), **_in_turns(case, sides, turns, seconds)})
    return {"ref": asked.compare, "commit": commit[:9], "rows": rows}


def resolve(ref: str) -> str:
    """The full name of a commit.

    Raises:
        ValueError: this tree is no clone of the repository, git is not there, or it knows no such commit.
    """
    if not (HERE / ".git").exists():
        raise ValueError(f"--compare needs a clone of the repository with its history; {HERE} is none")
    try:
        done = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    except FileNotFoundError as error:
        raise ValueError("--compare needs git, which is not on the path") from error
    if done.returncode:
        raise ValueError(f"--compare {ref!r} is no commit of {HERE}; expected a branch, tag or commit of its history")
    return done.stdout.strip()


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True)


@contextmanager
def tree_of(commit: str, build: bool, progress: Callable[[str], None]) -> Iterator[Path]:
    """A temporary checkout with its kernels built, and this tree's benchmark in place of its own."""
    with tempfile.TemporaryDirectory(prefix="internimage-compare-") as folder:
        tree = Path(folder) / "tree"
        done = _git("worktree", "add", "--detach", str(tree), commit)
        if done.returncode:
            raise ValueError(f"--compare: git made no tree of {commit[:9]}: {_last_line(done.stderr)}")
        try:
            if build:
                progress(f"build the kernels of {commit[:9]}")
                _build(tree, commit)
            shutil.rmtree(tree / "internimage" / "bench", ignore_errors=True)
            shutil.copytree(
                Path(__file__).parent, tree / "internimage" / "bench", ignore=shutil.ignore_patterns("__pycache__")
            )
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _build(tree: Path, commit: str) -> None:
    line = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {**os.environ, "INTERNIMAGE_REQUIRE_KERNEL": "1"}
    done = subprocess.run(line, cwd=tree, env=environment, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    if done.returncode:
        raise ValueError(
            f"--compare: the kernels of {commit[:9]} cannot be built here ({_last_line(done.stderr)}); they need a C++ "
            "compiler and setuptools"
        )


def _last_line(words: str) -> str:
    return (words.strip().splitlines() or ["no reason given"])[-1]


def cases(part: str | None, asked: Asked, device: torch.device) -> list[Case]:
    """All that is timed on both sides, for the workers."""
    found: list[Case] = []
    about = {"device": str(device), "threads": asked.threads}
    words = split_words(asked.shapes)
    if part in (None, "op"):
        for dtype in dtypes(asked.dtype, (torch.float32,)):
            setting = op.Setting(device, dtype, asked.threads)
            for operator in op.chosen(asked.names):
                for shape in op.chosen_shapes(operator, words, setting, asked.quick):
                    case = {
                        "part": "op",
                        **about,
                        "dtype": _name(dtype),
                        "operator": operator.name,
                        "shape": str(shape),
                    }
                    found += [{**case, "direction": direction} for direction in (FORWARD, BOTH)]
    if part in (None, "model"):
        found += _networks(asked, device, words, about)
    return found


def _networks(asked: Asked, device: torch.device, words: Sequence[str], about: Case) -> list[Case]:
    usual = (torch.bfloat16,) if device.type == "cuda" else (torch.float32, torch.bfloat16)
    return [
        {
            **{"part": "model", **about, "dtype": _name(dtype), "model": name, "batch": size.batch},
            **{"size": [size.height, size.width], "features": size.features, "train": asked.train},
        }
        for dtype in dtypes(asked.dtype, usual)
        for size in images.chosen(words, device, asked.quick, asked.features)
        for name in model.chosen_models(asked.names)
    ]


def _title(case: Case) -> str:
    if case["part"] == "op":
        return f"{case['operator']} {case['shape']} {case['dtype']} {case['direction']}"
    height, width = case["size"]
    what = "train" if case["train"] else "features" if case["features"] else "classify"
    return f"{case['model']} {what} {case['batch']}x{height}x{width} {case['dtype']}"


class _Worker:
    """A process in a tree that answers what is asked of it; see :mod:`.worker`."""

    def __init__(self, process: subprocess.Popen[str], remarks: IO[str]) -> None:
        self.process, self.remarks = process, remarks

    @classmethod
    @contextmanager
    def started(cls, tree: Path, needs_kernels: bool) -> Iterator[_Worker]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        line = [sys.executable, "-m", "internimage.bench.worker"]
        pipe = subprocess.PIPE
        with (
            tempfile.TemporaryFile("w+") as remarks,  # a pipe that nobody reads would fill
            subprocess.Popen(
                line, cwd=tree, env=environment, stdin=pipe, stdout=pipe, stderr=remarks, text=True
            ) as process,
        ):
            try:
                worker = cls(process, remarks)
                worker.greet(tree, needs_kernels)
                yield worker
            finally:
                process.kill()

    def greet(self, tree: Path, needs_kernels: bool) -> None:
        """Be sure that it runs the code of its own tree, and its kernels."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.remarks.seek(0)
            raise ValueError(f"--compare: this benchmark does not run there: {_last_line(self.remarks.read())}")
        said = json.loads(line)
        if Path(said["tree"]).resolve() != tree.resolve():
            raise ValueError(f"--compare: Python in {tree} imports internimage from {said['tree']}")
        if needs_kernels and said["kernels"]:
            raise ValueError(f"--compare: in {tree}, {said['kernels']}")

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process ended"}


def _in_turns(case: Case, sides: dict[str, _Worker], turns: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of both, and the ratio; every other turn the other one begins."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):  # the first prepares and warms up
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            said = sides[name].ask({"case": case, "seconds": seconds})
            if "error" in said:
                return {"this_ms": None, "ref_ms": None, "ratio": None, "left_out": f"{name}: {said['error']}"}
            if turn:
                times[name].append(said["ms"])
    ratio = statistics.median(ref / this for this, ref in zip(times["this"], times["ref"], strict=True))
    return {"this_ms": min(times["this"]), "ref_ms": min(times["ref"]), "ratio": ratio, "left_out": None}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
