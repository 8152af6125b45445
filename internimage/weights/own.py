"""Our own file: one safetensors file with the weights and everything needed to use them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..backbones.internimage import InternImageConfig
from ..data.transforms import Preprocessing
from ..files import write_through
from .report import WeightsError

METADATA_KEY = "internimage"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model is, beside its weights.

    Attributes:
        name: of the model, for people.
        config: the architecture.
        num_classes: outputs of the head; 0 for features.
        preprocessing: how a picture becomes its input; None where it is unknown.
        class_names: one a class; None for a standard list that the number of classes tells.
        note: one sentence that goes with every answer, such as what it was trained on.
        scores: measured, in percent.
    """

    name: str
    config: InternImageConfig
    num_classes: int
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None
    note: str = ""
    scores: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(self.class_names))
            if len(self.class_names) != self.num_classes:
                raise ValueError(f"class_names has {len(self.class_names)} names for num_classes={self.num_classes}")

    def to_json(self) -> str:
        """The card as JSON text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """The inverse of :meth:`to_json`; WeightsError where the text is no card."""
        try:
            fields = json.loads(text)
            preprocessing = fields["preprocessing"]
            names = fields["class_names"]
            return cls(
                **{
                    **fields,
                    "config": InternImageConfig(**fields["config"]),
                    "preprocessing": None if preprocessing is None else Preprocessing(**preprocessing),
                    "class_names": None if names is None else tuple(names),
                }
            )
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"the model card in the file cannot be read: {error}") from error


def save_model(path: str | Path, state_dict: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write ``state_dict`` (the model's own names) and ``card`` to one safetensors file, each tensor in its own dtype.

    The file is written under a temporary name beside ``path`` and renamed, so a file of that name is always whole.
    """
    save_tensors(path, state_dict, {METADATA_KEY: card.to_json()})


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, written under a temporary name and renamed.

    Raises:
        OSError: the disk is full or cannot be written; what had this name is as it was.
    """
    separate = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    storages: set[int] = set()
    for key, tensor in separate.items():  # safetensors refuses tensors that share memory
        if tensor.untyped_storage().data_ptr() in storages:
            separate[key] = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
    with write_through(path) as temporary:
        try:
            safetensors.torch.save_file(separate, temporary, metadata={"format": "pt", **metadata})
        except safetensors.SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def read_card(path: str | Path) -> ModelCard:
    """The card of a file of :func:`save_model`, without its tensors.

    Raises:
        WeightsError: it is no such file.
    """
    card = card_from_metadata(_metadata(path))
    if card is None:
        raise WeightsError(f"{path} carries no model card; `internimage weights convert` --to safetensors adds one")
    return card


def read_model(path: str | Path) -> tuple[dict[str, Tensor], ModelCard]:
    """The tensors by name, and the card, of a file of :func:`save_model`."""
    card = read_card(path)
    return safetensors.torch.load_file(path), card


def card_from_metadata(metadata: Mapping[str, Any]) -> ModelCard | None:
    """The card in the metadata of a safetensors file; None where there is none."""
    text = metadata.get(METADATA_KEY)
    return ModelCard.from_json(text) if isinstance(text, str) else None


def _metadata(path: str | Path) -> dict[str, str]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    path.open("rb").close()  # safetensors says of a file that may not be read that it is not there
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is no safetensors file, or it is damaged: {error}") from error
