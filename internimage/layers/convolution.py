"""Convolutions of channels-last maps."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelsLastConv2d(nn.Conv2d):
    """A convolution from (N, H, W, C_in) to (N, H_out, W_out, C_out): the permutes change strides, not memory."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
