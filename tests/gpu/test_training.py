"""Training on a card: strategies and precisions against one process, the same bits again, what is held, commands."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from internimage.data.order import ALONE
from internimage.models import create_model
from internimage.planning.budget import Setting, budget
from internimage.processes import Processes
from internimage.train.checkpoint import Checkpoints
from internimage.train.loop import train_step
from internimage.train.state import new_state
from internimage.train.strategies import make_strategy
from tests.tolerances import tolerance
from tests.train.spread_run import DEVICE, STEPS, Noise, recipe
from tests.train.test_spread import ROOT, SGD, largest_difference, rows, start, weights

ZERO = ("deepspeed-1", "deepspeed-2", "deepspeed-3")
STRATEGIES = ("single", "ddp", "fsdp2", *ZERO)
BEFORE = 4  # steps before a checkpoint that a run goes on from
WITHIN = 0.15  # what the plan promises

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
each_strategy = pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=needs_deepspeed if name in ZERO else ()) for name in STRATEGIES]
)


@pytest.fixture(scope="module", autouse=True)
def on_a_card():
    if DEVICE != "cuda":
        pytest.skip("needs a card (python -m tests.gpu FOLDER)")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs of one process: as it is, and by SGD."""
    folder = tmp_path_factory.mktemp("alone")
    start(folder, 1, [{"name": "single", "strategy": "single"}, {"name": "sgd", "strategy": "single", "recipe": SGD}])
    return folder


def test_a_run_gives_the_same_bits_again_and_after_a_checkpoint(alone, tmp_path):
    newest = tmp_path / "broken_off" / f"checkpoint_{BEFORE:08d}.pt"
    again = [{"name": "again", "strategy": "single"}, {"name": "broken_off", "strategy": "single", "until": BEFORE}]
    start(tmp_path, 1, [*again, {"name": "gone_on", "strategy": "single", "resume": str(newest)}])
    for name in ("again", "gone_on"):
        assert largest_difference(weights(tmp_path / name), weights(alone / "single")) == 0, name


def test_muon_learns_and_is_not_adamw(alone, tmp_path):
    start(tmp_path, 1, [{"name": "muon", "strategy": "single", "recipe": {"optimizer": "muon", "eps": 1e-7}}])
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "muon").values())
    assert largest_difference(weights(tmp_path / "muon"), weights(alone / "single")) > 1e-3


@each_strategy
def test_a_strategy_learns_what_one_process_learns(alone, tmp_path, strategy):
    """In float32; and in half precision by gradients that were scaled, and unscaled again."""
    half = {"recipe": {"dtype": "float16", **SGD}, "loss_scale": 256.0}
    start(
        tmp_path,
        1,
        [
            {"name": "float32", "strategy": strategy},
            {"name": "bfloat16", "strategy": strategy, "recipe": {"dtype": "bfloat16", **SGD}},
            {"name": "float16", "strategy": strategy, **half},
        ],
    )
    assert all(row["step"] == STEPS for name in ("float32", "bfloat16", "float16") for row in rows(tmp_path / name))
    assert largest_difference(weights(tmp_path / "float32"), weights(alone / "single")) <= tolerance("spread")
    float16 = tolerance("spread", torch.float16)
    assert largest_difference(weights(tmp_path / "float16"), weights(alone / "sgd")) <= float16
    assert largest_difference(weights(tmp_path / "bfloat16"), weights(alone / "sgd")) <= 8 * float16  # three bits less


@pytest.mark.parametrize("strategy", ["fsdp2", *(pytest.param(name, marks=needs_deepspeed) for name in ZERO[1:])])
def test_a_strategy_learns_the_same_with_its_states_on_the_host(alone, tmp_path, strategy):
    start(tmp_path, 1, [{"name": "offloaded", "strategy": strategy, "offload": True}])
    assert largest_difference(weights(tmp_path / "offloaded"), weights(alone / "single")) <= 10 * tolerance("spread")


SETTINGS = {
    "t": Setting(model="internimage_t", batch_size=32, image_size=224, num_classes=1000, average=True),
    "flash_t": Setting(model="flash_internimage_t", batch_size=32, image_size=224, num_classes=1000, average=True),
    "femto": Setting(model="internimage_femto", batch_size=256, image_size=112, num_classes=10),
}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_card_holds_what_the_plan_says(tmp_path, name, dtype, checkpointing):
    setting = replace(SETTINGS[name], dtype=dtype, checkpointing=checkpointing)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    task = Noise()
    task.make_model = lambda: create_model(setting.model, num_classes=setting.num_classes)
    task.load_pretrained = lambda model: None
    changes = {"dtype": dtype, "ema_decay": 0.9 if setting.average else 0.0, "grad_checkpointing": checkpointing}
    state = new_state(task, recipe(**changes), make_strategy("single", Processes(device=torch.device("cuda"))))
    channels = 1 if name == "femto" else 3
    images = torch.randn(setting.batch_size, channels, setting.image_size, setting.image_size, device="cuda")
    batch = (images, torch.zeros(setting.batch_size, dtype=torch.int64, device="cuda"))
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        train_step(state, [batch], ALONE, checkpoints=Checkpoints(tmp_path))
    held = torch.cuda.max_memory_allocated() - before
    estimate = budget(setting).total
    print(f"{name} {dtype} {'checkpointed' if checkpointing else 'kept'}: held {held:,}, plan {estimate:,}")
    assert estimate == pytest.approx(held, rel=WITHIN)


def test_the_commands_train_and_classify_on_a_card(tmp_path):
    folder = tmp_path / "run"
    train = ["train", "internimage_femto", "--smoke", "--device", "cuda", "--output", str(folder), "--json"]
    assert json.loads(command(train))
    trained = folder / "internimage_femto_smoke.safetensors"
    picture = str(ROOT / "internimage/assets/demo/ankle-boot-0000.png")
    assert json.loads(command(["classify", picture, "--model", str(trained), "--device", "cuda", "--json"]))


def command(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "internimage", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_a_compiled_network_learns_the_same(alone, tmp_path):
    start(tmp_path, 1, [{"name": "compiled", "strategy": "single", "compile": True, "recipe": SGD}])
    assert largest_difference(weights(tmp_path / "compiled"), weights(alone / "sgd")) <= tolerance("golden run")
