"""Classification as a task for the loop, and the file that comes out of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.augment import augment, resize
from ..data.classification import open_pictures
from ..data.image_folder import ImageFolder, read_image_folder
from ..data.labelled import LabelledImages
from ..devices import pick_dtype
from ..models import InternImageClassifier, get_config
from ..recipes.classification import ClassificationRecipe
from ..weights.own import ModelCard, save_model
from .checkpoint import TrainingState

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
        if len(trained_on.class_names) < 2:
            raise ValueError(
                f"all pictures are of one class, {trained_on.class_names[0]!r}; expected a folder a class, two or more"
            )
        self.recipe, self.trained_on, self.held_out, self.device = recipe, trained_on, held_out, device
        self.model = make_model(recipe, len(trained_on.class_names)).to(device)
        self.steps_per_epoch = max(1, len(trained_on) // recipe.batch_size)
        self.fingerprint = fingerprint(trained_on)
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
    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """``top1`` of the held-out pictures after an epoch, at the size trained with, in percent."""
        if not len(self.held_out):
            return {}
        model.eval()
        size, right = self.recipe.image_size_at(max(epoch - 1, 0)), 0
        for start in range(0, len(self.held_out), _EVALUATION_BATCH):
            images = self.held_out.images[start : start + _EVALUATION_BATCH].to(self.device).float() / 255
            labels = self.held_out.labels[start : start + _EVALUATION_BATCH].to(self.device)
            logits = model(self._normalise(resize(images, size)))
            right += int((logits.argmax(1) == labels).sum())
        return {"top1": 100 * right / len(self.held_out)}

    def _normalise(self, images: Tensor) -> Tensor:
        mean = torch.tensor(self.recipe.mean, device=self.device).view(-1, 1, 1)
        return (images - mean) / torch.tensor(self.recipe.std, device=self.device).view(-1, 1, 1)


def make_model(recipe: ClassificationRecipe, num_classes: int) -> InternImageClassifier:
    """The recipe's model with initial values that follow from its seed."""
    torch.manual_seed(recipe.seed)
    changes = {"in_chans": recipe.channels, "drop_path_rate": recipe.drop_path_rate, **recipe.model_changes}
    config = get_config(recipe.model, **changes)
    return InternImageClassifier(config, num_classes)


def read_pictures(
    recipe: ClassificationRecipe, progress: Callable[[int, int], None] = lambda done, total: None
) -> LabelledImages:
    """All pictures of the recipe, as many channels as its model takes; unreadable ones are left out and named."""
    pictures = open_pictures(recipe.data, "train")
    if isinstance(pictures, ImageFolder):
        return read_image_folder(pictures, recipe.preprocessing, progress)
    assert isinstance(pictures, LabelledImages)
    return pictures.with_channels(recipe.channels)


def split_pictures(recipe: ClassificationRecipe, pictures: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """What is trained on and what is held out, at random by the recipe's seed."""
    return pictures.split(round(len(pictures) * recipe.held_out), recipe.seed)


def fingerprint(pictures: LabelledImages) -> str:
    """Tells pictures from others: "55,000 pictures of 10 classes, checksum 1a2b3c4d"."""
    checksum = zlib.crc32(pictures.labels.numpy().tobytes(), zlib.crc32(pictures.images.numpy().tobytes()))
    return f"{len(pictures):,} pictures of {len(pictures.class_names)} classes, checksum {checksum:08x}"


def save_classifier(task: ClassificationTask, state: TrainingState, path: str | Path) -> None:
    """Write the trained model, averaged weights where there are, as one file that ``internimage.load`` takes."""
    recipe, names = task.recipe, task.trained_on.class_names
    stored = pick_dtype(recipe.stored_dtype)
    weights = {
        name: value.to(stored) if value.is_floating_point() else value
        for name, value in state.best_model().state_dict().items()
    }
    last = state.history[-1] if state.history else {}
    card = ModelCard(
        name=recipe.model,
        config=replace(task.model.config, drop_path_rate=0.0),  # of the recipe, not of the network
        num_classes=len(names),
        preprocessing=recipe.preprocessing,
        class_names=names,
        note=f"trained on {recipe.subject or Path(recipe.data).resolve().name}, {len(names)} classes",
        scores={"held_out_top1": round(last["top1"], 2)} if "top1" in last else {},
    )
    save_model(path, weights, card)
