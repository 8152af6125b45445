"""Ctrl-C and SIGTERM as a wish that the loop asks for, so that it stops between two steps."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopOnSignal:
    """While it is entered, the first Ctrl-C or SIGTERM is noted and a second Ctrl-C interrupts at once.

    Called, it says whether to stop; ``signal`` is the number that came, 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.signal != 0

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
