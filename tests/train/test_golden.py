"""A short run whose losses are pinned: twenty steps on made-up pictures, from the seed to the last digit that holds.

When a change is meant to alter training, write the file anew and say why in the changelog:
``python -m tests.train.test_golden > tests/train/golden_losses.json``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from internimage.processes import Processes
from internimage.recipes import get_recipe
from internimage.recipes.classification import smoke
from internimage.train.checkpoint import Checkpoints, read_checkpoint
from internimage.train.classification.sources import Reading, open_source
from internimage.train.classification.task import ClassificationTask
from internimage.train.loop import fit
from internimage.train.state import new_state
from internimage.train.strategies import make_strategy

from ..tolerances import assert_close
from .toy import Watcher

LOSSES = Path(__file__).with_name("golden_losses.json")
STEPS = 20
NETWORK = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}


def run(folder: Path, **changes) -> torch.Tensor:
    """The loss of each step, (20,)."""
    settings = {"model_changes": NETWORK, "epochs": 5, "drop_path_rate": 0.2, **changes}
    recipe = replace(smoke(get_recipe("own_pictures")), **settings)
    processes = Processes()
    task = ClassificationTask(recipe, open_source(recipe, processes, Reading()))
    watcher = Watcher()
    fit(new_state(task, recipe, make_strategy("single", processes)), Checkpoints(folder), [watcher])
    return torch.tensor([step.losses["total"] for step in watcher.steps], dtype=torch.float64)


@pytest.mark.parametrize("backend", ["reference", None])
def test_twenty_steps_give_the_pinned_losses(backend, tmp_path, monkeypatch):
    if backend:
        monkeypatch.setenv("INTERNIMAGE_BACKEND", backend)
    losses = run(tmp_path)
    assert len(losses) == STEPS
    assert_close(losses, torch.tensor(json.loads(LOSSES.read_text()), dtype=torch.float64), "golden run", torch.float32)


def test_another_seed_is_another_run(tmp_path):
    pinned = torch.tensor(json.loads(LOSSES.read_text()))
    assert (run(tmp_path, seed=1) - pinned).abs().max() > 0.05


def test_computing_blocks_twice_to_save_memory_changes_no_bit(tmp_path):
    weights = []
    for grad_checkpointing in (False, True):
        folder = tmp_path / str(grad_checkpointing)
        run(folder, epochs=1, grad_checkpointing=grad_checkpointing)
        weights.append(read_checkpoint(Checkpoints(folder).newest())["model"])
    assert all(torch.equal(value, weights[0][name]) for name, value in weights[1].items())


if __name__ == "__main__":
    import os
    import tempfile

    os.environ["INTERNIMAGE_BACKEND"] = "reference"
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps([round(loss, 6) for loss in run(Path(folder)).tolist()], indent=0))
