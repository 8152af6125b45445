"""The loop, on a task of its own: what a step does, and that a resumed run is the uninterrupted one."""

from __future__ import annotations

import math
import os
import signal
import time

import pytest
import torch
from torch import nn

from internimage.data.order import Share
from internimage.processes import Processes, first_host
from internimage.train import loop
from internimage.train.checkpoint import Checkpoints, read_checkpoint
from internimage.train.ema import WeightAverage
from internimage.train.interrupt import StopOnSignal
from internimage.train.loop import Conduct, Step, fit, full_weights, train_step
from internimage.train.state import TrainingState, new_state
from internimage.train.strategies import make_strategy
from internimage.train.strategies.whole import filled, outline
from internimage.train.watchers import EVENTS, TensorBoard

from .toy import STEPS, Line, Watcher, recipe

ALONE = Processes()


def state_of(task: Line | None = None, **changes) -> TrainingState:
    return new_state(task or Line(), recipe(**changes), make_strategy(None, ALONE))


def weights(state: TrainingState) -> dict[str, torch.Tensor]:
    """Everything trained: the model and its average."""
    average = {f"average.{name}": value for name, value in full_weights(state, "average").items()}
    return {**full_weights(state, "model"), **average}


def assert_identical(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("stop_at", [1, 5, 7])
@pytest.mark.parametrize(
    ("changes", "conduct"),
    [
        ({}, {}),
        ({"ema_decay": 0.0}, {}),
        ({"ema_warmup": True}, {"accumulation": 2}),
        ({"dtype": "bfloat16"}, {}),
        ({"seed": 3, "clip_grad": None}, {}),
        ({"optimizer": "sgd", "schedule": "step"}, {}),
        ({"optimizer": "muon"}, {}),
    ],
    ids=str,
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, stop_at, changes, conduct):
    conduct = Conduct(**conduct)
    whole = state_of(**changes)
    assert fit(whole, Checkpoints(tmp_path / "whole"), [], conduct)

    halved = Checkpoints(tmp_path / "halved")
    first, watcher = state_of(**changes), Watcher()
    assert not fit(first, halved, [watcher], conduct, should_stop=lambda: len(watcher.steps) == stop_at)
    assert first.step == read_checkpoint(halved.newest())["step"] == stop_at
    torch.manual_seed(999)  # whatever happened in between
    second = state_of(**changes)
    second.load(read_checkpoint(halved.newest()))
    assert fit(second, halved, [], conduct)

    assert second.step == whole.step == 2 * STEPS
    assert_identical(weights(second), weights(whole))
    untimed = [[{**row, "seconds": 0} for row in state.history] for state in (second, whole)]
    assert untimed[0] == untimed[1] and len(untimed[0]) == 2 and second.best == whole.best


def test_a_finished_run_stays_finished(tmp_path):
    state, checkpoints = state_of(), Checkpoints(tmp_path)
    assert fit(state, checkpoints, [])
    before, watcher = weights(state), Watcher()
    assert fit(state, checkpoints, [watcher]) and not watcher.steps
    assert_identical(weights(state), before)


def test_watchers_hear_of_every_step_epoch_and_best_score_and_the_history_keeps_mean_losses(tmp_path):
    state, watcher = state_of(), Watcher()
    fit(state, Checkpoints(tmp_path), [watcher])
    assert [step.number for step in watcher.steps] == list(range(1, 11)) and watcher.epochs == [1, 2]
    assert {step.images for step in watcher.steps} == {8} and watcher.steps[0].grad_norm > 0
    losses = [step.losses for step in watcher.steps]
    for loss in losses:
        assert loss["total"] == pytest.approx(loss["square"] + loss["absolute"])
    for row, part in zip(state.history, (losses[:5], losses[5:]), strict=True):
        assert row["train_loss"] == pytest.approx(sum(loss["total"] for loss in part) / 5)
        assert row["train_square"] == pytest.approx(sum(loss["square"] for loss in part) / 5)
    assert [row["step"] for row in state.history] == [5, 10]
    scores = [(row["fit"], row["ema_fit"]) for row in state.history]
    assert state.best == {"model": max(s[0] for s in scores), "average": max(s[1] for s in scores)}
    assert {which for _, which, _ in watcher.better} == {"model", "average"}
    last = {which: (step, kept) for step, which, kept in watcher.better}
    if last["average"][0] == 10:
        assert_identical(last["average"][1], full_weights(state, "average"))


def test_evaluations_may_be_rarer_but_the_last_epoch_has_one(tmp_path):
    state = state_of(epochs=5)
    fit(state, Checkpoints(tmp_path), [], Conduct(evaluate_every=2))
    assert ["fit" in row for row in state.history] == [False, True, False, True, True]


def test_it_learns(tmp_path):
    state = state_of(epochs=60)
    fit(state, Checkpoints(tmp_path), [])
    assert state.history[-1]["train_loss"] < 0.5 * state.history[0]["train_loss"]


def test_accumulation_is_one_large_batch():
    task = Line(batch_norm=False)
    whole, parts = state_of(task), state_of(task)
    for step in range(3):
        for state, accumulation in ((whole, 1), (parts, 4)):
            share = Share(0, 1, accumulation)
            train_step(state, list(task.batches(step, step + 1, share)), share, Checkpoints("unused"))
    for name, value in weights(parts).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run_names_its_source_and_keeps_the_state_before(tmp_path):
    state, checkpoints = state_of(Line(bad_step=4)), Checkpoints(tmp_path)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 5, first in the batch itself.*smaller --lr"):
        fit(state, checkpoints, [])
    assert read_checkpoint(checkpoints.newest())["step"] == 4
    assert all(value.isfinite().all() for value in read_checkpoint(checkpoints.newest())["model"].values())


def test_a_bad_batch_is_named_and_leaves_no_trace_in_the_statistics_that_are_saved(tmp_path):
    class Spoiled(Line):
        def batches(self, first_step, last_step, share):
            for number, batch in enumerate(super().batches(first_step, last_step, share)):
                yield {**batch, "x": batch["x"] * math.inf} if number == 5 else batch

    whole, bad = state_of(), state_of(Spoiled())
    fit(whole, Checkpoints(tmp_path / "whole"), [], Conduct(accumulation=2), lambda: whole.step == 2)
    with pytest.raises(FloatingPointError, match="at step 3, first in the batch itself"):
        fit(bad, Checkpoints(tmp_path / "bad"), [], Conduct(accumulation=2))
    saved = read_checkpoint(Checkpoints(tmp_path / "bad").newest())
    assert saved["step"] == 2
    assert_identical(saved["model"], full_weights(whole, "model"))


def test_a_run_ends_whose_gradients_overflow_at_every_loss_scale(tmp_path, monkeypatch):
    """In float16 steps are left out while a scale is looked for, not for ever."""
    state = state_of(epochs=20)
    monkeypatch.setattr(state.strategy, "skips", lambda: True)
    monkeypatch.setattr(state.strategy, "step", lambda clip: math.inf if state.step >= 3 else 1.0)
    with pytest.raises(FloatingPointError, match="inf, as in the 40 steps before, at whatever loss scale at step 44"):
        fit(state, Checkpoints(tmp_path), [])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda model: model[3].register_forward_hook(lambda m, i, o: o * math.inf), r"output of '3' \(Linear\)"),
        (lambda model: nn.init.constant_(model[0].weight, math.nan), r"the weights '0.weight'"),
    ],
    ids=["a layer", "a weight"],
)
def test_the_layer_where_it_began_is_named(tmp_path, spoil, named):
    state = state_of()
    spoil(state.strategy.module)
    with pytest.raises(FloatingPointError, match=named):
        fit(state, Checkpoints(tmp_path), [])


