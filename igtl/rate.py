"""A pacer for loops."""

from __future__ import annotations

import time
from typing import Self


class Rate:
    """Iterate at a fixed rate: `for tick in Rate(120): ...` counts ticks from 0.

    The schedule is absolute, so that it does not drift: a late tick does not move the next one.
    Ticks that were missed altogether are left out and counted.

    Args:
        hz: ticks per second.

    Attributes:
        overruns: ticks left out because the loop body took too long.
    """

    def __init__(self, hz: float) -> None:
        if not hz > 0:
            raise ValueError(f"rate must be above 0 Hz, not {hz}")
        self.period = 1 / hz
        self.overruns = 0
        self._start: float | None = None
        self._tick = -1

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        now = time.perf_counter()
        if self._start is None:
            self._start = now
        self._tick += 1
        late = int((now - self._start) / self.period) - self._tick
        if late > 0:
            self.overruns += late
            self._tick += late
        wait = self._start + self._tick * self.period - now
        if wait > 0:
            time.sleep(wait)
        return self._tick
