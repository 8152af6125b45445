"""Opens the pictures that a recipe is trained on, in two parts, the way the recipe reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.batches import check_bad
from ...data.dataset import PictureDataset, Subset, check_every_class
from ...data.formats import has_split, open_dataset
from ...data.in_memory import read_into_memory
from ...data.labelled import LabelledImages
from ...data.loaders import make_order
from ...data.memory_cache import MODES, cache_pictures
from ...data.order import EpochOrder, Share
from ...data.shards import Shards
from ...data.split import stratified_split
from ...data.stored import StoredPictures
from ...evaluate.classes import is_imagenet_22k
from ...processes import Processes
from ...recipes.classification import DATASETS, ClassificationRecipe
from .file_source import PicturesFromFiles
from .memory_source import PicturesInMemory
from .source import Source

Progress = Callable[[int, int], None]
Pictures = PictureDataset | Shards


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How pictures are read, which changes nothing in what is read.

    Attributes:
        val: what to measure on; "" for a part of the data that is set aside already, or else held out.
        workers: processes that read, for each process that trains.
        bad: "skip" or "raise" where a picture cannot be read.
        cache: "no", "full", "part" or "memory"; see :func:`~internimage.data.memory_cache.cache_pictures`.
        fast_decode: decode large JPEGs at a part of their size, never below four times the side of the input.
        accumulation: micro-batches of each process a step.
    """

    val: str = ""
    workers: int = 0
    bad: str = "skip"
    cache: str = "no"
    fast_decode: bool = False
    accumulation: int = 1

    def __post_init__(self) -> None:
        check_bad(self.bad)
        if self.cache not in MODES:
            raise ValueError(f"cache is {self.cache!r}, expected one of {', '.join(MODES)}")


def _silent(done: int, total: int) -> None:
    pass


def open_source(
    recipe: ClassificationRecipe,
    processes: Processes,
    reading: Reading,
    progress: Progress = _silent,
    parts: tuple[Pictures, Pictures | None] | None = None,
) -> Source:
    """The pictures of ``recipe.data``, and what is measured on, as the recipe reads them.

    Args:
        parts: the two, where they are open already.

    Raises:
        FileNotFoundError, ValueError: they are not there, of other classes than the recipe's data set, or too few.
    """
    trained_on, held_out = parts or open_parts(recipe, reading)
    if recipe.source == "memory":
        return _in_memory(recipe, trained_on, held_out, processes, progress, reading.bad)
    if reading.fast_decode:
        trained_on, held_out = (_reduced(part, 4 * recipe.image_size) for part in (trained_on, held_out))
    own_part, cache = recipe.cache == "memory", reading.cache
    if own_part and _lie_in_files(trained_on):
        cache = "memory"
    if cache != "no":
        trained_on = _cached(trained_on, recipe, processes, reading, cache, progress)
    return PicturesFromFiles(
        recipe,
        trained_on,
        held_out,
        processes,
        accumulation=reading.accumulation,
        workers=reading.workers,
        bad=reading.bad,
        own_part=cache == "memory",
    )


def open_parts(recipe: ClassificationRecipe, reading: Reading) -> tuple[Pictures, Pictures | None]:
    """What is trained on, and what is measured on: given, set aside in the data, or held out by the recipe's seed."""
    whole = open_dataset(recipe.data, "train")
    wanted = None if recipe.dataset is None else DATASETS[recipe.dataset]
    if wanted is not None and len(whole.class_names) != wanted:
        raise ValueError(
            f"{recipe.data} has {len(whole.class_names)} classes, but the recipe {recipe.name} is for "
            f"{recipe.dataset}, which has {wanted}; add --set dataset=None to train on other pictures"
        )
    if not isinstance(whole, Shards):
        check_every_class(whole)
    if reading.val or has_split(recipe.data, "val"):
        return whole, open_measured(reading.val or recipe.data, whole.class_names)
    if isinstance(whole, Shards) or not recipe.held_out:
        return whole, None  # shards are read in their own order: measure on others, with --val
    mine, apart = stratified_split(whole.labels, recipe.held_out, recipe.seed)
    return subset(whole, mine), subset(whole, apart) if len(apart) else None


def open_measured(data: str, class_names: Sequence[str]) -> Pictures:
    """Pictures to measure on, of classes among ``class_names``; for ImageNet-22K they are of ImageNet-1K."""
    return open_dataset(data, "val", class_names=None if is_imagenet_22k(class_names) else class_names)


def subset(pictures: PictureDataset, indices: Tensor) -> PictureDataset:
    """The pictures at ``indices``."""
    return pictures.subset(indices) if isinstance(pictures, LabelledImages) else Subset(pictures, indices)


def _in_memory(
    recipe: ClassificationRecipe,
    trained_on: Pictures,
    held_out: Pictures | None,
    processes: Processes,
    progress: Progress,
    bad: str,
) -> PicturesInMemory:
    if isinstance(trained_on, Shards) or isinstance(held_out, Shards):
        raise ValueError("tar shards are not kept in memory; add --set source=files, or take a recipe that reads files")
    mine = _read(recipe, trained_on, progress, bad)
    nothing = mine.subset(mine.labels[:0])
    apart = nothing if held_out is None else _read(recipe, held_out, progress, bad, every_class=False)
    return PicturesInMemory(recipe, mine, apart, processes.device)


def _read(
    recipe: ClassificationRecipe, pictures: PictureDataset, progress: Progress, bad: str, every_class: bool = True
) -> LabelledImages:
    if isinstance(pictures, LabelledImages):
        return pictures.with_channels(recipe.channels)
    return read_into_memory(pictures, recipe.preprocessing, progress, every_class, bad)


def _reduced(pictures: Any, at_least: int) -> Any:
    """Pictures in files decoded no larger than needed; others as they are."""
    if isinstance(pictures, Subset):
        return Subset(_reduced(pictures.dataset, at_least), pictures.indices)
    return pictures.reduced(at_least) if isinstance(pictures, StoredPictures) else pictures


def _lie_in_files(pictures: Pictures) -> bool:
    return isinstance(pictures.dataset if isinstance(pictures, Subset) else pictures, StoredPictures)


def _cached(
    pictures: Pictures,
    recipe: ClassificationRecipe,
    processes: Processes,
    reading: Reading,
    cache: str,
    progress: Progress,
) -> Pictures:
    if isinstance(pictures, Shards):
        raise ValueError(f"cache={cache!r} goes with pictures in files or archives; tar shards are streamed")
    share = Share(processes.rank, processes.world_size, reading.accumulation)
    order = make_order(pictures, recipe.batch_size, recipe.seed, share, own_part=cache == "memory")
    assert isinstance(order, EpochOrder)
    return cache_pictures(pictures, cache, order, share, progress)  # type: ignore[arg-type]
