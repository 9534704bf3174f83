"""Counts down a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """A budget of seconds that starts now."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Seconds that are left, 0 when none are."""
        return max(self._end - self._clock(), 0.0)

    def allows(self, seconds: float) -> bool:
        """Whether something that takes this long may start."""
        return self.left() >= seconds
