"""Recipes of classifiers."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

from ..data.augment import Augmentation
from ..train.plan import TrainingPlan


@dataclass(frozen=True, kw_only=True)
class ClassificationRecipe(TrainingPlan):
    """A model, its pictures and how it is trained.

    ``model`` is a name of :func:`internimage.list_models`; ``data`` is "fashion-mnist" or a folder of class folders;
    ``image_sizes`` are sides of the input in pixels, each for an equal share of the epochs: small pictures first teach most
    of it in less time, and the last size is the one that the model is used with. ``channels`` is 1 (grey) or 3; ``mean`` and ``std`` have one value a
    channel, on values 0 to 1; ``held_out`` is the share of the pictures that is measured on and not trained on.
    """

    model: str
    data: str
    image_sizes: tuple[int, ...]
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    dark_background: bool = False
    held_out: float = 0.1
    drop_path_rate: float = 0.0
    label_smoothing: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def image_size(self) -> int:
        """The side of the input, in pixels, that the trained model is used with."""
        return self.image_sizes[-1]

    def image_size_at(self, epoch: int) -> int:
        """The side of the input while training, by the epoch counted from 0."""
        return self.image_sizes[min(epoch * len(self.image_sizes) // self.epochs, len(self.image_sizes) - 1)]


def internimage_femto() -> ClassificationRecipe:
    """The embedded model: Fashion-MNIST, 56x56 grey pixels, 55,000 pictures trained on and 5,000 held out.

    Cost: TODO.
    Result: TODO.
    """
    return ClassificationRecipe(
        name="internimage_femto",
        model="internimage_femto",
        data="fashion-mnist",
        image_sizes=(40, 40, 56),
        channels=1,
        mean=(0.286,),
        std=(0.353,),
        dark_background=True,
        held_out=1 / 12,
        epochs=24,
        batch_size=128,
        lr=2e-3,
        warmup_epochs=1.0,
        weight_decay=0.05,
        clip_grad=5.0,
        ema_decay=0.998,
        drop_path_rate=0.05,
        label_smoothing=0.1,
        augmentation=Augmentation(shift=0.07, zoom=0.08, flip=True, erase=0.25),
    )


RECIPES: dict[str, Callable[[], ClassificationRecipe]] = {"internimage_femto": internimage_femto}


def get_recipe(name: str) -> ClassificationRecipe:
    """A recipe by name; ValueError with the nearest name for unknown ones."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no recipe {name!r}; {hint}the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()
