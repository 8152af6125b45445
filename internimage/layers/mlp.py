"""The feed-forward half of a block."""

from __future__ import annotations

from operator import itemgetter

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

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) to the same shape."""
        x = fused.seen_by_layers(x)
        if fused.takes_all_of(self, x):
            return self.forward_fused(x)
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))

    def plain_parts(self) -> tuple[nn.Module, ...]:
        """All parts, where they are those that the fused passes know."""
        parts = fc1, _, _, drop = _parts(self._modules)
        if tuple(map(type, parts)) != _PLAIN or fc1._parameters["bias"] is None or (drop.training and drop.p):
            return ()
        return self, *parts

    def forward_fused(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The same where the fused passes take it, plus ``residual``, of the shape of ``x``.

        A large hidden map, four times the input, never exists as a whole.
        """
        fc1, _, fc2, _ = _parts(self._modules)
        rows, hidden = x.reshape(-1, x.shape[-1]), fc1.out_features
        if len(rows) * hidden < _LARGE:
            return _forward(x, fc1, fc2, residual)
        output, height = x.new_empty(rows.shape), max(1, _SLICE // hidden)
        beside = None if residual is None else residual.reshape(rows.shape)
        for first in range(0, len(rows), height):
            part = slice(first, first + height)
            output[part] = _forward(rows[part], fc1, fc2, None if beside is None else beside[part])
        return output.view(x.shape)


_parts = itemgetter("fc1", "act", "fc2", "drop")  # of ``_modules``: an attribute of a module costs ten times as much
_PLAIN = (nn.Linear, nn.GELU, nn.Linear, nn.Dropout)


def _forward(x: Tensor, fc1: nn.Linear, fc2: nn.Linear, residual: Tensor | None) -> Tensor:
    weight, bias = fused.weight_and_bias(fc1)
    hidden = fused.add_bias_gelu_(fused.linear(x, weight), bias)
    return fused.linear(hidden, *fused.weight_and_bias(fc2), residual)
