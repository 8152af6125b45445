"""A model ready for pictures: network, preprocessing and class names in one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .backbones.internimage import InternImageConfig
from .data.labels import class_names
from .data.metadata import Date, Dates, Location, Locations, metadata_vectors
from .data.pictures import check_picture, from_array, read_picture
from .data.transforms import GREY_MEAN, GREY_STD, Preprocessing
from .devices import check_numbers, pick_device, pick_dtype
from .models import InternImageClassifier, embedded_weights, get_config, list_models
from .ops.dcnv3.op import BACKENDS
from .ops.dispatch import named
from .weights import catalog
from .weights.architecture import architecture_of, released_shapes
from .weights.checkpoint import Checkpoint, open_checkpoint
from .weights.convert import image_size_of
from .weights.load import load_weights
from .weights.report import WeightsError

EMBEDDED = "internimage_femto"
Picture = Image.Image | str | Path | np.ndarray | Tensor


@dataclass(frozen=True)
class Prediction:
    """The answer to one picture, best first.

    Attributes:
        labels: names of the classes.
        probs: their probabilities, 0 to 1.
        indices: their numbers.
        note: what to know of the model that answers.
    """

    labels: tuple[str, ...]
    probs: tuple[float, ...]
    indices: tuple[int, ...]
    note: str = ""

    @property
    def top(self) -> str:
        """The best label."""
        return self.labels[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        rows = zip(self.labels, self.probs, self.indices, strict=True)
        return {
            "top": self.top,
            "answers": [{"label": a, "prob": b, "index": c} for a, b, c in rows],
            "note": self.note,
        }

    def __str__(self) -> str:
        answers = ", ".join(f"{label} {prob:.1%}" for label, prob in zip(self.labels, self.probs, strict=True))
        return f"{answers} ({self.note})" if self.note else answers


class Classifier:
    """Answers what is on a picture.

    Args:
        model: maps (N, C, S, S) to logits (N, classes), and with a branch for date and place (N, C, S, S), (N, 4) and
            (N, 3); it is put into evaluation mode.
        preprocessing: what turns a picture into its input.
        class_names: one a class; None takes the names of ImageNet for 1000 and 21841 classes, else numbers.
        name: what to call it.
        note: what to know of it, shown with every answer.

    Attributes:
        model, preprocessing, class_names, name, note: as given.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        class_names: Sequence[str] | None = None,
        *,
        name: str = "",
        note: str = "",
    ) -> None:
        self.model, self.preprocessing, self.name, self.note = model.eval(), preprocessing, name, note
        self.class_names = tuple(class_names) if class_names is not None else _names_for(model)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return next(self.model.parameters()).dtype

    @property
    def takes_metadata(self) -> bool:
        """Whether the model looks at date and place too."""
        return getattr(self.model, "metadata", None) is not None

    @overload
    def predict(
        self,
        images: Image.Image | str | Path,
        *,
        top: int = 5,
        batch_size: int = 32,
        date: Date | None = None,
        location: Location | None = None,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        top: int = 5,
        batch_size: int = 32,
        date: Dates | None = None,
        location: Locations | None = None,
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self,
        images: np.ndarray | Tensor,
        *,
        top: int = 5,
        batch_size: int = 32,
        date: Dates | None = None,
        location: Locations | None = None,
    ) -> Prediction | list[Prediction]: ...

    def predict(
        self,
        images: Any,
        *,
        top: int = 5,
        batch_size: int = 32,
        date: Dates | None = None,
        location: Locations | None = None,
    ) -> Prediction | list[Prediction]:
        """Say what is on one picture, or on each of several.

        Args:
            images: a PIL picture; a path, address, or "-" for standard input; a numpy array (H, W) or (H, W, C) or a
                tensor (H, W) or (C, H, W), uint8 or floats from 0 to 1; a list or tuple of these; or an array of four
                axes, which is several pictures.
            top: how many answers to give, at most all classes.
            batch_size: pictures that go through the model at once.
            date, location: for a model that :attr:`takes_metadata`: when, as yyyy-mm-dd, and where, as (latitude,
                longitude) in degrees, the pictures were taken; a list has one a picture. None is unknown.

        Returns:
            A :class:`Prediction`, or a list of them where several pictures came.

        Raises:
            ValueError: a picture cannot be read (a ``PictureError``), an array has another shape, dtype or range, or a
                date or location means nothing or is not taken.
        """
        for name, value in (("top", top), ("batch_size", batch_size)):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected an integer >= 1")
        several = isinstance(images, (list, tuple)) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4)
        pictures = list(images) if several else [images]
        metadata = self.prepare_metadata(len(pictures), date, location)
        answers: list[Prediction] = []
        for start in range(0, len(pictures), batch_size):
            here = slice(start, start + batch_size)
            batch = torch.stack([self.prepare(picture) for picture in pictures[here]])
            answers += self.answers(batch, top, *(vectors[here] for vectors in metadata))
        return answers if several else answers[0]

    def prepare(self, image: Picture) -> Tensor:
        """One picture as the float32 tensor (C, S, S) that the model takes."""
        return self.preprocessing(as_picture(image))

    def prepare_metadata(
        self, pictures: int, date: Dates | None = None, location: Locations | None = None
    ) -> tuple[Tensor, ...]:
        """Dates and places of so many pictures as (N, 4) and (N, 3), which :meth:`answers` takes after the batch.

        Arguments are those of :meth:`predict`. Nothing, ``()``, for a model that takes no metadata.
        """
        if not self.takes_metadata:
            if date is not None or location is not None:
                raise ValueError(
                    f"{self.name or 'the model'} knows nothing of dates and places; leave date and location out, or "
                    "take a model that does, such as internimage_h_meta"
                )
            return ()
        return metadata_vectors(pictures, date, location)

    @torch.inference_mode()
    def probabilities(self, batch: Tensor, *metadata: Tensor) -> Tensor:
        """(N, C, S, S), prepared, to probabilities (N, classes), float32 on the CPU.

        ``metadata`` is what :meth:`prepare_metadata` gives for them; without it dates and places are unknown.
        """
        logits = self.model(*(tensor.to(self.device, self.dtype) for tensor in (batch, *metadata)))
        return logits.float().softmax(-1).cpu()

    def answers(self, batch: Tensor, top: int = 5, *metadata: Tensor) -> list[Prediction]:
        """Predictions for prepared pictures (N, C, S, S); ValueError when the model gives NaN."""
        probabilities = self.probabilities(batch, *metadata)
        check_numbers(probabilities, self.dtype)
        probs, indices = probabilities.topk(min(top, len(self.class_names)), dim=-1)
        return [
            Prediction(tuple(self.class_names[i] for i in row_indices), tuple(row_probs), tuple(row_indices), self.note)
            for row_probs, row_indices in zip(probs.tolist(), indices.tolist(), strict=True)
        ]

    def __repr__(self) -> str:
        size = self.preprocessing.image_size
        return (
            f"Classifier({self.name or type(self.model).__name__}, {size}x{size}, {len(self.class_names)} classes, "
            f"{self.device}, {str(self.dtype).removeprefix('torch.')})"
        )


