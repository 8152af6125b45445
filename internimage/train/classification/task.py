"""Classification as a task for the loop, and the file that comes out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backbones.config import InternImageConfig
from ...data.order import Share
from ...devices import moved, pick_dtype
from ...evaluate.answers import TOP, Batch, judge
from ...models import InternImageClassifier, get_config
from ...processes import Processes
from ...recipes.classification import ClassificationRecipe
from ...weights.own import ModelCard, save_model
from ..layer_decay import Pace
from ..optim import paces_of
from .pretrained import start_from_pretrained
from .source import Source
from .timm_peer import is_peer, make_peer, save_peer

STRIDE = 32  # of the backbone's last map


class ClassificationTask:
    """A classifier, its pictures and its measures.

    Args:
        recipe: what to train and how.
        source: the pictures.
        fresh: whether the model starts from the recipe's pretrained weights; a run that goes on has its own.

    Attributes:
        remarks: what a person should know about the classes and about the weights that training starts from.
    """

    score = "top1"

    def __init__(self, recipe: ClassificationRecipe, source: Source, fresh: bool = True) -> None:
        self.recipe, self.source, self.fresh = recipe, source, fresh
        self.remarks = list(source.remarks)
        self.steps_per_epoch, self.fingerprint = source.steps_per_epoch, source.fingerprint

    def make_model(self) -> nn.Module:
        """The recipe's model, with initial values that follow from its seed."""
        torch.manual_seed(self.recipe.seed)
        if is_peer(self.recipe):
            return make_peer(self.recipe, len(self.source.class_names))
        return InternImageClassifier(self._config(self.recipe.drop_path_rate), len(self.source.class_names))

    def load_pretrained(self, model: nn.Module) -> None:
        """Start from the recipe's pretrained weights, where it has some."""
        if not self.fresh or not self.recipe.pretrained:
            return
        assert isinstance(model, InternImageClassifier)
        report = start_from_pretrained(model, self.recipe)
        self.remarks += [f"starts from {self.recipe.pretrained}", *report.converted, *report.notes]

    def paces(self, model: nn.Module) -> dict[str, Pace]:
        """By the rule of the released classification trainer."""
        return paces_of(model, self.recipe)

    def _config(self, drop_path_rate: float) -> InternImageConfig:
        changes = {"in_chans": self.recipe.channels, "drop_path_rate": drop_path_rate, **self.recipe.model_changes}
        return get_config(self.recipe.model, **changes)

    def batches(self, first_step: int, last_step: int, share: Share) -> Iterator[tuple[Any, Tensor]]:
        """Inputs and targets: classes (n,), or shares of classes (n, classes) where pictures are mixed.

        Raises:
            ValueError: a micro-batch is one picture so small that one pixel is left of it, which batch norm makes zero.
        """
        if min(self.recipe.image_sizes) <= STRIDE and share.micro_batch_size(self.recipe.batch_size) == 1:
            raise ValueError(
                f"a micro-batch of one picture of {min(self.recipe.image_sizes)} pixels cannot be normalised over a "
                f"batch; take a larger batch_size, fewer processes or less accumulation, or more than {STRIDE} pixels"
            )
        return self.source.batches(first_step, last_step, share)

    def images_in(self, batch: tuple[Any, Tensor]) -> int:
        """How many pictures a micro-batch holds."""
        return len(batch[1])

    def loss(self, model: nn.Module, batch: tuple[Any, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy; label smoothing stands in the targets already where pictures are mixed."""
        inputs, targets = batch
        smoothing = 0.0 if targets.is_floating_point() else self.recipe.label_smoothing
        logits = self._logits(model, inputs).float()
        return {"cross_entropy": F.cross_entropy(logits, targets, label_smoothing=smoothing)}

    def _logits(self, model: nn.Module, inputs: Any) -> Tensor:
        """Date and place go to the models that take them."""
        if isinstance(inputs, Tensor):
            return model(inputs)
        return model(*inputs) if self.recipe.metadata else model(inputs[0])

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """``top1`` and, for more than five classes, ``top5`` of the pictures held out, in percent; their ``loss``.

        A model of ImageNet-22K answers for ImageNet-1K with those thousand outputs, as it is evaluated.
        """
        sums = torch.zeros(4, dtype=torch.float64)
        for batch in self.source.evaluation_batches(processes):
            inputs, labels = moved(batch, processes.device)
            known = (labels >= 0).nonzero()[:, 0]
            sums += _counts(judge(known, *self.source.match.of(self._logits(model, inputs)[known], labels[known])))
        pictures, top1, top5, loss = processes.sum(sums).tolist()
        if not pictures:
            return {}
        scores = {"top1": 100 * top1 / pictures, "loss": loss / pictures}
        return {**scores, "top5": 100 * top5 / pictures} if len(self.source.match.names) > TOP else scores

    def save(self, path: str | Path, weights: Mapping[str, Tensor], scores: Mapping[str, float]) -> None:
        """One file that ``internimage.load`` and every command take; ``scores`` are of the pictures held out."""
        recipe, names = self.recipe, self.source.class_names
        if is_peer(recipe):
            save_peer(path, weights, recipe, names)
            return
        stored = pick_dtype(recipe.stored_dtype)
        card = ModelCard(
            name=recipe.model,
            config=self._config(drop_path_rate=0.0),  # a rate is of the recipe, not of the network
            num_classes=len(names),
            preprocessing=recipe.preprocessing,
            class_names=names,
            note=f"trained on {recipe.subject or Path(recipe.data).resolve().name}, {len(names)} classes",
            scores={f"held_out_{name}": round(value, 2) for name, value in scores.items()},
        )
        save_model(path, {n: w.to(stored) if w.is_floating_point() else w for n, w in weights.items()}, card)


def _counts(said: Batch) -> Tensor:
    """Pictures, right ones, right ones among five, summed cross-entropy: (4,), float64."""
    each = (torch.ones_like(said.loss), said.best == said.labels, said.in_top5, said.loss)
    return torch.stack([values.double().sum() for values in each])
