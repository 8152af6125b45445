"""A running average of a model's weights, which generalises better than the last of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightAverage:
    """Parameters and buffers of a model, averaged over the steps: ``decay * average + (1 - decay) * model``.

    It averages whatever tensors a strategy holds in this process, whole ones or parts of them. timm's ``ModelEmaV3``
    keeps a second module, which sharded models cannot have; the numbers are the same.

    Args:
        tensors: by name, as they are before the first step.
        decay: how much of the average stays at each step.
        warmup: early on the average is short, ``(1 + step) / (10 + step)`` in place of ``decay``: it forgets the
            initial values.
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float, warmup: bool = False) -> None:
        self.decay, self.warmup = decay, warmup
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        floats = [name for name, value in self.tensors.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in floats], [tensors[name].detach() for name in floats], 1 - decay
        )
        for name in self.tensors.keys() - set(floats):  # counters
            self.tensors[name].copy_(tensors[name])

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from these."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