def as_picture(image: Picture) -> Image.Image:
    """A picture from whatever :meth:`Classifier.predict` takes for one."""
    if isinstance(image, Image.Image):
        return check_picture(image, "image")
    if isinstance(image, (str, Path)):
        return read_picture(image)
    if isinstance(image, (np.ndarray, Tensor)):
        return from_array(image)
    raise ValueError(
        f"image is {type(image).__name__}, expected a PIL picture, a path, an address, a numpy array or a torch tensor"
    )


def _names_for(model: nn.Module) -> tuple[str, ...]:
    return class_names(int(getattr(model, "num_classes", 1000)))


def load(
    name_or_path: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    backend: str | None = None,
) -> Classifier:
    """A classifier ready for pictures.

    Args:
        name_or_path: a released checkpoint or a size (``internimage models`` lists them; a size is its best one),
            downloaded once; or a file or folder of weights: our own, released, or in Hugging Face format. None is the
            small model that comes with the package.
        weights: take the weights from here; ``name_or_path`` then says which model they are for, which is needed only
            where the file does not tell.
        device: "cpu", "cuda:0" and the like; None is the fastest here.
        dtype: what to compute in, "float32" unless given. No float32 copy of the weights is made for another.
        backend: how DCNv3 is computed; None picks the fastest.

    Raises:
        ValueError: an unknown name (the message names the nearest), or weights that do not fit.
        OSError: a file is not there, or a download failed.
        BackendError: there is no such backend.
    """
    where, numbers = pick_device(device), pick_dtype(dtype)
    if backend is not None:
        named(BACKENDS, backend)  # before anything is downloaded
    name = None if name_or_path is None else str(name_or_path)
    source = source_of(name) if weights is None else str(weights)
    checkpoint = open_checkpoint(source)
    config, classes = _architecture(checkpoint, None if weights is None else name)
    with torch.device("meta"):  # the values come from the file, in the numbers asked for
        model = InternImageClassifier(config, classes, backend=backend).to(numbers)
    load_weights(model, source, device=where)
    return _with_card(model, checkpoint) or _without_card(model, checkpoint, name)


