"""Which network a checkpoint belongs to: from the configuration beside the weights, else from names and shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..backbones.internimage import SIZES, InternImageConfig
from .checkpoint import Checkpoint
from .released import METADATA_PREFIXES, strip
from .report import WeightsError

Shapes = Mapping[str, tuple[int, ...]]

_STEM = "patch_embed.conv1.weight"
_TUPLES = ("depths", "groups", "level2_post_norm_block_ids")


def architecture_of(checkpoint: Checkpoint) -> tuple[InternImageConfig, int]:
    """The configuration and number of classes of a classification checkpoint; 0 classes for a bare backbone.

    Raises:
        WeightsError: neither a configuration lies beside the weights nor do they fit a known size.
    """
    if checkpoint.card is not None:
        return checkpoint.card.config, checkpoint.card.num_classes
    shapes = released_shapes(checkpoint.shapes)
    classes = shapes["head.weight"][0] if "head.weight" in shapes else 0
    if checkpoint.config.get("model_type") == "internimage":
        return config_from_hf(checkpoint.config), classes
    config = config_from_training(checkpoint.extra.get("config")) or guess(shapes)
    if config is None and str(checkpoint.extra.get("format")).startswith("internimage training state"):
        raise WeightsError(
            f"{checkpoint.name} is what --resume goes on from; the models of a run are the .safetensors files beside it"
        )
    if config is None:
        raise WeightsError(
            f"{checkpoint.name} is none of the sizes {', '.join(SIZES)}, and no configuration lies beside the weights; "
            "make the model with internimage.create_model(...) and use internimage.load_weights(model, source)"
        )
    return _seen_in(config, shapes), classes


def released_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes by bare released key."""
    return {strip(key, {}): shape for key, shape in shapes.items()}


def config_from_hf(fields: Mapping[str, Any]) -> InternImageConfig:
    """The configuration in a Hugging Face ``config.json``; what it does not say has its released default."""
    known = {key: fields[key] for key in InternImageConfig.field_names() if key in fields}
    return make_config(known)


def config_to_hf(config: InternImageConfig, num_classes: int, dtype: str = "float32") -> dict[str, Any]:
    """``config.json`` of a Hugging Face model."""
    return {
        "architectures": ["InternImageModel"],
        "model_type": "internimage",
        "num_classes": num_classes,
        "torch_dtype": dtype,
        "with_cp": False,
        **dataclasses.asdict(config),
    }


def config_from_training(settings: Any) -> InternImageConfig | None:
    """The configuration in the settings that the released training script saves beside the weights, if any."""
    if not isinstance(settings, Mapping) or not isinstance(settings.get("MODEL"), Mapping):
        return None
    flash = settings["MODEL"].get("FLASH_INTERN_IMAGE")
    fields = settings["MODEL"].get("INTERN_IMAGE") if flash is None else flash
    if not isinstance(fields, Mapping):
        return None
    lowered = {str(key).lower(): value for key, value in fields.items()}
    lowered |= {} if flash is None else {"core_op": "DCNv4"}
    return make_config({key: lowered[key] for key in InternImageConfig.field_names() if key in lowered})


def make_config(fields: Mapping[str, Any]) -> InternImageConfig:
    """A configuration from parsed JSON or YAML: lists become tuples, the text "None" becomes None."""
    values: dict[str, Any] = {key: None if value == "None" else value for key, value in fields.items()}
    if values.get("core_op") == "DCNv3_pytorch":  # the released name of the same operator without a kernel
        values["core_op"] = "DCNv3"
    values |= {key: tuple(values[key]) for key in _TUPLES if values.get(key) is not None}
    try:
        return InternImageConfig(**values)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the configuration beside the weights does not describe an InternImage: {error}") from error


def guess(shapes: Shapes) -> InternImageConfig | None:
    """The size with the same channels, depths and groups."""
    if _STEM not in shapes:
        return None
    for config in SIZES.values():
        if (
            shapes[_STEM][0] == config.channels // 2
            and _depths(shapes) == config.depths
            and _groups_fit(shapes, config)
        ):
            return config
    return None


def _seen_in(config: InternImageConfig, shapes: Shapes) -> InternImageConfig:
    """``config`` with what the shapes say for certain: input channels, metadata, layer scale, remove_center."""
    config = dataclasses.replace(config, use_metadata=any(key.startswith(METADATA_PREFIXES) for key in shapes))
    if _STEM in shapes:
        config = dataclasses.replace(config, in_chans=shapes[_STEM][1])
    has_scale = any(key.endswith(".gamma1") for key in shapes)
    if has_scale != (config.layer_scale is not None):
        config = dataclasses.replace(config, layer_scale=1.0 if has_scale else None)
    block = "levels.0.blocks.0"
    mask = shapes.get(f"{block}.dcn.mask.bias")
    if mask is not None:
        config = dataclasses.replace(config, remove_center=mask[0] == config.groups[0] * 8)
    if config.core_op == "DCNv4":
        config = dataclasses.replace(
            config,
            dw_kernel_size=shapes.get(f"{block}.dcn.offset_mask_dw.weight", (None,))[-1],
            dcn_output_bias=f"{block}.dcn.output_proj.bias" in shapes,
            mlp_fc2_bias=f"{block}.mlp.fc2.bias" in shapes,
        )
    return config


def _depths(shapes: Shapes) -> tuple[int, ...]:
    depths = [0, 0, 0, 0]
    for key in shapes:
        level, _, rest = key.removeprefix("levels.").partition(".blocks.")
        if rest and level in "0123":
            depths[int(level)] = max(depths[int(level)], int(rest.partition(".")[0]) + 1)
    return tuple(depths)


def _groups_fit(shapes: Shapes, config: InternImageConfig) -> bool:
    if config.core_op == "DCNv4":
        packed = [shapes.get(f"levels.{level}.blocks.0.dcn.offset_mask.bias", (0,))[0] for level in range(4)]
        return packed == [-(-groups * 27 // 8) * 8 for groups in config.groups]
    masks = [shapes.get(f"levels.{level}.blocks.0.dcn.mask.bias", (0,))[0] for level in range(4)]
    return any(masks == [groups * taps for groups in config.groups] for taps in (9, 8))
