"""The live page, measured in Chromium without a screen: what is drawn how late, and what it costs.

    python -m benchmarks.view [--rows "5 Mbit/s"] [--quick]

Eight tools at 60 Hz and 640 × 480 ultrasound at 30 Hz from a second process through `igtl view` in
a third, at 800 × 480. Graphics are drawn in software by the same processors, which bounds frames a
second; a graphics card has no part in the figures of script and server. Then the same through a
network of 5 Mbit/s and of 1 Mbit/s.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.measure import chosen, command_line, run, say
from tests.browser import SlowNetwork, Tab, opened, program

NETWORKS = {"loopback": None, "5 Mbit/s": 5.0, "1 Mbit/s": 1.0}
_SOURCE = """
import igtl
from igtl.simulate import Stream, Tracker, Ultrasound
tracker = Tracker([f"Tool{k}ToTracker" for k in range(8)], noise=0.05)
scanner = Ultrasound(640, 480)
frames = [scanner.frame(k / 30) for k in range(60)]
with igtl.serve(port=0, policy="drop_oldest") as server:
    print(server.port, flush=True)
    streams = [
        Stream(lambda s, k=k: tracker.transform(s, k), server.broadcast, 60) for k in range(8)
    ]
    image = lambda s: igtl.Image.from_frame(frames[int(30 * s) % 60], device_name="US")
    streams.append(Stream(image, server.broadcast, 30))
    server.wait()
"""


def started(*command: str, pattern: str) -> tuple[subprocess.Popen[str], str]:
    """A process, and what it says of itself."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not (found := re.search(pattern, process.stdout.readline())):
        pass
    return process, found[0]


def seconds_of(process: subprocess.Popen[str]) -> float:
    """Processor time of a process so far."""
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(tab: Tab, server: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """What the page and the server do over some seconds."""
    tab.value(
        "() => { const f = igtlView.figures; f.pose.length = f.image.length = f.script.length = 0;"
        " f.frames = f.images = igtlView.page.live.ticks = igtlView.page.live.bytes = 0; }"
    )
    begun, spent = time.perf_counter(), seconds_of(server)
    tab.page.wait_for_timeout(1000 * seconds)
    took, spent = time.perf_counter() - begun, seconds_of(server) - spent
    figures = tab.value(
        "() => ({...igtlView.figures, ticks: igtlView.page.live.ticks,"
        " bytes: igtlView.page.live.bytes, flow: igtlView.page.flow})"
    )

    def ms(values: list[float], scale: float) -> list[float]:
        return [round(scale * float(np.percentile(values, p)), 1) for p in (50, 95)]

    def rate(count: float) -> float:
        return round(count / took, 1)

    return {
        "frames/s": rate(figures["frames"]), "ticks/s": rate(figures["ticks"]),
        "images/s": rate(figures["images"]), "Mbit/s": rate(8e-6 * figures["bytes"]),
        "script ms, p50 p95": ms(figures["script"], 1),
        "pose ms, p50 p95": ms(figures["pose"], 1e3),
        "image ms, p50 p95": ms(figures["image"], 1e3),
        "server, % of a core": round(100 * spent / took, 1), "flow": figures["flow"],
        "load": os.getloadavg()[0],
    }  # fmt: skip


def measurements(
    browser: Any, networks: Sequence[float | None], seconds: float = 10
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is measured over each network, in Mbit/s; None: loopback."""
    source, served = started("-c", _SOURCE, pattern=r"\d+")
    command = "-m", "igtl", "view", f"localhost:{served}", "--at", ":0"
    page, url = started(*command, pattern=r"http\S+")
    port = re.findall(r":(\d+)/", url)[0]
    try:
        for mbit in networks:
            with SlowNetwork(int(port), (mbit or 1000) * 1e6 / 8) as network:
                way = port if mbit is None else str(network.port)
                tab = Tab(browser, url.replace(port, way, 1))
                tab.until("() => igtlView.page.space.tools.size === 8 && igtlView.figures.images")
                tab.page.wait_for_timeout(5000)
                yield (
                    "loopback" if mbit is None else f"{mbit:g} Mbit/s",
                    measured(tab, page, seconds),
                )
                tab.close()
    finally:
        for process in (page, source):
            process.terminate()
            process.communicate()


def main() -> None:
    options = command_line("benchmarks.view", __doc__).parse_args()
    rows = chosen(options, dict.fromkeys(NETWORKS, (18.0, 10.0)))
    if program() is None or not os.path.isdir("/proc/self"):
        say("skipped: Chromium and /proc are needed")
        return
    networks = [NETWORKS[name] for name in rows]
    with opened() as browser:
        for name, found in measurements(browser, networks, 3 if options.quick else 10):
            print(name, json.dumps(found), flush=True)


if __name__ == "__main__":
    run(main)
