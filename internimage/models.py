"""Backbone and head joined, with the interface the field knows from timm; and how to make a model by its name."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .backbones.config import SIZES, InternImageConfig
from .backbones.features import FeatureExtractor
from .backbones.internimage import InternImage, as_level_indices
from .devices import pick_device
from .heads.classification import ClipProjectorHead, ConvHead, LevelFusion, LinearHead
from .heads.metadata import MetadataHead, refuse_metadata
from .ops.dcnv3.op import BACKENDS
from .ops.dispatch import named

CLIP_WIDTH = 1024  # channels of the fused map of H and G
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InternImageClassifier(nn.Module):
    """InternImage with a classification head and, if the configuration says so, a branch for date and place.

    Args:
        config: the architecture, head included.
        num_classes: 0 leaves the classifier out; the model then returns pooled features.
        global_pool: "avg", "max" or "" (no pooling) for the convolutional head; the CLIP projector of H and G pools by
            "attention", or not at all with "". None is what the released model does.
        backend: the DCNv3 backend of every block; None picks the fastest.

    Attributes:
        num_features: channels of ``forward_features``.
        head_hidden_size: width of the vector before the classifier.
        metadata: the branch for date and place; None without ``use_metadata``, and for zero classes.
        default_cfg: how a picture becomes the input, in timm's words; :func:`create_model` fills it.
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
        self.config, self.in_chans, self.num_classes = config, config.in_chans, num_classes
        self.default_cfg: dict[str, Any] = {}
        self.pretrained_cfg = self.default_cfg
        self.backbone = InternImage(config, backend=backend)
        self.fusion: LevelFusion | None = None
        self.head: ConvHead | ClipProjectorHead | LinearHead
        self.metadata = MetadataHead(num_classes) if config.use_metadata and num_classes else None
        channels = config.level_channels(3)
        pool: dict[str, Any] = {} if global_pool is None else {"global_pool": global_pool}
        if config.use_clip_projector:
            self.fusion = LevelFusion(channels // 2, CLIP_WIDTH)
            self.head = ClipProjectorHead(num_classes, CLIP_WIDTH, **pool)
            self.num_features = CLIP_WIDTH
        else:
            self.head = ConvHead(channels, int(channels * config.cls_scale), num_classes, config.act_layer, **pool)
            self.num_features = channels
        self.head_hidden_size = self.head.hidden_features

    @property
    def feature_info(self) -> list[dict]:
        """Channels, stride and module name of every level."""
        return [{**info, "module": f"backbone.{info['module']}"} for info in self.backbone.feature_info]

    def forward_features(self, x: Tensor) -> Tensor:
        """The unpooled map the head starts from: (N, num_features, H/32, W/32); for the CLIP projector at stride 16."""
        return self._last_map(self._maps(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The map of ``forward_features`` to logits, or to the pooled vector with ``pre_logits``.

        Date and place are no part of the map: what they add, ``forward`` adds.
        """
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor, temporal: Tensor | None = None, spatial: Tensor | None = None) -> Tensor:
        """(N, in_chans, H, W) to logits (N, num_classes).

        Args:
            temporal: (N, 4), of :func:`internimage.data.metadata.temporal_vector`; for models with ``metadata`` only.
                None, or a row of zeros, is an unknown date.
            spatial: (N, 3), of :func:`internimage.data.metadata.spatial_vector`, likewise for the place.

        Raises:
            ValueError: a vector has another shape, or the model takes none.
        """
        logits = self.forward_head(self.forward_features(x))
        if self.metadata is None:
            refuse_metadata(temporal, spatial)
            return logits
        added = self.metadata(temporal, spatial, x.shape[0])
        return logits + (added if self.head.global_pool else added[..., None, None])  # a map of logits without pooling

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
            indices: levels 0 to 3; an int n is the last n levels; None is all. The maps come from fine to coarse, each
                once, whatever the order asked for.
            norm: for timm's interface; the level norm is part of the network here, so maps come with it either way.
            stop_early: leave out the levels after the last one asked for; the first result is then that level's map.
            output_fmt: "NCHW" or "NHWC", of the intermediates.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is {output_fmt!r}, expected 'NCHW' or 'NHWC'")
        wanted = sorted(set(as_level_indices(indices, len(self.backbone.levels))))
        maps = self._maps(x, wanted[-1] if stop_early or intermediates_only else 3)
        intermediates = [maps[i] if output_fmt == "NCHW" else maps[i].permute(0, 2, 3, 1) for i in wanted]
        return intermediates if intermediates_only else (self._last_map(maps), intermediates)

    def _maps(self, x: Tensor, last: int = 3) -> list[Tensor]:
        return [level.permute(0, 3, 1, 2) for level in self.backbone.forward_levels(x, last)]

    def _last_map(self, maps: list[Tensor]) -> Tensor:
        return maps[-1] if self.fusion is None or len(maps) < 4 else self.fusion(maps[2], maps[3])

    def get_classifier(self) -> nn.Module:
        """The last linear layer, or an identity for zero classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one; ``global_pool=None`` keeps the pooling."""
        self.head.reset(num_classes, global_pool)
        self.num_classes = num_classes
        if not num_classes:
            self.metadata = None
        elif self.metadata is not None:
            self.metadata.reset(num_classes)
        elif self.config.use_metadata and len(self.backbone.levels) == 4:
            self.metadata = MetadataHead(num_classes)
        for part in (self.head.fc, self.metadata):
            if part is not None:
                part.to(self.backbone.stem.conv1.weight).train(self.training)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the levels and the head that the intermediates asked for do not need.

        What is left ends in the map of the last level asked for and has no classes; ``reset_classifier`` adds some.

        Returns:
            The levels asked for, from fine to coarse.
        """
        wanted = sorted(set(as_level_indices(indices, len(self.backbone.levels))))
        cut = wanted[-1] < len(self.backbone.levels) - 1
        self.backbone.drop_levels_after(wanted[-1])
        if prune_head or cut:
            self.num_classes, self.fusion, self.metadata = 0, None, None
            self.num_features = self.head_hidden_size = self.config.level_channels(wanted[-1])
            self.head = LinearHead(self.num_features, 0, global_pool="").train(self.training)
        return wanted

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs for the backward pass: slower, far less memory."""
        self.backbone.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter name patterns from stem to head, for layer-wise learning rates.

        As in the released recipes, a level's norm and downsampling go with the first block of the next level.
        """
        if coarse:
            return {"stem": r"^backbone\.stem", "blocks": r"^backbone\.levels\.(\d+)"}
        blocks: list[tuple[str, Any]] = [(r"^backbone\.levels\.(\d+)\.blocks\.(\d+)", None)]
        blocks += [(rf"^backbone\.levels\.{level}\.(?:norm|downsample)", (level + 1, 0)) for level in range(3)]
        ids = self.config.level2_post_norm_block_ids or ()
        blocks += [(rf"^backbone\.levels\.2\.post_norms\.{i}\.", (2, block)) for i, block in enumerate(ids)]
        return {"stem": r"^backbone\.stem", "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """Nothing beyond the usual rule that vectors are not decayed."""
        return set()


class Input(NamedTuple):
    """What the weights of a size were trained on; it says nothing about what the network can take."""

    image_size: int
    num_classes: int = 1000
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"


INPUTS = {
    "internimage_femto": Input(112, 10, (0.286,), (0.353,), "bilinear"),  # Fashion-MNIST, grey, enlarged
    "internimage_t": Input(224),
    "internimage_s": Input(224),
    "internimage_b": Input(224),
    "internimage_l": Input(384),
    "internimage_xl": Input(384),
    "internimage_h": Input(640),
    "internimage_g": Input(512),
    "internimage_h_meta": Input(384, 8142),  # iNaturalist 2018
    "flash_internimage_t": Input(224),
    "flash_internimage_s": Input(224),
    "flash_internimage_b": Input(224),
    "flash_internimage_l": Input(384),
}


def default_cfg(name: str, image_size: int | None = None, num_classes: int | None = None) -> dict[str, Any]:
    """What timm's data and loading functions want to know of a size, or of weights of it made for another input."""
    config, data = SIZES[name], INPUTS[name]
    size = image_size or data.image_size
    pool = -(-size // (16 if config.use_clip_projector else 32))  # rounded up, as each convolution of stride 2 does
    return {
        "architecture": name,
        "input_size": (config.in_chans, size, size),
        "num_classes": num_classes or data.num_classes,
        "pool_size": (pool, pool),
        "crop_pct": 1.0,
        "interpolation": data.interpolation,
        "mean": data.mean,
        "std": data.std,
        "first_conv": "backbone.stem.conv1",
        "classifier": ("head.fc", "metadata.fc") if config.use_metadata else "head.fc",
        "license": "mit",
        "paper_ids": "arXiv:2211.05778",
    }


def list_models() -> list[str]:
    """Names that :func:`create_model` takes."""
    return list(SIZES)


def get_config(name: str, **overrides: Any) -> InternImageConfig:
    """The configuration of a size with fields replaced.

    Raises:
        ValueError: there is no such size, or a value means nothing.
        TypeError: there is no such field; the message names the nearest.
    """
    if name not in list_models():
        raise ValueError(f"there is no model {name!r}{_nearest(name, SIZES)}; the models are {', '.join(SIZES)}")
    options = (*InternImageConfig.field_names(), *_OPTIONS)
    for key in overrides:
        if key not in InternImageConfig.field_names():
            raise TypeError(f"create_model takes no {key!r}{_nearest(key, options)}; it takes {', '.join(options)}")
    return replace(SIZES[name], **overrides)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    pretrained: bool | str = False,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    global_pool: str | None = None,
    backend: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> InternImageClassifier | FeatureExtractor:
    """A model by name.

    Args:
        name: one of :func:`list_models`.
        num_classes: what the pretrained weights carry, or those of the size would, unless given; 0 for pooled features.
        pretrained: load released weights, downloaded once and cached: True is the best file of that size, a string
            one of the catalog. Another number of classes or of image channels keeps what fits and adapts the rest.
        features_only: return a :class:`FeatureExtractor`, which has no use for ``num_classes`` and ``global_pool``.
        out_indices: the levels whose maps it returns, in that order; None is all four.
        global_pool: "avg", "max", "attention" (H and G) or "" for none; see :class:`InternImageClassifier`.
        backend: the DCNv3 backend of every block; None picks the fastest.
        device: where the parameters are made; "meta" makes none.
        dtype: of the parameters, which are made in it: no float32 copy ever exists.
        **overrides: fields of :class:`InternImageConfig`, such as ``in_chans`` or ``drop_path_rate``.

    Raises:
        ValueError: no such model, or a value means nothing; the message says what fits.
        TypeError: no such keyword; the message names the nearest.
        BackendError: there is no such backend.
    """
    config = get_config(name, **overrides)
    if backend is not None:
        named(BACKENDS, backend)
    place = torch.get_default_device() if device is None else _as_device(device)
    if pretrained and place.type == "meta":
        raise ValueError("pretrained weights need a device with memory; for device='meta' pass pretrained=False")
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices={out_indices!r} goes with features_only=True")
    weights, cfg = _weights(name, pretrained) if pretrained else (None, default_cfg(name))
    if num_classes is None:
        num_classes = cfg["num_classes"]
    model: InternImageClassifier | FeatureExtractor
    # loading makes the parameters of a model on the meta device: none is made twice
    with _made_on(place if weights is None else torch.device("meta"), dtype):
        if features_only:
            model = FeatureExtractor(config, out_indices, backend)
        else:
            model = InternImageClassifier(config, num_classes, global_pool, backend)
    if weights is not None:
        from .weights import load_weights

        load_weights(model, weights, device=place)
    model.default_cfg.update(cfg)
    return model


def embedded_weights(name: str) -> Path:
    """Where the package keeps the weights of a size that comes with it."""
    return Path(__file__).parent / "assets" / f"{name}.safetensors"


def _weights(name: str, pretrained: bool | str) -> tuple[str | Path, dict[str, Any]]:
    """Where the weights of a size are, and what they were trained on."""
    from .weights import catalog

    if pretrained is True and name not in catalog.DEFAULTS:
        return embedded_weights(name), default_cfg(name)
    entry = catalog.get(catalog.DEFAULTS[name] if pretrained is True else str(pretrained))
    if entry.model not in (name, name.removesuffix("_meta")):  # a network without the branch may start one with it
        raise ValueError(f"pretrained={pretrained!r} are weights of {entry.model}, the model asked for is {name}")
    if entry.task != "classification" or entry.resolution is None:  # of a detector or segmenter: its backbone
        return entry.name, default_cfg(name)
    return entry.name, default_cfg(name, entry.resolution[0], entry.num_classes)


_OPTIONS = ("num_classes", "pretrained", "features_only", "out_indices", "global_pool", "backend", "device", "dtype")


def _nearest(word: object, known: Iterable[str]) -> str:
    word, known = str(word).lower(), list(known)
    begun = [name for name in known if word and name.startswith(word)]
    near = begun or difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _as_device(device: torch.device | str) -> torch.device:
    return torch.device("meta") if str(device) == "meta" else pick_device(device)


@contextlib.contextmanager
def _made_on(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Parameters made inside lie on ``device`` and have ``dtype``."""
    before = torch.get_default_dtype()
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}, expected a floating point type such as torch.bfloat16")
    try:
        torch.set_default_dtype(before if dtype is None else dtype)
        with device:
            yield
    finally:
        torch.set_default_dtype(before)
