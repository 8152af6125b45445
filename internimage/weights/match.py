"""Finds the place of each tensor of a checkpoint in a module, and what has to be done to it on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers.deform_conv import DCNv3
from .imagenet_22k import IMAGENET_1K_IN_22K, NUM_CLASSES_22K
from .released import HEAD_PREFIXES, METADATA_PREFIXES, accepted_names, strip
from .report import LoadReport

Shape = tuple[int, ...]

_CLASSIFIER = ("head.fc.weight", "head.fc.bias", "metadata.fc.weight", "metadata.fc.bias")
_AVERAGED = "raw weights beside averaged ones; the averaged ones have the plain names"
_METADATA = "the branch for date and place; the logits are those of the image alone"
_CUT_OFF = "levels that this module has been cut short by"
_NO_HEAD = "a classification head, which this module has not"
_OTHER_PARTS = "parts of a detector or segmenter; this module takes its backbone"


@dataclass(frozen=True)
class Placement:
    """A tensor's name in the module, and what turns the source's tensor into it."""

    name: str
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor


def match(shapes: Mapping[str, Shape], module: nn.Module, report: LoadReport) -> dict[str, Placement]:
    """Source key to placement for all that fits; what does not fit goes into ``report``."""
    state = module.state_dict()
    names = accepted_names(state)
    has_backbone = any(key.removeprefix("module.").startswith("backbone.") for key in shapes)
    has_head = any(name.startswith("head.") for name in state)
    placements: dict[str, Placement] = {}
    kept_classifier = _other_classes(shapes, names, state)
    for key, shape in shapes.items():
        bare = strip(key, names)
        name = names.get(bare)
        if name is None:
            if _is_cut_off(bare, state):
                report.skip(_CUT_OFF, key)
            else:
                _sort_out(key, bare, has_head, has_backbone, report)
            continue
        wanted = tuple(state[name].shape)
        convert = _conversion(name, shape, wanted, module)
        if convert is not None:
            placements[key] = Placement(name, convert)
        elif not (kept_classifier and name in _CLASSIFIER):
            report.wrong_shape.append((name, shape, wanted))
    found = {placement.name for placement in placements.values()} | {name for name, _, _ in report.wrong_shape}
    if kept_classifier:
        theirs, ours = kept_classifier
        found |= set(_CLASSIFIER)
        if not any(name.startswith("metadata.") for name in found - set(_CLASSIFIER)):
            found |= {name for name in state if name.startswith("metadata.")}  # to be trained with the classifier
        report.kept_classifier = (
            f"the file has {theirs} classes and the model {ours}: the backbone is loaded, the classifier keeps its own "
            f"values; train it, or make the model with num_classes={theirs}"
        )
    report.total = len(state)
    report.missing += [name for name in state if name not in found and not name.endswith("num_batches_tracked")]
    _describe_conversions(placements, shapes, state, report)
    return placements


def _is_cut_off(bare: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a key belongs behind the last level of a network that keeps fewer than all."""
    levels = {key.partition("levels.")[2].partition(".")[0] for key in state if "levels." in key}
    last = max(map(int, levels), default=3)
    if last == 3 or not bare.startswith("levels."):
        return False
    level, _, rest = bare.removeprefix("levels.").partition(".")
    return level > str(last) or (level == str(last) and rest.startswith("downsample."))


def _sort_out(key: str, bare: str, has_head: bool, has_backbone: bool, report: LoadReport) -> None:
    """A key the module has no place for: known and harmless, or unexpected."""
    if bare.startswith("ema_"):
        report.skip(_AVERAGED, key)
    elif bare.startswith(METADATA_PREFIXES):
        report.skip(_METADATA if has_head else _NO_HEAD, key)
    elif has_backbone and "backbone." not in key:
        report.skip(_OTHER_PARTS, key)
    elif bare.startswith(HEAD_PREFIXES) and not has_head:
        report.skip(_NO_HEAD, key)
    elif bare in ("head.weight", "head.bias", *_CLASSIFIER) and has_head:
        report.skip("a classifier, which a model of num_classes=0 has not", key)
    else:
        report.unexpected.append(key)


