"""InternImage: a convolutional backbone on DCNv3.

Source: Wang et al. 2023, "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions",
arXiv 2211.05778. Outside the maps are (N, C, H, W), inside (N, H, W, C); the two permutes stand at the door.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from ..layers.activation import make_activation
from ..layers.convolution import ChannelsLastConv2d, check_tensor
from ..layers.dcnv4 import DCNv4
from ..layers.deform_conv import DCNv3
from ..layers.mlp import MLP
from ..layers.norm import layer_norm, make_norm, normalised
from ..ops import fused
from .activation_checkpointing import computed_twice
from .config import SIZES, InternImageConfig, is_integer

__all__ = ["SIZES", "InternImage", "InternImageConfig", "as_level_indices"]


class Stem(nn.Module):
    """Image (N, in_chans, H, W) to (N, ceil(H/4), ceil(W/4), channels): two 3x3 convolutions of stride 2."""

    def __init__(self, config: InternImageConfig) -> None:
        super().__init__()
        half = config.channels // 2
        self.conv1 = ChannelsLastConv2d(config.in_chans, half, 3, stride=2, padding=1)
        self.norm1 = make_norm(config.norm_layer, half)
        self.act = make_activation(config.act_layer)
        self.conv2 = ChannelsLastConv2d(half, config.channels, 3, stride=2, padding=1)
        self.norm2 = make_norm(config.norm_layer, config.channels)
        self.drop = nn.Dropout(config.drop_rate)

    def forward(self, image: Tensor) -> Tensor:
        check_tensor("image", image, self.conv1)
        in_chans = self.conv1.in_channels
        if image.dim() != 4 or image.shape[1] != in_chans:
            raise ValueError(f"image has shape {tuple(image.shape)}, expected (N, {in_chans}, height, width)")
        if image.shape[2] < 1 or image.shape[3] < 1:
            raise ValueError(f"image has shape {tuple(image.shape)}, expected a height and width of at least 1")
        x = image.permute(0, 2, 3, 1).contiguous()
        x = normalised(self.conv1(x), self.norm1, self.act)
        return self.drop(normalised(self.conv2(x), self.norm2))


class Downsample(nn.Module):
    """(N, H, W, C) to (N, ceil(H/2), ceil(W/2), 2C)."""

    def __init__(self, channels: int, norm_layer: str) -> None:
        super().__init__()
        self.conv = ChannelsLastConv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = make_norm(norm_layer, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return normalised(self.conv(x), self.norm)


def make_core(config: InternImageConfig, level: int, backend: str | None) -> DCNv3 | DCNv4:
    """The deformable convolution of a level's blocks."""
    channels, groups, scale = config.level_channels(level), config.groups[level], config.offset_scale
    if config.core_op == "DCNv4":
        return DCNv4(
            channels,
            groups=groups,
            offset_scale=scale,
            dw_kernel_size=config.dw_kernel_size,
            output_bias=config.dcn_output_bias,
            backend=backend,
        )
    return DCNv3(
        channels,
        groups=groups,
        offset_scale=scale,
        act_layer=config.act_layer,
        norm_layer=config.norm_layer,
        dw_kernel_size=config.dw_kernel_size,
        center_feature_scale=config.center_feature_scale,
        remove_center=config.remove_center,
        use_dcn_v4_op=config.use_dcn_v4_op,
        backend=backend,
    )


class Block(nn.Module):
    """DCNv3 or DCNv4 and MLP, each with a residual; norms and scales where the configuration puts them."""

    def __init__(self, config: InternImageConfig, level: int, drop_path_rate: float, backend: str | None) -> None:
        super().__init__()
        channels = config.level_channels(level)
        self.post_norm = config.post_norm
        self.scaled = config.layer_scale is not None
        self.bare = not (self.scaled or config.post_norm or config.res_post_norm)
        self.norm1 = layer_norm(channels)
        self.dcn = make_core(config, level, backend)
        self.norm2 = layer_norm(channels)
        last_bias = config.core_op == "DCNv3" or config.mlp_fc2_bias
        self.mlp = MLP(channels, int(channels * config.mlp_ratio), config.act_layer, config.drop_rate, last_bias)
        self.drop_path = StochasticDepth(drop_path_rate, "row") if drop_path_rate > 0 else nn.Identity()
        self.gamma1 = self.gamma2 = None
        if config.layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), float(config.layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((channels,), float(config.layer_scale)))
        # the released network builds these norms whenever asked, and runs them only without layer scale and post-norm
        self.res_post_norm1 = layer_norm(channels) if config.res_post_norm else None
        self.res_post_norm2 = layer_norm(channels) if config.res_post_norm else None

    def forward(self, x: Tensor) -> Tensor:
        if fused.takes_all_of(self, x):
            return self._forward_fused(x)
        x = self._half(x, self.dcn, self.norm1, self.gamma1, self.res_post_norm1)
        return self._half(x, self.mlp, self.norm2, self.gamma2, self.res_post_norm2)

    def _half(self, x: Tensor, function, norm, gamma, res_post_norm) -> Tensor:
        """``x`` plus what ``function`` makes of it."""
        branch = norm(function(x)) if self.post_norm else function(norm(x))
        if gamma is not None:
            branch = gamma * branch
        elif res_post_norm is not None and not self.post_norm:
            branch = res_post_norm(branch)
        return x + self.drop_path(branch)

    def plain_parts(self) -> tuple[nn.Module, ...]:
        """All parts, where they are those that the fused passes know, put together as these know."""
        if not (self.bare or self.post_norm):
            return ()
        if self.scaled and torch.is_autocast_enabled("cpu"):  # there the scales make float32 maps of those of the norms
            return ()
        norm1, dcn, norm2, mlp, drop_path = _parts(self._modules)
        if type(dcn) not in (DCNv3, DCNv4) or type(mlp) is not MLP or type(drop_path) not in _IDLE:
            return ()
        if drop_path.training:  # whatever the block says: some drop in inference, to see how sure a net is
            return ()
        inner, outer = dcn.plain_parts(), mlp.plain_parts()
        known = type(norm1) is type(norm2) is nn.LayerNorm and inner and outer
        return (self, norm1, norm2, drop_path, *inner, *outer) if known else ()

    def _forward_fused(self, x: Tensor) -> Tensor:
        norm1, dcn, norm2, mlp, *_ = _parts(self._modules)
        if self.post_norm:
            x = fused.add_norm(x, dcn.forward_fused(x), norm1, self.gamma1)
            return fused.add_norm(x, mlp.forward_fused(x), norm2, self.gamma2)
        x = dcn.forward_fused(fused.norm_gelu(x, norm1, gelu=False), residual=x)
        return mlp.forward_fused(fused.norm_gelu(x, norm2, gelu=False), residual=x)


