"""The feed-forward half of a block."""

from __future__ import annotations

from torch import Tensor, nn

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
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
