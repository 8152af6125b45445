"""The feed-forward half of a block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import fused
from .activation import make_activation


class MLP(nn.Module):
    """Linear, activation, dropout, linear, dropout over the last axis."""

    def __init__(self, channels: int, hidden_channels: int, act_layer: str = "GELU", drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.act = make_activation(act_layer)
        self.fc2 = nn.Linear(hidden_channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self._hidden(x))))

    def _hidden(self, x: Tensor) -> Tensor:
        if type(self.fc1) is nn.Linear and type(self.act) is nn.GELU and fused.takes(x, self.fc1, self.act):
            return fused.add_bias_gelu_(F.linear(x, self.fc1.weight), self.fc1.bias)  # in place: the map is large
        return self.act(self.fc1(x))
