"""Batches for training and evaluation, read by worker processes: the same batches for any number of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..devices import moved
from .batches import PADDING, EvaluationPictures, Inputs, Loaded, TrainingPictures, Transform, check_bad
from .dataset import PictureDataset
from .mixing import Mixing, check_even
from .order import ALONE, EpochOrder, Place, Share
from .pictures import PictureError
from .shard_stream import EvaluationStream, ShardOrder, TrainingStream
from .shards import Shards

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


def make_order(
    dataset: PictureDataset | Shards, batch_size: int, seed: int, share: Share = ALONE, *, own_part: bool = False
) -> EpochOrder | ShardOrder:
    """The order that fits a data set, for ``steps_per_epoch`` and for :func:`training_batches`.

    Args:
        batch_size: pictures of a step, over all processes and accumulation.
        own_part: each process keeps to a part of its own, as for pictures held in memory; see :class:`EpochOrder`.
            Shards are always dealt out so.

    Raises:
        ValueError: the pictures do not fill a step.
    """
    if isinstance(dataset, Shards):
        return ShardOrder(dataset, batch_size, seed, share)
    return EpochOrder(len(dataset), batch_size, seed, share.world_size if own_part else 1)


def training_batches(
    dataset: PictureDataset | Shards,
    order: EpochOrder | ShardOrder,
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
    if isinstance(order, EpochOrder) and order.parts not in (1, share.world_size):
        raise ValueError(f"the order has {order.parts} parts, expected 1 or as many as processes, {share.world_size}")
    if mixing is not None:
        check_even(size)
    if isinstance(order, ShardOrder):
        if order.share != share:
            raise ValueError(f"the order was made for {order.share}, not for {share}")
        stream = TrainingStream(order, transform, first_step, last_step, bad)
        loader = make_loader(stream, workers, prefetch, device, batch_size=None)
    else:
        assert not isinstance(dataset, Shards)
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
    dataset: PictureDataset | Shards,
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
    if isinstance(dataset, Shards):
        stream = EvaluationStream(dataset, transform, batch_size, share, bad, first_batch)
        loader = make_loader(stream, workers, prefetch, device, persistent=True, batch_size=None)
        return EvaluationBatches(loader, stream.batches, skipped, device)
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


class _Places:
    """The batch sampler of training: places of each micro-batch."""

    def __init__(self, order: EpochOrder, first_step: int, last_step: int, share: Share) -> None:
        self.order, self.first_step, self.last_step, self.share = order, first_step, last_step, share

    def __iter__(self) -> Iterator[list[Place]]:
        return self.order.micro_batches(self.first_step, self.last_step, self.share)

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step) * self.share.accumulation


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