def test_the_layer_is_named_whose_gradient_is_not_finite_where_the_loss_is(tmp_path):
    """As where a root is taken of zero."""
    state = state_of()

    def root_of_nothing(module, inputs, output):
        return output + (output - output.detach()).square().sum(1, keepdim=True).sqrt()

    state.strategy.module[1].register_forward_hook(root_of_nothing)
    with pytest.raises(FloatingPointError, match=r"gradient of the output of '0' \(Linear\)"):
        fit(state, Checkpoints(tmp_path), [])


def test_gradients_that_are_not_finite_end_the_run_before_the_step(tmp_path):
    state = state_of()
    state.strategy.module[3].weight.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(FloatingPointError, match="the norm of the gradients is nan at step 1, first in .*'3.weight'"):
        fit(state, Checkpoints(tmp_path), [])
    assert all(value.isfinite().all() for value in full_weights(state, "model").values())


def test_checkpoints_are_written_on_the_way_and_the_last_ones_stay(tmp_path):
    checkpoints, seen, watcher = Checkpoints(tmp_path, keep=3), [], Watcher()
    watcher.stepped = lambda state, step: seen.append([int(path.stem[-8:]) for path in checkpoints.all()])
    fit(state_of(), checkpoints, [watcher], Conduct(save_every_steps=1))
    assert seen == [list(range(max(1, step - 2), step + 1)) for step in range(10)]
    assert sorted(os.listdir(tmp_path)) == [f"checkpoint_{step:08d}.pt" for step in (8, 9, 10)]


