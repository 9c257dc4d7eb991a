"""A slow network: eight tools at 120 Hz beside images at 30 Hz, from `igtl.serve` to one client.

Two network namespaces, joined by a pair of virtual Ethernet devices whose way to the client is as
slow as asked (`tc`, a token bucket). The age of a pose when it arrives holds everything between the
call of `broadcast` and the client's loop. Linux, root and iproute2 are needed; nothing outside the
two namespaces is touched, and they are removed at the end.

    python -m benchmarks.slow_network                 # the whole table, four minutes
    python -m benchmarks.slow_network --rows "20 Mbit/s, 307 KB"
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import igtl
from benchmarks.measure import chosen, command_line, run, say

TOOLS, TOOL_HZ, IMAGE_HZ = 8, 120, 30
SERVER, CLIENT = "10.77.61.1", "10.77.61.2"
PORTS = 18944, 18945  # of the tools, and of the images where they have a connection of their own
LARGE, SMALL = 640 * 480, 256 * 256
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "latest": {"policy": "latest"},
    "compressed": {"policy": "latest", "compression": True},
}
"""Options of the server; of the client, `compression` too. "two": a connection for the images."""


def why_not() -> str:
    """Why this cannot be measured here; empty if it can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} of iproute2 not found" if missing else ""


def _run(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.strip()}")


