"""Many sites on one hub: 400 sites of 50 streams, 20,000 messages a second in all, through one
router to one receiver. Sites, hub and receiver are processes of this machine, joined by loopback.

    python -m benchmarks.bridge                                # 20 seconds of messages
    python -m benchmarks.bridge --sites 100 --rate 5000 --quick

Each message arrives, or is counted as lost: by the site, or by the receiver, which misses a number.
It fails if the numbers do not add up. CPU time is that of each process until the sites have put
everything, in cores.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import numpy as np

import igtl
from benchmarks.measure import chosen, command_line, run, say
from igtl.extras import need

STREAMS = 50
READY = 60.0  # seconds for all sites to be there, and for the last message to arrive
QUIET = 10.0  # seconds without news after which none is expected: some tallies


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
    with igtl.bridge.Router(listen=endpoint) as router:
        _told("ready")
        sys.stdin.readline()
        before, begun = _usage(), time.monotonic()
        sys.stdin.readline()
        connections = len(router.connections)
        _reported(before, time.monotonic() - begun, connections=connections)
        sys.stdin.readline()


def receiver(endpoint: str, sites: int) -> None:
    """All sites, at one end."""
    with igtl.bridge.Subscriber(
        "*",
        connect=endpoint,
        open_timeout=10,
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
        seconds, used = time.monotonic() - begun, _usage()["cpu"]
        last, end = -1, time.monotonic() + READY
        while time.monotonic() < end:  # what is on its way
            known = _known(subscriber)
            if known == last and subscriber.connected:
                break
            last = known
            time.sleep(QUIET)
        stats = subscriber.stats
        before["cpu"] += _usage()["cpu"] - used
        _reported(
            before, seconds, received=stats.received, gap=stats.dropped["gap"],
            earlier=subscriber.before, connected=subscriber.connected,
        )  # fmt: skip


def _known(subscriber: igtl.bridge.Subscriber) -> int:
    """What a receiver knows of the messages of all sites."""
    return subscriber.before + subscriber.stats.received + subscriber.stats.dropped["gap"]


def sites(endpoint: str, first: int, number: int, rate: float, seconds: float) -> None:
    """Some of the sites."""
    publishers = []
    end = time.monotonic() + READY
    for k in range(number):  # one after the other: all of them share two cores here
        site = igtl.bridge.Publisher(f"s{first + k}", connect=endpoint, open_timeout=10)
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
    took = time.monotonic() - begun
    used = _usage()["cpu"]
    _told("put")
    sys.stdin.readline()  # the receiver knows of all that was sent
    before["cpu"] += _usage()["cpu"] - used
    lost = sum((Counter(p.stats.dropped) for p in publishers), Counter[str]())
    _reported(
        before, took, put=put, sent=sum(p.stats.sent for p in publishers),
        waiting=sum(p.waiting for p in publishers), lost=lost,
        connected=sum(p.connected for p in publishers),
    )  # fmt: skip
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
        for sender in senders:
            sender.line()
        found = {}
        for name, part in (("hub", parts[0]), ("receiver", parts[-1])):
            part.go_on()
            found[name] = json.loads(part.line())
        for sender in senders:
            sender.go_on()
        counted = [json.loads(sender.line()) for sender in senders]
        lost = sum((Counter(each.pop("lost")) for each in counted), Counter[str]())
        found["sites"] = {key: sum(each[key] for each in counted) for key in counted[0]}
        return found | {"lost": lost}
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
    site, end, lost = found["sites"], found["receiver"], found.pop("lost")
    print(f"put {site['put']}; sent {site['sent']}, waiting {site['waiting']}, lost {dict(lost)}")
    print(f"received {end['received']}, gaps {end['gap']}, put before {end['earlier']}")
    for name, part in found.items():
        more = f", {part['connections']} connections" if name == "hub" else ""
        print(f"{name}: {part['cores']:.2f} cores, {part['memory']:.0f} MB{more}")
    say(f"connected at the end: {site['connected']} sites, the receiver {end['connected']}")
    at_sites = site["put"] - site["sent"] - site["waiting"] - lost.total()
    on_the_way = site["sent"] + lost["no receiver"] - end["earlier"] - end["received"] - end["gap"]
    print(f"unaccounted: {at_sites} at the sites, {on_the_way} on the way")
    if at_sites or on_the_way:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
