"""Classification as a task for the loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.augment import augment, resize
from ..data.labelled import LabelledImages
from ..models import create_model
from ..recipes.classification import ClassificationRecipe

_EVALUATION_BATCH = 250


class ClassificationTask:
    """A classifier, its pictures and its measures.

    Args:
        recipe: what to train and how.
        trained_on, held_out: the two parts of the pictures; ``held_out`` may be empty.
        device: where the model runs.
    """

    def __init__(
        self, recipe: ClassificationRecipe, trained_on: LabelledImages, held_out: LabelledImages, device: torch.device
    ) -> None:
        if trained_on.images.shape[1] != recipe.channels:
            raise ValueError(f"the pictures have {trained_on.images.shape[1]} channels, the recipe says {recipe.channels}")
        self.recipe, self.trained_on, self.held_out, self.device = recipe, trained_on, held_out, device
        self.model: nn.Module = make_model(recipe, len(trained_on.class_names)).to(device)
        self.steps_per_epoch = max(1, len(trained_on) // recipe.batch_size)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The changed and normalised pictures (N, C, S, S) and labels (N,) of a step."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
            self._order = (epoch, torch.randperm(len(self.trained_on), generator=generator))
        chosen = self._order[1][index * self.recipe.batch_size :][: self.recipe.batch_size]
        images = self.trained_on.images[chosen].to(self.device).float() / 255
        images = augment(images, self.recipe.image_size_at(epoch), self.recipe.augmentation)
        return self._normalise(images), self.trained_on.labels[chosen].to(self.device)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy with label smoothing."""
        images, labels = batch
        return F.cross_entropy(model(images).float(), labels, label_smoothing=self.recipe.label_smoothing)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """``top1`` of the held-out pictures, in percent."""
        if not len(self.held_out):
            return {}
        model.eval()
        right = 0
        for start in range(0, len(self.held_out), _EVALUATION_BATCH):
            images = self.held_out.images[start : start + _EVALUATION_BATCH].to(self.device).float() / 255
            labels = self.held_out.labels[start : start + _EVALUATION_BATCH].to(self.device)
            logits = model(self._normalise(resize(images, self.recipe.image_size)))
            right += int((logits.argmax(1) == labels).sum())
        return {"top1": 100 * right / len(self.held_out)}

    def _normalise(self, images: Tensor) -> Tensor:
        mean = torch.tensor(self.recipe.mean, device=self.device).view(-1, 1, 1)
        return (images - mean) / torch.tensor(self.recipe.std, device=self.device).view(-1, 1, 1)


def make_model(recipe: ClassificationRecipe, num_classes: int) -> nn.Module:
    """The recipe's model with initial values that follow from its seed."""
    torch.manual_seed(recipe.seed)
    return create_model(
        recipe.model, num_classes=num_classes, in_chans=recipe.channels, drop_path_rate=recipe.drop_path_rate
    )