def outline(name_or_path: str | Path | None = None) -> Classifier:
    """What :func:`load` gives, without the weights: its parameters are on the meta device and hold no values.

    It says how pictures are prepared, what the classes are called and what the network is, and costs no memory.
    """
    name = None if name_or_path is None else str(name_or_path)
    checkpoint = open_checkpoint(source_of(name))
    config, classes = _architecture(checkpoint, None)
    with torch.device("meta"):
        model = InternImageClassifier(config, classes)
    return _with_card(model, checkpoint) or _without_card(model, checkpoint, name)


def source_of(name: str | None) -> str:
    """Where the weights of a name are: in the package, on the hub, or in the file of that name."""
    if name is not None and name != EMBEDDED:
        source = catalog.DEFAULTS.get(name, name)
        entry = None if Path(source).exists() else catalog.find(source)
        if entry is not None and (entry.task != "classification" or entry.model not in list_models()):
            raise ValueError(f"{name} is {entry.head} on {entry.model}, which is no classifier of this package")
        return source
    path = embedded_weights(EMBEDDED)
    if not path.is_file():
        raise FileNotFoundError(
            f"the embedded model {path.name} is missing from this installation; name one with --model"
        )
    return str(path)


def _architecture(checkpoint: Checkpoint, name: str | None) -> tuple[InternImageConfig, int]:
    """Configuration and number of classes: of the named model, or as the checkpoint tells."""
    if name is None or checkpoint.card is not None:
        config, classes = architecture_of(checkpoint)
    else:
        entry, shapes = catalog.find(name), released_shapes(checkpoint.shapes)
        config = get_config(name if entry is None else entry.model)
        classes = next((shapes[key][0] for key in ("head.weight", "head.fc.weight") if key in shapes), 0)
    if classes == 0:
        raise WeightsError(f"{checkpoint.name} has no classifier; internimage.load_weights puts it into a backbone")
    return config, classes


def _with_card(model: nn.Module, checkpoint: Checkpoint) -> Classifier | None:
    """For files of our own, which say how they are used."""
    card = checkpoint.card
    if card is None or card.preprocessing is None:
        return None
    return Classifier(model, card.preprocessing, card.class_names, name=card.name, note=card.note)


def _without_card(model: InternImageClassifier, checkpoint: Checkpoint, name: str | None) -> Classifier:
    """For released files: the released preprocessing, at the size that the catalog or the file's name tells."""
    entry = checkpoint.released or catalog.find(Path(checkpoint.name).name)
    size, note = image_size_of(checkpoint, model.config), ""
    preprocessing = Preprocessing(image_size=size)
    if model.config.in_chans == 1:
        preprocessing = Preprocessing(image_size=size, mode="L", mean=GREY_MEAN, std=GREY_STD)
    if entry is not None and entry.task == "classification" and entry.num_classes == model.num_classes:
        note = f"trained on {entry.dataset}, {model.num_classes:,} classes"
    title = entry.name if entry is not None else name or Path(checkpoint.name).name
    return Classifier(model, preprocessing, name=title, note=note)
