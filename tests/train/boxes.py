"""A second task, of the kind of detection: proof that the loop fits what is no classification.

Batches are dictionaries with lists of tensors of different lengths, there are three losses, layers learn at rates as in
the released detectors, and evaluation gathers what each process has found. ``torchrun -m tests.train.boxes FOLDER``
trains it on several processes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou

from internimage.data.order import Share
from internimage.data.seeds import seeded
from internimage.processes import Processes, started_processes, stop_processes
from internimage.recipes.training import TrainingRecipe
from internimage.train.checkpoint import Checkpoints, read_checkpoint
from internimage.train.layer_decay import Pace, dense_prediction_paces
from internimage.train.loop import Conduct, fit
from internimage.train.state import TrainingState, new_state
from internimage.train.strategies import make_strategy
from internimage.weights.own import save_tensors

STEPS, BATCH, SIZE, CELL = 10, 8, 16, 4  # steps of an epoch; a box begins in the corner of a cell, which has to find it
GRID = SIZE // CELL
SLOWER = 0.95  # each layer than the next


def recipe(**changes) -> TrainingRecipe:
    settings = dict(name="boxes", epochs=2, batch_size=BATCH, lr=1e-2, ema_decay=0.9, ema_warmup=True, weight_decay=0.0)
    return TrainingRecipe(**{**settings, **changes})


def scene() -> dict[str, Any]:
    """A picture (3, 16, 16) with none to three squares, red or green, their ``boxes_xyxy`` in pixels and labels."""
    picture, boxes, labels = 0.1 * torch.rand(3, SIZE, SIZE), [], []
    for cell in torch.randperm(GRID * GRID)[: torch.randint(4, ())].tolist():
        top, left = CELL * (cell // GRID), CELL * (cell % GRID)
        height, width = torch.randint(2, CELL + 1, (2,)).tolist()
        label = int(torch.randint(2, ()))
        picture[label, top : top + height, left : left + width] = 1.0
        boxes.append([left, top, left + width, top + height])
        labels.append(label)
    return {
        "image": picture,
        "boxes_xyxy": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
    }


class Network(nn.Module):
    """For each cell of the grid (N, 4, 4): is there a box, where do its corners lie, which class is it."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 16, CELL, CELL), nn.GroupNorm(1, 16), nn.GELU(), nn.Dropout2d(0.1))
        self.backbone = nn.ModuleDict({"stem": stem})
        self.there, self.corners, self.kind = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.backbone["stem"](images)
        out = {name: getattr(self, name)(x).permute(0, 2, 3, 1) for name in ("there", "corners", "kind")}
        rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        return {**out, "corners": out["corners"] + torch.stack([columns, rows, columns, rows], dim=-1)}  # in cells


class Boxes:
    """Finds squares."""

    fingerprint, steps_per_epoch, score = "squares", STEPS, "found"

    def make_model(self) -> nn.Module:
        torch.manual_seed(0)
        return Network()

    def load_pretrained(self, model: nn.Module) -> None:
        pass

    def paces(self, model: nn.Module) -> dict[str, Pace]:
        """By the rule for detection; the stem is layer 0, the rest is layer 2."""
        return dense_prediction_paces(
            model.named_parameters(), recipe().weight_decay, depths=(1, 0, 0, 0), num_layers=1, layer_decay_rate=SLOWER
        )

    def batches(self, first_step: int, last_step: int, share: Share) -> Iterator[dict[str, Any]]:
        size = share.micro_batch_size(BATCH)
        for step in range(first_step, last_step):
            with seeded(step):
                scenes = [scene() for _ in range(BATCH)]
            for micro in range(share.accumulation):
                mine = scenes[share.number(micro) * size :][:size]
                yield {
                    "images": torch.stack([each["image"] for each in mine]),
                    "targets": {key: [each[key] for each in mine] for key in ("boxes_xyxy", "labels")},
                    "names": [f"scene {step}" for _ in mine],
                }

    def images_in(self, batch: dict[str, Any]) -> int:
        return len(batch["images"])

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        out, boxes = model(batch["images"]), batch["targets"]["boxes_xyxy"]
        image = torch.cat([torch.full((len(each),), number) for number, each in enumerate(boxes)])
        corners, labels = torch.cat(boxes), torch.cat(batch["targets"]["labels"])
        column, row = (corners[:, :2] / CELL).long().T
        there = torch.zeros_like(out["there"])
        there[image, row, column] = 1.0
        count = max(len(corners), 1)  # sums: a mean over no box is not a number
        return {
            "there": F.binary_cross_entropy_with_logits(out["there"], there),
            "box": F.l1_loss(out["corners"][image, row, column], corners / CELL, reduction="sum") / count,
            "class": F.cross_entropy(out["kind"][image, row, column], labels, reduction="sum") / count,
        }

    @torch.no_grad()
    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """Share of the boxes of 25 scenes that are found where they are: IoU above 0.5, class right."""
        with seeded(99):
            scenes = [scene() for _ in range(25)]
        mine = {n: detected(model, scenes[n]["image"]) for n in range(processes.rank, 25, processes.world_size)}
        found: dict[int, dict[str, Tensor]] = {}
        for part in processes.gather(mine):
            found.update(part)
        assert sorted(found) == list(range(25))
        hits = [hit for n, want in enumerate(scenes) for hit in are_found(found[n], want)]
        return {"found": 100 * sum(hits) / len(hits)}

    def save(self, path, weights, scores) -> None:
        save_tensors(path, weights, {"scores": str(dict(scores))})


def detected(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """As many boxes as the model thinks there are."""
    out = {name: value[0].flatten(0, 1) for name, value in model(image[None]).items()}
    there = out["there"][:, 0] > 0
    return {"boxes_xyxy": CELL * out["corners"][there], "labels": out["kind"][there].argmax(1)}


def are_found(got: dict[str, Tensor], want: dict[str, Tensor]) -> list[bool]:
    overlap = box_iou(want["boxes_xyxy"], got["boxes_xyxy"]) > 0.5
    return (overlap & (want["labels"][:, None] == got["labels"][None])).any(1).tolist()


def train(folder: Path, processes: Processes, until: int = -1, accumulation: int = 2, **changes) -> TrainingState:
    """Train, or go on, up to ``until`` steps; checkpoints are in ``folder``."""
    state, checkpoints = new_state(Boxes(), recipe(**changes), make_strategy(None, processes)), Checkpoints(folder)
    newest = checkpoints.newest()
    processes.wait()
    if newest:
        state.load(read_checkpoint(newest))
    fit(state, checkpoints, [], Conduct(accumulation=accumulation), lambda: state.step == until)
    return state


if __name__ == "__main__":
    train(Path(sys.argv[1]), started_processes("cpu"))
    stop_processes()
