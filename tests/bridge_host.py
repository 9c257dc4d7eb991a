"""One computer of a bridge, for tests/test_bridge_network.py: python -m tests.bridge_host ROLE …

Each role prints "ready", runs until its standard input is closed, and prints what it has counted as
JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import Any

import numpy as np

import igtl

TOOLS, TOOL_HZ, IMAGE_HZ = 8, 120, 30
HUB = "tcp/{}:7447"


def _told(what: Any) -> None:
    print(json.dumps(what), flush=True)


def _until_told() -> None:
    print("ready", flush=True)
    sys.stdin.read()


def _counters(stats: igtl.Stats) -> dict[str, Any]:
    return {"sent": stats.sent, "received": stats.received, "dropped": dict(stats.dropped)}


def router(listen: str) -> None:
    """The hub."""
    with igtl.bridge.Router(listen=HUB.format(listen)):
        _until_told()


def site(name: str, hub: str, port: str) -> None:
    """A site: tools and an image as a plain server, and what puts them on the bridge."""
    picture = np.random.default_rng(1).integers(0, 255, (480, 640), np.uint8)
    ended = threading.Event()
    with igtl.serve(port=int(port), version=2, start=False) as server:

        @server.command("*")
        def _(command: igtl.Command, peer: Any) -> str:
            return f"{name} has done {command.name}"

        server.start()
        server.broadcast(igtl.String(f"case of {name}", device_name="Case"), latch=True)
        points = igtl.Points([igtl.Point("A", position=[1, 2, 3])], device_name="Plan")
        server.broadcast(points, latch=True)

        def send() -> None:
            for tick in igtl.Rate(TOOL_HZ):
                if ended.is_set():
                    return
                for tool in range(TOOLS):
                    pose = igtl.Transform(np.eye(4), device_name=f"T{tool}")
                    pose.timestamp, pose.message_id = time.time(), tick + 1
                    server.broadcast(pose)
                if tick % (TOOL_HZ // IMAGE_HZ) == 0:
                    server.broadcast(igtl.Image.from_frame(picture, device_name="US"))

        with (
            igtl.connect(port=server.port, reconnect=igtl.Backoff(), hello=True) as link,
            igtl.bridge.Publisher(name, link, connect=HUB.format(hub)) as publisher,
        ):
            sending = threading.Thread(target=send)
            sending.start()
            _until_told()
            ended.set()
            sending.join()
            time.sleep(0.5)  # what the server has sent is published
            publisher.drain(5)
            _told(_counters(publisher.stats))  # the others are told when it leaves


def ward(sites: str, hub: str, port: str) -> None:
    """A receiver: the sites as a plain server."""
    with igtl.serve(port=int(port), start=False) as server:
        with igtl.bridge.Outlet(server, sites.split(","), connect=HUB.format(hub)) as outlet:
            server.start()
            _until_told()
            _told(_counters(outlet.stats) | {
                "passed": outlet.passed, "before": outlet.subscriber.before,
            })  # fmt: skip


def client(port: str) -> None:
    """A plain client of one of them: when poses arrived, and how old; which ids are missing."""
    poses: list[tuple[float, float]] = []  # (arrived, age)
    count: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    last: dict[str, int] = {}
    texts: dict[str, str] = {}
    with igtl.connect(port=int(port), reconnect=igtl.Backoff(), hello=True, drain=True) as link:
        threading.Thread(target=lambda: (_until_told(), link.close()), daemon=True).start()
        for message in link:
            now, name = time.time(), message.device_name
            count[name] += 1
            if isinstance(message, igtl.Transform):
                poses.append((now, now - (message.timestamp or 0)))
                missing[name] += max(0, message.message_id - last.get(name, message.message_id) - 1)
                last[name] = message.message_id
            elif isinstance(message, igtl.String):
                texts[name] = message.string
    _told({"count": count, "missing": missing.total(), "poses": poses, "texts": texts})


if __name__ == "__main__":
    {"router": router, "site": site, "ward": ward, "client": client}[sys.argv[1]](*sys.argv[2:])
