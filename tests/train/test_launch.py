"""The command in one process and in two, by every launcher; and what it may be asked for besides."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from internimage.train.checkpoint import Checkpoints, read_checkpoint
from internimage.weights.own import read_model

from ..tolerances import assert_close

SMOKE = (
    "train", "own_pictures", "--smoke", "--device", "cpu", "--json", "--epochs", "1",
    "--set", "model_changes.channels=16", "--set", "model_changes.depths=(1, 1, 1, 1)",
    "--set", "model_changes.groups=(1, 2, 4, 8)",
)  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
# with --cpu alone, accelerate launch starts one process whatever is asked for
ACCELERATE = (
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--main_process_port", "{port}", "--num_processes", "2",
)  # fmt: skip


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def started(*words: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, *(word.replace("{port}", free_port()) for word in words)]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen) -> tuple[str, str]:
    """What it wrote, once it has ended well."""
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return out, err


def trained(folder: Path, *launcher: str, options: tuple[str, ...] = (), **environment: str) -> tuple[str, str]:
    return ended(started(*launcher, "-m", "internimage", *SMOKE, "--output", str(folder), *options, **environment))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_model(next(folder.glob("own*.safetensors")))[0]


def assert_near(folder: Path, other: Path) -> None:
    """They learn the same. (Not weight by weight: AdamW steps as far for the rounding of a gradient that is zero.)"""
    mine, theirs = (read_checkpoint(Checkpoints(each).newest())["history"][-1] for each in (folder, other))
    for name in ("train_loss", "loss", "ema_loss"):
        assert_close(torch.tensor(mine[name]), torch.tensor(theirs[name]), "model gradient", torch.float32)
    assert mine["step"] == theirs["step"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A run in one process without a launcher."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    out, err = trained(folder)
    assert json.loads(out)["steps"] == 4 and "processes" not in err
    return folder


@pytest.mark.slow
def test_ddp_of_one_process_is_the_run_alone_bit_for_bit(alone, tmp_path):
    trained(tmp_path, *TORCHRUN, "1", options=("--strategy", "ddp"))
    assert all(torch.equal(value, weights(alone)[name]) for name, value in weights(tmp_path).items())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(*TORCHRUN, "2"), ACCELERATE], ids=["torchrun", "accelerate"])
def test_launchers_start_two_processes_and_the_first_alone_writes_and_speaks(launcher, alone, tmp_path):
    out, err = trained(tmp_path, *launcher, ACCELERATE_USE_CPU="true")
    assert "on 2 processes (ddp)" in err and err.count("writing to") == 1
    assert json.loads(out)["steps"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in alone.iterdir()}


@pytest.mark.slow
def test_slurm_starts_two_processes(alone, tmp_path):
    place = dict(SLURM_NTASKS="2", SLURM_NODELIST="localhost", MASTER_ADDR="localhost", MASTER_PORT=free_port())
    command = ("-m", "internimage", *SMOKE, "--output", str(tmp_path))
    tasks = [started(*command, **place, SLURM_PROCID=str(n), SLURM_LOCALID=str(n)) for n in range(2)]
    (out, err), (other_out, other_err) = map(ended, tasks)
    assert "on 2 processes (ddp)" in err and json.loads(out)["steps"] == 4
    assert other_out == "" and "writing to" not in other_err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes as Linux tells them")
def test_when_one_process_is_killed_the_other_says_so_in_a_line(tmp_path):
    endless = ("--epochs", "2000", "--output", str(tmp_path / "out"))
    launcher = started(*TORCHRUN, "2", "-m", "internimage", *SMOKE, *endless)
    while not (tmp_path / "out" / "metrics.csv").exists():
        assert launcher.poll() is None
        time.sleep(0.2)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (second,) = [pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(int(second), signal.SIGKILL)
    _, err = launcher.communicate(timeout=100)
    assert launcher.returncode == 1 and "\nerror: another of the processes has ended; look for what it said" in err


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(alone, tmp_path):
    trained(tmp_path, options=("--compile",))
    assert_near(tmp_path, alone)


@pytest.mark.slow
def test_deterministic_algorithms_do_what_the_others_do(alone, tmp_path):
    trained(tmp_path, options=("--deterministic",))
    assert_near(tmp_path, alone)
