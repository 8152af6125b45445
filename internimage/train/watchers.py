"""What listens to the loop and writes: the table and the curves, TensorBoard's events, the best weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from .curves import save_curves
from .loop import Step
from .metrics import write_metrics
from .state import TrainingState

METRICS, CURVE, EVENTS = "metrics.csv", "curve.png", "tensorboard"
BEST = {"model": "best.safetensors", "average": "best_ema.safetensors"}


class Watching:
    """Hears everything and does nothing; watchers say what they do."""

    def stepped(self, state: TrainingState, step: Step) -> None:
        """After each step."""

    def finished_epoch(self, state: TrainingState) -> None:
        """After each epoch; its row is the last of ``state.history``."""

    def improved(self, state: TrainingState, which: str, weights: dict[str, Tensor]) -> None:
        """The best score so far."""


class Tables(Watching):
    """``metrics.csv`` and ``curve.png`` in a folder, after each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finished_epoch(self, state: TrainingState) -> None:
        """Write both anew."""
        write_metrics(state.history, self.folder / METRICS)
        save_curves(state.history, self.folder / CURVE)


class BestWeights(Watching):
    """The best model and the best average as files to use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def improved(self, state: TrainingState, which: str, weights: dict[str, Tensor]) -> None:
        """Write the file of one of the two."""
        state.task.save(self.folder / BEST[which], weights, {state.task.score: state.best[which]})


class TensorBoard(Watching):
    """Losses, learning rate, norm of the gradients and speed every few steps, scores after each epoch.

    Steps that a run repeats after it was killed replace those written before.

    Args:
        first_step: steps that are done already.
        every: steps between two numbers.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, first_step: int = 0, every: int = 10) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.every = every
        self.writer: Any = SummaryWriter(str(folder / EVENTS), purge_step=first_step + 1 if first_step else None)

    def stepped(self, state: TrainingState, step: Step) -> None:
        """Numbers of a step."""
        if step.number % self.every:
            return
        for name, value in step.losses.items():
            self.writer.add_scalar(f"loss/{name}", value, step.number)
        self.writer.add_scalar("lr", step.lr, step.number)
        self.writer.add_scalar("grad_norm", step.grad_norm, step.number)
        self.writer.add_scalar("images_per_s", step.images / max(step.seconds, 1e-9), step.number)
        self.writer.flush()  # a run that is stopped keeps what it has told

    def finished_epoch(self, state: TrainingState) -> None:
        """Everything of the row."""
        row = state.history[-1]
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(f"epoch/{name}", value, state.step)
        self.writer.flush()
