"""A task of the kind of detection goes through the same loop as classification, which was not changed for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from internimage.processes import Processes
from internimage.train.checkpoint import Checkpoints, read_checkpoint

from ..tolerances import assert_close
from . import boxes


def test_it_learns_to_find_boxes(tmp_path):
    state = boxes.train(tmp_path, Processes(), epochs=12)
    first, last = state.history[0], state.history[-1]
    assert {"train_there", "train_box", "train_class", "found", "ema_found"} <= last.keys()
    assert last["train_loss"] == pytest.approx(last["train_there"] + last["train_box"] + last["train_class"])
    assert first["found"] < 20 and last["found"] > 80 and last["ema_found"] > 80
    assert state.best["model"] == max(row["found"] for row in state.history)


def test_its_layers_learn_at_rates_of_its_own(tmp_path):
    """The stem is two layers below the heads, as detectors number them; classification would not slow it down."""
    state = boxes.train(tmp_path, Processes(), until=1)
    names = {id(parameter): name for name, parameter in state.strategy.module.named_parameters()}
    rates = {
        names[id(p)]: group["initial_lr"] for group in state.strategy.optimizer.param_groups for p in group["params"]
    }
    assert rates["backbone.stem.0.weight"] == pytest.approx(boxes.SLOWER**2 * rates["there.weight"])


def test_it_goes_on_bit_for_bit(tmp_path):
    boxes.train(tmp_path / "whole", Processes())
    assert boxes.train(tmp_path / "halves", Processes(), until=7).step == 7
    boxes.train(tmp_path / "halves", Processes())
    whole, halves = (read_checkpoint(Checkpoints(tmp_path / name).newest()) for name in ("whole", "halves"))
    for part in ("model", "average"):
        assert all(torch.equal(value, whole[part][name]) for name, value in halves[part].items())
    assert halves["step"] == whole["step"] == 20 and halves["best"] == whole["best"]


@pytest.mark.slow
def test_two_processes_learn_and_measure_the_same(tmp_path):
    boxes.train(tmp_path / "one", Processes(), accumulation=4)  # the same shares, each with its own dropout
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, "-m", "tests.train.boxes", str(tmp_path / "two")], check=True, timeout=300)
    one, two = (read_checkpoint(Checkpoints(tmp_path / name).newest()) for name in ("one", "two"))
    for name, value in one["model"].items():
        assert_close(two["model"][name], value, "model", torch.float32)
    scores = [[(row["found"], row["ema_found"]) for row in each["history"]] for each in (one, two)]
    assert scores[0] == scores[1]
