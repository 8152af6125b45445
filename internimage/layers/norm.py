"""Normalisation of channels-last maps."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import fused

NORMS = ("LN", "BN")
LAYER_NORM_EPS = 1e-6  # the released value; PyTorch's default is 1e-5


class ChannelsLastBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of (N, H, W, C): the permutes change strides, not memory."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def layer_norm(channels: int) -> nn.LayerNorm:
    """LayerNorm over the last axis with the released epsilon."""
    return nn.LayerNorm(channels, eps=LAYER_NORM_EPS)


def normalised(x: Tensor, norm: nn.Module, act: nn.Module | None = None) -> Tensor:
    """``act(norm(x))``, or ``norm(x)``, in one pass where that may stand for the modules."""
    if type(norm) is nn.LayerNorm and act is None and fused.takes(x, norm):
        return fused.norm_gelu(x, norm, gelu=False)
    if type(norm) is nn.LayerNorm and type(act) is nn.GELU and fused.takes(x, norm, act):
        return fused.norm_gelu(x, norm, gelu=True)
    return norm(x) if act is None else act(norm(x))


def make_norm(name: str, channels: int) -> nn.Module:
    """``"LN"`` or ``"BN"`` over the channels of an (N, H, W, C) map."""
    if name == "LN":
        return layer_norm(channels)
    if name == "BN":
        return ChannelsLastBatchNorm(channels)
    raise ValueError(f"norm_layer is {name!r}, expected 'LN' or 'BN'")
