"""The activations the released configurations name."""

from __future__ import annotations

from torch import nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {"GELU": nn.GELU, "ReLU": nn.ReLU, "SiLU": nn.SiLU}


def make_activation(name: str) -> nn.Module:
    """``"GELU"`` (exact), ``"ReLU"`` or ``"SiLU"``."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"act_layer is {name!r}, expected one of {', '.join(map(repr, _ACTIVATIONS))}")
    return _ACTIVATIONS[name]()
