"""A gateway for a long time: reloads, a source that comes and goes, a full disk, kill -9 and a
supervisor that starts it again. What is not delivered is counted.

IGTL_GATEWAY_SECONDS says how long, 30 by default; `ci/gateway-hour` runs an hour. Each process of the
gateway lives for a sixth of it, and its memory is printed at the beginning and the end.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import igtl
from tests.cpp import free_port
from tests.test_gateway import get, samples
from tests.test_links import until

pytest.importorskip("prometheus_client")
pytest.importorskip("mcap")
pytestmark = [
    pytest.mark.long,
    pytest.mark.processes,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals of Unix"),
]
SECONDS = float(os.environ.get("IGTL_GATEWAY_SECONDS", "30"))
pytestmark.append(pytest.mark.timeout(SECONDS + 600))
CYCLE = 12.0  # seconds of a cycle, about
LIFE = max(CYCLE, SECONDS / 6)  # seconds until the gateway is killed
GROWTH = 64.0  # MB by which it may grow in its life: the buffers of a client and of a file
PATIENCE = 60.0
CONFIG = """[gateway]
http = "127.0.0.1:{http}"
[source.steady]
connect = "127.0.0.1:{steady}"
[source.flicker]
connect = "127.0.0.1:{flicker}"
required = false
[sink.clients]
serve = "127.0.0.1:{clients}"
policy = "drop_oldest"
max_queued = 100000
[sink.archive]
record = "{folder}/case"
[route.live]
from = ["*"]
to = ["clients"]
[route.record]
from = ["*"]
to = ["archive"]
[route.changing]
from = ["steady"]
to = ["clients"]
names = ["none of them"]
max_rate = {rate}
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    """A folder, and whether it is on a disk so small that a test may fill it."""
    place = tmp_path / "disk"
    place.mkdir()
    small = sys.platform == "linux" and os.geteuid() == 0
    if small:
        command = ["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(place)]
        small = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield place, small
    finally:
        if small:
            subprocess.run(["umount", "-l", str(place)], check=True)


class Numbers:
    """A device that sends numbers, 100 a second; it can be paused, and go away."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port
        self.number = 0
        self._servers = 0  # so many there were
        self._sent: dict[tuple[int, int], int] = {}  # by server and connection
        self._server: igtl.Server | None = None
        self._going = threading.Event()
        self._ended = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def come(self) -> None:
        self._servers += 1
        self._server = igtl.serve(port=self.port, start=False)
        self._server.on_disconnect(partial(self._note, self._servers))
        self._server.start()

    def _note(self, server: int, *peers: Any) -> None:
        for peer in peers:
            self._sent[server, peer.id] = peer.stats.sent

    def go(self) -> None:
        """Everything that was sent arrives before the connection ends."""
        with self._turn:
            server, self._server = self._server, None
        assert server is not None
        until(lambda: all(not peer.queued for peer in server.clients))
        self._note(self._servers, *server.clients)
        server.close()

    @property
    def sent(self) -> int:
        """On all connections so far."""
        if self._server is not None:
            self._note(self._servers, *self._server.clients)
        return sum(self._sent.values())

    def peers(self) -> list[int]:
        """Who is connected, by the numbers of the connections."""
        return [peer.id for peer in self._server.clients] if self._server else []

    def connected(self) -> bool:
        return bool(self.peers())

    def pause(self) -> None:
        self._going.clear()
        with self._turn:
            server = self._server
        until(lambda: server is None or all(not peer.queued for peer in server.clients))

    def resume(self) -> None:
        self._going.set()

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            with self._turn:
                if self._server is not None and self._going.is_set():
                    self.number += 1
                    self._server.broadcast(igtl.String(str(self.number), device_name=self.name))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._server is not None:
            self._server.close()


class Supervisor:
    """Runs the gateway, and starts it again when it has ended."""

    def __init__(self, path: Path, log: Path) -> None:
        self._path, self._log = path, log
        self.starts = 0
        self._stopped = False
        self.process: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        command = [sys.executable, "-m", "igtl", "gateway", str(self._path), "--log-format", "json"]
        while not self._stopped:
            with open(self._log, "ab") as log:
                self.process = subprocess.Popen(command, stderr=log)
                self.starts += 1
                self.process.wait()

    def memory(self) -> float:
        """Of the gateway, in MB; 0 where the system does not tell."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0.0
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> int:
        """End in order; the exit status."""
        self._stopped = True
        self.process.terminate()
        self._thread.join(PATIENCE)
        return int(self.process.returncode)


class Client:
    """Collects the numbers that it gets."""

    def __init__(self, port: int) -> None:
        self.link = igtl.connect(port=port, reconnect=igtl.Backoff(0.05, 0.5))
        self.numbers: dict[str, list[int]] = {"steady": [], "flicker": []}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(igtl.ConnectionClosed):
            for message in self.link:
                assert isinstance(message, igtl.String)
                self.numbers[message.device_name].append(int(message.string))

    @property
    def count(self) -> int:
        return sum(map(len, self.numbers.values()))

    def close(self) -> None:
        self.link.close()
        self._thread.join()


def recorded(*files: Path) -> dict[str, list[int]]:
    """The numbers in files."""
    found: dict[str, list[int]] = {"steady": [], "flicker": []}
    for path in sorted(files):
        with igtl.Recording(path) as recording:
            for each in recording:
                message = each.frame.unpack()
                assert isinstance(message, igtl.String)
                found[message.device_name].append(int(message.string))
    return found


class Scrape:
    """The metrics at one moment; a family as a whole, or one of its numbers."""

    def __init__(self, port: int) -> None:
        self._found = samples(get(port, "/metrics")[2])

    def __call__(self, name: str, **labels: str) -> int:
        wanted = set(labels.items())
        return round(
            sum(v for (n, has), v in self._found.items() if n == f"igtl_{name}" and wanted <= has)
        )


def test_a_long_time(tmp_path: Path, disk: tuple[Path, bool]) -> None:
    folder, small = disk
    ports = {name: free_port() for name in ("http", "steady", "flicker", "clients")}
    path = tmp_path / "gateway.toml"
    http = ports["http"]

    def write(rate: int) -> None:
        path.write_text(CONFIG.format(**ports, folder=folder, rate=rate))

    def scraped() -> Scrape | None:
        try:
            return Scrape(http)
        except (OSError, ConnectionError):
            return None

    def eventually(condition: Any) -> Scrape:
        """The metrics once they fulfil this."""
        last: Any = None

        def holds() -> bool:
            nonlocal last
            last = scraped()
            return last is not None and bool(condition(last))

        until(holds, PATIENCE)
        assert isinstance(last, Scrape)
        return last

    def reload(result: str) -> None:
        before = eventually(lambda m: True)("gateway_reloads_total", result=result)
        supervisor.process.send_signal(signal.SIGHUP)
        eventually(lambda m: m("gateway_reloads_total", result=result) == before + 1)

    write(3)
    steady, flicker = Numbers("steady", ports["steady"]), Numbers("flicker", ports["flicker"])
    steady.come()
    supervisor = Supervisor(path, tmp_path / "log")
    client = Client(ports["clients"])
    begun = time.monotonic()
    cycles = reloads = lives = 0
    dies = begun
    new: dict[str, int] = {}
    arrived: dict[str, int] = {}
    try:
        while True:
            cycles += 1
            if time.monotonic() >= dies:  # a new process has begun, which counts from 0 on
                lives += 1
                dies = time.monotonic() + LIFE
                until(steady.connected, PATIENCE)
                metrics = eventually(
                    lambda m: (
                        m("sink_clients") == 1
                        and m("sink_connections_total") >= 1
                        and m("sink_up", sink="archive") == 1
                    )
                )
                clients, peers = metrics("sink_connections_total"), steady.peers()
                told, counted = client.count, {"steady": steady.sent, "flicker": flicker.sent}
                memory = supervisor.memory()
                print(f"{time.monotonic() - begun:5.0f} s: gateway {lives} begins, {memory:.1f} MB")
            steady.resume()
            flicker.resume()

            # a source that comes and goes
            for _ in range(2):
                flicker.come()
                until(flicker.connected, PATIENCE)
                number = flicker.number
                until(lambda: flicker.number > number + 50)  # noqa: B023
                flicker.go()
                eventually(lambda m: m("source_up", source="flicker") == 0)

            # reloads: a route that changes, and a file that is wrong; no connection ends
            for rate in (2, 3):
                write(rate)
                reload("changed")
            path.write_text(path.read_text().replace("[route.live]", "[route.live]\nfrm = 1"))
            reload("invalid")
            write(3)
            reload("unchanged")
            reloads += 4
            assert steady.peers() == peers
            assert eventually(lambda m: True)("sink_connections_total") == clients

            # a disk that is full: the rest goes on
            if small:
                ballast = folder / "ballast"
                with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
                eventually(lambda m: m("sink_up", sink="archive") == 0)
                status, _, body = get(http, "/healthz")
                assert status == 503
                assert os.strerror(errno.ENOSPC) in json.loads(body)["sinks"]["archive"]["reason"]
                before = client.count
                until(lambda: client.count > before + 50)  # noqa: B023
                ballast.unlink()
                metrics = eventually(lambda m: m("sink_up", sink="archive") == 1)
                assert metrics("sink_dropped_total", sink="archive", cause="ENOSPC") > 0
                taken = metrics("sink_delivered_total", sink="archive")
                eventually(lambda m: m("sink_delivered_total", sink="archive") > taken + 50)  # noqa: B023

            # the books are closed: what was sent was delivered, or counted
            steady.pause()
            flicker.pause()
            waiting = -1

            def settled(m: Scrape) -> bool:
                nonlocal waiting
                for device in (steady, flicker):  # whose last message may be on its way to a socket
                    new[device.name] = device.sent - counted[device.name]  # noqa: B023
                    arrived[device.name] = m("source_messages_total", source=device.name)
                waiting = m("sink_waiting")
                return arrived == new and waiting == 0

            with contextlib.suppress(AssertionError):
                eventually(settled)
            assert (arrived, waiting) == (new, 0)
            metrics = eventually(settled)
            for name in new:
                assert metrics("source_lost_total", source=name) == 0
            total = sum(new.values())
            for route in ("live", "record"):
                assert metrics("route_passed_total", route=route) == total
            assert metrics("route_received_total", route="changing") == metrics(
                "route_filtered_total", route="changing"
            )
            until(lambda: client.count - told == total)  # noqa: B023
            for sink in ("clients", "archive"):
                assert metrics("sink_taken_total", sink=sink) == total
                delivered = metrics("sink_delivered_total", sink=sink)
                assert delivered + metrics("sink_dropped_total", sink=sink) == total
            assert metrics("sink_dropped_total", sink="clients") == 0
            files = recorded(*folder.glob("*.mcap"))
            in_files = metrics("sink_delivered_total", sink="archive")
            assert sum(map(len, files.values())) == in_files
            if not small:
                assert in_files == total
            now = time.monotonic()
            last = now + CYCLE > begun + SECONDS and lives >= 2
            if not last and now + CYCLE < dies:
                continue
            grown = supervisor.memory()
            print(f"{now - begun:5.0f} s: gateway {lives} ends, {grown:.1f} MB, {total} messages, "
                  f"{metrics('sink_dropped_total', sink='archive')} of them lost by the full disk")  # fmt: skip
            assert grown - memory < GROWTH
            if last:
                assert supervisor.stop() == 143
                assert recorded(*folder.glob("*.mcap")) == files
                break

            # kill -9 under load: of the recording at most what was not flushed is missing
            before, number = max(files["steady"]), steady.number
            steady.resume()
            until(lambda: steady.number > number + 150)  # noqa: B023
            old = [*folder.glob("*.mcap")]
            supervisor.process.kill()
            steady.pause()  # so that the next one counts from its first message on
            dies = time.monotonic()
            until(lambda: supervisor.starts == lives + 1, PATIENCE)  # noqa: B023
            after = [n for n in recorded(*old)["steady"] if n > before]
            assert after == list(range(number + 1, number + 1 + len(after)))
            assert steady.number - after[-1] < 1000
            for file in old:  # moved away
                file.unlink()
    finally:
        supervisor.stop()
        client.close()
        steady.close()
        flicker.close()
    for found in client.numbers.values():
        assert found == sorted(set(found))  # nothing twice, nothing out of order
    assert supervisor.starts == lives >= 2
    assert reloads == 4 * cycles
    print(f"{cycles} cycles, {reloads} reloads, {lives} processes")
