"""From one form of weights to another, bit for bit: released ``.pth``, Hugging Face folder, our own safetensors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import models
from ..backbones.internimage import SIZES, InternImageConfig
from ..data.transforms import Preprocessing
from ..files import write_through
from .architecture import architecture_of, config_to_hf, released_shapes
from .checkpoint import Checkpoint, Source, open_checkpoint
from .match import match
from .own import METADATA_KEY, ModelCard, save_model, save_tensors
from .released import to_hugging_face, to_released
from .report import LoadReport, WeightsError

FORMATS = ("released", "hf", "safetensors")
SHARD_BYTES = 5 * 10**9


def convert(
    source: Source,
    target: str | Path,
    to: str,
    *,
    ema: bool = False,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the classification model or backbone in ``source`` to ``target`` in another form.

    Args:
        source: whatever :func:`internimage.load_weights` takes.
        target: a file for "released" and "safetensors", a folder for "hf". Written under a temporary name and renamed.
        to: "released" (a ``.pth`` with the released names under "model"), "hf" (``config.json``,
            ``preprocessor_config.json`` and safetensors, in shards above ``shard_bytes``), or "safetensors" (our own:
            one file with the configuration and preprocessing inside). What a file of our own says of its model, class
            names and preprocessing included, goes along in every form.
        ema: take the averaged weights of a training checkpoint.
        force: replace what ``target`` is.

    Raises:
        WeightsError: the source cannot be read, is no classification model, or is incomplete.
        FileExistsError: there is something at ``target``, and ``force`` is not set.
    """
    if to not in FORMATS:
        raise ValueError(f"to is {to!r}, expected one of {', '.join(map(repr, FORMATS))}")
    target = Path(target)
    if target.exists() and not force:
        raise FileExistsError(f"{target} is there already; choose another name, or --force to replace it")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.absolute().parent} to write {target.name} to")
    checkpoint = open_checkpoint(source, ema=ema)
    config, num_classes = architecture_of(checkpoint)
    model = _with_tensors(checkpoint, config, num_classes)
    own = {} if checkpoint.card is None else {METADATA_KEY: checkpoint.card.to_json()}
    if to == "released":
        _save_released(target, to_released(model), own)
    elif to == "hf":
        description = config_to_hf(config, num_classes, _dtype_of(model)) | own
        _save_folder(target, to_released(model), description, _preprocessing(checkpoint, config), shard_bytes)
    else:
        save_model(target, model.state_dict(), _card(checkpoint, config, num_classes))
    return target


def _with_tensors(checkpoint: Checkpoint, config: InternImageConfig, num_classes: int) -> nn.Module:
    """The network, its parameters the very tensors of the checkpoint: no copy, no change of dtype."""
    with torch.device("meta"):
        has_head = any(key.startswith(("conv_head.", "fc_norm.")) for key in released_shapes(checkpoint.shapes))
        if num_classes == 0 and not has_head:
            model: nn.Module = models.FeatureExtractor(config)
        else:
            model = models.InternImageClassifier(config, num_classes)
    report = LoadReport(checkpoint.name)
    placements = match(checkpoint.shapes, model, report)
    left_out = [key for keys in report.skipped.values() for key in keys if not key.startswith("ema_")]
    if not report.complete or left_out:
        report.unexpected += left_out
        report.skipped.clear()
        report.advice.append("only classification models and bare backbones can be converted")
        raise WeightsError(f"the conversion would lose tensors\n{report}")
    tensors = {placements[key].name: tensor for key, tensor in checkpoint.tensors()}
    for name, tensor in model.state_dict().items():
        tensors.setdefault(name, torch.zeros(tensor.shape, dtype=tensor.dtype))  # counters that a file may leave out
    model.requires_grad_(False).load_state_dict(tensors, assign=True)
    return model


def _save_released(target: Path, tensors: dict[str, Tensor], own: dict[str, str]) -> None:
    plain = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    # a name that cannot be written is an OSError of open, and a RuntimeError of torch.save
    with write_through(target) as temporary, open(temporary, "wb") as file:
        torch.save({"model": plain, **own}, file)


def _save_folder(
    target: Path,
    released: dict[str, Tensor],
    description: dict[str, Any],
    preprocessing: Preprocessing | None,
    shard_bytes: int,
) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = to_hugging_face(released)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
    folder.chmod(0o755)
    try:
        _write_json(folder / "config.json", description)
        if preprocessing is not None:
            _write_json(folder / "preprocessor_config.json", _preprocessor_config(preprocessing))
        split = split_torch_state_dict_into_shards(tensors, max_shard_size=shard_bytes)
        for name, keys in split.filename_to_tensors.items():
            save_tensors(folder / name, {key: tensors[key] for key in keys}, {})
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            _write_json(folder / "model.safetensors.index.json", index)
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _dtype_of(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _preprocessor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    size = preprocessing.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "do_resize": True,
        "do_center_crop": preprocessing.crop,
        "do_normalize": True,
        "do_rescale": True,
        "resample": {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}[preprocessing.interpolation],
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def _card(checkpoint: Checkpoint, config: InternImageConfig, num_classes: int) -> ModelCard:
    if checkpoint.card is not None:
        return checkpoint.card
    entry = checkpoint.released
    return ModelCard(
        name=entry.name if entry is not None else Path(checkpoint.name).stem,
        config=config,
        num_classes=num_classes,
        preprocessing=_preprocessing(checkpoint, config),
        note="" if entry is None else f"trained on {entry.dataset}",
        scores={} if entry is None else dict(entry.scores),
    )


def _preprocessing(checkpoint: Checkpoint, config: InternImageConfig) -> Preprocessing | None:
    """The model's own, or the released one at the size of the catalog, of the file's name, or 224."""
    if checkpoint.card is not None:
        return checkpoint.card.preprocessing
    if config.in_chans != 3:
        return None
    return Preprocessing(image_size=image_size_of(checkpoint, config))


def image_size_of(checkpoint: Checkpoint, config: InternImageConfig) -> int:
    """The side a checkpoint is used at: from the catalog, else the last number of its name, else that of its size."""
    from . import catalog

    if checkpoint.released is not None and checkpoint.released.resolution is not None:
        return checkpoint.released.resolution[0]
    last = Path(checkpoint.name).stem.rpartition("_")[2]
    if last.isdigit() and int(last) % 32 == 0 and 32 <= int(last) <= 2048:
        return int(last)
    alike = (config.channels, config.use_metadata)
    size = next((name for name, known in SIZES.items() if (known.channels, known.use_metadata) == alike), None)
    default = catalog.released().get(catalog.DEFAULTS.get(size or "", ""))
    return default.resolution[0] if default is not None and default.resolution is not None else 224


def _write_json(path: Path, contents: dict[str, Any]) -> None:
    path.write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n", encoding="utf-8")