def test_saving_takes_a_tenth_of_the_time_at_most():
    state, now = state_of(), time.monotonic()
    often = Conduct(save_every_s=1.0)
    assert loop._is_due(state, often, loop._Clock(saved=now - 5, saving_s=0.1))
    assert not loop._is_due(state, often, loop._Clock(saved=now - 5, saving_s=10.0))
    assert loop._is_due(state, often, loop._Clock(saved=now - 91, saving_s=10.0))


def test_the_highest_rate_is_told_whatever_group_comes_first(tmp_path):
    state, watcher = state_of(), Watcher()
    state.scheduler.base_values[0] /= 100
    fit(state, Checkpoints(tmp_path), [watcher])
    assert state.history[-1]["lr"] == watcher.steps[-1].lr
    assert state.history[-1]["lr"] > 10 * state.strategy.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(("processes", "factor"), [(1, 2.0), (2, 3.0)])
def test_a_process_goes_on_with_its_own_losses_and_among_more_with_the_mean(tmp_path, monkeypatch, processes, factor):
    state = state_of()
    fit(state, Checkpoints(tmp_path), [], should_stop=lambda: state.step == 2)
    before = dict(state.losses)
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value, {name: 3 * v for name, v in value.items()}])
    contents = state.contents()
    state.strategy.processes = Processes(rank=processes - 1, world_size=processes)
    state.load(contents)
    assert "total" in before and state.losses == {name: pytest.approx(factor * v) for name, v in before.items()}


def test_steps_that_are_repeated_replace_those_told_before_and_only_those(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    state = state_of()
    for first, last in ((0, 5), (3, 4)):
        events = TensorBoard(tmp_path, first_step=first, every=1)
        for number in range(first + 1, last + 1):
            step = Step(number=number, losses={"total": 1.0}, lr=0.1, grad_norm=1.0, images=8, seconds=1.0 + first)
            events.stepped(state, step)
        events.writer.close()
        time.sleep(1.1)  # files are told apart, and put in order, by the second
    told = EventAccumulator(str(tmp_path / EVENTS)).Reload().Scalars("images_per_s")
    assert [(each.step, each.value) for each in told] == [(1, 8), (2, 8), (3, 8), (4, 2)]


def test_an_outline_has_the_shapes_and_takes_no_memory():
    model = Line().make_model()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    hollow = outline(model)
    assert all(tensor.is_meta for tensor in hollow.state_dict().values())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    assert [p.requires_grad for p in hollow.parameters()] == [p.requires_grad for p in model.parameters()]
    full = filled(hollow, model.state_dict())
    assert_identical(full.state_dict(), model.state_dict())
    assert torch.equal(full(torch.ones(2, 3)), model.eval()(torch.ones(2, 3)))


def test_a_step_uses_the_rate_of_the_schedule_clips_and_spares_vectors_from_decay(monkeypatch):
    state, norms = state_of(clip_grad=1e-6, warmup_lr=1e-4), []
    optimizer = state.strategy.own_optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    step = optimizer.step
    monkeypatch.setattr(
        optimizer, "step", lambda *a: (norms.append(nn.utils.get_total_norm([p.grad for p in parameters])), step(*a))
    )
    share = Share()
    train_step(state, list(state.task.batches(0, 1, share)), share, Checkpoints("unused"))
    assert {group["lr"] for group in state.strategy.optimizer.param_groups} == {1e-4} and norms[0] <= 1.01e-6
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in parameters if p.dim() > 1}


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_by_its_formula(warmup):
    weight, want = torch.zeros(1), 0.0
    average = WeightAverage({"weight": weight, "count": torch.tensor(0)}, 0.5, warmup)
    for step in range(20):
        average.update({"weight": torch.tensor([step + 1.0]), "count": torch.tensor(step)}, step)
        decay = min(0.5, (1 + step) / (10 + step)) if warmup else 0.5
        want = decay * want + (1 - decay) * (step + 1)
        assert average.tensors["weight"].item() == pytest.approx(want) and average.tensors["count"] == step


