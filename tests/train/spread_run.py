"""What tests start on several processes: ``torchrun -m tests.train.spread_run FOLDER JSON``.

A few steps of a tiny classifier; each process writes what it saw to ``FOLDER/rank.json``, the first one checkpoints.
On a card where ``INTERNIMAGE_TEST_DEVICE`` says so, by algorithms that give the same bits every time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.data.order import Share
from internimage.data.seeds import seeded
from internimage.models import create_model
from internimage.processes import Processes, started_processes, stop_processes
from internimage.recipes.training import TrainingRecipe
from internimage.train.checkpoint import Checkpoints, read_checkpoint
from internimage.train.layer_decay import Pace
from internimage.train.loop import Conduct, fit, full_weights
from internimage.train.optim import paces_of
from internimage.train.state import TrainingState, new_state
from internimage.train.strategies import make_strategy
from internimage.weights.own import save_tensors

DEVICE = os.environ.get("INTERNIMAGE_TEST_DEVICE", "cpu")
STEPS, BATCH = 7, 8
NETWORK = dict(channels=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8), level2_post_norm_block_ids=(1,))


def recipe(**changes) -> TrainingRecipe:
    settings = dict(
        name="spread", epochs=1, batch_size=BATCH, lr=1e-3, min_lr=0.0, warmup_lr=1e-3, warmup_epochs=0, eps=1e-4,
        clip_grad=1.0, ema_decay=0.9, layer_decay=1.0, dcn_lr_mul=0.0,
    )  # fmt: skip
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return TrainingRecipe(**{**settings, **listed})


class Noise:
    """Three classes of noise, a network of the kind of H: attention pooling, and no batch norm.

    Its offsets stay as they are: where a sample lies within a rounding of a grid line, its gradient jumps, and runs
    that differ by roundings would part.
    """

    fingerprint, steps_per_epoch, score = "noise", STEPS, "top1"

    def __init__(self, batch_norm: bool = False, bad_step: int = -1, bad_gradient: int = -1) -> None:
        self.batch_norm, self.bad_step, self.bad_gradient = batch_norm, bad_step, bad_gradient
        self.roots = False

    def make_model(self) -> nn.Module:
        torch.manual_seed(0)
        if self.batch_norm:
            return create_model("internimage_femto", num_classes=3, channels=16, depths=(1, 1, 1, 1), in_chans=3)
        model = create_model("internimage_h", num_classes=3, **NETWORK)
        self.made_on = next(model.parameters()).device.type
        for name, parameter in model.named_parameters():
            if name.endswith("offset.bias"):
                nn.init.normal_(parameter)
        return model

    def load_pretrained(self, model: nn.Module) -> None:
        """Values that no process but the first sees in the making."""
        with torch.no_grad():
            list(model.parameters())[-1].add_(0.01)

    def paces(self, model: nn.Module) -> dict[str, Pace]:
        return paces_of(model, recipe())

    def batches(self, first_step: int, last_step: int, share: Share) -> Iterator[tuple[Tensor, Tensor]]:
        size = share.micro_batch_size(BATCH)
        for step in range(first_step, last_step):
            with seeded(step):
                images, targets = torch.randn(BATCH, 3, 32, 32), torch.randint(3, (BATCH,))
            self.roots = step == self.bad_gradient and share.rank == share.world_size - 1
            for micro in range(share.accumulation):
                part = slice(share.number(micro) * size, (share.number(micro) + 1) * size)
                spoiled = step == self.bad_step and share.rank == share.world_size - 1
                yield images[part] * (float("inf") if spoiled else 1.0), targets[part]

    def images_in(self, batch) -> int:
        return len(batch[1])

    def loss(self, model: nn.Module, batch) -> dict[str, Tensor]:
        logits = model(batch[0]).float()
        root = (logits - logits.detach()).square().sum().sqrt() if self.roots else 0.0  # of zero: its slope is none
        return {"cross_entropy": F.cross_entropy(logits, batch[1]) + root}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """The first process has three batches, the others one: nothing in the model may wait for them."""
        with seeded(99):
            images = torch.randn(4, 3, 32, 32).to(processes.device)
        logits = [model(images) for _ in range(3 if processes.is_first else 1)][0]
        return {"top1": float(processes.sum(logits.float().abs().sum())) / processes.world_size}

    def save(self, path, weights, scores) -> None:
        save_tensors(path, weights, {})


class SlowDisk(Checkpoints):
    """Writes long enough for the others to end meanwhile."""

    def save(self, contents) -> Path:
        time.sleep(1)
        return super().save(contents)


def held(state: TrainingState) -> dict[str, object]:
    """What this process holds, in numbers."""
    model, optimizer = state.strategy.module, state.strategy.optimizer
    tensors = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor) and v.dim()]
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return {
        "world_size": state.processes.world_size,
        "made_on": getattr(state.task, "made_on", None),
        "optimizer": type(getattr(model, "optimizer", optimizer)).__name__,
        "parameter": type(next(model.parameters())).__name__,
        "parameters": sum(tensor.numel() for tensor in state.strategy.named_tensors().values()),
        "states": sum(tensor.numel() for tensor in local),
    }


def run(folder: Path, request: dict) -> None:
    processes = started_processes(DEVICE)
    task = Noise(request.get("batch_norm", False), request.get("bad_step", -1), request.get("bad_gradient", -1))
    folder_of_checkpoints = folder / request["name"]
    options = {name: request.get(name, False) for name in ("offload", "compile")}
    strategy = make_strategy(request["strategy"], processes, **options)
    state = new_state(task, recipe(**request.get("recipe", {})), strategy)
    if "loss_scale" in request:
        scale = strategy.scale if hasattr(strategy, "scale") else strategy.accelerator.scaler
        scale.load_state_dict({**scale.state_dict(), "scale": request["loss_scale"]})
    if request.get("resume"):
        state.load(read_checkpoint(request["resume"]))
    checkpoints = SlowDisk(folder_of_checkpoints) if "bad_step" in request else Checkpoints(folder_of_checkpoints)
    until = request.get("until", STEPS)
    error, kept = "", None
    try:
        fit(state, checkpoints, [], Conduct(accumulation=request.get("accumulation", 1)), lambda: state.step >= until)
    except FloatingPointError as bad:
        error, kept = str(bad), checkpoints.newest() is not None
    weights = full_weights(state, "model")
    if processes.is_first:
        task.save(folder_of_checkpoints / "model.safetensors", weights, {})
    row = {**held(state), "step": state.step, "history": state.history, "error": error, "kept": kept}
    (folder_of_checkpoints / f"{processes.rank}.json").write_text(json.dumps(row))
    processes.wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(DEVICE == "cuda")
    torch.backends.cudnn.allow_tf32 = False  # what is compared here are the last bits of float32
    where = Path(sys.argv[1])
    for each in json.loads(sys.argv[2]):  # several runs of one start: importing takes longer than training
        (where / each["name"]).mkdir(parents=True, exist_ok=True)
        run(where, each)
    stop_processes()
