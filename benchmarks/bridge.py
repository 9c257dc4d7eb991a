"""Many sites on one hub: 400 sites of 50 streams, 20,000 messages a second in all, through one
router to one receiver. Sites, hub and receiver are processes of this machine, joined by loopback.

    python -m benchmarks.bridge                                # 20 seconds of messages
    python -m benchmarks.bridge --sites 100 --rate 5000 --quick

Each message arrives, or is counted as lost: by the site that has put a newer one in its place, or
by the receiver, which misses a number. CPU time is that of each process, in cores.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import numpy as np

import igtl
from benchmarks.measure import chosen, command_line, run, say
from igtl.extras import need

STREAMS = 50
LEASE = 10.0  # seconds: all of them share two cores
READY = 60.0  # seconds for all sites to be there


def _usage() -> dict[str, float]:
    """CPU time in seconds, and memory in MB, of this process."""
    used = os.times()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {"cpu": used.user + used.system, "memory": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}


def _reported(before: dict[str, float], seconds: float, **counted: Any) -> None:
    now = _usage()
    cores = (now["cpu"] - before["cpu"]) / seconds
    print(json.dumps({"cores": cores, "memory": now["memory"], **counted}), flush=True)


def _told(what: str) -> None:
    print(what, flush=True)


def hub(endpoint: str) -> None:
    """The router."""
    with igtl.bridge.Router(listen=endpoint, lease=LEASE) as router:
        _told("ready")
        sys.stdin.readline()
        before, begun = _usage(), time.monotonic()
        sys.stdin.readline()
        connections = len(router.connections)
        _reported(before, time.monotonic() - begun, connections=connections)


def receiver(endpoint: str, sites: int) -> None:
    """All sites, at one end."""
    with igtl.bridge.Subscriber(
        "*",
        connect=endpoint,
        open_timeout=10,
        lease=LEASE,
        on_frame=lambda received: None,
        max_age=None,
    ) as subscriber:
        end = time.monotonic() + READY
        while len(subscriber.sites) < sites and time.monotonic() < end:
            time.sleep(0.1)
        _told(str(len(subscriber.sites)))
        sys.stdin.readline()
        before, begun = _usage(), time.monotonic()
        sys.stdin.readline()
        stats, last, end = subscriber.stats, -1, time.monotonic() + READY
        while stats.received > last and time.monotonic() < end:  # what is on its way
            last = stats.received
            time.sleep(2)
        _reported(
            before, time.monotonic() - begun, received=stats.received, gap=stats.dropped["gap"]
        )


def sites(endpoint: str, first: int, number: int, rate: float, seconds: float) -> None:
    """Some of the sites."""
    publishers = []
    end = time.monotonic() + READY
    for k in range(number):  # one after the other: all of them share two cores here
        site = igtl.bridge.Publisher(
            f"s{first + k}", connect=endpoint, open_timeout=10, lease=LEASE
        )
        publishers.append(site)
        while not site.connected and time.monotonic() < end:
            time.sleep(0.002)
    frames = [
        igtl.Frame.from_bytes(igtl.Transform(np.eye(4), device_name=f"T{k}").pack())
        for k in range(STREAMS)
    ]
    _told(str(sum(p.connected for p in publishers)))
    sys.stdin.readline()
    before, begun = _usage(), time.monotonic()
    put = 0
    while (now := time.monotonic() - begun) < seconds:
        due = int(now * rate)
        while put < due:  # a frame of each stream of a site, then the next site
            publishers[put // STREAMS % number].put(frames[put % STREAMS])
            put += 1
        time.sleep(0.001)
    for publisher in publishers:
        publisher.drain(10)
    sent = sum(p.stats.sent for p in publishers)
    superseded = sum(p.stats.dropped["superseded"] for p in publishers)
    other = sum(p.stats.lost for p in publishers) - superseded
    took = time.monotonic() - begun
    _reported(before, took, put=put, sent=sent, superseded=superseded, other=other)
    sys.stdin.readline()  # the receiver has what was sent
    for publisher in publishers:
        publisher.close()


class _Part:
    """A process of the benchmark."""

    def __init__(self, *role: str) -> None:
        command = [sys.executable, "-m", "benchmarks.bridge", "--role", *role]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.communicate()


def measure(number: int, rate: float, seconds: float, processes: int) -> dict[str, Any]:
    """What each part has counted."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"tcp/127.0.0.1:{free.getsockname()[1]}"
    parts = [_Part("hub", endpoint)]
    try:
        parts[0].line()
        each = number // processes
        senders = [
            _Part("sites", endpoint, str(k * each), str(each), str(rate / processes), str(seconds))
            for k in range(processes)
        ]
        parts += senders
        there = sum(int(sender.line()) for sender in senders)
        parts.append(_Part("receiver", endpoint, str(number)))
        seen = int(parts[-1].line())
        say(f"{there} sites are connected, {seen} of them seen by the receiver")
        for part in parts:
            part.go_on()
        counted = [json.loads(sender.line()) for sender in senders]
        found = {}
        for name, part in (("receiver", parts[-1]), ("hub", parts[0])):
            part.go_on()
            found[name] = json.loads(part.line())
        found["sites"] = {key: sum(each[key] for each in counted) for key in counted[0]}
        return found
    finally:
        for part in reversed(parts):
            part.kill()
        for part in parts:
            part.close()


def main() -> None:
    parser = command_line("benchmarks.bridge", __doc__)
    parser.add_argument("--sites", type=int, default=400)
    parser.add_argument("--rate", type=float, default=20_000, help="messages a second, in all")
    parser.add_argument("--seconds", type=float, help="of messages; default: 20, with --quick 5")
    parser.add_argument("--processes", type=int, default=4, help="that play the sites")
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, endpoint, *rest = options.role
        if role == "hub":
            hub(endpoint)
        elif role == "receiver":
            receiver(endpoint, int(rest[0]))
        else:
            sites(endpoint, int(rest[0]), int(rest[1]), float(rest[2]), float(rest[3]))
        return
    seconds = options.seconds or (5.0 if options.quick else 20.0)
    chosen(options, {"bridge": (seconds + 30, seconds + 30)})
    if sys.platform != "linux":
        say("skipped: memory is read from /proc")
        return
    need("zenoh", "bridge")
    found = measure(options.sites, options.rate, seconds, options.processes)
    site, end = found["sites"], found["receiver"]
    missing = site["sent"] - end["received"] - end["gap"]
    print(
        f"put {site['put']}; sent {site['sent']}, superseded {site['superseded']}, other losses "
        f"{site['other']}\nreceived {end['received']}, gaps {end['gap']}, unaccounted {missing}"
    )
    for name, part in found.items():
        more = f", {part['connections']} connections" if name == "hub" else ""
        print(f"{name}: {part['cores']:.2f} cores, {part['memory']:.0f} MB{more}")


if __name__ == "__main__":
    run(main)
