"""Opens a source of weights: a mapping, a file, a folder of shards, a released name, an address.

A :class:`Checkpoint` knows the names and shapes of all tensors before any is copied, and hands the tensors out a file
at a time, mapped from disk, so that a model of many shards never lies in memory twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from . import catalog, hub
from .folder import FOLDER_FILES, read_json
from .inert import read_pickle
from .own import ModelCard, card_from_metadata
from .report import WeightsError

_WEIGHTS_UNDER = ("state_dict", "model", "module")
_AVERAGES_UNDER = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "average")


@dataclass(frozen=True)
class Part:
    """One file of a checkpoint: the shapes in it, and how to read its tensors, one after the other."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[], Iterable[tuple[str, Tensor]]]


@dataclass
class Checkpoint:
    """Tensors by name, and what lies beside them.

    Attributes:
        name: what to call it in messages.
        parts: its files.
        extra: what the file carries beside the weights: a configuration, the epoch, optimizer state.
        config: ``config.json`` of a Hugging Face folder, or the metadata of a safetensors file.
        notes: what a reader should know of how it was opened.
        released: the catalog's entry when it was opened by name.
    """

    name: str
    parts: list[Part]
    extra: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    released: catalog.Released | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return {key: shape for part in self.parts for key, shape in part.shapes.items()}

    @property
    def card(self) -> ModelCard | None:
        """What our own files, and their conversions, say of the model; None where they say nothing."""
        return card_from_metadata(self.config) or card_from_metadata(self.extra)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors, a file at a time; a file is closed before the next is opened."""
        for part in self.parts:
            yield from part.read()


Source = str | Path | Mapping[str, Any] | Checkpoint


def open_checkpoint(source: Source, *, ema: bool = False) -> Checkpoint:
    """Find and open ``source``; ``ema`` picks the averaged weights of a training checkpoint.

    What is open already is handed back as it is.

    Raises:
        WeightsError: there is no such source, or it holds no weights; the message names the nearest released name.
        OSError: a download failed, or a file cannot be read.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return _from_contents("the mapping", source, ema)
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise WeightsError(
            f"the source of the weights is {source!r}, expected a released name, an address, a path or a mapping"
        )
    text = str(source)
    path = Path(source)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path, ema)
    if text.startswith(("https://", "http://")):
        return _open_file(hub.download_address(text), ema)
    entry = catalog.find(text)
    if entry is not None:
        opened = _open_downloaded(hub.download(entry), ema)
        opened.name, opened.released = entry.name, entry
        return opened
    if hub.looks_like_repository(text):
        return _open_downloaded(hub.download_repository(text), ema)
    raise WeightsError(f"there is no file {text!r}, and no released checkpoint of that name; {catalog.hint(text)}")


def _open_downloaded(path: Path, ema: bool) -> Checkpoint:
    return _open_folder(path) if path.is_dir() else _open_file(path, ema)


def _open_folder(folder: Path) -> Checkpoint:
    """A folder as Hugging Face lays it out: one file or shards with an index, ``config.json`` beside them."""
    found = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    if found is None:
        hint = ""
        if any(folder.glob("**/*_model_states.pt")):
            hint = "; it looks like a DeepSpeed checkpoint: turn it into one file with its zero_to_fp32.py first"
        raise WeightsError(f"the folder {folder} holds none of {', '.join(FOLDER_FILES)}{hint}")
    opened = _open_file(found, ema=False)
    opened.name = str(folder)
    if (folder / "config.json").is_file():
        opened.config = read_json(folder / "config.json")
    return opened


def _open_file(path: Path, ema: bool) -> Checkpoint:
    if path.name.endswith(".index.json"):
        return _open_index(path)
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty; a download that was cut short? Fetch it again")
    if path.suffix == ".safetensors":
        part, metadata = _safetensors_part(path)
        return Checkpoint(str(path), [part], config=metadata)
    return _from_contents(str(path), read_pickle(path), ema)


def _open_index(path: Path) -> Checkpoint:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{path} is no index of shards: it has no weight_map")
    files = [path.parent / name for name in dict.fromkeys(weight_map.values())]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise WeightsError(f"{path} names shards that are not beside it: {', '.join(absent)}")
    return Checkpoint(str(path), [_shard(file) for file in files])


def _shard(path: Path) -> Part:
    if path.suffix == ".safetensors":
        return _safetensors_part(path)[0]

    def read() -> Iterable[tuple[str, Tensor]]:
        return _from_contents(str(path), read_pickle(path), ema=False).parts[0].read()

    return Part({key: tuple(tensor.shape) for key, tensor in read()}, read)


def _safetensors_part(path: Path) -> tuple[Part, dict[str, str]]:
    path.open("rb").close()  # safetensors says of a file that may not be read that it is not there
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is no safetensors file, or it is damaged: {error}") from error

    def read() -> Iterator[tuple[str, Tensor]]:
        with safetensors.safe_open(path, framework="pt") as file:
            for key in file.keys():
                yield key, file.get_tensor(key)

    return Part(shapes, read), metadata


def _from_contents(name: str, contents: Any, ema: bool) -> Checkpoint:
    """Unwrap what a training script saved: the weights may lie under a name, with other things beside them."""
    if not isinstance(contents, Mapping):
        raise WeightsError(f"{name} holds a {type(contents).__name__}, not weights by name")
    notes = []
    averages = [key for key in _AVERAGES_UNDER if isinstance(contents.get(key), Mapping)]
    if ema:
        if not averages:
            raise WeightsError(f"{name} carries no averaged weights (ema=True); it has {_names(contents)}")
        under: str | None = averages[0]
    else:
        under = next((key for key in _WEIGHTS_UNDER if isinstance(contents.get(key), Mapping)), None)
        if under is None and averages and not _tensors_in(contents):
            under = averages[0]
        if averages and under != averages[0]:
            notes.append(f"the file also carries averaged weights ({averages[0]}); ema=True takes them")
    weights = contents if under is None else contents[under]
    extra = {} if under is None else {key: value for key, value in contents.items() if key != under}
    while not _tensors_in(weights):  # an average, or DeepSpeed, may wrap once more
        under = next((key for key in _WEIGHTS_UNDER if isinstance(weights.get(key), Mapping)), None)
        if under is None:
            raise WeightsError(f"{name} holds no tensors; it has {_names(contents)}")
        weights = weights[under]
    tensors = _without_pretraining_parts(_tensors_in(weights))
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return Checkpoint(name, [Part(shapes, tensors.items)], extra=extra, notes=notes)


def _tensors_in(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in contents.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _names(contents: Mapping[str, Any]) -> str:
    names = [repr(key) for key in contents]
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "nothing"


def _without_pretraining_parts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image network of a pretraining checkpoint: the student of a distillation, the image half of image-text."""
    if any(key.startswith("student.") for key in tensors):
        return {
            key.removeprefix("student."): tensor
            for key, tensor in tensors.items()
            if key.startswith("student.") and "student_proj" not in key
        }
    if "mask_token" not in tensors or not any("dcnv3." in key for key in tensors):
        return tensors
    kept = {}
    for key, tensor in tensors.items():
        if ("dcnv3" in key and "mm_dcnv3" not in key) or "clip_projector" in key:
            kept[key.replace("dcnv3.", "", 1)] = tensor
        elif key.startswith("clip.classifier_ln."):
            kept[key.replace("clip.classifier_ln", "fc_norm.0")] = tensor
        elif key.startswith("clip.classifier."):
            kept[key.replace("clip.classifier", "head")] = tensor
    return kept
