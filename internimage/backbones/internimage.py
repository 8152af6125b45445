"""InternImage: a convolutional backbone on DCNv3.

Source: Wang et al. 2023, "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions",
arXiv 2211.05778. Outside the maps are (N, C, H, W), inside (N, H, W, C); the two permutes stand at the door.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from ..layers.activation import make_activation
from ..layers.convolution import ChannelsLastConv2d
from ..layers.deform_conv import DCNv3
from ..layers.mlp import MLP
from ..layers.norm import layer_norm, make_norm


@dataclass(frozen=True, kw_only=True)
class InternImageConfig:
    """What an InternImage is made of; field names are those of the released configurations.

    ``channels`` are those of the first of four levels, each further level doubles them. ``layer_scale`` is the initial
    value of the learned scales or None for none. ``level2_post_norm_block_ids`` are blocks of the third level that a norm
    follows. ``use_clip_projector`` and ``cls_scale`` describe the classification head.
    """

    channels: int = 64
    depths: tuple[int, int, int, int] = (4, 4, 18, 4)
    groups: tuple[int, int, int, int] = (4, 8, 16, 32)
    in_chans: int = 3
    mlp_ratio: float = 4.0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    drop_path_type: str = "linear"
    act_layer: str = "GELU"
    norm_layer: str = "LN"
    layer_scale: float | None = None
    offset_scale: float = 1.0
    post_norm: bool = False
    res_post_norm: bool = False
    dw_kernel_size: int | None = None
    level2_post_norm: bool = False
    level2_post_norm_block_ids: tuple[int, ...] | None = None
    center_feature_scale: bool = False
    remove_center: bool = False
    use_clip_projector: bool = False
    cls_scale: float = 1.5

    def __post_init__(self) -> None:
        for name in ("depths", "groups"):
            value = tuple(getattr(self, name))
            if len(value) != 4 or not all(isinstance(v, int) and v >= 1 for v in value):
                raise ValueError(f"{name} is {value}, expected four integers >= 1, one a level")
            object.__setattr__(self, name, value)
        if self.level2_post_norm_block_ids is not None:
            object.__setattr__(self, "level2_post_norm_block_ids", tuple(self.level2_post_norm_block_ids))
        if self.channels < 2 or self.channels % 2:
            raise ValueError(f"channels is {self.channels}, expected an even number: the stem starts with half of them")
        for level, groups in enumerate(self.groups):
            if self.level_channels(level) % groups:
                raise ValueError(
                    f"level {level} has {self.level_channels(level)} channels, which groups={groups} does not divide"
                )
        if self.drop_path_type not in ("linear", "uniform"):
            raise ValueError(f"drop_path_type is {self.drop_path_type!r}, expected 'linear' or 'uniform'")

    def level_channels(self, level: int) -> int:
        """Channels of a level, 0 to 3."""
        return self.channels * 2**level

    def drop_path_rates(self) -> list[list[float]]:
        """The stochastic depth of each block, level by level."""
        total = sum(self.depths)
        rates = [
            self.drop_path_rate * (1.0 if self.drop_path_type == "uniform" else i / max(total - 1, 1))
            for i in range(total)
        ]
        starts = [sum(self.depths[:level]) for level in range(4)]
        return [rates[start : start + depth] for start, depth in zip(starts, self.depths, strict=True)]

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names :func:`internimage.create_model` takes as overrides."""
        return tuple(field.name for field in fields(cls))


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
        x = image.permute(0, 2, 3, 1).contiguous()
        x = self.act(self.norm1(self.conv1(x)))
        return self.drop(self.norm2(self.conv2(x)))


