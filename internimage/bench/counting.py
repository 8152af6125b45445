"""How many floating-point operations a network computes in one forward pass, a multiply-add being two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from . import networks
from .networks import Network
from .shapes import MapShape
from .work import FORWARD, flops


def gflop(network: Network, image: Tensor) -> float:
    """Of a forward pass on ``image``, in 1e9: matrix products, convolutions, attention and deformable operators.

    Norms, activations and sums are not counted, as is the custom. It is run with gradients, where nothing is fused.
    """
    counted: list[int] = []

    def count(original: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        n, height, width, channels = input.shape
        groups = _groups(args, kwargs)
        counted.append(flops(MapShape(height, width, channels, groups, n).work, FORWARD))
        return networks.free(original, input)

    with torch.enable_grad(), networks.operator(count), FlopCounterMode(display=False) as counter:
        network.module(image)
    own = 0 if network.variant == networks.FREE else sum(counted)
    return (counter.get_total_flops() + own) / 1e9


def _groups(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """As a keyword, or in a geometry among the arguments."""
    if "groups" in kwargs:
        return kwargs["groups"]
    return next(value.groups for value in (*args, *kwargs.values()) if hasattr(value, "groups"))
