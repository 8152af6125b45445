"""Key names of released checkpoints, both ways; the only place that knows them.

A table lists (our name, released name) in the released order. ``{norm}`` is 1 behind a released permute, which has an
index but no parameters: layer norms after a convolution sit behind one, batch norms do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from .report import WeightsError

Names = Iterator[tuple[str, str]]

_STEM = (
    ("stem.conv1", "patch_embed.conv1"),
    ("stem.norm1", "patch_embed.norm1.{norm}"),
    ("stem.conv2", "patch_embed.conv2"),
    ("stem.norm2", "patch_embed.norm2.{norm}"),
)
_DCN = (
    ("center_feature_scale_proj.weight", "center_feature_scale_proj_weight"),
    ("center_feature_scale_proj.bias", "center_feature_scale_proj_bias"),
    ("dw_conv", "dw_conv.0"),
    ("dw_norm", "dw_conv.1.{norm}"),
    ("offset", "offset"),
    ("mask", "mask"),
    ("input_proj", "input_proj"),
    ("output_proj", "output_proj"),
)
_DCN_V4 = (
    ("center_feature_scale_proj.weight", "center_feature_scale_proj_weight"),
    ("center_feature_scale_proj.bias", "center_feature_scale_proj_bias"),
    ("offset_mask_dw", "offset_mask_dw"),
    ("offset_mask", "offset_mask"),
    ("value_proj", "value_proj"),
)
_ATTENTION = tuple((name, name) for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"))
_BLOCK = (
    ("gamma1", "gamma1"),
    ("gamma2", "gamma2"),
    ("norm1", "norm1.0"),
    *((f"dcn.{ours}", f"dcn.{released}") for ours, released in (*_DCN_V4, *_DCN)),
    ("norm2", "norm2.0"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("res_post_norm1", "res_post_norm1.0"),
    ("res_post_norm2", "res_post_norm2.0"),
)
_DOWNSAMPLE = (
    ("downsample.conv", "downsample.conv"),
    ("downsample.norm", "downsample.norm.{norm}"),
)
_CONV_HEAD = (
    ("head.conv", "conv_head.0"),
    ("head.norm", "conv_head.1.0"),
    ("head.fc", "head"),
)
_CLIP_HEAD = (
    ("fusion.conv_c5", "dcnv3_head_x4.0"),
    ("fusion.conv_c4", "dcnv3_head_x3"),
    ("head.pool.norm_q", "clip_projector.norm1_q.0"),
    ("head.pool.norm_k", "clip_projector.norm1_k.0"),
    ("head.pool.norm_v", "clip_projector.norm1_v.0"),
    ("head.pool.q.bias", "clip_projector.cross_dcn.q_bias"),
    ("head.pool.k.bias", "clip_projector.cross_dcn.k_bias"),
    ("head.pool.v.bias", "clip_projector.cross_dcn.v_bias"),
    ("head.pool.q.weight", "clip_projector.cross_dcn.q.weight"),
    ("head.pool.k.weight", "clip_projector.cross_dcn.k.weight"),
    ("head.pool.v.weight", "clip_projector.cross_dcn.v.weight"),
    ("head.pool.proj", "clip_projector.cross_dcn.proj"),
    ("head.norm", "fc_norm.0"),
    ("head.fc", "head"),
)

_ENCODER = (
    ("fc0", "0"),
    ("norm0", "2"),
    ("fc1", "3.w1"),
    ("fc2", "3.w2"),
    ("norm1", "3.norm_fn1"),
    ("norm2", "3.norm_fn2"),
)
_METADATA = (
    *((f"metadata.temporal.{ours}", f"meta_head_1.{released}") for ours, released in _ENCODER),
    *((f"metadata.spatial.{ours}", f"meta_head_2.{released}") for ours, released in _ENCODER),
    ("metadata.norm", "meta_norm"),
    ("metadata.fc", "meta_head"),
)

HEAD_PREFIXES = ("conv_head.", "head.", "dcnv3_head_x3.", "dcnv3_head_x4.", "clip_projector.", "fc_norm.", "fusion.")
METADATA_PREFIXES = ("metadata.", "meta_head.", "meta_head_1.", "meta_head_2.", "meta_norm.")
WRAPPERS = ("module.", "model.", "backbone.")


def to_released(module: nn.Module) -> dict[str, Tensor]:
    """The state of a classifier, backbone, block or layer under released key names, in the released order.

    Works on any device, the meta device included. The tensors are those of the module, not copies.

    Raises:
        WeightsError: the module has tensors that no released network has; the message names them.
    """
    state = module.state_dict()
    return {released: state[ours] for ours, released in released_names(state).items()}


def to_hugging_face(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released key names as the Hugging Face models spell them."""
    return {f"model.{_swap_gamma(key, 'gamma', 'layer_scale')}": tensor for key, tensor in released.items()}


