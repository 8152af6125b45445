"""Backbone and head joined: the classifier network with the interface the field knows from timm, and how to make one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .backbones.internimage import SIZES, InternImage, InternImageConfig, as_level_indices
from .heads.classification import ClipProjectorHead, ConvHead, LevelFusion

CLIP_WIDTH = 1024


class InternImageClassifier(nn.Module):
    """InternImage with a classification head.

    Args:
        config: the architecture, head included.
        num_classes: 0 leaves the classifier out; the model then returns pooled features.
        global_pool: "avg", "max" or "" (no pooling) for the convolutional head; the CLIP projector of H and G pools by
            attention, or not at all with "".
        backend: the DCNv3 backend of every block; None picks the fastest.

    Attributes:
        num_features: channels of ``forward_features``.
        head_hidden_size: width of the vector before the classifier.
    """

    output_fmt = "NCHW"

    def __init__(
        self,
        config: InternImageConfig,
        num_classes: int = 1000,
        global_pool: str | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.backbone = InternImage(config, backend=backend)
        last = config.level_channels(3)
        if config.use_clip_projector:
            self.fusion: LevelFusion | None = LevelFusion(last // 2, CLIP_WIDTH)
            self.head: ConvHead | ClipProjectorHead = ClipProjectorHead(num_classes, CLIP_WIDTH)
            self.num_features = CLIP_WIDTH
        else:
            self.fusion = None
            self.head = ConvHead(last, int(last * config.cls_scale), num_classes, config.act_layer)
            self.num_features = last
        self.head_hidden_size = self.head.hidden_features
        if global_pool is not None:
            self.head.reset(num_classes, global_pool)
        self.default_cfg: dict[str, Any] = {}

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """timm's name for :attr:`default_cfg`."""
        return self.default_cfg

    @property
    def feature_info(self) -> list[dict]:
        """Channels, stride and module name of every level."""
        return [{**info, "module": f"backbone.{info['module']}"} for info in self.backbone.feature_info]

    def forward_features(self, x: Tensor) -> Tensor:
        """The unpooled map the head starts from: (N, num_features, H/32, W/32); for the CLIP projector at stride 16."""
        maps = [feature.permute(0, 3, 1, 2) for feature in self.backbone.forward_levels(x)]
        return maps[3] if self.fusion is None else self.fusion(maps[2], maps[3])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The map of ``forward_features`` to logits, or to the pooled vector with ``pre_logits``."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of the levels asked for and, unless ``intermediates_only``, what ``forward_features`` gives.

        Args:
            indices: levels 0 to 3, in any order; an int n is the last n levels; None is all.
            norm: for timm's interface; the level norm is part of the network here, so maps come with it either way.
            stop_early: leave out the levels after the last one asked for.
            output_fmt: "NCHW" or "NHWC".
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is {output_fmt!r}, expected 'NCHW' or 'NHWC'")
        wanted = as_level_indices(indices)
        last = max(wanted) if stop_early and intermediates_only else len(self.backbone.levels) - 1
        maps = self.backbone.forward_levels(x, last=last)
        nchw = [feature.permute(0, 3, 1, 2) for feature in maps]
        intermediates = [(nchw if output_fmt == "NCHW" else maps)[index] for index in sorted(wanted)]
        if intermediates_only:
            return intermediates
        final = nchw[-1] if self.fusion is None or len(maps) < 4 else self.fusion(nchw[2], nchw[3])
        return final, intermediates

    def get_classifier(self) -> nn.Module:
        """The last linear layer, or an identity for zero classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one."""
        self.num_classes = num_classes
        device = next(self.parameters()).device
        self.head.reset(num_classes, global_pool)
        self.head.fc.to(device)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs for the backward pass: slower, far less memory."""
        self.backbone.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> dict:
        """Parameter name patterns from stem to head, for layer-wise learning rates."""
        return {
            "stem": r"^backbone\.stem",
            "blocks": r"^backbone\.levels\.(\d+)"
            if coarse
            else [
                (r"^backbone\.levels\.(\d+)\.blocks\.(\d+)", None),
                (r"^backbone\.levels\.(\d+)\.downsample", (0,)),
                (r"^backbone\.levels\.(\d+)\.(?:norm|post_norms)", (99999,)),
            ],
        }

    def no_weight_decay(self) -> set[str]:
        """Nothing beyond the usual rule that vectors are not decayed."""
        return set()

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> tuple[int, ...]:
        """Drop the levels and the head that the intermediates asked for do not need; returns their indices."""
        wanted = as_level_indices(indices)
        self.backbone.levels = self.backbone.levels[: max(wanted) + 1]
        if prune_head:
            self.fusion, self.head = None, nn.Identity()
        return wanted


class FeatureExtractor(nn.Module):
    """A backbone that returns the maps of some levels; ``feature_info`` says their channels and strides."""

    def __init__(self, config: InternImageConfig, out_indices: Sequence[int] | None = None, backend: str | None = None):
        super().__init__()
        self.backbone = InternImage(config, as_level_indices(out_indices), backend=backend)
        self.feature_info = FeatureInfo([self.backbone.feature_info[i] for i in self.backbone.out_indices])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_chans, H, W) to a list of (N, C, H, W) maps."""
        return self.backbone(x)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs for the backward pass."""
        self.backbone.set_grad_checkpointing(enable)


class FeatureInfo(list):
    """A list of ``{"num_chs", "reduction", "module"}`` with timm's accessors."""

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[int]:
        """Stride of each map against the image."""
        return [info["reduction"] for info in self]

    def module_name(self) -> list[str]:
        """The module each map comes from."""
        return [info["module"] for info in self]


def list_models() -> list[str]:
    """Names that :func:`create_model` takes."""
    return list(SIZES)


def get_config(name: str, **overrides: Any) -> InternImageConfig:
    """The configuration of a size with fields replaced; raises ValueError naming the nearest name for unknown ones."""
    if name not in SIZES:
        near = difflib.get_close_matches(name, SIZES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no model {name!r}; {hint}the models are {', '.join(SIZES)}")
    for key in overrides:
        if key not in InternImageConfig.field_names():
            near = difflib.get_close_matches(key, InternImageConfig.field_names(), n=1)
            raise ValueError(f"{key!r} is not a field of InternImageConfig" + (f"; did you mean {near[0]!r}?" if near else ""))
    return replace(SIZES[name], **overrides)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    pretrained: bool = False,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    global_pool: str | None = None,
    backend: str | None = None,
    **overrides: Any,
) -> InternImageClassifier | FeatureExtractor:
    """A model by name.

    Args:
        name: one of :func:`list_models`.
        num_classes: 1000, or what the pretrained weights carry, unless given.
        pretrained: load the released weights of that size (downloaded once and cached).
        features_only: return a :class:`FeatureExtractor` for ``out_indices``.
        backend: the DCNv3 backend of every block.
        **overrides: fields of :class:`InternImageConfig`, such as ``in_chans`` or ``drop_path_rate``.

    Raises:
        ValueError: unknown model or field; the message names the nearest.
    """
    config = get_config(name, **overrides)
    if features_only:
        return FeatureExtractor(config, out_indices, backend)
    return InternImageClassifier(config, 1000 if num_classes is None else num_classes, global_pool, backend)
