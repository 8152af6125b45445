"""Batches for training and evaluation, read by worker processes: the same batches for any number of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from .dataset import PictureDataset, Sample
from .mixing import Mixing, check_even
from .order import ALONE, EpochOrder, Place, Share
from .pictures import PictureError
from .seeds import seeded

Transform = Callable[[Image.Image], Tensor]
Inputs = Tensor | tuple[Tensor, ...]  # images (N, C, S, S), or those and the extras of each, such as (N, 4) and (N, 3)

PADDING = -1  # the label of what stands in for no picture, or for one that cannot be read
MAX_IN_A_ROW = 50  # bad pictures that are replaced before something else must be wrong, as in the released code
NO_PICTURE = Image.new("RGB", (64, 64))
BAD_POLICIES = ("skip", "raise")
_STREAM = 1  # sets the random numbers of transforms apart from those of mixing
_KEPT_REASONS = 1000
_GRACE_SECONDS = 30


class SkippedPictures:
    """Which pictures could not be read: ``count`` of times, and ``reasons`` by picture, the first thousand."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: dict[str, int] = {}

    def add(self, reasons: Sequence[str]) -> None:
        """Note what a batch left out."""
        self.count += len(reasons)
        for reason in reasons:
            if reason in self.reasons or len(self.reasons) < _KEPT_REASONS:
                self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def __len__(self) -> int:
        return len(self.reasons)


class EvaluationBatch(NamedTuple):
    """``inputs`` as for training, ``labels`` (N,) int64, -1 for padding, ``indices`` (N,) in the data set, -1 too."""

    inputs: Inputs
    labels: Tensor
    indices: Tensor


class Loaded(NamedTuple):
    """What a worker hands over: tensors, the reasons for what it left out, and what it failed with, if it did."""

    inputs: Inputs
    labels: Tensor
    indices: Tensor
    skipped: tuple[str, ...] = ()
    failure: str | None = None


def training_batches(
    dataset: PictureDataset,
    order: EpochOrder,
    transform: Transform,
    *,
    first_step: int = 0,
    last_step: int,
    share: Share = ALONE,
    workers: int = 0,
    bad: str = "skip",
    skipped: SkippedPictures | None = None,
    mixing: Mixing | None = None,
    device: torch.device | None = None,
    prefetch: int = 2,
) -> Iterator[tuple[Inputs, Tensor]]:
    """The micro-batches of one process from ``first_step`` up to, not including, ``last_step``.

    One set of workers serves all epochs, so that none of them begins with an empty queue. What a batch holds follows
    from the order's seed and the step alone: not from ``workers``, nor from where the run began.

    Args:
        transform: from a picture to a tensor; draws from Python's, numpy's and torch's generators, which are seeded
            for each picture.
        bad: "skip" puts the next picture in the place of one that cannot be read, and notes it in ``skipped``;
            "raise" stops.
        mixing: applied to each micro-batch, on ``device``.
        device: where the tensors are put; None leaves them on the CPU.
        prefetch: batches that each worker prepares ahead.

    Yields:
        (inputs, targets): images (N, C, S, S), or (images, *extras); labels (N,) int64, or soft targets (N, classes)
        with ``mixing``.

    Raises:
        ValueError: an argument means nothing, or steps cannot be cut into equal micro-batches.
        PictureError: a picture cannot be read and ``bad`` is "raise", or 50 in a row cannot.
    """
    check_bad(bad)
    size = share.micro_batch_size(order.batch_size)
    if order.parts not in (1, share.world_size):
        raise ValueError(f"the order has {order.parts} parts, expected 1 or as many as processes, {share.world_size}")
    if mixing is not None:
        check_even(size)
    places = _Places(order, first_step, last_step, share)
    pictures = TrainingPictures(dataset, transform, order.seed, bad)
    loader = make_loader(pictures, workers, prefetch, device, batch_sampler=places)
    return _received(iter(loader), first_step, share, skipped, mixing, device)


