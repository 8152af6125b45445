"""How many pictures a second the loader reads, decodes and augments, and what takes the time."""

from __future__ import annotations

import io
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.formats import open_dataset
from ..data.loaders import make_order, training_batches
from ..data.pictures import PictureError, decode
from ..data.seeds import seeded
from ..data.shards import Shards
from ..data.stored import StoredPictures
from ..data.training_transform import TrainingTransform
from . import machine

MADE_UP_SIZE = (500, 375)  # the usual picture of ImageNet
_QUALITY, _GRAIN = 90, 18.0
_CROPS_LOSE_NOTHING = 4  # times the size trained on; see StoredPictures.reduced


def measure(
    data: str | None,
    workers: Sequence[int],
    size: int = 224,
    batch_size: int = 64,
    seconds: float = 10.0,
    pictures: int = 200,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time the steps of one picture in this process, then whole batches for each number of workers.

    Args:
        data: as :func:`~internimage.data.formats.open_dataset` takes it.
        workers: numbers of worker processes; 0 is none.
        size: side of the pictures that come out, in pixels.
        seconds: of each measurement, after the first batches, which are not counted.
        pictures: that the single steps are timed on.

    Returns:
        ``steps_ms``: milliseconds a picture, means; ``rates``: images a second by number of workers, and, without
        any, a second of one core's time, which other work on the machine leaves alone; ``machine``.

    Raises:
        ValueError, FileNotFoundError: there is no such data set.
    """
    dataset = open_dataset(data or "", "train")
    transform = TrainingTransform(size)
    steps = {}
    if isinstance(dataset, StoredPictures):
        say("the steps of one picture")
        steps = time_steps(dataset, transform, size, pictures)
    rates = []
    for number in workers:
        say(f"{number} workers" if number != 1 else "1 worker")
        rates.append(_rate(dataset, transform, number, batch_size, seconds))
    return {
        "data": str(data),
        "pictures": len(dataset),
        "image_size": size,
        "batch_size": batch_size,
        "augmentation": "RandomResizedCrop, flip, rand-m9-mstd0.5-inc1, erasing 0.25",
        "steps_ms": steps,
        "rates": rates,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }


def time_steps(dataset: StoredPictures, transform: TrainingTransform, size: int, pictures: int) -> dict[str, float]:
    """Mean milliseconds a picture: reading its file, mostly from the system's memory, and of one core decoding it in
    three ways and augmenting it."""
    chosen = torch.linspace(0, len(dataset) - 1, min(pictures, len(dataset))).long().tolist()
    readable = [index for index in chosen if _can_be_read(dataset, index)]
    if not readable:
        raise ValueError(f"none of {len(chosen)} pictures of {dataset.place} can be read")
    contents = [dataset.read_bytes(index) for index in readable]
    decoded = [dataset.read(index).picture for index in readable]
    steps = {
        "read": _mean_ms(dataset.read_bytes, readable, time.perf_counter),
        "decode": _mean_ms(lambda data: decode(io.BytesIO(data), ""), contents),
        "decode_reduced": _mean_ms(lambda data: decode(io.BytesIO(data), "", _CROPS_LOSE_NOTHING * size), contents),
        "augment": _mean_ms(transform, decoded),
    }
    jpegs = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in contents if data[:2] == b"\xff\xd8"]
    decode_jpeg = _torchvision_decoder()
    if jpegs and decode_jpeg is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it is to go, and is what others compare with
            steps["decode_torchvision"] = _mean_ms(decode_jpeg, jpegs)
    return {name: round(value, 3) for name, value in steps.items()}


def workers_needed(rates: Sequence[dict[str, Any]], images_per_s: float) -> float | None:
    """How many workers prepare so many images a second, with a core each; None where nothing tells."""
    each = [rate["images_per_core_s"] for rate in rates if rate["images_per_core_s"]]
    each = each or [rate["images_per_s"] / rate["workers"] for rate in rates if rate["workers"]]
    return images_per_s / max(each) if each else None


def make_up(folder: Path, count: int = 256, size: tuple[int, int] = MADE_UP_SIZE) -> Path:
    """A folder of two classes with JPEG files about as large as those of ImageNet, 110 kB each."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("odd" if number % 2 else "even") / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _photo(generator, size).save(path, quality=_QUALITY)
    return folder


def _photo(generator: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Noise of several sizes, the large ones stronger, as in a photo, and a little of single pixels."""
    width, height = size
    total = generator.normal(0, _GRAIN, (height, width, 3))
    for cells in (4, 16, 64, 256):
        small = generator.normal(0, 200 / cells**0.5, (max(1, height * cells // width), cells, 3))
        for channel in range(3):
            layer = Image.fromarray(small[..., channel].astype(np.float32))
            total[..., channel] += np.asarray(layer.resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))


def _torchvision_decoder() -> Callable[[Tensor], Tensor] | None:
    """None where torchvision has none any more."""
    try:
        from torchvision.io import decode_jpeg
    except ImportError:
        return None
    return decode_jpeg


def _can_be_read(dataset: StoredPictures, index: int) -> bool:
    try:
        dataset.read(index)
    except PictureError:
        return False
    return True


def _mean_ms(call: Callable[[Any], Any], values: Sequence[Any], clock: Callable[[], float] = time.thread_time) -> float:
    """Of one call. The clock of this thread stands still while others have the core."""
    times = []
    with seeded(0):
        for value in values:
            start = clock()
            call(value)
            times.append(clock() - start)
    return 1000 * statistics.fmean(times)


def _rate(dataset: Any, transform: TrainingTransform, workers: int, batch_size: int, seconds: float) -> dict[str, Any]:
    """Images a second of the training loader."""
    batch_size = batch_size if isinstance(dataset, Shards) else min(batch_size, len(dataset))
    order = make_order(dataset, batch_size, seed=0)
    batches = training_batches(dataset, order, transform, last_step=10**9, workers=workers)
    for _ in range(2 * workers + 1):  # what workers prepare ahead must not count
        next(batches)
    start, core, count = time.perf_counter(), time.process_time(), 0
    while count < 2 * max(1, workers) or time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    images, wall, core = count * batch_size, time.perf_counter() - start, time.process_time() - core
    batches.close()  # type: ignore[attr-defined]
    return {
        "workers": workers,
        "images_per_s": round(images / wall, 1),
        "images_per_core_s": None if workers else round(images / core, 1),
    }
