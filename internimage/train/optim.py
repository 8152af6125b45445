"""The optimizer."""

from __future__ import annotations

import torch
from torch import nn

from .plan import TrainingPlan


def make_optimizer(model: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    """AdamW; vectors (norms, biases, scales) and what the model itself names are not decayed."""
    from timm.optim import param_groups_weight_decay

    spared: set[str] = getattr(model, "no_weight_decay", set)()
    groups = param_groups_weight_decay(model, plan.weight_decay, no_weight_decay_list=tuple(spared))
    return torch.optim.AdamW(groups, lr=plan.lr, fused=True)
