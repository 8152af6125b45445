"""Pictures of one's own in two parts, and the recipe that fits them and the model to start from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ...backbones.config import SIZES, InternImageConfig
from ...classifier import EMBEDDED, outline
from ...data.dataset import PictureDataset, check_every_class
from ...data.formats import has_split, open_dataset
from ...data.shards import Shards
from ...data.split import stratified_split
from ...models import InternImageClassifier
from ...recipes.classification import ClassificationRecipe
from ...recipes.finetuning import finetuning_recipe, held_out_share
from ...weights import catalog
from .sources import Pictures, open_measured, subset


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Pictures to learn from and, beside or among them, those to measure on.

    Attributes:
        pictures: all that were given to learn from.
        val: those to measure on where they were given too; else None, and ``share`` of each class is held out.
        seed: of the division.
    """

    pictures: PictureDataset
    val: PictureDataset | None
    share: float
    seed: int

    def __post_init__(self) -> None:
        check_every_class(self.pictures)

    def divide(self) -> tuple[Tensor, Tensor]:
        """Positions of what is learned from and of what is held out."""
        return stratified_split(self.pictures.labels, self.share, self.seed)

    @property
    def learned_from(self) -> int:
        """How many pictures are learned from."""
        return len(self.divide()[0])

    def both(self) -> tuple[PictureDataset, PictureDataset | None]:
        """The two parts, of which no picture is read yet; None where nothing is held out."""
        if self.val is not None:
            return self.pictures, self.val
        first, second = self.divide()
        return subset(self.pictures, first), subset(self.pictures, second) if len(second) else None


def open_parts(data: str, val: str | None = None, held_out: float | None = None, seed: int = 0) -> Parts:
    """Open pictures to learn from, and those to measure on.

    Args:
        data: what :func:`~internimage.data.formats.open_dataset` takes, but for shards.
        val: likewise; None takes the part of ``data`` that is set aside, and else holds out ``held_out`` of each class.
        held_out: None is by the number of pictures.

    Raises:
        FileNotFoundError, ValueError: there are no such pictures, a class has none, or the classes of ``val`` are
            others; the message says which.
    """
    if val is not None and held_out is not None:
        raise ValueError("--val and --held-out both say what to measure on; give one of them")
    if held_out is not None and not 0 <= held_out < 1:
        raise ValueError(f"--held-out is {held_out}, expected 0 to below 1")
    pictures = _by_position(open_dataset(data, "train"), data)
    if val is not None or (held_out is None and has_split(data, "val")):
        measured = _by_position(open_measured(val or data, pictures.class_names), val or data)
        return Parts(pictures=pictures, val=measured, share=0.0, seed=seed)
    share = held_out_share(len(pictures)) if held_out is None else held_out
    return Parts(pictures=pictures, val=None, share=share, seed=seed)


def _by_position(opened: Pictures, data: str) -> PictureDataset:
    if isinstance(opened, Shards):
        raise ValueError(
            f"{data} are shards, of which no part can be held out; unpack them, or use `internimage train` with --val"
        )
    return opened


def make_recipe(
    parts: Parts, model: str | None, data: str, image_size: int | None = None, shares: int = 1
) -> ClassificationRecipe:
    """The recipe for these pictures and a model to start from: a name or a file; None is the embedded one.

    Args:
        shares: parts that a step is cut into; its batch is a multiple of them.

    Raises:
        ValueError: there is no such model, or nothing to learn.
        OSError: a download failed.
    """
    base = outline(model)
    preprocessing = base.preprocessing
    if image_size is not None:
        preprocessing = replace(preprocessing, image_size=image_size)
    assert isinstance(base.model, InternImageClassifier)
    config = replace(base.model.config, use_metadata=False)  # the pictures come without dates and places
    names = tuple(parts.pictures.class_names)
    recipe = finetuning_recipe(
        size_of(config, base.name),
        parts.learned_from,
        len(names),
        preprocessing=preprocessing,
        pretrained=model or EMBEDDED,
        pretrained_classes=len(base.class_names),
        config=config,
        data=data,
        subject=subject_of(data),
        shares=shares,
    )
    if names == base.class_names:  # more of the same: what the classifier knows is kept
        recipe = replace(recipe, head_start="pretrained", head_init_scale=1.0)
    return recipe


def size_of(config: InternImageConfig, name: str) -> str:
    """The size whose configuration this is, or the nearest one."""
    entry = catalog.find(name)
    likely = [name, *([] if entry is None else [entry.model])]
    known = [size for size in (*likely, *SIZES) if size in SIZES and not SIZES[size].use_metadata]

    def distance(size: str) -> float:
        other = SIZES[size]
        if other.core_op != config.core_op or other.use_clip_projector != config.use_clip_projector:
            return math.inf
        return abs(math.log(other.channels / config.channels)) + abs(sum(other.depths) - sum(config.depths)) / 100

    return min(known, key=distance)


def subject_of(data: str) -> str:
    """What the pictures are called: the name of their folder, or file without its suffix."""
    text = data.partition(":")[2] if data.partition(":")[0] in ("hf", "folder", "list", "zip") else data
    return Path(text).resolve().name.partition(".")[0] or "pictures"
