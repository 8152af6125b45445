"""What the loop asks of an engine that runs a model on one process or on many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from ...processes import Processes
from ...recipes.training import TrainingRecipe

STRATEGIES = ("single", "ddp", "fsdp2", "deepspeed-1", "deepspeed-2", "deepspeed-3")

WHOLE = ("single", "ddp")
"""Those whose optimizer sees whole matrices."""


class Strategy(Protocol):
    """Model and optimizer as an engine runs them.

    Weights are float32; half types are those of matrix products. Names are the model's own, whatever wraps it.

    Attributes:
        name: one of :data:`STRATEGIES`.
        module: what is called.
        optimizer: what a learning rate schedule changes the groups of.
    """

    name: str
    processes: Processes
    module: nn.Module
    optimizer: Optimizer

    def prepare(
        self, model: nn.Module, make_optimizer: Callable[[nn.Module], Optimizer], recipe: TrainingRecipe
    ) -> None:
        """Take over a fresh model, the same in every process, and its optimizer."""

    def exchange(self, last: bool) -> AbstractContextManager:
        """Around forward and backward of a micro-batch: gradients are exchanged with the ``last`` of a step only."""

    def autocast(self) -> AbstractContextManager:
        """Around the forward pass: the recipe's dtype."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss; scaled, where float16 wants that."""

    def step(self, clip_grad: float | None) -> float:
        """Clip, step and forget the gradients.

        Returns:
            The norm of all gradients before clipping; where it is not finite, no step was made if that could be helped.
        """

    def skips(self) -> bool:
        """Whether steps of gradients that are not finite are left out as a matter of course: float16."""

    def named_tensors(self) -> dict[str, Tensor]:
        """What this process holds of each parameter and buffer, in float32."""

    def full(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors, from what the processes hold, on the CPU of the first one; {} elsewhere. Collective."""

    def load_parts(self, into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        """Fill parts as of :meth:`named_tensors` from whole tensors, which every process has."""

    def swapped(self, tensors: Mapping[str, Tensor]) -> AbstractContextManager[nn.Module]:
        """The model with these parts, as of :meth:`named_tensors`, in place of its own."""

    def evaluated(self) -> nn.Module:
        """The model to evaluate, in evaluation mode."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, on the CPU of the first process; {} elsewhere. Collective.

        ``model``: whole tensors by name; ``optimizer``: for each parameter's name its state, whole; ``scaler``: of
        float16, or {}.
        """

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state` gave, under any strategy. Collective; every process has the contents."""
