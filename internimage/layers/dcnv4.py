"""DCNv4 as a layer: the projections around the operator and their initial values.

Source: Xiong et al. 2024, "Efficient Deformable ConvNets", arXiv 2401.06197.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import fused
from ..ops.checks import size_of_row
from ..ops.dcnv3.op import BACKENDS
from ..ops.dcnv4 import dcnv4_on_maps, packed_channels
from ..ops.dcnv4.packed import unpack
from ..ops.dispatch import named
from ..ops.geometry import Geometry, IntPair, as_pair
from .convolution import ChannelsLastConv2d, check_tensor
from .offset_branch import blend, check_blend, check_size, depthwise_branch, middle_pixels

INITS = ("released", "average")


class DCNv4(nn.Module):
    """Deformable convolution v4 on (N, H, W, C) maps, or on (N, H*W, C) rows of pixels.

    One linear layer predicts offsets and masks from the input itself; masks are not normalised.

    Args:
        channels: C, a multiple of ``groups``.
        kernel_size, stride, padding, dilation: an int or a pair (height, width).
        dw_kernel_size: kernel of a depthwise convolution before the prediction; None is without one.
        groups: sets of channels that share their sampling positions.
        offset_scale: multiplies taps and learned offsets.
        center_feature_scale: blend each group with the projected input at the same pixel.
        remove_center: leave out the middle tap.
        output_bias: whether the last projection has a bias.
        without_pointwise: no projections before and after the operator.
        softmax: whether the masks of each group are made to add up to one, as in DCNv3; the released layer never does.
        init: "released" predicts masks of zero, so that a fresh layer gives zeros and passes no gradient to what is
            before it: right for weights to be loaded, and behind a learned scale. "average" predicts even masks, so
            that a fresh layer averages its taps and learns at once. With ``softmax`` the two are the same.
        backend: passed on to :func:`internimage.ops.dcnv4`.

    Raises:
        ValueError: the arguments do not fit each other; at the first call, when offsets and output differ in size.
        BackendError: there is no such backend.
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: IntPair = 3,
        *,
        dw_kernel_size: IntPair | None = None,
        stride: IntPair = 1,
        padding: IntPair = 1,
        dilation: IntPair = 1,
        groups: int = 4,
        offset_scale: float = 1.0,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        output_bias: bool = True,
        without_pointwise: bool = False,
        softmax: bool = False,
        init: str = "released",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.geometry = Geometry.of(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
        if not isinstance(channels, int) or channels < 1 or channels % groups:
            raise ValueError(f"channels={channels!r} is not a positive multiple of groups={groups}")
        if backend is not None:
            named(BACKENDS, backend)
        if init not in INITS:
            raise ValueError(f"init is {init!r}, expected one of {', '.join(map(repr, INITS))}")
        if center_feature_scale:
            check_blend(self.geometry)
        self.channels, self.center_feature_scale, self.backend = channels, center_feature_scale, backend
        self.softmax, self.init = softmax, init
        self.dw_kernel_size = None if dw_kernel_size is None else as_pair("dw_kernel_size", dw_kernel_size, 1)
        if self.dw_kernel_size is not None:
            self.offset_mask_dw = depthwise_branch(channels, self.dw_kernel_size, self.geometry)
        self.offset_mask = nn.Linear(channels, packed_channels(self.geometry))
        if not without_pointwise:
            self.value_proj = nn.Linear(channels, channels)
            self.output_proj = nn.Linear(channels, channels, bias=output_bias)
        if center_feature_scale:
            self.center_feature_scale_proj = nn.Linear(channels, groups)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The initial values of ``init``; projections are Xavier-uniform in both."""
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        if self.init == "average" and not self.softmax:
            groups, taps = self.geometry.groups, self.geometry.taps
            with torch.no_grad():
                bias = self.offset_mask.bias[: 3 * groups * taps].view(groups, 3 * taps)
                bias[:, 2 * taps :] = 1 / taps
        if self.has_pointwise:
            for linear in (self.value_proj, self.output_proj):
                nn.init.xavier_uniform_(linear.weight)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
        if self.center_feature_scale:
            nn.init.zeros_(self.center_feature_scale_proj.weight)
            nn.init.zeros_(self.center_feature_scale_proj.bias)

    @property
    def has_pointwise(self) -> bool:
        """Whether there are projections before and after the operator."""
        return "value_proj" in self._modules

    def forward(self, x: Tensor, *, size: tuple[int, int] | None = None) -> Tensor:
        """(N, H, W, C) to (N, H_out, W_out, C), or (N, H*W, C) to (N, H_out*W_out, C).

        ``size`` is (H, W) of pixels in one row, by default the sides of a square.
        """
        check_tensor("input", x, self.offset_mask)
        if x.dim() == 3:
            return self.forward(x.unflatten(1, _size(x, size))).flatten(1, 2)
        if x.dim() != 4 or x.shape[-1] != self.channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}, expected (N, H, W, {self.channels}) or (N, H*W, {self.channels}); "
                "DCNv4Conv2d takes (N, C, H, W)"
            )
        check_size(x, self.dw_kernel_size, self.geometry)
        x = fused.seen_by_layers(x)
        if fused.takes_all_of(self, x):
            return self.forward_fused(x)
        output = self._sample(x)
        return self.output_proj(output) if self.has_pointwise else output

    def plain_parts(self) -> tuple[nn.Module, ...]:
        """All parts, where they are those that the fused passes know."""
        parts: tuple[Any, ...] = tuple(self._modules.values())
        known = {*map(type, parts)} <= {ChannelsLastConv2d, nn.Linear}
        return (self, *parts) if known and self.has_pointwise and self.backend in (None, "cpu") else ()

    def forward_fused(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The same for inference on the CPU, where the fused passes take it, plus ``residual``."""
        before, packed, after = map(fused.weight_and_bias, (self.value_proj, self.offset_mask, self.output_proj))
        if self.center_feature_scale:  # the blend wants the bias of the values at once
            output = self._sample(x)
        else:
            values, offset_mask = fused.linear(x, before[0]), fused.linear(self._seen_by_offsets(x), packed[0])
            biases = (before[1], packed[1])
            output = dcnv4_on_maps(values, offset_mask, self.geometry, self.softmax, self.backend, biases)
        return fused.linear(output, *after, residual)

    def _sample(self, x: Tensor) -> Tensor:
        """All but the last projection."""
        offset_mask = self.offset_mask(self._seen_by_offsets(x))
        values = self.value_proj(x) if self.has_pointwise else x
        output = dcnv4_on_maps(values, offset_mask, self.geometry, self.softmax, self.backend)
        if self.center_feature_scale:
            return blend(output, values, self.center_feature_scale_proj(output).sigmoid())
        return output

    def sampling(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (N, H_out, W_out, G, P*2) and masks (N, H_out, W_out, G, P), as the operator uses them."""
        offset, mask = unpack(self.offset_mask(self._seen_by_offsets(x)), self.geometry)
        return offset, mask.softmax(-1) if self.softmax else mask

    def _seen_by_offsets(self, x: Tensor) -> Tensor:
        """What offsets and masks are predicted from, a pixel for each output pixel."""
        if "offset_mask_dw" in self._modules:
            return self.offset_mask_dw(x)
        return middle_pixels(x, self.geometry)

    def extra_repr(self) -> str:
        g = self.geometry
        return (
            f"channels={self.channels}, kernel_size={g.kernel_size}, stride={g.stride}, padding={g.padding}, "
            f"dilation={g.dilation}, groups={g.groups}, offset_scale={g.offset_scale}, remove_center={g.remove_center}"
        )


def _size(x: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) of pixels in one row: as given, or the sides of a square."""
    pixels = x.shape[1]
    if size is not None:
        return size_of_row(size, pixels)
    side = math.isqrt(pixels)
    if side * side != pixels:
        raise ValueError(f"input has {pixels} pixels in a row, which is no square: pass size=(height, width)")
    return side, side
