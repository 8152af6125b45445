"""An evaluation that was broken off, as a file to go on from."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ..weights.own import save_tensors
from ..weights.report import WeightsError
from .answers import Answers

FILE_NAME = "evaluation.safetensors"
_KEY = "internimage evaluation"


def state_file(path: str | Path) -> Path:
    """The file that ``path`` stands for: itself, or ``evaluation.safetensors`` in a folder."""
    path = Path(path)
    return path / FILE_NAME if path.is_dir() or not path.suffix else path


def checksum_of(model: nn.Module) -> str:
    """Tells the weights of a model from others."""
    checksum = 0
    for name, tensor in sorted(model.state_dict().items()):
        checksum = zlib.crc32(_bytes(tensor), zlib.crc32(name.encode(), checksum))
    return f"checksum {checksum:08x}"


def save_answers(path: Path, answers: Answers, about: dict[str, str]) -> None:
    """Write what was answered so far; the file appears whole."""
    rest = {
        "about": about,
        "unreadable": sorted(answers.unreadable.items()),
        "seconds": answers.seconds,
        "model_seconds": answers.model_seconds,
    }
    save_tensors(path, answers.tensors(), {_KEY: json.dumps(rest)})


def load_answers(path: Path, about: dict[str, str], pictures: int) -> Answers:
    """What was answered so far, or nothing where there is no such file.

    Raises:
        ValueError: it is no such file, or one of another model or data.
    """
    if not path.exists():
        return Answers.none(pictures)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            rest = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        answers = Answers(
            **tensors,
            unreadable={index: reason for index, reason in rest["unreadable"]},
            seconds=rest["seconds"],
            model_seconds=rest["model_seconds"],
        )
    except (OSError, safetensors.SafetensorError, WeightsError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"--resume {path} is not an evaluation that was broken off ({error}); name another file, or remove it"
        ) from error
    for key, value in about.items():
        if rest["about"].get(key) != value:
            raise ValueError(
                f"--resume {path} is an evaluation of other {key}: {rest['about'].get(key)}, this one is of {value}; "
                "name another file, or remove it"
            )
    return answers


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