class EvaluationBatches:
    """Every picture once over all processes, in the same number of batches for each; may be gone through repeatedly.

    Process ``rank`` takes the pictures at ``rank``, ``rank + world_size``, ... What is missing to equal parts, and what
    cannot be read, is zeros with label -1.
    """

    def __init__(self, loader: DataLoader, batches: int, skipped: SkippedPictures | None, device: torch.device | None):
        self._loader, self._batches, self._skipped, self._device = loader, batches, skipped, device

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[EvaluationBatch]:
        for loaded in self._loader:
            checked = check_loaded(loaded, self._skipped)
            inputs, labels, indices = moved((checked.inputs, checked.labels, checked.indices), self._device)
            yield EvaluationBatch(inputs, labels, indices)


def evaluation_batches(
    dataset: PictureDataset,
    transform: Transform,
    *,
    batch_size: int,
    share: Share = ALONE,
    workers: int = 0,
    bad: str = "skip",
    skipped: SkippedPictures | None = None,
    first_batch: int = 0,
    device: torch.device | None = None,
    prefetch: int = 2,
) -> EvaluationBatches:
    """Batches of ``batch_size`` for each process, in the order of the data set.

    Args:
        bad: "skip" leaves a picture out that cannot be read, and notes it in ``skipped``; "raise" stops.
        first_batch: where to begin, for an evaluation that goes on.

    Raises:
        ValueError: there are no pictures, or an argument means nothing.
    """
    check_bad(bad)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    if len(dataset) == 0:
        raise ValueError("there are no pictures to evaluate on")
    batches = evaluation_indices(len(dataset), batch_size, share)[first_batch:]
    pictures = EvaluationPictures(dataset, transform, bad)
    loader = make_loader(pictures, workers, prefetch, device, batch_sampler=batches, persistent=True)
    return EvaluationBatches(loader, len(batches), skipped, device)


def evaluation_indices(length: int, batch_size: int, share: Share) -> list[list[int]]:
    """The indices of each batch of one process; -1 where there is no picture left."""
    mine = list(range(share.rank, length, share.world_size))
    slots = -(-length // share.world_size)
    mine += [PADDING] * (slots - len(mine))
    return [mine[start : start + batch_size] for start in range(0, slots, batch_size)]


class TrainingPictures(Dataset):
    """A batch for a list of places; lives in the workers."""

    def __init__(self, dataset: PictureDataset, transform: Transform, seed: int, bad: str) -> None:
        self.dataset, self.transform, self.seed, self.bad = dataset, transform, seed, bad

    def __getitems__(self, places: list[Place]) -> Loaded:
        reasons: list[str] = []
        try:
            samples = [(place, self._readable(place.picture, reasons)) for place in places]
        except PictureError as error:
            return failed(error)
        changed = [(changed_at(place, sample, self.transform, self.seed), sample) for place, sample in samples]
        return collated(changed, [place.picture for place in places], reasons)

    def _readable(self, index: int, reasons: list[str]) -> Sample:
        """The picture at ``index``, or the next one that can be read."""
        for ahead in range(MAX_IN_A_ROW):
            try:
                return self.dataset.read((index + ahead) % len(self.dataset))
            except PictureError as error:
                if self.bad == "raise":
                    raise
                reasons.append(str(error))
        raise too_many_bad(reasons)


class EvaluationPictures(Dataset):
    """A batch for a list of indices, -1 for padding; lives in the workers."""

    def __init__(self, dataset: PictureDataset, transform: Transform, bad: str) -> None:
        self.dataset, self.transform, self.bad = dataset, transform, bad

    def __getitems__(self, indices: list[int]) -> Loaded:
        samples: list[Sample | None] = []
        reasons: list[str] = []
        for index in indices:
            try:
                samples.append(self.dataset.read(index) if index != PADDING else None)
            except PictureError as error:
                if self.bad == "raise":
                    return failed(error)
                reasons.append(str(error))
                samples.append(None)
        return padded(samples, indices, self.transform, reasons)


class _Places:
    """The batch sampler of training: places of each micro-batch."""

    def __init__(self, order: EpochOrder, first_step: int, last_step: int, share: Share) -> None:
        self.order, self.first_step, self.last_step, self.share = order, first_step, last_step, share

    def __iter__(self) -> Iterator[list[Place]]:
        return self.order.micro_batches(self.first_step, self.last_step, self.share)

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step) * self.share.accumulation


def changed_at(place: Place, sample: Sample, transform: Transform, seed: int) -> Tensor:
    """The picture changed as its place in the run says."""
    with seeded(_STREAM, seed, place.epoch, place.position):
        return transform(sample.picture)