class Downsample(nn.Module):
    """(N, H, W, C) to (N, ceil(H/2), ceil(W/2), 2C)."""

    def __init__(self, channels: int, norm_layer: str) -> None:
        super().__init__()
        self.conv = ChannelsLastConv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = make_norm(norm_layer, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Block(nn.Module):
    """DCNv3 and MLP, each with a residual; norms and scales where the configuration puts them."""

    def __init__(self, config: InternImageConfig, level: int, drop_path_rate: float, backend: str | None) -> None:
        super().__init__()
        channels = config.level_channels(level)
        self.post_norm = config.post_norm
        self.norm1 = layer_norm(channels)
        self.dcn = DCNv3(
            channels,
            groups=config.groups[level],
            offset_scale=config.offset_scale,
            act_layer=config.act_layer,
            norm_layer=config.norm_layer,
            dw_kernel_size=config.dw_kernel_size,
            center_feature_scale=config.center_feature_scale,
            remove_center=config.remove_center,
            backend=backend,
        )
        self.norm2 = layer_norm(channels)
        self.mlp = MLP(channels, int(channels * config.mlp_ratio), config.act_layer, config.drop_rate)
        self.drop_path = StochasticDepth(drop_path_rate, "row") if drop_path_rate > 0 else nn.Identity()
        self.gamma1 = self.gamma2 = None
        if config.layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), float(config.layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((channels,), float(config.layer_scale)))
        # the released network builds these norms whenever asked, and runs them only without layer scale and post-norm
        self.res_post_norm1 = layer_norm(channels) if config.res_post_norm else None
        self.res_post_norm2 = layer_norm(channels) if config.res_post_norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._half(x, self.dcn, self.norm1, self.gamma1, self.res_post_norm1)
        return x + self._half(x, self.mlp, self.norm2, self.gamma2, self.res_post_norm2)

    def _half(self, x: Tensor, function, norm, gamma, res_post_norm) -> Tensor:
        x = norm(function(x)) if self.post_norm else function(norm(x))
        if gamma is not None:
            x = gamma * x
        elif res_post_norm is not None and not self.post_norm:
            x = res_post_norm(x)
        return self.drop_path(x)


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
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if index in self.post_norm_ids:
                x = self.post_norms[self.post_norm_ids.index(index)](x)
        return x if self.norm is None else self.norm(x)


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
        """The released initial values: truncated normal linears, then each DCNv3 its own."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, DCNv3):
                module.reset_parameters()

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, in_chans, H, W) to the maps of ``out_indices``, each (N, channels * 2**i, H / 2**(i+2), W / 2**(i+2))."""
        maps = self.forward_levels(image, last=max(self.out_indices))
        return [maps[index].permute(0, 3, 1, 2).contiguous() for index in self.out_indices]

    def forward_levels(self, image: Tensor, last: int = 3) -> list[Tensor]:
        """The channels-last maps (N, H, W, C) of levels 0 to ``last``."""
        if image.dim() != 4 or image.shape[1] != self.config.in_chans:
            raise ValueError(f"image has shape {tuple(image.shape)}, expected (N, {self.config.in_chans}, height, width)")
        x = self.stem(image)
        maps: list[Tensor] = []
        for index, level in enumerate(self.levels[: last + 1]):
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

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: keep only the input of each block for the backward pass."""
        for level in self.levels:
            level.grad_checkpointing = enable


def as_level_indices(indices: Sequence[int] | int | None) -> tuple[int, ...]:
    """``indices`` as levels 0 to 3: None is all, an int n the last n, negative numbers count from the end."""
    if indices is None:
        return (0, 1, 2, 3)
    chosen = tuple(range(4 - indices, 4)) if isinstance(indices, int) else tuple(indices)
    if not chosen or not all(isinstance(i, int) and -4 <= i < 4 for i in chosen):
        raise ValueError(f"level indices are {indices!r}, expected some of 0, 1, 2, 3 or -4 to -1")
    return tuple(i % 4 for i in chosen)


_BASE = InternImageConfig()
_LARGE = replace(_BASE, post_norm=True, layer_scale=1e-5)
_HUGE = replace(
    _BASE, dw_kernel_size=5, level2_post_norm=True, center_feature_scale=True, use_clip_projector=True
)

SIZES: dict[str, InternImageConfig] = {
    "internimage_femto": replace(_BASE, channels=32, depths=(2, 2, 4, 2), groups=(2, 4, 8, 16), in_chans=1),
    "internimage_t": _BASE,
    "internimage_s": replace(_LARGE, channels=80, depths=(4, 4, 21, 4), groups=(5, 10, 20, 40)),
    "internimage_b": replace(_LARGE, channels=112, depths=(4, 4, 21, 4), groups=(7, 14, 28, 56)),
    "internimage_l": replace(
        _LARGE, channels=160, depths=(5, 5, 22, 5), groups=(10, 20, 40, 80), offset_scale=2.0
    ),
    "internimage_xl": replace(
        _LARGE, channels=192, depths=(5, 5, 24, 5), groups=(12, 24, 48, 96), offset_scale=2.0
    ),
    "internimage_h": replace(
        _HUGE,
        channels=320,
        depths=(6, 6, 32, 6),
        groups=(10, 20, 40, 80),
        res_post_norm=True,
        level2_post_norm_block_ids=(5, 11, 17, 23, 29),
    ),
    "internimage_g": replace(
        _HUGE,
        channels=512,
        depths=(2, 2, 48, 4),
        groups=(16, 32, 64, 128),
        post_norm=True,
        level2_post_norm_block_ids=(5, 11, 17, 23, 29, 35, 41, 47),
    ),
}
"""Architecture only; drop path, resolution and learning rate belong to recipes."""
