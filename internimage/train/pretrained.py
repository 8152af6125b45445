"""The weights that training starts from."""

from __future__ import annotations

import torch

from ..models import InternImageClassifier
from ..recipes.classification import ClassificationRecipe
from ..weights import load_weights


def start_from(model: InternImageClassifier, recipe: ClassificationRecipe) -> list[str]:
    """Load the recipe's pretrained weights into a fresh model; a classifier that does not fit begins at random.

    Returns:
        What a person should know, a line each.

    Raises:
        WeightsError: (a ValueError) the weights are not to be had or do not fit.
    """
    fresh = {name: value.clone() for name, value in model.state_dict().items() if _is_of_classifier(name)}
    report = load_weights(model, recipe.pretrained)
    remarks = [f"starts from {recipe.pretrained}", *report.notes]
    if recipe.head_start == "random" or report.kept_classifier:
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name in fresh:
                    value.copy_(fresh[name] * recipe.head_init_scale)
        remarks.append(f"its classifier begins at random, for {model.num_classes:,} classes")
    return remarks


def _is_of_classifier(name: str) -> bool:
    """Whether a weight is of the last layers, one row for each class."""
    return name.startswith(("head.fc.", "metadata.fc."))
