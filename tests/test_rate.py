"""The pacer."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import time
from typing import ClassVar

import pytest

import igtl


def slack() -> int:
    """Nanoseconds by which Linux may wake this thread late."""
    get_timerslack = 30
    return int(ctypes.CDLL(None).prctl(get_timerslack, 0, 0, 0, 0))


@pytest.mark.parametrize("mode", ["lazy", "precise"])
def test_absolute_schedule(mode: igtl.tools.rate.Mode) -> None:
    rate = igtl.Rate(1000, mode=mode)
    start = time.perf_counter()
    ticks = [next(rate) for _ in range(51)]
    took = time.perf_counter() - start
    assert took >= 0.05 - 1e-3
    assert ticks[-1] == 50 + rate.overruns
    assert 0 <= rate.jitter <= rate.worst
    time.sleep(0.02)
    before = ticks[-1]
    assert next(rate) > before + 1  # ticks missed are left out, and counted
    assert rate.overruns > 0


class Clock:
    """Stands in for the module time: to look at it takes 10 µs, and sleeping as long as was asked."""

    def __init__(self) -> None:
        self.now = self.slept = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-5
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@pytest.mark.parametrize(("mode", "busy"), [("lazy", 0.0), ("precise", 0.0005)])
def test_precise_mode_spins_and_lazy_mode_sleeps(
    mode: igtl.tools.rate.Mode, busy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("igtl.tools.rate.time", clock)
    rate = igtl.Rate(200, mode=mode)
    for _ in range(41):
        next(rate)
    assert clock.now == pytest.approx(40 * 0.005, abs=1e-4)
    assert clock.now - clock.slept == pytest.approx(40 * busy, abs=40 * 1e-4)
    assert rate.worst < 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_the_system_is_asked_to_wake_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Looking(Clock):
        slacks: ClassVar[list[int]] = []

        def sleep(self, seconds: float) -> None:
            self.slacks.append(slack())
            if len(self.slacks) == 3:
                raise KeyboardInterrupt
            super().sleep(seconds)

    before = slack()
    monkeypatch.setattr("igtl.tools.rate.time", Looking())
    with pytest.raises(KeyboardInterrupt):
        for _ in igtl.Rate(200):
            assert slack() == before
    assert Looking.slacks == [1, 1, 1]
    assert slack() == before


def test_in_a_coroutine() -> None:
    async def ticks() -> list[int]:
        out = []
        async for tick in igtl.Rate(1000):
            out.append(tick)
            if tick >= 20:
                break
        return out

    start = time.perf_counter()
    got = asyncio.run(ticks())
    assert time.perf_counter() - start >= 0.02 - 1e-3
    assert got == sorted(set(got))


def test_wrong_settings() -> None:
    for hz in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError):
            igtl.Rate(hz)
    with pytest.raises(ValueError, match="mode"):
        igtl.Rate(1, mode="eager")  # type: ignore[arg-type]
