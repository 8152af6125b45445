"""internimage train where something goes wrong, and what it prints for a cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest
import torch
from PIL import Image

from internimage.train import loop
from internimage.train.checkpoint import Checkpoints, read_checkpoint

SMOKE = ("train", "own_pictures", "--smoke", "--output", "out")


class Killed(Exception):
    """In the place of a signal that nothing survives."""


def kill_after(patch: pytest.MonkeyPatch, step: int) -> None:
    train_step = loop.train_step

    def one_step(state, *arguments):
        if state.step == step:
            raise Killed
        return train_step(state, *arguments)

    patch.setattr(loop, "train_step", one_step)


def assert_one_line(got, *words: str) -> str:
    """Exit code 1, and a last line that says what was wrong."""
    line = got.err.strip().splitlines()[-1]
    assert got.code == 1 and got.out == "" and line.startswith("error: ") and "Traceback" not in got.err
    assert all(word in line for word in words), line
    return line


def test_a_rate_that_is_absurd_ends_in_one_line_with_step_and_layer_and_keeps_the_checkpoint(internimage):
    got = internimage(*SMOKE, "--lr", 1e20, "--set", "clip_grad=None", "--set", "warmup_epochs=0", "--save-every", 1)
    line = assert_one_line(got, " is ", "saved in out", "try a smaller --lr")
    step = int(line.split(" at step ")[1].split(",")[0])
    assert step > 1 and ("first in the output of '" in line or "first in the weights '" in line)
    kept = read_checkpoint(Checkpoints("out").newest())
    assert kept["step"] == step - 1


@pytest.mark.skipif(os.name != "posix", reason="limits on the size of files are of POSIX")
def test_a_checkpoint_that_does_not_fit_on_the_disk_ends_in_one_line_and_the_one_before_stays(internimage):
    import resource

    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(Killed):
            internimage(*SMOKE, "--save-every", 1, "--keep", 3)
    before = {path.name: path.read_bytes() for path in Checkpoints("out").all()}
    assert list(before) == ["checkpoint_00000001.pt", "checkpoint_00000002.pt"]

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        got = internimage(*SMOKE, "--save-every", 1, "--keep", 3, "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line(got, "out/checkpoint_00000003.pt cannot be written (File too large)", "--resume")
    assert {path.name: path.read_bytes() for path in Checkpoints("out").all()} == before
    assert not [name for name in os.listdir("out") if name.endswith(".part")]
    assert internimage(*SMOKE, "--resume").code == 0


def test_what_a_killed_run_left_half_written_is_removed(internimage, tmp_path):
    out = tmp_path / "here" / "out"
    out.mkdir()
    (out / ".checkpoint_00000003.pt.77.part").write_bytes(b"half")
    assert internimage(*SMOKE, "--epochs", 1).code == 0
    assert not [name for name in os.listdir("out") if name.endswith(".part")]


@pytest.mark.skipif(os.name != "posix", reason="locks are of POSIX")
def test_a_second_run_into_the_same_folder_is_refused_while_the_first_goes_on(internimage):
    script = "from internimage.files import sole_writer\nwith sole_writer('out'): print(flush=True); input()"
    os.mkdir("out")
    first = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    first.stdout.readline()
    got = internimage(*SMOKE, "--epochs", 1, "--auto-resume")
    assert_one_line(got, "another run is writing to out")
    first.communicate("\n", timeout=60)
    assert internimage(*SMOKE, "--epochs", 1, "--auto-resume").code == 0


def test_a_process_that_has_lost_another_says_so_in_one_line(internimage, monkeypatch):
    def lost(*arguments) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")

    monkeypatch.setattr(loop, "train_step", lost)
    with pytest.raises(RuntimeError, match="closed by peer"):  # not in a process alone
        internimage(*SMOKE)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    assert_one_line(internimage(*SMOKE, "--auto-resume"), "another of the processes has ended")


def test_too_little_memory_ends_in_one_line_that_says_what_to_try(internimage, monkeypatch):
    def full(*arguments) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore words")

    monkeypatch.setattr(loop, "train_step", full)
    assert_one_line(internimage(*SMOKE), "Tried to allocate 2.00 GiB", "`internimage plan`", "--accumulation")


def test_a_variable_of_a_launcher_that_is_no_number_is_named(internimage, monkeypatch):
    monkeypatch.setenv("RANK", "x")
    assert_one_line(internimage(*SMOKE), "the variable RANK is 'x', expected a whole number")


def test_a_model_that_does_not_exist_is_refused_before_any_work(internimage):
    got = internimage(*SMOKE, "--set", "model=internimage_x")
    assert_one_line(got, "model is 'internimage_x', expected one of internimage_femto, ", "or timm: and a name of timm")
    assert not os.path.exists("out")


def test_an_average_that_would_keep_the_initial_values_is_told_of(internimage):
    short = ("--epochs", 1, "--set", "ema_decay=0.9999")
    got = internimage(*SMOKE, *short, "--set", "ema_warmup=no")
    said = "the average of the weights spans 10,000 steps and the run has 4: initial values stay in it"
    assert got.code == 0 and said in " ".join(got.err.split())
    assert "initial values" not in internimage(*SMOKE[:-1], "other", *short).err


def test_one_picture_of_each_class_leaves_nothing_to_measure_on(internimage, tmp_path):
    for name in ("red", "blue"):
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), name).save(tmp_path / "few" / name / "one.png")
    options = ("--set", "source=files", "--batch-size", 2, "--epochs", 1, "--set", "image_sizes=64")
    got = internimage("train", "own_pictures", "--data", tmp_path / "few", *options, "--output", "out")
    assert got.code == 0 and "top-1" not in got.err, got.err


def test_more_processes_than_pictures_are_refused_by_both_commands(internimage, tmp_path, monkeypatch):
    for name in ("red", "blue"):
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), name).save(tmp_path / "few" / name / "one.png")
    monkeypatch.setattr("internimage.processes.launched", lambda: 4)
    got = internimage("finetune", tmp_path / "few", "--held-out", 0)
    assert_one_line(got, "2 pictures are left to learn from, fewer than the 4 parts of a step")
    got = internimage("train", "own_pictures", "--data", tmp_path / "few", "--batch-size", 4, "--output", "out")
    assert_one_line(got, "2 pictures do not fill a step of batch_size 4; take 2 or fewer")


def test_float16_wants_a_card(internimage):
    got = internimage(*SMOKE, "--dtype", "float16", "--device", "cpu")
    assert_one_line(got, "dtype float16 wants a card to train on; on the CPU take bfloat16 or float32")


def test_the_script_for_slurm_runs_the_command_as_typed(internimage, monkeypatch, tmp_path):
    typed = ["--data", "my pictures", "--epochs=3", "--set", "model_changes.depths=(1, 1, 1, 1)"]
    nodes = ["--print-slurm", "--nodes", "2", "--processes-per-node=4"]
    arguments = ["train", "own_pictures", *nodes, *typed, "--output", "runs/a b"]
    monkeypatch.setattr(sys, "argv", ["internimage", *arguments])
    got = internimage(*arguments)
    assert got.code == 0 and got.err == ""
    script = tmp_path / "job.sh"
    script.write_text(got.out)
    subprocess.run(["bash", "-n", script], check=True)

    line = next(line for line in got.out.splitlines() if line.startswith("srun "))
    command = shlex.split(line)
    start = command.index("python")
    assert command[start:] == [
        "python", "-m", "internimage", "train", "own_pictures", *typed, "--output", "runs/a b", "--auto-resume",
    ]  # fmt: skip
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --gpus-per-node=4\n" in got.out
    on_cpus = internimage(*arguments, "--device", "cpu")
    assert "gpus" not in on_cpus.out and not (tmp_path / "here" / "runs").exists()
