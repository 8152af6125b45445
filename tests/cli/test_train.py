"""internimage train."""

from __future__ import annotations

import csv
import os
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import internimage as package
from internimage.cli.run_folder import newest_checkpoint
from internimage.cli.training import default_workers
from internimage.cli.training_progress import time_left
from internimage.processes import Processes
from internimage.train import loop
from internimage.train.checkpoint import Checkpoints, read_checkpoint
from internimage.train.slurm import slurm_script
from internimage.weights.own import read_model


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of two classes, light and dark, and a file that is none."""
    noise = np.random.default_rng(0)
    for name, level in (("dark", 30), ("light", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            pixels = noise.integers(level, level + 50, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "pictures" / "dark" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


@pytest.fixture
def terminated():
    """Until undone, sends SIGTERM to this process during the third step."""
    step = loop.train_step

    def train_step(state, *arguments):
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(state, *arguments)

    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "train_step", train_step)
    yield patch
    patch.undo()


def test_smoke_writes_a_model_that_answers(internimage, tmp_path):
    got = internimage("train", "--smoke", "--json")
    folder = tmp_path / "here" / "runs" / "internimage_femto_smoke"
    assert got.code == 0 and got.json["steps"] == 8 and got.json["epoch"] == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors", "best_ema.safetensors", "checkpoint_00000008.pt", "curve.png",
        "internimage_femto_smoke.safetensors", "metrics.csv", "report.html", "tensorboard",
    ]  # fmt: skip
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"] and {"train_loss", "top1", "ema_top1", "lr", "seconds"} <= rows[
        0
    ].keys()
    assert "epoch 2 of 2" in got.err and "images/s" in got.err
    classifier = package.load(got.json["model"], device="cpu")
    assert classifier.class_names == ("upright", "lying")
    assert classifier.predict(Image.new("L", (32, 32))).note == "trained on synthetic, 2 classes"


def test_terminated_it_saves_and_resumed_it_ends_as_if_nothing_had_happened(internimage, terminated):
    got = internimage("train", "--smoke", "--output", "halved")
    assert got.code == 128 + signal.SIGTERM and "stopped after step 3; the same command with --resume" in got.err
    assert read_checkpoint(Checkpoints("halved").newest())["step"] == 3
    terminated.undo()

    again = internimage("train", "--smoke", "--output", "halved")
    assert again.code == 1 and "halved holds a run already; continue it with --resume" in again.err
    other = internimage("train", "own_pictures", "--smoke", "--output", "halved", "--resume")
    assert other.code == 1 and "was trained otherwise" in other.err and "channels is 3, was 1" in other.err
    assert read_checkpoint(Checkpoints("halved").newest())["step"] == 3

    assert internimage("train", "--smoke", "--output", "halved", "--resume").code == 0
    assert internimage("train", "--smoke", "--output", "whole").code == 0
    resumed, card = read_model("halved/internimage_femto_smoke.safetensors")
    whole, same_card = read_model("whole/internimage_femto_smoke.safetensors")
    assert card == same_card and resumed.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_own_pictures(internimage, folder):
    got = internimage("train", "--data", folder, "--epochs", 1, "--batch-size", 5, "--output", "out", "--seed", 4)
    assert got.code == 0 and "broken.png" in got.err and ", 2 more held out" in got.err
    classifier = package.load("out/own_pictures.safetensors", device="cpu")
    assert classifier.class_names == ("dark", "light") and classifier.note == "trained on pictures, 2 classes"
    checked = internimage("evaluate", "out/own_pictures.safetensors", "--data", folder, "--json")
    assert checked.code == 3 and checked.json["pictures"] == 12


@pytest.mark.parametrize(
    ("cores", "world_size", "environment", "workers"),
    [
        (8, 1, {}, 7),
        (2, 1, {}, 0),
        (64, 64, {"LOCAL_WORLD_SIZE": "8"}, 7),  # eight machines of 64 cores
        (8, 64, {"SLURM_CPUS_PER_TASK": "8"}, 7),  # a task sees its own cores
        (64, 64, {"SLURM_CPUS_PER_TASK": "8"}, 7),  # or those of the machine
        (64, 64, {"SLURM_CPUS_PER_TASK": "64", "LOCAL_WORLD_SIZE": "8"}, 7),  # torchrun, started by SLURM
        (16, 8, {}, 1),
    ],
)
def test_the_cores_of_a_machine_are_shared_by_its_own_processes(monkeypatch, cores, world_size, environment, workers):
    for name in ("LOCAL_WORLD_SIZE", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert default_workers(Processes(world_size=world_size)) == workers


def test_processes_that_see_different_checkpoints_are_told(monkeypatch, tmp_path):
    Checkpoints(tmp_path).save({"step": 3})
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value, None])
    with pytest.raises(ValueError, match="see different checkpoints, .*--output must be one folder that all machines"):
        newest_checkpoint(tmp_path, Processes(world_size=2), resume=True, auto_resume=False)


def test_the_script_of_slurm_writes_its_log_where_it_is_submitted():
    lines = slurm_script(["python", "-m", "internimage", "train", "a b"], name="t", nodes=4).splitlines()
    assert {"#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=8", "#SBATCH --gpus-per-node=8"} < set(lines)
    assert "#SBATCH --output=slurm-%x-%j.log" in lines
    assert any(line.startswith("export SRUN_CPUS_PER_TASK=8") for line in lines)
    assert any(line.endswith("python -m internimage train 'a b'") for line in lines)


def test_refusals(internimage, folder, tmp_path):
    def refused(*arguments):
        got = internimage("train", *arguments)
        assert got.code in (1, 2) and got.out == ""
        if got.code == 1:
            assert got.err.startswith("error: ") and got.err.count("\n") == 1
        return " ".join(got.err.replace("│", "").split())  # a wrong command line is told in a box

    assert "name a recipe" in refused()
    assert "did you mean 'internimage_femto'" in refused("internimage_fento", "--smoke")
    assert "give --data DIR" in refused("own_pictures")
    assert "there is no folder missing" in refused("--data", "missing")
    assert "nothing to resume in out" in refused("--smoke", "--output", "out", "--resume")
    assert "lr is 0.0" in refused("--smoke", "--lr", 0)
    assert "dtype is 'float64', expected one of 'float32', 'bfloat16'" in refused("--smoke", "--dtype", "float64")
    assert "epochs" in refused("--smoke", "--epochs", 0)
    assert "not on this machine" in refused("--smoke", "--device", "cuda:99")
    (tmp_path / "file").write_text("")
    assert "is a file, expected a folder" in refused("--smoke", "--output", tmp_path / "file")
    assert "--output: no file can be made in" in refused("--smoke", "--output", tmp_path / "file" / "below")
    assert "holds no folders" in refused("--data", folder / "light")
    for path in (folder / "light").iterdir():
        path.unlink()
    assert "light holds no pictures" in refused("--data", folder)
    (folder / "light").rmdir()
    (folder / "dark" / "broken.png").unlink()
    assert "all pictures are of one class, 'dark'" in refused("--data", folder, "--output", "new")
    assert not (tmp_path / "here" / "new").exists()


def test_a_checkpoint_taken_for_a_model_is_told_from_one(internimage):
    assert internimage("train", "--smoke", "--epochs", 1, "--output", "out").code == 0
    checkpoint = Checkpoints("out").newest()
    got = internimage("evaluate", checkpoint, "--data", "synthetic")
    assert got.code == 1 and "is what --resume goes on from; the models of a run are the .safetensors" in got.err


def test_the_script_for_a_cluster_runs_the_command_and_goes_on_after_the_time_is_up(internimage, monkeypatch):
    told = ["internimage_t_1k_224", "--data", "my pictures", "--nodes", "4", "--print-slurm", "--seed=3"]
    monkeypatch.setattr("sys.argv", ["internimage", "train", *told])
    got = internimage("train", *told)
    assert got.code == 0 and got.out.startswith("#!/bin/bash\n")
    options = [line.removeprefix("#SBATCH --") for line in got.out.splitlines() if line.startswith("#SBATCH")]
    assert {"nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "signal=TERM@120", "requeue"} < set(options)
    assert not any(line.startswith("output=") and "/" in line for line in options)  # SLURM makes no folders
    command = "python -m internimage train internimage_t_1k_224 --data 'my pictures' --seed=3 --auto-resume"
    run, after = got.out.split(f"srun --kill-on-bad-exit=1 {command}\n")
    assert "MASTER_ADDR" in run and 'if [ "$code" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"' in after


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(90, "2 minutes left"), (7199, "120 minutes left"), (9000, "2.5 hours left"), (2e5, "2.3 days left")],
)
def test_the_time_left_is_told_in_units_to_think_in(seconds, words):
    assert time_left(seconds) == words


def test_a_line_comes_every_few_minutes_where_there_is_no_bar(internimage, monkeypatch):
    monkeypatch.setattr("internimage.cli.training_progress._LINE_EVERY_S", 0.0)
    got = internimage("train", "own_pictures", "--smoke", "--epochs", 1, "--output", "out")
    assert got.code == 0 and re.search(r"step 2 of 4: loss \d.*images/s.*, 0 minutes left", got.err), got.err
