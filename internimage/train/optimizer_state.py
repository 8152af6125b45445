"""An optimizer's state by the names of parameters, so that it fits another engine, or other groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


def names_of(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The names of the parameters in the order in which the optimizer numbers them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def states_by_name(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Copies on the CPU of what the optimizer keeps for each parameter; none for one that has had no gradient yet."""
    states = optimizer.state_dict()["state"]
    return {
        name: {key: _copied(value) for key, value in states[index].items()}
        for index, name in enumerate(names_of(model, optimizer))
        if index in states
    }


def load_states(model: nn.Module, optimizer: Optimizer, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Continue from what :func:`states_by_name` gave; rates and decays stay those of the optimizer's own groups."""
    contents = optimizer.state_dict()
    contents["state"] = {
        index: {key: _copied(value) for key, value in states[name].items()}
        for index, name in enumerate(names_of(model, optimizer))
        if name in states
    }
    optimizer.load_state_dict(contents)


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
