"""Tensors recorded from the released code, and the weights they belong to.

The whole set lies where ``INTERNIMAGE_PARITY`` says, by default in ``../shared/parity`` beside the repository.
Without it the small set in ``data`` is used, with the cases that prove most.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from internimage.backbones import InternImageConfig
from internimage.ops import available_backends
from internimage.weights.released import released_names

REPOSITORY = Path(__file__).resolve().parents[2]


def _folder() -> Path:
    named = Path(os.environ.get("INTERNIMAGE_PARITY") or REPOSITORY.parent / "shared" / "parity")
    return named if named.is_dir() else Path(__file__).with_name("data")


FOLDER = _folder()
BACKENDS = [name for name, reasons in available_backends("cpu").items() if not reasons and name != "triton"]
"""Those that run here; the Triton kernels run in their interpreter too, on tests of their own."""


def cases(manifest: str) -> list[dict[str, Any]]:
    """The cases of a manifest whose tensors are here, each with its folder."""
    path = FOLDER / manifest
    if not path.is_file():
        return []
    return [
        {**case, "folder": path.parent}
        for case in json.loads(path.read_text())["cases"]
        if (path.parent / case["file"]).is_file()
    ]


def tensors(case: Mapping[str, Any]) -> dict[str, Tensor]:
    """The recorded tensors of a case."""
    with np.load(case["folder"] / case["file"]) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def recorded_keys(folder: str) -> list[Path]:
    """The files in ``folder`` that list a network's state, entry by entry."""
    return sorted((FOLDER / folder).glob("*.json"))


def weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The value that belongs to a released key; a rule for each kind of entry, drawn in float64, rounded to float32."""
    parent, _, last = key.rpartition(".")
    parent = parent.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if last == "running_var":
        n = 1 + 0.1 * np.abs(n)
    elif last == "running_mean":
        n = 0.1 * n
    elif parent in ("offset", "sampling_offsets") and last == "bias":
        n = 2.0 * n
    elif parent == "offset_mask":
        n = 0.25 * n / np.sqrt(shape[1]) if last == "weight" else 1.5 * n
    elif len(shape) >= 2:
        n = n / np.sqrt(np.prod(shape[1:]))
    elif last == "weight" or last.startswith("gamma"):
        n = 1 + 0.1 * n
    else:
        n = 0.1 * n
    return torch.from_numpy(np.asarray(n, dtype=np.float32))


def recorded_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of the recorded network, under released keys."""
    state = module.state_dict()
    return {key: weight(key, tuple(state[ours].shape)) for ours, key in released_names(state).items()}


def config_of(constructor: Mapping[str, Any], **changes: Any) -> InternImageConfig:
    """The configuration of a recorded network; stochastic depth plays no part in evaluation."""
    fields = {key: value for key, value in constructor.items() if key in InternImageConfig.field_names()}
    return InternImageConfig(**{**fields, "drop_path_rate": 0.0, **changes})
