"""Networks of timm trained by the same recipes, to stand beside ours: ``--set model=timm:resnet18``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...recipes.classification import ClassificationRecipe
from ...weights.own import save_tensors

PREFIX = "timm:"


def is_peer(recipe: ClassificationRecipe) -> bool:
    """Whether the recipe's model is one of timm."""
    return recipe.model.startswith(PREFIX)


def make_peer(recipe: ClassificationRecipe, classes: int) -> nn.Module:
    """The network with random initial values, with the recipe's channels and, where it has such, its drop path.

    Its weights are laid out channels last, the faster way for convolutions.

    Raises:
        ValueError: timm has no network of this name.
    """
    import timm

    name = recipe.model.removeprefix(PREFIX)
    if not timm.is_model(name):
        raise ValueError(f"timm has no network {name!r}; `timm.list_models()` names them")
    model: nn.Module = timm.create_model(
        name, in_chans=recipe.channels, num_classes=classes, drop_path_rate=recipe.drop_path_rate
    )
    return model.to(memory_format=torch.channels_last)


def save_peer(
    path: str | Path, weights: Mapping[str, Tensor], recipe: ClassificationRecipe, class_names: Sequence[str]
) -> None:
    """Write the weights with what ``timm.create_model`` needs to take them; our commands do not load such a file."""
    card = {"name": recipe.model.removeprefix(PREFIX), "in_chans": recipe.channels, "class_names": list(class_names)}
    save_tensors(path, weights, {"timm": json.dumps(card)})