def released_names(keys: Iterable[str]) -> dict[str, str]:
    """Our key to released key, in the released order, for all keys of one of our modules."""
    keys = list(keys)
    below: dict[str, list[str]] = {}  # a key or the module that holds it, to the keys
    for key in keys:
        below.setdefault(key, []).append(key)
        below.setdefault(key.rpartition(".")[0], []).append(key)
    names: dict[str, str] = {}
    for ours, released in _layout(below):
        has_statistics = f"{ours}.running_mean" in below
        for key in below.get(ours, ()):
            names.setdefault(key, released.format(norm=0 if has_statistics else 1) + key[len(ours) :])
    unknown = [key for key in keys if key not in names]
    if unknown:
        raise WeightsError(f"released checkpoints have no name for {', '.join(unknown[:4])}: no module of theirs")
    return names


def accepted_names(keys: Iterable[str]) -> dict[str, str]:
    """Every name under which a source may carry our keys: released, ours, and ours without ``backbone.``."""
    names: dict[str, str] = {}
    for ours, released in released_names(keys).items():
        names[released] = names[ours] = names[ours.removeprefix("backbone.")] = ours
    return names


def strip(key: str, known: Mapping[str, str]) -> str:
    """A source's key without wrappers, in released spelling; wrappers stay as long as the key is known with them."""
    key = _swap_gamma(key, "layer_scale", "gamma")
    while key not in known:
        wrapper = next((wrapper for wrapper in WRAPPERS if key.startswith(wrapper)), None)
        if wrapper is None:
            break
        key = key[len(wrapper) :]
    return key


def _swap_gamma(key: str, old: str, new: str) -> str:
    for number in "12":
        if key.endswith(f".{old}{number}"):
            return key[: -len(old) - 1] + new + number
    return key


def _layout(below: Mapping[str, list[str]]) -> Names:
    """The rows of all tables that may apply to such a module, in the released order."""
    if "dw_conv" in below:
        yield from _DCN
    elif "sampling_offsets" in below:
        yield from _ATTENTION
    elif "offset_mask" in below:
        yield from (*_DCN_V4, *_DCN[-1:])
    elif "dcn.offset" in below or "dcn.offset_mask" in below:
        yield from _BLOCK
    elif "blocks.0.norm1" in below:
        yield from _level(below, "")
    else:
        prefix = "backbone." if "backbone.stem.conv1" in below else ""
        yield from _prefixed(_STEM, prefix, "")
        for index in range(4):
            yield from ((f"{prefix}{ours}", released) for ours, released in _level(below, f"levels.{index}.", prefix))
        yield from _CONV_HEAD if "head.conv" in below else _CLIP_HEAD
        yield from _METADATA


def _level(below: Mapping[str, list[str]], level: str, prefix: str = "") -> Names:
    block = 0
    while f"{prefix}{level}blocks.{block}.norm1" in below:
        yield from _prefixed(_BLOCK, f"{level}blocks.{block}.", f"{level}blocks.{block}.")
        block += 1
    yield f"{level}norm", f"{level}norm.0"
    norm = 0
    while f"{prefix}{level}post_norms.{norm}" in below:
        yield f"{level}post_norms.{norm}", f"{level}post_norms.{norm}.0"
        norm += 1
    yield from _prefixed(_DOWNSAMPLE, level, level)


def _prefixed(rows: Iterable[tuple[str, str]], ours: str, released: str) -> Names:
    return ((ours + a, released + b) for a, b in rows)
