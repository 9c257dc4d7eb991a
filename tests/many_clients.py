"""Clients of a many-client test, in a process of their own: `python -m tests.many_clients PORT N`.

Each counts what it gets. A line "ready" on stdout when all are connected; at the end one JSON
object: per client the numbers it got, and the lateness of all messages in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys

import igtl
import igtl.aio


async def client(port: int, connected: asyncio.Event, late: list[float]) -> list[int]:
    got = []
    async with igtl.aio.connect("127.0.0.1", port) as link:
        connected.set()
        async for m in link:
            assert isinstance(m, igtl.TrackingData)
            got.append(int(m.tools.matrices[0, 0, 3]))
            assert m.received is not None
            assert m.timestamp is not None
            late.append(1000 * (m.received - m.timestamp))
    return got


async def main(port: int, n: int) -> None:
    late: list[float] = []
    events = [asyncio.Event() for _ in range(n)]
    tasks = [asyncio.create_task(client(port, event, late)) for event in events]
    for event in events:
        await event.wait()
    print("ready", flush=True)
    numbers = await asyncio.gather(*tasks)
    late.sort()
    at = lambda share: round(late[int(share * (len(late) - 1))], 2) if late else None  # noqa: E731
    whole = [g == list(range(g[0], g[0] + len(g))) if g else False for g in numbers]
    print(
        json.dumps(
            {
                "in_order": sum(whole),
                "counts": sorted({len(g) for g in numbers}),
                "late_ms": {"p50": at(0.5), "p99": at(0.99), "max": at(1)},
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
