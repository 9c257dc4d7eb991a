"""The pacer."""

from __future__ import annotations

import asyncio
import time

import pytest

import igtl


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


def test_precise_mode_spins_and_lazy_mode_sleeps() -> None:
    used = {}
    for mode in ("lazy", "precise"):
        start = time.thread_time()
        rate = igtl.Rate(200, mode=mode)  # type: ignore[arg-type]
        for _ in range(41):
            next(rate)
        used[mode] = time.thread_time() - start
    assert used["precise"] >= 40 * 0.0002  # 0.5 ms a tick by design
    assert used["lazy"] < used["precise"]


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