def test_the_average_is_evaluated_in_the_place_of_the_model_which_comes_back():
    state = state_of()
    before = full_weights(state, "model")
    for tensor in state.average.tensors.values():
        tensor.fill_(3)
    with state.strategy.swapped(state.average.tensors) as model:
        assert not model.training and all((value == 3).all() for value in model.state_dict().values())
    assert_identical(full_weights(state, "model"), before)


def test_a_checkpoint_of_another_run_is_refused_and_says_why(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    fit(state_of(), checkpoints, [], should_stop=lambda: True)
    contents = read_checkpoint(checkpoints.newest())
    with pytest.raises(ValueError, match=r"epochs is 3, was 2; lr is 0.1, was 0.05.*another --output"):
        state_of(epochs=3, lr=0.1).load(contents)
    other = Line()
    other.fingerprint = "other points"
    with pytest.raises(ValueError, match="the data is other points, was points"):
        state_of(other).load(contents)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint .*start without --resume"):
        read_checkpoint(tmp_path / "missing.pt")
    path = tmp_path / "c.pt"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not a training checkpoint"):
        read_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="is not a training checkpoint of internimage"):
        read_checkpoint(path)
    torch.save({"format": "internimage training state 2", "code": os.system}, path)
    with pytest.raises(ValueError, match="is not a training checkpoint"):
        read_checkpoint(path)


def test_a_full_disk_leaves_the_checkpoints_before_as_they_were(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    state = state_of()
    path = checkpoints.save(state.contents())
    before = path.read_bytes()

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    state.step = 1
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(state.contents())
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == before


@pytest.mark.parametrize("rank", [0, 1])
def test_where_the_first_process_cannot_write_no_other_goes_on(tmp_path, monkeypatch, rank):
    class Two(Processes):
        def any_of(self, *flags):
            return tuple(flag or failed for flag in flags)

        def gather(self, value):
            return [value, value]

    def full(*_args):
        raise OSError("no room")

    failed = rank == 1  # what the first one tells
    state = state_of()
    state.strategy.processes = Two(rank=rank, world_size=2)
    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(OSError, match="no room" if rank == 0 else "the first process cannot write"):
        fit(state, Checkpoints(tmp_path), [], Conduct(), should_stop=lambda: True)


def test_processes_alone_agree_with_themselves():
    assert ALONE.gather("a") == ["a"] and ALONE.any_of(True, False) == (True, False) and ALONE.is_first
    assert ALONE.sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a1", "a1"), ("gpu[003-007,9],b1", "gpu003"), ("n1,n2", "n1"), ("x-[12]", "x-12"), ("", "localhost")],
)
def test_the_first_host_of_a_list_of_slurm(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("name", "world_size", "options", "message"),
    [
        ("dpp", 1, {}, "strategy is 'dpp', expected one of single, ddp, fsdp2"),
        ("single", 2, {}, "strategy single is for one process, there are 2; try ddp"),
        ("ddp", 2, {"offload": True}, "cannot offload"),
    ],
)
def test_strategies_that_do_not_fit(name, world_size, options, message):
    with pytest.raises(ValueError, match=message):
        make_strategy(name, Processes(world_size=world_size), **options)


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