def _other_classes(
    shapes: Mapping[str, Shape], names: Mapping[str, str], state: Mapping[str, Tensor]
) -> tuple[int, ...]:
    """(classes of the source, classes of the module) where only their number differs and no conversion is known."""
    weight = _CLASSIFIER[0]
    rows = [shape for key, shape in shapes.items() if names.get(strip(key, names)) == weight]
    if not rows or len(rows[0]) != 2 or rows[0][1:] != tuple(state[weight].shape[1:]):
        return ()
    both = (rows[0][0], state[weight].shape[0])
    return () if both[0] == both[1] or both == (NUM_CLASSES_22K, len(IMAGENET_1K_IN_22K)) else both


def _conversion(name: str, shape: Shape, wanted: Shape, module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What turns a tensor of ``shape`` into the one called ``name``; None when nothing does."""
    if shape == wanted:
        return lambda tensor: tensor
    to_1k = (shape[:1], wanted[:1]) == ((NUM_CLASSES_22K,), (len(IMAGENET_1K_IN_22K),))
    if name in _CLASSIFIER and to_1k and shape[1:] == wanted[1:]:
        return lambda tensor: tensor[torch.tensor(IMAGENET_1K_IN_22K, device=tensor.device)]
    if name.endswith("stem.conv1.weight") and shape[0] == wanted[0] and shape[2:] == wanted[2:]:
        return lambda tensor: adapt_input_channels(tensor, wanted[1])
    layer = _offset_or_mask_of(name, module)
    if layer is not None and layer.geometry.remove_center:
        taps, numbers = layer.geometry.taps + 1, 2 if ".offset." in f".{name}" else 1
        if shape == (layer.geometry.groups * taps * numbers, *wanted[1:]):
            return lambda tensor: drop_center(tensor, layer.geometry.groups, taps)
    return None


def _offset_or_mask_of(name: str, module: nn.Module) -> DCNv3 | None:
    path, _, kind = name.rpartition(".")[0].rpartition(".")
    if kind not in ("offset", "mask"):
        return None
    layer = module.get_submodule(path)
    return layer if isinstance(layer, DCNv3) else None


def drop_center(tensor: Tensor, groups: int, taps: int) -> Tensor:
    """The rows of an offset or mask layer, (groups * taps * n, ...), without those of the middle tap."""
    rows = tensor.reshape(groups, taps, -1, *tensor.shape[1:])
    middle = taps // 2
    return torch.cat((rows[:, :middle], rows[:, middle + 1 :]), 1).reshape(-1, *tensor.shape[1:])


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution for another number of input channels: repeated in turn, scaled so that grey stays grey."""
    have = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // have), 1, 1)[:, :channels]
    return repeated * (have / channels)


def _describe_conversions(
    placements: Mapping[str, Placement], shapes: Mapping[str, Shape], state: Mapping[str, Tensor], report: LoadReport
) -> None:
    changed = [key for key, place in placements.items() if shapes[key] != tuple(state[place.name].shape)]
    names = {placements[key].name: key for key in changed}
    if any(name in _CLASSIFIER for name in names):
        report.converted.append(f"the head of {NUM_CLASSES_22K} classes to the 1000 of ImageNet-1K, row by row")
    for name, key in names.items():
        if name.endswith("stem.conv1.weight"):
            report.converted.append(f"{name} from {shapes[key][1]} input channels to {state[name].shape[1]}")
    centers = sum(".offset." in f".{name}" or ".mask." in f".{name}" for name in names)
    if centers:
        report.converted.append(
            f"{centers} offset and mask tensors to remove_center: the rows of the middle tap left out"
        )
