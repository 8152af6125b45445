"""What stages and modules of a model compute for a picture, by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .files import write_through

STAGES = {f"{kind}{number + first}": number for first, kind in ((1, "stage"), (2, "c")) for number in range(4)}


@torch.no_grad()
def extract(model: nn.Module, image: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """Run the model once and keep what the layers asked for give.

    Args:
        model: a classifier of :func:`internimage.create_model`, or a bare backbone.
        image: (N, C, H, W), preprocessed.
        layers: "stage1" to "stage4", also called "c2" to "c5": (N, C, H, W) maps of the levels; or names of modules as
            :func:`layer_names` lists them, with or without the leading "backbone.": what their forward returns, inside
            the backbone (N, H, W, C).

    Returns:
        The tensors by the names asked for, on the CPU. A module that runs several times gives several entries, called
        name#0, name#1 and so on; one that returns several tensors name.0, name.1.

    Raises:
        ValueError: there is no such layer (the message names the nearest), or it did not run.
    """
    wanted = {layer: _resolve(model, layer) for layer in layers}
    if not wanted:
        raise ValueError("no layers asked for, expected some of stage1 to stage4 or names of modules")
    runs: dict[str, list[Any]] = {layer: [] for layer in wanted}
    modules = dict(model.named_modules())
    handles = [
        modules[path].register_forward_hook(lambda module, inputs, output, layer=layer: runs[layer].append(output))
        for layer, path in wanted.items()
    ]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, Tensor] = {}
    for layer, outputs in runs.items():
        if not outputs:
            raise ValueError(
                f"the module {wanted[layer]!r} has no forward run of its own: the module around it uses its parameters "
                f"or its parts directly; take {wanted[layer].rpartition('.')[0] or 'stage4'!r} or a part of it"
            )
        for index, output in enumerate(outputs):
            name = layer if len(outputs) == 1 else f"{layer}#{index}"
            found.update(_tensors(name, output, channels_first=layer in STAGES))
    return found


def layer_names(model: nn.Module) -> list[str]:
    """Every name :func:`extract` takes: the stages, then all modules in order."""
    return [*STAGES, *(name for name, _ in model.named_modules() if name)]


def _resolve(model: nn.Module, layer: str) -> str:
    """The path of the module that a name means."""
    prefix = "backbone." if hasattr(model, "backbone") else ""
    modules = dict(model.named_modules())
    if layer in STAGES:
        return f"{prefix}levels.{STAGES[layer]}"
    for path in (layer, prefix + layer):
        if layer and path in modules:
            return path
    near = difflib.get_close_matches(layer, [*layer_names(model), *(n.removeprefix(prefix) for n in modules)], n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"there is no layer {layer!r}{hint} The stages are stage1 to stage4; list all names with --list")


def _tensors(name: str, output: Any, channels_first: bool) -> dict[str, Tensor]:
    if isinstance(output, Tensor):
        output = output.permute(0, 3, 1, 2) if channels_first else output
        return {name: output.detach().cpu().contiguous()}
    parts = output.items() if isinstance(output, Mapping) else enumerate(output)
    return {key: tensor for part, value in parts for key, tensor in _tensors(f"{name}.{part}", value, False).items()}


def save_features(features: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors to a .safetensors or .npz file, which appears whole or not at all.

    Raises:
        ValueError: the name ends otherwise.
    """
    path = check_suffix(path)
    with write_through(path) as temporary:
        if path.suffix.lower() == ".npz":
            with open(temporary, "wb") as file:  # by name, savez would append a suffix
                np.savez(file, allow_pickle=False, **{name: _as_numpy(tensor) for name, tensor in features.items()})
        else:
            save_file(
                {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in features.items()},
                str(temporary),
            )


def check_suffix(path: str | Path) -> Path:
    """The path, if :func:`save_features` can write it; else ValueError, before any work is done."""
    path = Path(path)
    if path.suffix.lower() not in (".safetensors", ".npz"):
        raise ValueError(f"{path} ends in {path.suffix!r}, expected .safetensors or .npz")
    return path


def _as_numpy(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # numpy has no bfloat16
