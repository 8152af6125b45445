"""The factor that keeps float16 gradients from vanishing, for engines that PyTorch's own scaler does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GROWTH, BACKOFF, INTERVAL, START = 2.0, 0.5, 2000, 2.0**16  # those of ``torch.amp.GradScaler``


class LossScale:
    """Halved when gradients overflow, doubled after two thousand steps without.

    ``torch.amp.GradScaler`` looks for overflows in the gradients that a process holds; in shards they show in one
    process alone. Here the norm of all of them tells. A state is that of ``GradScaler``.
    """

    def __init__(self) -> None:
        self.value, self.calm_steps = START, 0

    def update(self, overflowed: bool) -> None:
        """After a step, or after one that was left out."""
        self.calm_steps = 0 if overflowed else self.calm_steps + 1
        if overflowed:
            self.value *= BACKOFF
        elif self.calm_steps == INTERVAL:
            self.value, self.calm_steps = self.value * GROWTH, 0

    def state_dict(self) -> dict[str, Any]:
        """As ``torch.amp.GradScaler`` writes it."""
        factors = {"growth_factor": GROWTH, "backoff_factor": BACKOFF, "growth_interval": INTERVAL}
        return {"scale": self.value, **factors, "_growth_tracker": self.calm_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue; an empty state, of a run in another dtype, changes nothing."""
        if state:
            self.value, self.calm_steps = float(state["scale"]), int(state["_growth_tracker"])