_parts = itemgetter("norm1", "dcn", "norm2", "mlp", "drop_path")  # of ``_modules``: attributes cost ten times as much
_IDLE = (nn.Identity, StochasticDepth)  # in inference


class Level(nn.Module):
    """Blocks of one resolution, the level's norm, and the way down to the next level."""

    def __init__(self, config: InternImageConfig, level: int, rates: Sequence[float], backend: str | None) -> None:
        super().__init__()
        channels = config.level_channels(level)
        self.blocks = nn.ModuleList(Block(config, level, rate, backend) for rate in rates)
        self.norm = layer_norm(channels) if not config.post_norm or config.center_feature_scale else None
        ids = (config.level2_post_norm_block_ids or ()) if level == 2 and config.level2_post_norm else ()
        self.post_norm_ids = tuple(ids)
        self.post_norms = nn.ModuleList(layer_norm(channels) for _ in ids)
        self.downsample = Downsample(channels, config.norm_layer) if level < 3 else None
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """The feature of the level; the caller takes ``downsample`` from there to the next."""
        for index, block in enumerate(self.blocks):
            if self.grad_checkpointing and torch.is_grad_enabled() and not torch.jit.is_scripting():
                x = computed_twice(block, x)
            else:
                x = block(x)
            if index in self.post_norm_ids:
                x = self.post_norms[self.post_norm_ids.index(index)](x)
        return x if self.norm is None else normalised(x, self.norm)


class InternImage(nn.Module):
    """Image in, feature pyramid out.

    Args:
        config: the architecture; see :data:`SIZES`.
        out_indices: which levels to return, 0 to 3, in the order asked for.
        backend: the DCNv3 backend of every block; None picks the fastest.
    """

    def __init__(
        self, config: InternImageConfig, out_indices: Sequence[int] = (0, 1, 2, 3), backend: str | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.out_indices = as_level_indices(out_indices)
        self.stem = Stem(config)
        rates = config.drop_path_rates()
        self.levels = nn.ModuleList(Level(config, level, rates[level], backend) for level in range(4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The released initial values: truncated normal linears, then each deformable convolution its own."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, (DCNv3, DCNv4)):
                module.reset_parameters()

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, in_chans, H, W) to the maps of ``out_indices``, each (N, channels * 2**i, H / 2**(i+2), W / 2**(i+2))."""
        maps = self.forward_levels(image, last=max(self.out_indices))
        return [maps[index].permute(0, 3, 1, 2).contiguous() for index in self.out_indices]

    def forward_levels(self, image: Tensor, last: int = 3) -> list[Tensor]:
        """The channels-last maps (N, H, W, C) of levels 0 to ``last``."""
        x = self.stem(image)
        maps: list[Tensor] = []
        for index, level in enumerate(self._levels()[: last + 1]):
            x = level(x)
            maps.append(x)
            if index < last and level.downsample is not None:
                x = level.downsample(x)
        return maps

    @property
    def feature_info(self) -> list[dict]:
        """Channels, stride and module name of every level."""
        return [
            {"num_chs": self.config.level_channels(i), "reduction": 4 * 2**i, "module": f"levels.{i}"} for i in range(4)
        ]

    def drop_levels_after(self, last: int) -> None:
        """Remove what only the levels after ``last`` need, so that no parameter is left without a gradient."""
        self.levels = self.levels[: last + 1]
        self._levels()[last].downsample = None

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: keep only the input of each block for the backward pass."""
        for level in self._levels():
            level.grad_checkpointing = enable

    def _levels(self) -> list[Level]:
        return cast("list[Level]", list(self.levels))


def as_level_indices(indices: Sequence[int] | int | None, levels: int = 4) -> tuple[int, ...]:
    """``indices`` as levels from 0 on: None is all, an int n the last n, negative numbers count from the end."""
    if indices is None:
        return tuple(range(levels))
    if is_integer(indices, 1) and indices <= levels:
        return tuple(range(levels - indices, levels))
    chosen = tuple(indices) if isinstance(indices, Sequence) else ()
    if not chosen or not all(is_integer(i, -levels) and i < levels for i in chosen):
        raise ValueError(
            f"the levels asked for are {indices!r}, expected some of {', '.join(map(str, range(levels)))}, the same "
            f"from the end as -{levels} to -1, or an int for the last so many"
        )
    return tuple(i % levels for i in chosen)
