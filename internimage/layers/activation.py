"""The activations the released configurations name."""

from __future__ import annotations

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"GELU": nn.GELU, "ReLU": nn.ReLU, "SiLU": nn.SiLU}


def make_activation(name: str) -> nn.Module:
    """``"GELU"`` (exact), ``"ReLU"`` or ``"SiLU"``."""
    if name not in ACTIVATIONS:
        raise ValueError(f"act_layer is {name!r}, expected one of {', '.join(map(repr, ACTIVATIONS))}")
    return ACTIVATIONS[name]()
