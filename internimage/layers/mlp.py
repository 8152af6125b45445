"""The feed-forward half of a block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import fused
from .activation import make_activation

_LARGE = 1 << 21  # hidden values, 8 MiB of float32: a map of this size leaves the cache between the two matrix products
_SLICE = 1 << 19  # and is worked on in slices of this size


class MLP(nn.Module):
    """Linear, activation, dropout, linear, dropout over the last axis."""

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        act_layer: str = "GELU",
        drop_rate: float = 0.0,
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.act = make_activation(act_layer)
        self.fc2 = nn.Linear(hidden_channels, channels, bias=last_bias)
        self.drop = nn.Dropout(drop_rate)

    @property
    def last(self) -> nn.Linear:
        """The layer that makes the output."""
        return self.fc2

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """(..., channels) to the same shape.

        With ``start``, for inference where the fused passes run, the last matrix product is added to it, in place of a
        bias; ``start`` is overwritten.
        """
        if self._fuses(x):
            return self._forward_fused(x, start)
        x = self.drop(self.act(self.fc1(x)))
        return self.drop(self.fc2(x)) if start is None else self._second(x, start)

    def _fuses(self, x: Tensor) -> bool:
        if not type(self.fc1) is type(self.fc2) is nn.Linear or type(self.act) is not nn.GELU or self.fc1.bias is None:
            return False
        return not (self.training and self.drop.p) and fused.takes(x, self.fc1, self.act, self.fc2, self.drop)

    def _forward_fused(self, x: Tensor, start: Tensor | None) -> Tensor:
        """For inference on the CPU; a large hidden map, four times the input, never exists as a whole."""
        rows, hidden = x.reshape(-1, x.shape[-1]), self.fc1.out_features
        if len(rows) * hidden < _LARGE:
            return self._second(self._hidden(x), start)
        output = x.new_empty(x.shape) if start is None else start
        height = max(1, _SLICE // hidden)
        for inward, outward in zip(rows.split(height), output.view(rows.shape).split(height), strict=True):
            part = self._hidden(inward)
            if start is None:
                outward.copy_(self.fc2(part))
            else:
                self._second(part, outward)
        return output

    def _hidden(self, x: Tensor) -> Tensor:
        return fused.add_bias_gelu_(F.linear(x, self.fc1.weight), self.fc1.bias)

    def _second(self, hidden: Tensor, start: Tensor | None) -> Tensor:
        return self.fc2(hidden) if start is None else fused.add_product_(start, hidden, self.fc2.weight)
