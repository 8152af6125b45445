"""Puts weights from anywhere into a module of ours, and says what became of them."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from ..backbones.internimage import Block
from .architecture import guess, released_shapes
from .checkpoint import Checkpoint, Source, open_checkpoint
from .match import match
from .report import LoadReport, WeightsError

logger = logging.getLogger("internimage")


def load_weights(
    module: nn.Module,
    source: Source,
    *,
    strict: bool = True,
    ema: bool = False,
    device: str | torch.device = "cpu",
) -> LoadReport:
    """Load ``source`` into a classifier, feature extractor, backbone, block or ``DCNv3`` layer.

    Args:
        module: keeps its dtype and device. Parameters on the meta device are created, in their dtype, on ``device``.
        source: a released name (``internimage models`` lists them), an address, a file, a folder of shards, a
            Hugging Face repository as "owner/name", a mapping, or what :func:`open_checkpoint` gave; with released,
            Hugging Face or our own names.
        strict: raise unless everything fits. These fit in any case, and the report says so: a classification head or
            the rest of a detector when the module is a backbone; a classifier of another number of classes, in which
            case the module's own is kept, and with it a branch for date and place of which the source has nothing;
            layer scales of 1 for which the source has none.
        ema: take the averaged weights of a training checkpoint.
        device: only for parameters on the meta device.

    Returns:
        What was loaded, converted, skipped, missing, unexpected, and what to do about it.

    Raises:
        WeightsError: (a ValueError) the source cannot be read, or does not fit and ``strict`` is set. The module is
            as it was before.
        OSError: a download failed.
    """
    checkpoint = open_checkpoint(source, ema=ema)
    report = LoadReport(checkpoint.name, notes=list(checkpoint.notes))
    placements = match(checkpoint.shapes, module, report)
    neutral = _neutral_scales(module, report.missing)
    if neutral:
        report.notes.append(f"the file has no layer scale; the module's {len(neutral)} are 1, the same network")
    _advise(report, checkpoint, module, bool(placements))
    fits = not (set(report.missing) - neutral or report.unexpected or report.wrong_shape)
    if not placements or (strict and not fits):
        raise WeightsError(f"the weights do not fit\n{report}")
    state = module.state_dict(keep_vars=True)
    placed: set[str] = set()
    with torch.no_grad():
        for key, tensor in checkpoint.tensors():
            place = placements.get(key)
            if place is not None:
                _put(module, place.name, state[place.name], place.convert(tensor), device)
                placed.add(place.name)
        _fill_meta(module, [name for name in state if name not in placed], device)
    report.loaded = len(placed)
    for line in report.converted:
        logger.info("%s: %s", checkpoint.name, line)
    if report.kept_classifier:
        logger.warning("%s: %s", checkpoint.name, report.kept_classifier)
    return report


def _put(module: nn.Module, name: str, target: Tensor, value: Tensor, device: str | torch.device) -> None:
    if not target.is_meta:
        target.copy_(value.reshape(target.shape))
        return
    fresh = torch.empty_like(target, device=device, requires_grad=False)
    fresh.copy_(value.reshape(target.shape))
    _assign(module, name, target, fresh)


def _assign(module: nn.Module, name: str, target: Tensor, fresh: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(target, nn.Parameter):
        owner.register_parameter(leaf, nn.Parameter(fresh, requires_grad=target.requires_grad))
    else:
        setattr(owner, leaf, fresh)


def _neutral_scales(module: nn.Module, missing: list[str]) -> set[str]:
    """Missing layer scales that leave their block as it would be without them."""
    neutral = set()
    for name in missing:
        path, _, leaf = name.rpartition(".")
        block = module.get_submodule(path)
        if isinstance(block, Block) and leaf in ("gamma1", "gamma2") and block.res_post_norm1 is None:
            scale = getattr(block, leaf)
            if bool((scale == 1).all()) if not scale.is_meta else _initial_scale(module) == 1:
                neutral.add(name)
    return neutral


def _initial_scale(module: nn.Module) -> float | None:
    config = getattr(module, "config", None) or getattr(getattr(module, "backbone", None), "config", None)
    return None if config is None else config.layer_scale


def _fill_meta(module: nn.Module, names: list[str], device: str | torch.device) -> None:
    """Initial values for what the source has none for, on modules that came without values."""
    state = module.state_dict(keep_vars=True)
    for name in names:
        target = state[name]
        if not target.is_meta:
            continue
        fresh = torch.zeros_like(target, device=device, requires_grad=False)
        scale = _initial_scale(module)
        if name.endswith("head.fc.weight") or (name.startswith("metadata.") and target.dim() == 2):
            nn.init.trunc_normal_(fresh, std=0.02)
        elif name.startswith("metadata."):
            fresh.fill_(1.0 if name.endswith(".weight") else 0.0)  # of a norm, or any bias
        elif name.endswith((".gamma1", ".gamma2")) and scale is not None:
            fresh.fill_(scale)
        elif not name.endswith(("head.fc.bias", "num_batches_tracked")):
            raise WeightsError(f"{name} has no value in the source, and the module, on the meta device, has none")
        _assign(module, name, target, fresh)


def _advise(report: LoadReport, checkpoint: Checkpoint, module: nn.Module, any_fits: bool) -> None:
    """Fill in what to do about what does not fit."""
    advice = report.advice
    without_scale = [name for name in report.missing if name.endswith((".gamma1", ".gamma2"))]
    neutral = _neutral_scales(module, without_scale)
    if report.wrong_shape or not any_fits:
        size = guess(released_shapes(checkpoint.shapes))
        if size is not None and _config_channels(module) not in (None, size.channels):
            advice.append(f"the file is of another size: {_name_of(size)}")
            return
    if any(key.endswith(("gamma1", "gamma2", "layer_scale1", "layer_scale2")) for key in report.unexpected):
        advice.append("the file has layer scales: make the model with layer_scale=1.0")
    if without_scale and not neutral:
        advice.append("the file has no layer scales: make the model with layer_scale=None")
    if any(name.startswith("metadata.") for name in report.missing):
        advice.append(
            "the file has no branch for date and place: make the model without it (use_metadata=False), or keep the "
            "module's own and train it (strict=False)"
        )
    if any("cb_modules" in key for key in report.unexpected):
        advice.append("the file holds a composite of two backbones (CBInternImage), which this network is not")
    if any("offset_mask" in key for key in report.unexpected):
        advice.append("the file belongs to FlashInternImage, which stands on DCNv4: make a flash_internimage model")
    if not any_fits:
        theirs, ours = next(iter(checkpoint.shapes), "nothing"), next(iter(module.state_dict()), "nothing")
        advice.append(f"no name fits: the file begins with {theirs}, the module with {ours}")
    elif not advice and (set(report.missing) - neutral or report.unexpected or report.wrong_shape):
        advice.append("strict=False loads what fits and leaves the rest of the module as it is")


def _config_channels(module: nn.Module) -> int | None:
    config = getattr(module, "config", None) or getattr(getattr(module, "backbone", None), "config", None)
    return None if config is None else config.channels


def _name_of(size) -> str:
    from ..backbones.internimage import SIZES

    return next(name for name, config in SIZES.items() if config is size)
