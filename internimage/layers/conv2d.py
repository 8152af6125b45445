"""DCNv3 and DCNv4 in the place of a ``Conv2d``: (N, C, H, W) maps, other channels out than in, any stride.

For nets of other people: a YOLO block, a U-Net, a ResNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..ops.geometry import IntPair, as_pair
from .dcnv4 import DCNv4
from .deform_conv import DCNv3

_DEPTH = 16  # channels of a group that kernels like best


class _DeformableConv2d(nn.Module):
    """Permutes around a channels-last layer, and a projection where the channels change."""

    layer: type[DCNv3] | type[DCNv4]
    defaults: Mapping[str, Any] = {}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair = 3,
        stride: IntPair = 1,
        padding: IntPair | str | None = None,
        dilation: IntPair = 1,
        groups: int | None = None,
        bias: bool = True,
        **options,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected an int >= 1")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.project = nn.Identity() if in_channels == out_channels else nn.Linear(in_channels, out_channels, bias)
        core = self.layer(
            in_channels,
            kernel_size,
            stride=stride,
            padding=_padding(padding, kernel_size, stride, dilation),
            dilation=dilation,
            groups=_groups_of(in_channels) if groups is None else groups,
            **{**self.defaults, **options},
        )
        self.core, geometry = core, core.geometry
        self.kernel_size, self.stride, self.padding = geometry.kernel_size, geometry.stride, geometry.padding
        self.dilation, self.groups = geometry.dilation, geometry.groups

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H_out, W_out), sizes as of a ``Conv2d``.

        The memory format is kept; channels-last maps are not copied.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"input has shape {tuple(x.shape)}, expected (N, {self.in_channels}, H, W)")
        output = self.project(self.core(x.permute(0, 2, 3, 1).contiguous())).permute(0, 3, 1, 2)
        return output.contiguous() if x.is_contiguous() else output  # whoever calls ``view`` on it counts on that


class DCNv3Conv2d(_DeformableConv2d):
    """:class:`~internimage.layers.DCNv3` with the arguments and the shapes of a ``Conv2d``.

    Args:
        in_channels, out_channels: any; where they differ a linear layer follows.
        kernel_size, stride, dilation: an int or a pair (height, width).
        padding: the same; None is what keeps the size of a map at stride 1 (for odd kernels, as YOLO's ``autopad``).
            "valid" is none, and "same" keeps the size, as of a ``Conv2d``, or is refused.
        groups: sets of channels that share their sampling positions, a divisor of ``in_channels``; None is one for
            every 16 channels or so. Unlike those of a ``Conv2d`` they do not keep channels apart.
        bias: of the linear layer where channels change.
        options: further arguments of ``DCNv3``.

    There is no ``weight``: what would fuse this layer with a norm, or count its parameters as those of a convolution,
    fails with an ``AttributeError`` instead of going wrong.

    Raises:
        ValueError: the arguments do not fit each other.
    """

    layer = DCNv3


class DCNv4Conv2d(_DeformableConv2d):
    """:class:`~internimage.layers.DCNv4` with the arguments and the shapes of a ``Conv2d``; it starts as an average.

    Args: as of :class:`DCNv3Conv2d`; ``options`` are further arguments of ``DCNv4``; ``init`` is "average" here.
    """

    layer = DCNv4
    defaults = {"init": "average"}


def _padding(padding: IntPair | str | None, kernel_size: IntPair, stride: IntPair, dilation: IntPair) -> IntPair:
    """As numbers."""
    if padding is not None and not isinstance(padding, str):
        return padding
    if padding == "valid":
        return 0
    keeps = _keeps_size(kernel_size, dilation)
    if padding is None:
        return keeps
    if padding != "same":
        raise ValueError(f'padding is {padding!r}, expected an int, a pair (height, width), "same" or "valid"')
    kernel, spread = as_pair("kernel_size", kernel_size, 1), as_pair("dilation", dilation, 1)
    uneven = any(d * (k - 1) % 2 for k, d in zip(kernel, spread, strict=True))
    if uneven or as_pair("stride", stride, 1) != (1, 1):
        raise ValueError(
            f'padding="same" goes with stride 1 and a kernel that can be padded evenly, not with {kernel_size=}, '
            f"{stride=}, {dilation=}; name the padding"
        )
    return keeps


def _keeps_size(kernel_size: IntPair, dilation: IntPair) -> tuple[int, int]:
    kernel, spread = as_pair("kernel_size", kernel_size, 1), as_pair("dilation", dilation, 1)
    return spread[0] * (kernel[0] - 1) // 2, spread[1] * (kernel[1] - 1) // 2


def _groups_of(channels: int) -> int:
    """The divisor of ``channels`` whose channels a group have the smallest ratio to 16: 97 channels make one group."""
    divisors = [groups for groups in range(1, channels + 1) if channels % groups == 0]
    return min(divisors, key=lambda groups: (max(channels / groups / _DEPTH, _DEPTH * groups / channels), groups))
