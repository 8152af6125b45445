"""Where a number that is not finite came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .strategies import Strategy
from .task import Task


def first_bad_layer(strategy: Strategy, task: Task, batch: Any) -> str:
    """Run the forward pass once more and name the first layer whose output is not finite; "" where none is.

    A parameter that is not finite is named before any layer. Collective under strategies that share out parameters.
    """
    for name, tensor in strategy.named_tensors().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return f"the weights {name!r}"
    if not _is_finite(batch):
        return "the batch itself"
    found: list[str] = []
    handles = []
    for name, module in strategy.module.named_modules():

        def look(module: Any, inputs: Any, output: Any, name: str = name) -> None:
            if not found and not _is_finite(output):
                found.append(f"the output of {name or 'the model'!r} ({type(module).__name__})")

        handles.append(module.register_forward_hook(look))
    try:
        with torch.no_grad(), strategy.autocast():
            task.loss(strategy.module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (tuple, list)):
        return all(map(_is_finite, value))
    return True
