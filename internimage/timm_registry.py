"""InternImage for timm: after ``register``, ``timm.create_model("internimage_t")`` works. Only this file imports timm.

timm has no entry points for the models of others, so the one call is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    is_model,
    register_model,
    register_notrace_function,
    register_notrace_module,
    resolve_pretrained_cfg,
)
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from .backbones.internimage import Stem, as_level_indices
from .heads.classification import LevelFusion
from .heads.metadata import MetadataHead, refuse_metadata
from .layers.dcnv4 import DCNv4
from .layers.deform_conv import DCNv3
from .layers.mlp import MLP
from .models import create_model, default_cfg, embedded_weights, list_models
from .weights import catalog
from .weights.released import accepted_names, strip


def register() -> list[str]:
    """Tell timm of every model, and return their names; calling it again changes nothing."""
    for name in list_models():
        if not is_model(name):
            register_model(_entry_point(name))
    # they look at their inputs; symbolic tracing cannot follow
    for module in (DCNv3, DCNv4, MLP, Stem, LevelFusion, MetadataHead):
        register_notrace_module(module)
    register_notrace_function(refuse_metadata)
    return list_models()


def _entry_point(name: str):
    """A function as timm wants it: it goes by the model's name, in a module that holds ``default_cfgs``."""

    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        return _build(name, pretrained, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name}, as :func:`internimage.create_model` makes it."
    return build


def _build(
    name: str,
    pretrained: bool,
    pretrained_cfg: str | dict | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict | None = None,
    feature_cfg: dict | None = None,
    **options: Any,
) -> nn.Module:
    """timm's builder around ours: released weights go through our loader, a user's file or folder through timm's."""
    if isinstance(pretrained_cfg, PretrainedCfg):
        pretrained_cfg = asdict(pretrained_cfg)
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    released = catalog.find(Path(cfg.hf_hub_filename or "").stem)
    ours = pretrained and released is not None and not (cfg.source or cfg.file or cfg.url or cfg.state_dict)
    return build_model_with_cfg(
        partial(create_model, name, pretrained=released.name if ours and released else False),
        name,
        pretrained and not ours,
        pretrained_cfg=asdict(cfg),
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": LevelGetter, **(feature_cfg or {})},
        pretrained_filter_fn=_to_our_names,
        **options,
    )


class LevelGetter(FeatureGetterNet):
    """timm's feature getter, with the maps in the order asked for and gradient checkpointing."""

    def __init__(self, model: nn.Module, out_indices: int | Sequence[int] = (0, 1, 2, 3), **options: Any) -> None:
        asked = as_level_indices(out_indices)
        levels = sorted(set(asked))
        super().__init__(model, out_indices=tuple(levels), **options)
        self.feature_info = self.feature_info.from_other(asked)
        self.positions = [levels.index(level) for level in asked]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_chans, H, W) to a list of maps."""
        maps = super().forward(x)
        return [maps[position] for position in self.positions]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs for the backward pass."""
        self["model"].set_grad_checkpointing(enable)  # type: ignore[operator]


def _to_our_names(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    names = accepted_names(model.state_dict())
    return {names.get(strip(key, names), key): tensor for key, tensor in state.items()}


def _default_cfgs() -> dict[str, dict[str, Any] | PretrainedCfg]:
    """timm's entry for each released classifier, tagged with what its file name says beyond the model's: "1k_224"."""
    embedded = embedded_weights("internimage_femto")
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {
        "internimage_femto": default_cfg("internimage_femto") | ({"file": str(embedded)} if embedded.is_file() else {})
    }
    for entry in catalog.released().values():
        if entry.model in list_models() and entry.head.startswith("classifier") and entry.file and entry.resolution:
            name = entry.name.replace("flash_intern_image", "flash_internimage")  # released in both spellings
            tag = name.removeprefix(f"{entry.model.removesuffix('_meta')}_")
            cfgs[f"{entry.model}.{tag}"] = {
                **default_cfg(entry.model, entry.resolution[0], entry.num_classes),
                "hf_hub_id": entry.repo,
                "hf_hub_filename": entry.file,
            }
    return cfgs


default_cfgs = generate_default_cfgs(_default_cfgs())