def collated(changed: list[tuple[Tensor, Sample]], indices: list[int], reasons: list[str]) -> Loaded:
    """Stack pictures, labels and extras."""
    images = default_collate([tensor for tensor, _ in changed])
    labels = torch.tensor([sample.label for _, sample in changed])
    extras = tuple(torch.stack(rows) for rows in zip(*(sample.extras for _, sample in changed), strict=True))
    return Loaded((images, *extras) if extras else images, labels, torch.tensor(indices), tuple(reasons))


def padded(samples: list[Sample | None], indices: list[int], transform: Transform, reasons: list[str]) -> Loaded:
    """As :func:`collated`, with zeros and label -1 where there is no sample."""
    there = next((sample for sample in samples if sample is not None), None)
    missing = Sample(NO_PICTURE, PADDING, () if there is None else tuple(map(torch.zeros_like, there.extras)))
    full = [sample or missing for sample in samples]
    changed = [(_blank(transform) if s is missing else transform(s.picture), s) for s in full]
    kept = [PADDING if sample is missing else index for sample, index in zip(full, indices, strict=True)]
    return collated(changed, kept, reasons)


def _blank(transform: Transform) -> Tensor:
    """Zeros in the shape that ``transform`` gives."""
    return torch.zeros_like(transform(NO_PICTURE))


def failed(error: Exception) -> Loaded:
    """An error as data: raised by the process that asked, without the worker's traceback."""
    nothing = torch.empty(0)
    return Loaded(nothing, nothing, nothing, failure=str(error))


def too_many_bad(reasons: list[str]) -> PictureError:
    """When replacing a picture was given up."""
    return PictureError(f"{MAX_IN_A_ROW} pictures in a row cannot be read, the last one {reasons[-1]}")


def make_loader(
    dataset: Dataset, workers: int, prefetch: int, device: torch.device | None, persistent: bool = False, **how: Any
) -> DataLoader:
    """A DataLoader that draws no random numbers and whose workers leave Ctrl-C to the main process."""
    if workers < 0 or prefetch < 1:
        raise ValueError(f"workers is {workers} and prefetch {prefetch}, expected 0 or more and 1 or more")
    return _Loader(
        dataset,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=persistent and workers > 0,
        pin_memory=device is not None and device.type == "cuda",
        collate_fn=_as_it_is,
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # else every start would draw from the generator that the model draws from
        **how,
    )


class _Loader(DataLoader):
    def check_worker_number_rationality(self) -> None:
        """No warning for more workers than cores: on a busy disk they are worth it."""


def check_loaded(loaded: Loaded, skipped: SkippedPictures | None) -> Loaded:
    """Raise what a worker failed with, and note what it left out."""
    if loaded.failure is not None:
        raise PictureError(loaded.failure)
    if skipped is not None:
        skipped.add(loaded.skipped)
    return loaded


def moved(values: Any, device: torch.device | None) -> Any:
    """Tensors, alone or in tuples, on ``device``."""
    if device is None:
        return values
    if isinstance(values, Tensor):
        return values.to(device, non_blocking=True)
    return tuple(moved(value, device) for value in values)


def check_bad(bad: str) -> None:
    """ValueError for an unknown policy."""
    if bad not in BAD_POLICIES:
        raise ValueError(f"bad is {bad!r}, expected 'skip' or 'raise'")


def _received(
    batches: Iterator[Loaded],
    first_step: int,
    share: Share,
    skipped: SkippedPictures | None,
    mixing: Mixing | None,
    device: torch.device | None,
) -> Iterator[tuple[Inputs, Tensor]]:
    """What the workers send, checked, moved and mixed."""
    for number, loaded in enumerate(batches):
        inputs, labels = moved(check_loaded(loaded, skipped)[:2], device)
        if mixing is not None:
            step, micro = divmod(number, share.accumulation)
            images, *extras = inputs if isinstance(inputs, tuple) else (inputs,)
            images, labels = mixing(images, labels, step=first_step + step, share=share.number(micro))
            inputs = (images, *extras) if extras else images
        yield inputs, labels


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _outlive_signals(worker: int) -> None:
    """A signal to the whole group must not take the workers from a main process that is about to save.

    Ctrl-C is left to it; SIGTERM ends a worker some time later, should nobody have ended it until then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