@contextlib.contextmanager
def network(mbit: float) -> Iterator[tuple[str, str]]:
    """The names of two namespaces, joined; what the first one sends passes a line of so many
    Mbit/s, in front of which at most 20 ms wait."""
    ends = f"igtl-a{os.getpid()}", f"igtl-b{os.getpid()}"
    try:
        for name in ends:
            _run(f"ip netns add {name}")
        _run(f"ip link add near netns {ends[0]} type veth peer name far netns {ends[1]}")
        for name, device, address in zip(ends, ("near", "far"), (SERVER, CLIENT), strict=True):
            _run(f"ip -n {name} addr add {address}/24 dev {device}")
            _run(f"ip -n {name} link set {device} up")
            _run(f"ip -n {name} link set lo up")
        shape = f"tbf rate {mbit}mbit burst 8kb latency 20ms"
        _run(f"ip netns exec {ends[0]} tc qdisc add dev near root {shape}")
        yield ends
    finally:
        for name in ends:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def picture(size: int, number: int) -> np.ndarray[Any, Any]:
    """Grey, with speckle and a dark border, as an ultrasound image: 55 % of it are zeros."""
    width = 640 if size == LARGE else 256
    pixels = np.zeros((1, size // width, width), np.uint8)
    rows, columns = pixels.shape[1:]
    rng = np.random.default_rng(number % 8)
    inner = pixels[0, rows // 6 : -rows // 6, columns // 6 : -columns // 6]
    inner[:] = np.minimum(255, rng.rayleigh(40, inner.shape)).astype(np.uint8)
    return pixels


def serve(options: argparse.Namespace) -> dict[str, Any]:
    """The server's part: what was sent, and what is counted as lost."""
    pictures = [picture(options.image, k) for k in range(8)]
    poses = [igtl.Transform(np.eye(4), device_name=f"Tool{k}") for k in range(TOOLS)]
    sent = {"tools": 0, "images": 0}
    lost: dict[str, dict[str, int]] = {"tools": {}, "images": {}}
    ports = PORTS if options.way == "two" else PORTS[:1]
    settings = WAYS.get(options.way, {"policy": "latest"})
    servers = [igtl.serve(SERVER, port, **settings) for port in ports]
    gone: list[igtl.Stats] = []
    for server in servers:
        server.on_connect(lambda peer: gone.append(peer.stats))
    say("listening")
    while not all(server.clients for server in servers):
        time.sleep(0.01)
    time.sleep(0.3)  # the client says that it takes compressed messages
    begin = time.monotonic()
    for tick in range(int(options.seconds * TOOL_HZ)):
        time.sleep(max(0.0, begin + tick / TOOL_HZ - time.monotonic()))
        for pose in poses:
            pose.timestamp = time.time()
            servers[0].broadcast(pose)
            sent["tools"] += 1
        if tick % (TOOL_HZ // IMAGE_HZ) == 0:
            servers[-1].broadcast(igtl.Image(pictures[tick % 8], device_name="Image"))
            sent["images"] += 1
    for server in servers:
        server.shutdown(timeout=2.0)
    for stats in gone:
        for (type_name, _), stream in stats.streams.items():
            kind = {"TRANSFORM": "tools", "IMAGE": "images"}.get(type_name)
            for cause, n in stream.lost.items() if kind else ():
                lost[kind][cause] = lost[kind].get(cause, 0) + n  # type: ignore[index]
    return {"sent": sent, "lost": lost}


def receive(options: argparse.Namespace) -> dict[str, Any]:
    """The client's part: ages of what has arrived, in seconds."""
    ages: dict[str, list[float]] = {"tools": [], "images": []}
    arrived: list[float] = []
    compression = options.way == "compressed"
    ports = PORTS if options.way == "two" else PORTS[:1]
    links = [igtl.connect(SERVER, port, compression=compression) for port in ports]

    def take(message: igtl.Message) -> None:
        kind = "images" if isinstance(message, igtl.Image) else "tools"
        ages[kind].append(time.time() - (message.timestamp or 0.0))
        if kind == "images":
            arrived.append(time.monotonic())

    subscribers = [igtl.subscribe(link, start=False) for link in links]
    for subscriber in subscribers:
        subscriber.on(igtl.Transform)(take)
        subscriber.on(igtl.Image)(take)
        subscriber.start()
    while any(subscriber.connected for subscriber in subscribers):
        time.sleep(0.05)
    time.sleep(0.5)  # what has arrived is handled
    for subscriber in subscribers:
        subscriber.close()
    span = arrived[-1] - arrived[0] if len(arrived) > 1 else 0.0
    return {"ages": ages, "images_a_second": (len(arrived) - 1) / span if span else 0.0}


def percentile(values: list[float], share: float) -> float:
    """Of the values, in ms; 0 if there are none."""
    ordered = sorted(values) or [0.0]
    return 1000 * ordered[int(share * (len(ordered) - 1))]


def measure(mbit: float, image: int, way: str, seconds: float) -> dict[str, Any]:
    """One case: what the client got, and whether the account is whole."""
    arguments = ["--image", str(image), "--way", way, "--seconds", str(seconds)]
    with network(mbit) as (near, far):
        parts = []
        for name, role in ((near, "serve"), (far, "receive")):
            command = ["ip", "netns", "exec", name, sys.executable, "-m", "benchmarks.slow_network"]
            parts.append(
                subprocess.Popen([*command, "--role", role, *arguments], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
            )  # fmt: skip
            if role == "serve":
                assert parts[0].stderr is not None
                parts[0].stderr.readline()  # "listening", or why not
        found: dict[str, Any] = {}
        try:
            for part in parts:
                out, errors = part.communicate(timeout=seconds + 60)
                if part.returncode:
                    raise RuntimeError(errors)
                found |= json.loads(out)
        finally:
            for part in parts:
                part.kill()
    missing = sum(
        found["sent"][kind] - len(found["ages"][kind]) - sum(found["lost"][kind].values())
        for kind in ("tools", "images")
    )
    return {
        "rate": mbit, "image": image, "way": way,
        "p50": percentile(found["ages"]["tools"], 0.5),
        "p95": percentile(found["ages"]["tools"], 0.95),
        "poses": len(found["ages"]["tools"]) / found["sent"]["tools"],
        "images": found["images_a_second"],
        "image_p50": percentile(found["ages"]["images"], 0.5),
        "lost": found["lost"], "missing": missing, "sent": found["sent"],
    }  # fmt: skip


def account(found: dict[str, Any]) -> str:
    """Whether sent = received + counted. What the system held when the server gave up after two
    seconds cannot be counted: this end does not know whether it has arrived."""
    return "whole" if not found["missing"] else f"whole but for {found['missing']} cut at the end"


CASES = {
    f"{rate} Mbit/s, {image / 1000:.0f} KB, {way}": (rate, image, way)
    for rate in (5, 20, 100)
    for image in (LARGE, SMALL)
    for way in (*WAYS, "two")
}


def main() -> None:
    parser = command_line("benchmarks.slow_network", __doc__)
    for name, kind in (("role", str), ("image", int), ("way", str), ("seconds", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)  # of its processes
    options = parser.parse_args()
    if options.role:
        print(json.dumps((serve if options.role == "serve" else receive)(options)))
        return
    seconds = 2.0 if options.quick else 10.0
    rows = chosen(options, dict.fromkeys(CASES, (13.0, 5.0)))
    if reason := why_not():
        say(f"skipped: {reason}")
        return
    print(
        "| Mbit/s | image | options | pose p50, p95 | poses that arrive | images/s, age | account |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in rows:
        rate, image, way = CASES[name]
        found = measure(rate, image, way, seconds)
        print(
            f"| {rate:g} | {image / 1000:.0f} KB | {way} "
            f"| {found['p50']:.0f}, {found['p95']:.0f} ms | {found['poses']:.0%} "
            f"| {found['images']:.1f}, {found['image_p50']:.0f} ms "
            f"| {account(found)} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
