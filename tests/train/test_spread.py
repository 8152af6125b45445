"""Real runs on two processes under every strategy, against one process."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from internimage.processes import Processes
from internimage.train.checkpoint import Checkpoints, read_checkpoint
from internimage.train.strategies import make_strategy
from internimage.train.strategies.fsdp2 import blocks
from internimage.train.strategies.loss_scale import INTERVAL, START, LossScale
from tests.tolerances import tolerance

from .spread_run import STEPS, Noise

ROOT = Path(__file__).resolve().parents[2]
ZERO = ("deepspeed-1", "deepspeed-2", "deepspeed-3")  # the extra "dev" brings DeepSpeed: no test may drop out
SPREAD = ("ddp", "fsdp2", *ZERO)
OFFLOADED = ("fsdp2", *ZERO)
PARAMETERS = sum(parameter.numel() for parameter in Noise().make_model().parameters())
SHARDED = ("fsdp2", "deepspeed-3")
SGD = {"optimizer": "sgd", "lr": 0.05, "clip_grad": 0.5}  # its steps are as long as the gradients, unlike those of Adam
HUGE = 2.0**30  # a scale at which gradients overflow
BEFORE = 5  # steps before the checkpoints that are exchanged

# Who goes on from whose checkpoint: everybody from everybody's.
EXCHANGED = list(itertools.product(("single", *SPREAD), repeat=2))

# Of what is compared here a weight begins at 0.02 or so, and biases at 0: those count as if they were that large.
TYPICAL = 0.02


def start(folder: Path, processes: int, requests: list[dict]) -> None:
    """One start of several processes, which run one request after the other."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = ["-m", "tests.train.spread_run", str(folder), json.dumps(requests)]
    done = subprocess.run([sys.executable, *launch, *script], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder a run: five steps of each strategy; seven steps, the last two from a checkpoint of five."""
    folder = tmp_path_factory.mktemp("runs")

    def resumed(strategy: str, before: str) -> dict:
        checkpoint = Checkpoints(folder / before).folder / f"checkpoint_{BEFORE:08d}.pt"
        return {"name": f"{strategy}_after_{before}", "strategy": strategy, "resume": str(checkpoint)}

    def begun(strategy: str, **options) -> dict:
        return {"name": strategy, "strategy": strategy, "until": BEFORE, **options}

    alone = [begun("single"), begun("single", name="single_accumulated", accumulation=4)]
    alone += [begun("single", name="single_sgd", recipe=SGD)]
    start(folder, 1, [*alone, {"name": "whole", "strategy": "single"}])
    requests = [begun(strategy) for strategy in SPREAD]
    requests += [begun(strategy, name=f"{strategy}_offloaded", offload=True) for strategy in OFFLOADED]
    requests += [begun(s, name=f"{s}_accumulated", accumulation=2) for s in SPREAD]
    requests += [resumed(strategy, before) for strategy, before in EXCHANGED if strategy != "single"]
    requests += [begun(s, name=f"{s}_spoiled", accumulation=2, bad_step=2) for s in SPREAD]
    requests += [begun(s, name=f"{s}_rooted", accumulation=2, bad_gradient=2) for s in SPREAD]
    half = {"dtype": "float16"}
    requests += [begun(s, name=f"{s}_half", loss_scale=256.0, recipe={**half, **SGD}) for s in SPREAD[1:]]
    requests += [begun(s, name=f"{s}_overflowing", loss_scale=HUGE, recipe=half) for s in SPREAD[1:]]
    requests += [{"name": "ddp_batch_norm", "strategy": "ddp", "batch_norm": True}]
    start(folder, 2, requests)
    start(folder, 1, [resumed(strategy, before) for strategy, before in EXCHANGED if strategy == "single"])
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def rows(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("?.json"))]


def largest_difference(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> float:
    assert got.keys() == want.keys() and all(got[name].shape == want[name].shape for name in want)
    return max(float((got[n] - want[n]).abs().max()) / max(float(want[n].abs().max()), TYPICAL) for n in want)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_really_runs_on_two_processes(runs, strategy):
    assert [row["world_size"] for row in rows(runs / strategy)] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_only_the_first_process_makes_a_whole_model(runs, strategy):
    assert [row["made_on"] for row in rows(runs / strategy)] == ["cpu", "meta"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_each_process_holds_its_half_of_what_is_sharded(runs, strategy):
    """Shards are padded, by less than a hundredth here."""
    for row in rows(runs / strategy):
        parameters, states = row["parameters"] / PARAMETERS, row["states"] / PARAMETERS
        assert parameters == pytest.approx(0.5 if strategy in SHARDED else 1, rel=0.01)
        assert states == pytest.approx(2 if strategy == "ddp" else 1, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_is_the_engine_of_its_name(runs, strategy):
    engines = {
        "ddp": ("AcceleratedOptimizer", "Parameter"),
        "fsdp2": ("AdamW", "DTensor"),
        "deepspeed-1": ("DeepSpeedZeroOptimizer", "Parameter"),
        "deepspeed-2": ("DeepSpeedZeroOptimizer", "Parameter"),
        "deepspeed-3": ("DeepSpeedZeroOptimizer_Stage3", "Parameter"),
    }
    for row in rows(runs / strategy):
        assert (row["optimizer"], row["parameter"]) == engines[strategy]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "variant"),
    [(s, v) for s in SPREAD for v in ("", "_accumulated")] + [(s, "_offloaded") for s in OFFLOADED],
)
def test_learns_what_one_process_learns(runs, strategy, variant):
    alone = "single_accumulated" if variant == "_accumulated" else "single"
    assert largest_difference(weights(runs / f"{strategy}{variant}"), weights(runs / alone)) <= tolerance("spread")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_writes_the_checkpoint_that_one_process_writes(runs, strategy):
    got, want = (read_checkpoint(Checkpoints(runs / each).newest()) for each in (strategy, "single"))
    assert got.keys() == want.keys() and got["step"] == want["step"] == BEFORE
    for part in ("model", "average"):
        assert largest_difference(got[part], want[part]) <= tolerance("spread")
    assert got["optimizer"].keys() == want["optimizer"].keys()
    for name, states in want["optimizer"].items():
        mine = got["optimizer"][name]
        assert {key: value.shape for key, value in mine.items()} == {key: v.shape for key, v in states.items()}
        assert float(mine["step"]) == BEFORE


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "before"), EXCHANGED)
def test_goes_on_from_the_checkpoint_of_any_other(runs, strategy, before):
    folder = runs / f"{strategy}_after_{before}"
    assert largest_difference(weights(folder), weights(runs / "whole")) <= tolerance("spread")
    saved, want = (read_checkpoint(Checkpoints(each).newest()) for each in (folder, runs / "whole"))
    assert saved["step"] == want["step"] == STEPS
    assert largest_difference(saved["average"], want["average"]) <= tolerance("spread")
    for name, states in want["optimizer"].items():
        assert saved["optimizer"][name].keys() == states.keys()
        assert float(saved["optimizer"][name]["step"]) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_evaluates_with_as_many_batches_as_each_process_has(runs, strategy):
    """The average too; a model in shards that waits for the other process would hang here."""
    [want], got = (rows(folder)[0]["history"] for folder in (runs / "whole", runs / f"{strategy}_after_{strategy}"))
    assert got[0]["top1"] == pytest.approx(want["top1"], rel=1e-5)
    assert got[0]["ema_top1"] == pytest.approx(want["ema_top1"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_keeps_the_losses_of_all_processes_over_a_stop(runs, strategy):
    [want], [got] = (rows(folder)[0]["history"] for folder in (runs / "whole", runs / f"{strategy}_after_{strategy}"))
    assert got["train_loss"] == pytest.approx(want["train_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_a_bad_batch_of_one_process_is_named_by_both(runs, strategy):
    """A process that went looking alone would wait for the other for ever, or the other for it."""
    for row in rows(runs / f"{strategy}_spoiled"):
        assert "the loss is nan at step 3, first in the batch itself; the state before it is saved" in row["error"]
        assert row["kept"]  # neither ends before it is: a launcher would end the one that still writes
    saved = read_checkpoint(Checkpoints(runs / f"{strategy}_spoiled").newest())
    assert saved["step"] == 2 and all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_a_bad_gradient_of_one_process_ends_all_and_is_named(runs, strategy):
    """DeepSpeed's third stage lets each module return a tensor of its own, so that the outermost is the first there."""
    where = "'the model' (InternImageClassifier)" if strategy == "deepspeed-3" else "'head.fc' (Linear)"
    for row in rows(runs / f"{strategy}_rooted"):
        assert (
            f"the norm of the gradients is nan at step 3, first in the gradient of the output of {where};"
            in row["error"]
        )
    saved = read_checkpoint(Checkpoints(runs / f"{strategy}_rooted").newest())
    assert saved["step"] == 2 and all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.slow
def test_scores_are_those_of_the_model_that_is_saved(runs):
    """Each process has batch statistics of its own; those of the first are written."""
    folder = runs / "ddp_batch_norm"
    model = Noise(batch_norm=True).make_model()
    model.load_state_dict(weights(folder))
    want = Noise(batch_norm=True).evaluate(model.eval(), Processes())
    assert rows(folder)[0]["history"][0]["top1"] == pytest.approx(want["top1"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD[1:])
def test_float16_learns_by_scaled_losses(runs, strategy):
    """By steps of their own length, clipped: what stayed scaled, or was clipped while it was, would show."""
    got, want = weights(runs / f"{strategy}_half"), weights(runs / "single_sgd")
    assert largest_difference(got, want) <= tolerance("spread", torch.float16)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD[1:])
def test_steps_whose_gradients_overflow_are_left_out(runs, strategy):
    saved = read_checkpoint(Checkpoints(runs / f"{strategy}_overflowing").newest())
    skipped = math.log2(HUGE / saved["scaler"]["scale"])
    assert 1 <= skipped <= BEFORE and skipped == int(skipped) and saved["step"] == BEFORE
    assert {float(state["step"]) for state in saved["optimizer"].values()} <= {BEFORE - skipped}
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_a_loss_scale_halves_and_doubles_and_goes_on():
    scale = LossScale()
    scale.update(overflowed=True)
    for _ in range(INTERVAL - 1):
        scale.update(overflowed=False)
    assert scale.value == START / 2
    resumed = LossScale()
    resumed.load_state_dict(scale.state_dict())
    resumed.update(overflowed=False)
    assert resumed.value == START and resumed.calm_steps == 0
    assert scale.state_dict().keys() == torch.amp.GradScaler("cpu").state_dict().keys()


def test_deepspeed_is_an_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs deepspeed; type: pip install 'internimage-torch\[deepspeed\]'"):
        make_strategy("deepspeed-2", Processes())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ZERO)
def test_one_process_needs_no_launcher(tmp_path, monkeypatch, strategy):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    command = ["-m", "internimage", "train", "own_pictures", "--smoke", "--epochs", "1", "--strategy", strategy]
    command += ["--output", tmp_path]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and list(tmp_path.glob("*_smoke.safetensors")), done.stderr[-4000:]
    assert "Warning" not in done.stderr


def test_blocks_are_gathered_one_by_one():
    network = Noise().make_model()
    assert blocks(network) == [block for level in network.backbone.levels for block in level.blocks]
