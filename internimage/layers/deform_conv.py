"""DCNv3 as a layer: the projections around the operator and their initial values.

Source: Wang et al. 2023, arXiv 2211.05778, section 3.1.
"""

from __future__ import annotations

from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import fused
from ..ops.dcnv3 import dcnv3_from_logits
from ..ops.dcnv3.op import BACKENDS
from ..ops.dcnv4 import dcnv4_on_maps, pack_offset_mask
from ..ops.dispatch import named
from ..ops.geometry import Geometry, IntPair, as_pair
from .activation import make_activation
from .convolution import ChannelsLastConv2d, check_tensor
from .norm import make_norm
from .offset_branch import blend, check_blend, check_size, depthwise_branch


class DCNv3(nn.Module):
    """Deformable convolution v3 on (N, H, W, C) maps.

    A depthwise branch looks at the input and predicts, for every output pixel and group, where to sample and how
    much each sample counts; the samples are taken from a projection of the input.

    Args:
        channels: C, a multiple of ``groups``.
        kernel_size, stride, padding, dilation: an int or a pair (height, width).
        dw_kernel_size: kernel of the depthwise branch; ``None`` is ``kernel_size``.
        groups: sets of channels that share their sampling positions.
        offset_scale: multiplies taps and learned offsets.
        act_layer, norm_layer: of the depthwise branch: "GELU", "ReLU" or "SiLU"; "LN" or "BN".
        center_feature_scale: blend each group with the projected input at the same pixel.
        remove_center: leave out the middle tap.
        use_dcn_v4_op: run on :func:`internimage.ops.dcnv4` instead, as the released detectors can: the same parameters
            and the same numbers, with offsets and masks predicted into one packed tensor.
        backend: passed on to :func:`internimage.ops.dcnv3`.

    Raises:
        ValueError: the arguments do not fit each other; at the first call, when the depthwise branch and the operator
            give maps of different sizes.
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
        act_layer: str = "GELU",
        norm_layer: str = "LN",
        center_feature_scale: bool = False,
        remove_center: bool = False,
        use_dcn_v4_op: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.geometry = Geometry.of(kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
        if not isinstance(channels, int) or channels < 1 or channels % groups:
            raise ValueError(f"channels={channels!r} is not a positive multiple of groups={groups}")
        dw_kernel = as_pair("dw_kernel_size", kernel_size if dw_kernel_size is None else dw_kernel_size, 1)
        if center_feature_scale:
            check_blend(self.geometry)
        if backend is not None:
            named(BACKENDS, backend)
        self.channels, self.center_feature_scale, self.backend = channels, center_feature_scale, backend
        self.dw_kernel_size, self.use_dcn_v4_op = dw_kernel, use_dcn_v4_op
        self.dw_conv = depthwise_branch(channels, dw_kernel, self.geometry)
        self.dw_norm = make_norm(norm_layer, channels)
        self.dw_act = make_activation(act_layer)
        self.offset = nn.Linear(channels, groups * self.geometry.taps * 2)
        self.mask = nn.Linear(channels, groups * self.geometry.taps)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        if center_feature_scale:
            self.center_feature_scale_proj = nn.Linear(channels, groups)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The released initial values: no offsets, an even mask, Xavier-uniform projections."""
        for linear in (
            self.offset,
            self.mask,
            *([self.center_feature_scale_proj] if self.center_feature_scale else []),
        ):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def sampling(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the depthwise branch (N, H_out, W_out, C), offsets (..., G*P*2) and mask logits (..., G*P)."""
        features = self.dw_act(self.dw_norm(self.dw_conv(x)))
        if not _are_bare(self.offset, self.mask):
            return features, self.offset(features), self.mask(features)
        # one matrix product for both; they stay two parameters, since training recipes treat them differently
        weight = torch.cat((self.offset.weight, self.mask.weight))
        bias = torch.cat((self.offset.bias, self.mask.bias))
        sizes = (self.offset.out_features, self.mask.out_features)
        offset, logits = F.linear(features, weight, bias).split(sizes, dim=-1)
        return features, offset, logits

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H_out, W_out, C)."""
        check_tensor("input", x, self.dw_conv)
        if x.dim() != 4 or x.shape[-1] != self.channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}, expected (N, H, W, {self.channels}); DCNv3Conv2d takes (N, C, H, W)"
            )
        check_size(x, self.dw_kernel_size, self.geometry)
        x = fused.seen_by_layers(x)
        if fused.takes_all_of(self, x):
            return self.forward_fused(x)
        features, values, output = self._sample(x)
        return self.output_proj(self._blend(features, values, output) if self.center_feature_scale else output)

    def plain_parts(self) -> tuple[nn.Module, ...]:
        """All parts, where they are those that the fused passes know."""
        parts = conv, *_ = _parts(self._modules)
        if self.use_dcn_v4_op or self.backend not in (None, "cpu") or tuple(map(type, parts)) != _PLAIN:
            return ()
        if conv.padding_mode != "zeros" or conv.dilation != (1, 1):  # somebody has changed what it was built with
            return ()
        return self, *parts

    def forward_fused(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The same for inference on the CPU, where the fused passes take it, plus ``residual``."""
        conv, norm, _, *linears = _parts(self._modules)
        offset, mask, before, after = map(fused.weight_and_bias, linears)
        features = fused.depthwise_norm_gelu(x, conv, norm)
        # joining the weights of offsets and masks would cost more here than a second matrix product
        offsets, logits = fused.linear(features, offset[0]), fused.linear(features, mask[0])
        # last, so that it is still in the cache when it is sampled; the blend with the centre wants its bias at once
        bias = None if self.center_feature_scale else before[1]
        values = fused.linear(x, before[0], before[1] if bias is None else None)
        biases = (bias, offset[1], mask[1])
        output = dcnv3_from_logits(values, offsets, logits, self.geometry, self.backend, biases)
        if self.center_feature_scale:
            output = self._blend(features, values, output)
        return fused.linear(output, *after, residual)

    def _blend(self, features: Tensor, values: Tensor, output: Tensor) -> Tensor:
        """What was sampled and the projected input at the pixel itself, each group in a share of its own."""
        return blend(output, values, self.center_feature_scale_proj(features).sigmoid())

    def _sample(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the depthwise branch, the projected input, and what the operator makes of them."""
        if self.use_dcn_v4_op:
            return self._sample_packed(x)
        features, offset, logits = self.sampling(x)
        values = self.input_proj(x)
        return features, values, dcnv3_from_logits(values, offset, logits, self.geometry, self.backend)

    def _sample_packed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same on DCNv4's operator: one matrix product predicts its packed tensor."""
        g = self.geometry
        if not _are_bare(self.offset, self.mask):
            features, offset, logits = self.sampling(x)
            values, packed = self.input_proj(x), pack_offset_mask(offset, logits, g.groups)
            return features, values, dcnv4_on_maps(values, packed, g, True, self.backend)
        features = self.dw_act(self.dw_norm(self.dw_conv(x)))
        # the rows of both linear layers in the order of the packed channels
        weight = pack_offset_mask(self.offset.weight.t()[None, None], self.mask.weight.t()[None, None], g.groups)
        bias = pack_offset_mask(self.offset.bias[None, None, None], self.mask.bias[None, None, None], g.groups)
        values, packed = self.input_proj(x), F.linear(features, weight[0, 0].t(), bias[0, 0, 0])
        return features, values, dcnv4_on_maps(values, packed, g, True, self.backend)

    def extra_repr(self) -> str:
        g = self.geometry
        return (
            f"channels={self.channels}, kernel_size={g.kernel_size}, stride={g.stride}, padding={g.padding}, "
            f"dilation={g.dilation}, groups={g.groups}, offset_scale={g.offset_scale}, remove_center={g.remove_center}"
        )


def _are_bare(*linears: nn.Module) -> bool:
    """Linear layers that are no more than their parameters: nobody has wrapped, quantised or hooked them."""
    return all(
        type(linear) is nn.Linear
        and linear.bias is not None
        and not (linear._forward_pre_hooks or linear._forward_hooks)
        and not (linear._backward_pre_hooks or linear._backward_hooks)
        and "forward" not in linear.__dict__
        for linear in linears
    )


# of ``_modules``: an attribute of a module costs ten times as much
_parts = itemgetter("dw_conv", "dw_norm", "dw_act", "offset", "mask", "input_proj", "output_proj")
_PLAIN = (ChannelsLastConv2d, nn.LayerNorm, nn.GELU, nn.Linear, nn.Linear, nn.Linear, nn.Linear)
