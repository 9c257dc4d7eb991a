"""Clients of a many-client test, in a process of their own: `python -m tests.many_clients PORT N`.

Each counts what it gets. A line "ready" on stdout when all are connected; at the end one JSON
object: per client the numbers it got, the lateness of all messages and the longest gap between two in
milliseconds, and the lowest rate.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys

import igtl
import igtl.aio


async def client(
    port: int, connected: asyncio.Event, late: list[float], times: list[float]
) -> list[int]:
    got = []
    async with igtl.aio.connect("127.0.0.1", port) as link:
        connected.set()
        async for m in link:
            assert isinstance(m, igtl.TrackingData)
            got.append(int(m.tools.matrices[0, 0, 3]))
            assert m.received is not None
            assert m.received_monotonic is not None
            assert m.timestamp is not None
            times.append(m.received_monotonic)
            late.append(1000 * (m.received - m.timestamp))
    return got


async def main(port: int, n: int) -> None:
    late: list[float] = []
    events = [asyncio.Event() for _ in range(n)]
    times: list[list[float]] = [[] for _ in events]
    tasks = [
        asyncio.create_task(client(port, event, late, own))
        for event, own in zip(events, times, strict=True)
    ]
    for event in events:
        await event.wait()
    print("ready", flush=True)
    numbers = await asyncio.gather(*tasks)
    late.sort()
    at = lambda share: round(late[int(share * (len(late) - 1))], 2) if late else None  # noqa: E731
    whole = [g == list(range(g[0], g[0] + len(g))) if g else False for g in numbers]
    busy = [own for own in times if len(own) > 1]
    gaps = [b - a for own in busy for a, b in itertools.pairwise(own)]
    print(
        json.dumps(
            {
                "in_order": sum(whole),
                "counts": sorted({len(g) for g in numbers}),
                "late_ms": {"p50": at(0.5), "p99": at(0.99), "max": at(1)},
                "gap_ms": round(1000 * max(gaps, default=0), 2),
                "hz": min(((len(own) - 1) / (own[-1] - own[0]) for own in busy), default=0),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
