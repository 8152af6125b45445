"""What is told while a run goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..train.loop import Step
    from ..train.state import TrainingState


_LINE_EVERY_S = 300.0  # where there is no bar: in a file, or in what a cluster keeps of the output


class Progress:
    """A bar with loss, images a second, memory and time left; a line after each epoch, without a bar more often."""

    def __init__(self, state: TrainingState) -> None:
        from .progress import progress_bar

        self.bar = progress_bar("training")
        self.line = self.bar.add_task("", total=state.total_steps, completed=state.step)
        self.rate, self.loss, self.last = 0.0, 0.0, time.perf_counter()
        self.told, self.first, self.seconds_before = self.last, state.step, state.seconds

    def __enter__(self) -> Progress:
        self.bar.start()
        self.last = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def stepped(self, state: TrainingState, step: Step) -> None:
        """Smoothed loss and images a second, fetching included."""
        now = time.perf_counter()
        rate = step.images / (now - self.last)
        self.rate = rate if not self.rate else 0.95 * self.rate + 0.05 * rate
        self.loss = step.losses["total"] if not self.loss else 0.95 * self.loss + 0.05 * step.losses["total"]
        self.last = now
        told = f"loss {self.loss:.3f}, {self.rate:.0f} images/s, {peak_gib(state):.1f} GiB"
        self.bar.update(self.line, completed=state.step, description=told)
        if not self.bar.console.is_terminal and now - self.told > _LINE_EVERY_S:
            from .output import text

            self.told = now
            a_step = (state.seconds - self.seconds_before) / max(state.step - self.first, 1)
            left = time_left(a_step * (state.total_steps - state.step))
            self.bar.console.print(text(f"step {state.step:,} of {state.total_steps:,}: {told}, {left}"))

    def finished_epoch(self, state: TrainingState) -> None:
        """One line."""
        from .output import text

        row = state.history[-1]
        score = f", top-1 {row['top1']:.2f} % of the held-out pictures" if "top1" in row else ""
        average = f" ({row['ema_top1']:.2f} % averaged)" if "ema_top1" in row else ""
        left = time_left(state.seconds / row["epoch"] * (state.recipe.epochs - row["epoch"]))
        self.bar.console.print(
            text(
                f"epoch {row['epoch']:g} of {state.recipe.epochs}: loss {row['train_loss']:.3f}{score}{average}, "
                f"{self.rate:.0f} images/s, {peak_gib(state):.1f} GiB, {left}"
            )
        )
        self.last = self.told = time.perf_counter()

    def improved(self, state: TrainingState, which: str, weights: dict[str, Tensor]) -> None:
        """The line of the epoch has told it."""


def time_left(seconds: float) -> str:
    """In minutes, from two hours on in hours, from two days on in days."""
    for unit, size in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit} left"
    return f"{seconds / 60:.0f} minutes left"


def peak_gib(state: TrainingState) -> float:
    """The most memory taken so far: of the card, or of this process."""
    import torch

    if state.processes.device.type == "cuda":
        return torch.cuda.max_memory_allocated(state.processes.device) / 2**30
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
