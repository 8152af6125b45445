"""What the loop wants of whatever is learned: classification is one task, detection and segmentation are others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from ..data.order import Share
from ..processes import Processes
from .layer_decay import Pace


class Task(Protocol):
    """A model, its data, its losses and its measures.

    Attributes:
        fingerprint: tells the data from other data, in words; a run resumes on the same data only.
        steps_per_epoch: optimizer steps.
        score: the key of ``evaluate`` that is best when highest; "" where there is none.
    """

    fingerprint: str
    steps_per_epoch: int
    score: str

    def make_model(self) -> nn.Module:
        """A fresh model; processes other than the first make it on PyTorch's meta device, without contents."""

    def load_pretrained(self, model: nn.Module) -> None:
        """Put in the weights that training starts from, if any; called in the first process, which tells the others."""

    def paces(self, model: nn.Module) -> Mapping[str, Pace]:
        """How fast each parameter of the model learns and decays, by its name; see :mod:`.layer_decay`.

        Tasks number layers by rules of their own. Under strategies that shard, the tensors are shards.
        """

    def batches(self, first_step: int, last_step: int, share: Share) -> Iterator[Any]:
        """The micro-batches of this process for the steps from ``first_step`` to before ``last_step``, in order.

        They are a function of the recipe's seed, the step and the share: the loop keeps nothing of them to resume.
        Tensors, or tuples, lists and dictionaries of them, on any device.
        """

    def images_in(self, batch: Any) -> int:
        """How many images a micro-batch holds."""

    def loss(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """The parts of the mean loss of a micro-batch, by name; what is learned from is their sum."""

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """Figures of merit on data that is not trained on, in percent; empty when there is none. Collective."""

    def save(self, path: str | Path, weights: Mapping[str, Tensor], scores: Mapping[str, float]) -> None:
        """Write trained weights, under the model's own names, as a file that people use."""
