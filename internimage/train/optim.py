"""The optimizer and its parameter groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..recipes.training import TrainingRecipe
from .layer_decay import NamedTensors, Pace, classification_paces

_LEVEL = re.compile(r"(?:^|\.)levels\.(\d+)\.")


def make_optimizer(
    model: nn.Module, recipe: TrainingRecipe, paces: Mapping[str, Pace] | None = None
) -> torch.optim.Optimizer:
    """The optimizer of a recipe over the parameters that learn; :func:`freeze_levels` comes before.

    Args:
        paces: of each parameter, by name; None is by the rule of classification, :func:`paces_of`.
    """
    paces = paces_of(model, recipe) if paces is None else paces
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups, rate = parameter_groups(learning, paces, recipe.rates.lr), recipe.rates.lr
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=True)
    if recipe.optimizer == "muon":
        from timm.optim import Muon

        return Muon(groups, lr=rate, momentum=recipe.momentum, nesterov=True, betas=recipe.betas, eps=recipe.eps)
    return torch.optim.AdamW(groups, lr=rate, betas=recipe.betas, eps=recipe.eps, fused=True)


def paces_of(model: nn.Module, recipe: TrainingRecipe) -> dict[str, Pace]:
    """How fast each parameter learns and decays in classification.

    Matrices and kernels are decayed; vectors, biases and what the model's ``no_weight_decay()`` names are not.
    """
    parameters = model.named_parameters()  # frozen ones too: they count as layers
    paces = classification_paces(parameters, recipe.weight_decay, recipe.layer_decay, recipe.dcn_lr_mul)
    for name in getattr(model, "no_weight_decay", set)():
        if name in paces:
            paces[name] = paces[name]._replace(weight_decay=0.0)
    return paces


def parameter_groups(parameters: NamedTensors, paces: Mapping[str, Pace], lr: float) -> list[dict[str, Any]]:
    """Parameters of the same pace as one group each, in the order in which they first come.

    The rate stands in ``lr``: a timm schedule lets each group fall from its own rate to the same ``min_lr``, as
    released. (A key ``lr_scale`` would make it scale the minimum too.)
    """
    groups: dict[Pace, dict[str, Any]] = {}
    for name, parameter in parameters:
        pace = paces[name]
        made = {"params": [], "lr": lr * pace.lr_scale, "weight_decay": pace.weight_decay}
        groups.setdefault(pace, made)["params"].append(parameter)
    return list(groups.values())


def freeze_levels(model: nn.Module, levels: Iterable[int]) -> None:
    """Let whole levels of the backbone, norm and downsampling included, keep their weights. The stem goes on learning.

    Call it before the model is wrapped for several processes and before its optimizer is made.

    Raises:
        ValueError: the model has no such level.
    """
    wanted, found = set(levels), set()
    for name, parameter in model.named_parameters():
        level = _LEVEL.search(name)
        if level and int(level[1]) in wanted:
            parameter.requires_grad_(False)
            found.add(int(level[1]))
    if wanted - found:
        raise ValueError(f"frozen_levels has {min(wanted - found)}, but the model has no such level")
