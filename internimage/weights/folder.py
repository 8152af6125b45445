"""A folder of weights as Hugging Face lays it out: which files count, and how its JSON is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .report import WeightsError

FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; WeightsError when it holds none."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} is no JSON file: {error}") from error
    if not isinstance(contents, dict):
        raise WeightsError(f"{path} holds {type(contents).__name__}, expected a JSON object")
    return contents
