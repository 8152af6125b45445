"""What a classifier said to each picture of a data set, whoever asked it and in however many goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

TOP = 5
NOT_YET, UNREADABLE = -1, -2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What was said to some pictures, and which of the others could not be read.

    Attributes:
        indices: (n,) positions in the data set; the other tensors go with them.
        labels, best: (n,) true and best class.
        in_top5: (n,) whether the true class is among the five best.
        loss: (n,) cross-entropy; prob: (n,) probability of the best class.
        unreadable: position and reason.
    """

    indices: Tensor
    labels: Tensor
    best: Tensor
    in_top5: Tensor
    loss: Tensor
    prob: Tensor
    unreadable: tuple[tuple[int, str], ...] = ()


def judge(indices: Tensor, logits: Tensor, labels: Tensor, unreadable: Sequence[tuple[int, str]] = ()) -> Batch:
    """The answers in logits (n, classes), on the CPU; by logits, since the smallest probabilities may all be 0."""
    logits = logits.float()
    labels = labels.to(logits.device)
    best = logits.topk(min(TOP, logits.shape[1])).indices
    log_probs = F.log_softmax(logits, 1)
    return Batch(
        indices=indices,
        labels=labels.to("cpu", torch.int32),
        best=best[:, 0].to("cpu", torch.int32),
        in_top5=(best == labels[:, None]).any(1).cpu(),
        loss=F.nll_loss(log_probs, labels, reduction="none").cpu(),
        prob=log_probs.max(1).values.exp().cpu(),
        unreadable=tuple(unreadable),
    )


@dataclass(kw_only=True)
class Answers:
    """What was said to all pictures of a data set: tensors as in :class:`Batch`, one value a picture.

    ``best`` is ``NOT_YET`` for pictures that nobody asked about and ``UNREADABLE`` for those of ``unreadable``, which
    holds the reasons by position. ``seconds`` is the time taken, ``model_seconds`` the part of it that the model took.
    """

    labels: Tensor
    best: Tensor
    in_top5: Tensor
    loss: Tensor
    prob: Tensor
    unreadable: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    model_seconds: float = 0.0

    @classmethod
    def none(cls, pictures: int) -> Answers:
        """Before the first answer."""
        return cls(
            labels=torch.full((pictures,), -1, dtype=torch.int32),
            best=torch.full((pictures,), NOT_YET, dtype=torch.int32),
            in_top5=torch.zeros(pictures, dtype=torch.bool),
            loss=torch.zeros(pictures),
            prob=torch.zeros(pictures),
        )

    def take(self, batch: Batch) -> None:
        """Enter the answers of a batch."""
        for name in ("labels", "best", "in_top5", "loss", "prob"):
            getattr(self, name)[batch.indices] = getattr(batch, name)
        for index, reason in batch.unreadable:
            self.best[index] = UNREADABLE
            self.unreadable[index] = reason

    @property
    def pending(self) -> Tensor:
        """Positions of pictures that nobody has asked about, in order."""
        return (self.best == NOT_YET).nonzero()[:, 0]

    @property
    def counted(self) -> Tensor:
        """Positions of pictures with an answer, in order."""
        return (self.best >= 0).nonzero()[:, 0]

    @property
    def right(self) -> Tensor:
        """For each picture whether the best class is the true one; false where there is no answer."""
        return (self.best == self.labels) & (self.best >= 0)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}
