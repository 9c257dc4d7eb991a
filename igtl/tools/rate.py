"""A pacer for loops."""

from __future__ import annotations

import time
from typing import Literal, Self

from igtl._stream import on_time
from igtl.options import LONGEST

Mode = Literal["lazy", "precise"]
_FASTEST = 1e9  # Hz: a tick of a nanosecond, which is what the clock counts
_SPIN = 0.0005  # seconds before the tick from which the precise mode no longer sleeps


class Rate:
    """Iterate at a fixed rate: `for tick in Rate(120): ...` counts ticks from 0.

    In a coroutine write `async for tick in Rate(120): ...`. The schedule is absolute, so that it
    does not drift: a late tick does not move the next one. Ticks that were missed altogether are
    left out and counted.

    Args:
        hz: ticks per second.
        mode: "lazy" (default) sleeps until the tick: next to no CPU, and as late as the system
            wakes it, usually 0.05 to 0.15 ms. "precise" sleeps until 0.5 ms before the tick and
            then polls the clock: late by microseconds, for 0.5 ms of one core's time a tick (6 %
            at 120 Hz, 50 % at 1 kHz). In a coroutine it is always lazy.

    Attributes:
        overruns: ticks left out because the loop body took too long.
        jitter: standard deviation of the lateness of the ticks, in seconds.
        worst: greatest lateness of a tick, in seconds.

    Raises:
        ValueError: the rate or the mode is not allowed.
    """

    def __init__(self, hz: float, *, mode: Mode = "lazy") -> None:
        if not 1 / LONGEST <= hz <= _FASTEST:
            raise ValueError(f"rate must be from {1 / LONGEST:g} to {_FASTEST:g} Hz, not {hz}")
        if mode not in ("lazy", "precise"):
            raise ValueError(f"mode must be 'lazy' or 'precise', not {mode!r}")
        self.period = 1 / hz
        self.overruns = 0
        self.worst = 0.0
        self._precise = mode == "precise"
        self._start: float | None = None
        self._tick = -1
        self._count = 0
        self._mean = self._squares = 0.0  # of the lateness

    @property
    def jitter(self) -> float:
        """Standard deviation of the lateness of the ticks so far, in seconds."""
        return (self._squares / self._count) ** 0.5 if self._count else 0.0

    def _next(self) -> float:
        """When the next tick is due (time.perf_counter)."""
        now = time.perf_counter()
        if self._start is None:
            self._start = now
        self._tick += 1
        late = int((now - self._start) / self.period) - self._tick
        if late > 0:
            self.overruns += late
            self._tick += late
        return self._start + self._tick * self.period

    def _measure(self, due: float) -> int:
        late = time.perf_counter() - due
        self.worst = max(self.worst, late)
        self._count += 1
        step = late - self._mean
        self._mean += step / self._count
        self._squares += step * (late - self._mean)
        return self._tick

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        due = self._next()
        wait = due - time.perf_counter() - (_SPIN if self._precise else 0)
        if wait > 0:
            on_time(time.sleep, wait)
        if self._precise:
            while time.perf_counter() < due:
                pass
        return self._measure(due)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        import asyncio  # not loaded by `import igtl`

        due = self._next()
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        return self._measure(due)
