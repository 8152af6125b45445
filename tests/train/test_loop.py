"""The loop, on a task of its own: what a step does, and that a resumed run is the uninterrupted one."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import asdict

import pytest
import torch
from torch import nn

from internimage.train.checkpoint import read_state
from internimage.train.ema import WeightAverage
from internimage.train.interrupt import StopOnSignal
from internimage.train.loop import fit, new_state, train_step
from internimage.train.recipe import TrainingRecipe

STEPS = 5  # in an epoch


def plan(**changes) -> TrainingRecipe:
    return TrainingRecipe(**{**dict(name="toy", epochs=2, batch_size=4, lr=0.05, ema_decay=0.9), **changes})


class Toy:
    """Learns a line from noisy points; random in its data and in its model."""

    device, steps_per_epoch, fingerprint = torch.device("cpu"), STEPS, "points"

    def __init__(self, bad_step: int = -1) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.bad_step = bad_step

    def batch(self, step):
        x = torch.randn(4, 3)
        return x, x.sum(1, keepdim=True) + (math.nan if step == self.bad_step else 0.0)

    def loss(self, model, batch):
        return (model(batch[0]) - batch[1]).float().square().mean()

    def evaluate(self, model, epoch):
        assert not model.training or model.eval()
        return {"top1": float(epoch)}


class Watcher:
    """Counts."""

    def __init__(self) -> None:
        self.steps, self.epochs = 0, []

    def stepped(self, state, loss):
        self.steps += 1

    def finished_epoch(self, state):
        self.epochs.append(state.history[-1]["epoch"])


def weights(state) -> dict[str, torch.Tensor]:
    """Everything trained: the model and its average."""
    average = state.average.state_dict() if state.average else {}
    return {**state.model.state_dict(), **{f"average.{name}": value for name, value in average.items()}}


def assert_identical(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("stop_at", [1, 5, 7])
@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.0}, {"dtype": "bfloat16"}, {"seed": 3, "clip_grad": None}])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, stop_at, changes):
    whole = new_state(task := Toy(), plan(**changes))
    assert fit(task, whole, tmp_path / "whole.pt", Watcher())

    path = tmp_path / "halved.pt"
    first, watcher = new_state(task := Toy(), plan(**changes)), Watcher()
    assert not fit(task, first, path, watcher, should_stop=lambda: watcher.steps == stop_at)
    assert first.step == read_state(path)["step"] == stop_at
    torch.manual_seed(999)  # whatever happened in between
    second = new_state(task := Toy(), plan(**changes))
    second.load(path)
    assert fit(task, second, path, Watcher())

    assert second.step == whole.step == 2 * STEPS
    assert_identical(weights(second), weights(whole))
    untimed = [[{**row, "seconds": 0} for row in state.history] for state in (second, whole)]
    assert untimed[0] == untimed[1] and len(untimed[0]) == 2


def test_a_finished_run_stays_finished(tmp_path):
    state = new_state(task := Toy(), plan())
    assert fit(task, state, tmp_path / "c.pt", Watcher())
    before, watcher = {key: value.clone() for key, value in weights(state).items()}, Watcher()
    assert fit(task, state, tmp_path / "c.pt", watcher) and watcher.steps == 0
    assert_identical(weights(state), before)


def test_the_watcher_hears_every_step_and_epoch_and_the_history_keeps_the_mean_loss(tmp_path):
    losses, watcher = [], Watcher()
    watcher.stepped = lambda state, loss: losses.append(loss)
    state = new_state(task := Toy(), plan())
    fit(task, state, tmp_path / "c.pt", watcher)
    assert len(losses) == 10 and watcher.epochs == [1, 2]
    assert [row["train_loss"] for row in state.history] == pytest.approx([sum(losses[:5]) / 5, sum(losses[5:]) / 5])
    assert [row["step"] for row in state.history] == [5, 10] and state.history[1]["top1"] == 2.0


def test_it_learns(tmp_path):
    state = new_state(task := Toy(), plan(epochs=60))
    fit(task, state, tmp_path / "c.pt", Watcher())
    assert state.history[-1]["train_loss"] < 0.5 * state.history[0]["train_loss"]


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    path, watcher = tmp_path / "c.pt", Watcher()
    state = new_state(task := Toy(bad_step=4), plan())
    fit(task, state, path, watcher, should_stop=lambda: watcher.steps == 2)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 5; try a smaller --lr"):
        fit(task, state, path, watcher)
    assert read_state(path)["step"] == 2


def test_checkpoints_are_written_on_the_way(tmp_path):
    path, seen, watcher = tmp_path / "c.pt", [], Watcher()
    watcher.stepped = lambda state, loss: seen.append(read_state(path)["step"] if path.exists() else 0)
    fit(task := Toy(), new_state(task, plan()), path, watcher, save_every_s=0.0)
    assert seen == list(range(10)) and os.listdir(tmp_path) == ["c.pt"]


def test_a_step_uses_the_rate_of_the_plan_clips_and_spares_vectors_from_decay():
    state = new_state(task := Toy(), plan(clip_grad=1e-6))
    train_step(task, state)
    assert {group["lr"] for group in state.optimizer.param_groups} == {plan().warmup_lr}
    norm = torch.stack([parameter.grad.norm() for parameter in task.model.parameters()]).norm()
    assert norm <= 1.01e-6
    decayed = {id(p) for group in state.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in task.model.parameters() if p.dim() > 1}


def test_the_average_by_its_formula():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average, want = WeightAverage(model, 0.5), 0.0
    for step in range(20):
        nn.init.constant_(model.weight, step + 1.0)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        want = decay * want + (1 - decay) * (step + 1)
        assert average.model.weight.item() == pytest.approx(want)
    assert not average.model.training and not average.model.weight.requires_grad


def test_the_average_takes_counters_as_they_are():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.9)
    model(torch.randn(8, 2))
    average.update(model, 100)
    assert average.state_dict()["num_batches_tracked"] == 1
    torch.testing.assert_close(average.model.running_mean, 0.1 * model.running_mean)


def test_a_checkpoint_of_another_run_is_refused_and_says_why(tmp_path):
    path, watcher = tmp_path / "c.pt", Watcher()
    fit(task := Toy(), new_state(task, plan()), path, watcher, should_stop=lambda: True)
    with pytest.raises(ValueError, match=r"epochs is 3, was 2; lr is 0.1, was 0.05.*another --output"):
        new_state(Toy(), plan(epochs=3, lr=0.1)).load(path)
    other = Toy()
    other.fingerprint = "other points"
    with pytest.raises(ValueError, match="the data is other points, was points"):
        new_state(other, plan()).load(path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint .*start without --resume"):
        read_state(tmp_path / "missing.pt")
    path = tmp_path / "c.pt"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not a training checkpoint"):
        read_state(path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="is not a training checkpoint of internimage"):
        read_state(path)
    torch.save({"plan": asdict(plan()), "code": os.system}, path)
    with pytest.raises(ValueError, match="is not a training checkpoint"):
        read_state(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_noted_and_the_handlers_put_back(number):
    before = signal.getsignal(number)
    with StopOnSignal() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop() and stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before
