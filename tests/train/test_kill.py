"""A run that is killed at any moment goes on from its last step, and ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from internimage.train.checkpoint import Checkpoints, read_checkpoint

from . import killed_run
from .killed_run import TOTAL, AtRename, HalfWritten

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="process groups are of POSIX")]
KILLS = 20
PATIENCE_S = 300


@dataclass(frozen=True)
class Whole:
    """The uninterrupted run: its pictures, where it wrote, seconds until its first checkpoint and for each step."""

    data: Path
    output: Path
    start_s: float
    step_s: float


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    data, output = killed_run.make_pictures(folder / "pictures"), folder / "whole"
    process = killed_run.start(data, output)
    until(output.with_suffix(".log").exists, every_s=0.02)  # what starts others has imported everything
    began = time.monotonic()
    until(lambda: done(output) > 0)
    started = time.monotonic()
    process.join(PATIENCE_S)
    assert process.exitcode == 0, log(output)
    assert done(output) == TOTAL and "on 2 processes (ddp)" in log(output)
    return Whole(data, output, started - began, (time.monotonic() - started) / TOTAL)


def done(output: Path) -> int:
    """Steps of the newest checkpoint."""
    newest = Checkpoints(output).newest()
    return int(newest.stem.split("_")[1]) if newest else 0


def until(happened: Callable[[], bool], every_s: float = 0.002) -> None:
    """Wait, but not forever."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(every_s)


def wait(seconds: float, output: Path, steps: int) -> None:
    """At most so long, and for so many further steps: how long one takes depends on what else the machine does."""
    end, before = time.monotonic() + seconds, done(output)
    until(lambda: time.monotonic() > end or done(output) >= before + steps)


def log(output: Path) -> str:
    return output.with_suffix(".log").read_text()


def is_saving(output: Path) -> bool:
    return any(output.glob(".checkpoint_*.part"))


def assert_readable(output: Path) -> None:
    """Whatever has its final name is whole."""
    for path in output.iterdir() if output.exists() else ():
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix == ".pt":
            assert read_checkpoint(path)["step"] == int(path.stem.split("_")[1])
        elif path.suffix == ".safetensors":
            assert load_file(path)
        elif path.suffix == ".csv":
            rows = list(csv.reader(path.read_text().splitlines()))
            assert len(rows) > 1 and len({len(row) for row in rows}) == 1
        elif path.suffix == ".png":
            Image.open(path).load()
        else:
            assert path.suffix == ".html" and path.read_text().rstrip().endswith("</html>")


def assert_same(output: Path, whole: Path) -> None:
    """Everything that was trained is the same, to the bit, and nothing half-written is left."""
    mine, theirs = (read_checkpoint(Checkpoints(folder).newest()) for folder in (output, whole))
    assert mine.keys() == theirs.keys() and mine["step"] == theirs["step"] == TOTAL
    for part in ("model", "average", "best"):
        assert_equal(mine[part], theirs[part])
    assert mine["optimizer"].keys() == theirs["optimizer"].keys()
    for name, state in mine["optimizer"].items():
        assert_equal(state, theirs["optimizer"][name])
    untimed = [[{**row, "seconds": 0} for row in contents["history"]] for contents in (mine, theirs)]
    assert untimed[0] == untimed[1]
    for name in ("killed.safetensors", "best.safetensors", "best_ema.safetensors"):
        assert_equal(load_file(output / name), load_file(whole / name))
    assert {path.name for path in output.iterdir()} == {path.name for path in whole.iterdir()}


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


def finish(whole: Whole, output: Path) -> None:
    process = killed_run.start(whole.data, output)
    process.join(PATIENCE_S)
    assert process.exitcode == 0, log(output)
    assert_readable(output)
    assert_same(output, whole.output)


def wait_for_a_moment(number: int, random: Random, whole: Whole, output: Path) -> None:
    """By turns while it starts, while it saves, and twice anywhere between two steps."""
    if number % 4 == 0:
        wait(random.uniform(0, whole.start_s), output, 1)
    elif number % 4 == 1:
        until(lambda: is_saving(output), every_s=0.0002)
    else:
        wait(PATIENCE_S, output, random.choice((1, 2)))
        wait(random.uniform(0, whole.step_s), output, 2)


def test_killed_twenty_times_at_any_moment(whole, tmp_path):
    random, output, saving, steps = Random(0), tmp_path / "killed", 0, []
    for number in range(KILLS):
        process = killed_run.start(whole.data, output)
        wait_for_a_moment(number, random, whole, output)
        assert process.is_alive(), log(output)
        killed_run.tell(process, signal.SIGKILL)
        process.join(PATIENCE_S)
        saving += is_saving(output)
        assert_readable(output)
        steps.append(done(output))
    print(f"killed after steps {steps}; {saving} times while a checkpoint was written")
    assert saving and len(set(steps)) > KILLS / 3 and steps[-1] < TOTAL
    finish(whole, output)


def test_killed_exactly_while_files_are_written(whole, tmp_path):
    output = tmp_path / "killed"
    for spoil in (
        HalfWritten(1),
        HalfWritten(3),
        AtRename("checkpoint_00000004.pt", after=False),
        AtRename("checkpoint_00000005.pt", after=True),
        AtRename("metrics.csv", after=False),
        AtRename("metrics.csv", after=True),
        AtRename("curve.png", after=False),
        AtRename("best.safetensors", after=False),
        AtRename("best_ema.safetensors", after=True),
        AtRename("checkpoint_00000006.pt", after=False),
        HalfWritten(TOTAL),
        AtRename("killed.safetensors", after=False),
    ):
        process = killed_run.start(whole.data, output, spoil)
        process.join(PATIENCE_S)
        assert process.exitcode == -signal.SIGKILL, log(output)
        assert_readable(output)
    assert done(output) == TOTAL
    finish(whole, output)


def test_stopped_after_any_step_by_ctrl_c_or_a_signal(whole, tmp_path):
    random, output = Random(1), tmp_path / "stopped"
    for number in (signal.SIGINT, signal.SIGTERM) * 3:
        process = killed_run.start(whole.data, output)
        wait(PATIENCE_S, output, random.choice((1, 2, 5)))
        wait(random.uniform(0, whole.step_s), output, 1)
        killed_run.tell(process, number)
        process.join(PATIENCE_S)
        assert process.exitcode == 128 + number, log(output)
        assert f"stopped after step {done(output)}; the same command with --resume continues" in log(output)
        assert_readable(output)
    assert done(output) < TOTAL
    finish(whole, output)


def torchrun(whole: Whole, output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with open(output.with_suffix(".log"), "w") as file:
        return subprocess.Popen(
            [*command, "-m", "tests.train.killed_run", str(whole.data), str(output)], stdout=file, stderr=file
        )


def test_killed_and_stopped_under_torchrun(whole, tmp_path):
    output = tmp_path / "torchrun"
    for number, word in ((signal.SIGKILL, ""), (signal.SIGTERM, "stopped after"), (signal.SIGINT, "stopped after")):
        process = torchrun(whole, output)
        wait(PATIENCE_S, output, 3)
        if number == signal.SIGKILL:  # torchrun gives each process a group of its own
            for rank in range(2):
                os.killpg(int(output.with_suffix(f".{rank}.pid").read_text()), number)
        process.send_signal(number)
        process.wait(PATIENCE_S)
        assert process.returncode != 0 and word in log(output), log(output)
        assert_readable(output)
    process = torchrun(whole, output)
    assert process.wait(PATIENCE_S) == 0, log(output)
    assert_same(output, whole.output)
