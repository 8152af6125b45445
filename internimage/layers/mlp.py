"""The feed-forward half of a block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import fused
from .activation import make_activation

_SLICE = 1 << 18  # hidden values of a slice that stay in a core's cache: 1 MiB of float32


class MLP(nn.Module):
    """Linear, activation, dropout, linear, dropout over the last axis."""

    def __init__(self, channels: int, hidden_channels: int, act_layer: str = "GELU", drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.act = make_activation(act_layer)
        self.fc2 = nn.Linear(hidden_channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        if self._fuses(x):
            return self._forward_in_slices(x)
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))

    def _fuses(self, x: Tensor) -> bool:
        if (type(self.fc1), type(self.act), type(self.fc2)) != (nn.Linear, nn.GELU, nn.Linear):
            return False
        return not (self.training and self.drop.p) and fused.takes(x, self.fc1, self.act, self.fc2, self.drop)

    def _forward_in_slices(self, x: Tensor) -> Tensor:
        """Inference, a few rows at a time: the hidden map, four times the input, never leaves the cache."""
        rows = x.reshape(-1, x.shape[-1])
        output = torch.empty_like(rows)
        height = max(1, _SLICE // self.fc1.out_features)
        for inward, outward in zip(rows.split(height), output.split(height), strict=True):
            hidden = fused.add_bias_gelu_(F.linear(inward, self.fc1.weight), self.fc1.bias)
            torch.addmm(self.fc2.bias, hidden, self.fc2.weight.t(), out=outward)
        return output.view(x.shape)
