"""A task that has nothing to do with pictures: what the loop is tested with, and proof that any task fits it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from internimage.data.order import Share
from internimage.data.seeds import seeded
from internimage.processes import Processes
from internimage.recipes.training import TrainingRecipe
from internimage.train.layer_decay import Pace
from internimage.train.optim import paces_of
from internimage.weights.own import save_tensors

STEPS = 5  # in an epoch


def recipe(**changes) -> TrainingRecipe:
    settings = dict(name="toy", epochs=2, batch_size=8, lr=0.05, min_lr=1e-6, warmup_lr=0.0, ema_decay=0.9)
    return TrainingRecipe(**{**settings, **changes})


class Line:
    """Regression with two losses: learns a line from noisy points; random in its data and in its model."""

    fingerprint, steps_per_epoch, score = "points", STEPS, "fit"

    def __init__(self, bad_step: int = -1, batch_norm: bool = True, batch_size: int = 8) -> None:
        self.bad_step, self.batch_norm, self.batch_size = bad_step, batch_norm, batch_size

    def make_model(self) -> nn.Module:
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(8) if self.batch_norm else nn.LayerNorm(8)
        drop = nn.Dropout(0.2) if self.batch_norm else nn.Identity()
        return nn.Sequential(nn.Linear(3, 8), norm, drop, nn.Linear(8, 1))

    def load_pretrained(self, model: nn.Module) -> None:
        pass

    def paces(self, model: nn.Module) -> dict[str, Pace]:
        return paces_of(model, recipe())

    def batches(self, first_step: int, last_step: int, share: Share) -> Iterator[dict[str, Tensor]]:
        size = share.micro_batch_size(self.batch_size)
        for step in range(first_step, last_step):
            with seeded(step):
                x = torch.randn(self.batch_size, 3)
            for micro in range(share.accumulation):
                first = share.number(micro) * size
                part = x[first : first + size]
                y = part.sum(1, keepdim=True) + (math.nan if step == self.bad_step else 0.0)
                yield {"x": part, "y": y}

    def images_in(self, batch) -> int:
        return len(batch["x"])

    def loss(self, model: nn.Module, batch) -> dict[str, Tensor]:
        error = (model(batch["x"]) - batch["y"]).float()
        return {"square": error.square().mean(), "absolute": 0.1 * error.abs().mean()}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        assert not model.training
        with seeded(7):
            x = torch.randn(32, 3)
        mine = x[processes.rank :: processes.world_size]
        error = (model(mine) - mine.sum(1, keepdim=True)).square().sum()
        return {"fit": -float(processes.sum(error)) / len(x)}

    def save(self, path, weights, scores) -> None:
        save_tensors(path, weights, {"scores": str(dict(scores))})


class Watcher:
    """Counts and keeps."""

    def __init__(self) -> None:
        self.steps, self.epochs, self.better = [], [], []

    def stepped(self, state, step):
        self.steps.append(step)

    def finished_epoch(self, state):
        self.epochs.append(state.history[-1]["epoch"])

    def improved(self, state, which, weights):
        self.better.append((state.step, which, weights))
