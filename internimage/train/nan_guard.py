"""Where a number that is not finite came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .strategies import Strategy
from .task import Task


def first_bad_layer(strategy: Strategy, task: Task, batch: Any) -> str:
    """Run the forward pass once more and name the first layer whose output is not finite; "" where none is.

    A parameter that is not finite is named before any layer. Collective: under strategies that share out parameters a
    forward pass waits for the other processes, so either all of them run it or none does.
    """
    before = _bad_before_any_layer(strategy, batch)
    if any(strategy.processes.any_of(bool(before))):
        return before
    found: list[str] = []
    handles = []
    for name, module in strategy.module.named_modules():

        def look(module: Any, inputs: Any, output: Any, name: str = name) -> None:
            if not found and not _is_finite(output):
                found.append(f"the output of {_called(name, module)}")

        handles.append(module.register_forward_hook(look))
    try:
        with torch.no_grad(), strategy.autocast():
            task.loss(strategy.module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def first_bad_gradient(strategy: Strategy, task: Task, batch: Any) -> str:
    """Run both passes once more and name where gradients stop being finite, coming from the loss; "" where they do not.

    Collective, as each process runs both passes whatever it finds. Gradients are left behind, and the run is over.
    """
    found: list[str] = []
    handles = []
    for name, module in strategy.module.named_modules():
        called = f"the gradient of the output of {_called(name, module)}"

        def look(module: Any, inputs: Any, output: Any, called: str = called) -> None:
            def look_back(gradient: Tensor) -> None:
                if not found and not _is_finite(gradient):
                    found.append(called)

            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(look_back)

        handles.append(module.register_forward_hook(look))
    try:
        with strategy.autocast():
            parts = task.loss(strategy.module, batch)
        strategy.backward(sum(parts.values(), start=torch.zeros((), device=strategy.processes.device)))
    finally:
        for handle in handles:
            handle.remove()
    if any(strategy.processes.any_of(bool(found))):  # gradients of parameters are summed up by now: bad everywhere
        return found[0] if found else ""
    return _bad_gradient_of_a_parameter(strategy)


def _called(name: str, module: nn.Module) -> str:
    """A layer by its name in the model itself, of which a replicated one is the part ``module``."""
    return f"{name.removeprefix('module').removeprefix('.') or 'the model'!r} ({type(module).__name__})"


def _bad_gradient_of_a_parameter(strategy: Strategy) -> str:
    """The one nearest to the loss, as far as this process holds its gradient."""
    for name, parameter in reversed(list(strategy.module.named_parameters())):
        gradient = getattr(parameter.grad, "_local_tensor", parameter.grad)
        if not _is_finite(gradient):
            return f"the gradient of {name.removeprefix('module.')!r}"
    return ""


def _bad_before_any_layer(strategy: Strategy, batch: Any) -> str:
    """What this process knows to be bad without the model: its parts of the weights, its batch."""
    for name, tensor in strategy.named_tensors().items():
        if not _is_finite(tensor):
            return f"the weights {name!r}"
    return "" if _is_finite(batch) else "the batch itself"


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (tuple, list)):
        return all(map(_is_finite, value))
    return True
