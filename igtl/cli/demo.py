"""`igtl demo`: a tracking loop to watch, without hardware.

A second process plays the devices. This one receives: TRANSFORM by UDP in one thread, TDATA and
IMAGE by TCP in another, and draws what arrived ten times a second.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import statistics
import sys
import threading
import time
from collections import deque
from typing import Any

import click
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import igtl
from igtl.blocking.changes import Changes
from igtl.cli import arguments, leave_signals_to_parent
from igtl.cli.tables import Cell, table
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import say, styled
from igtl.simulate import Stream, Tracker, Ultrasound

_RATES = {"TRANSFORM": 120.0, "TDATA": 60.0, "IMAGE": 20.0}
_ROWS = 16  # of the panels; fewer where the terminal has no room for them
_FEWEST = 3
_AROUND = 8  # lines of the table beside its rows, edges of the panels, and the cursor
_COLUMNS, _TRAIL = 42, 32  # of the picture, and of the path of the tool
_WINDOW = 2.0  # seconds that rate, jitter and latency look back


def run_devices(control: Any, udp_address: tuple[str, int]) -> None:
    """Send TRANSFORM by UDP, TDATA and IMAGE to one TCP client.

    This runs in the process of the devices.

    Says its TCP port on `control`, waits there for a word to stop, then says how many messages
    each stream has sent.
    """
    leave_signals_to_parent()
    tracker, scanner = Tracker(), Ultrasound()
    with igtl.listen(port=0, version=2) as server, igtl.udp.Sender(*udp_address) as out:
        control.send(server.port)
        with server.accept(timeout=30) as link:
            streams = {
                "TRANSFORM": Stream(tracker.transform, out.send, _RATES["TRANSFORM"]),
                "TDATA": Stream(tracker.tracking_data, link.send, _RATES["TDATA"]),
                "IMAGE": Stream(scanner.image, link.send, _RATES["IMAGE"]),
            }
            with contextlib.suppress(EOFError):  # the other process is gone
                control.recv()
            for stream in streams.values():
                stream.stop()
        with contextlib.suppress(OSError):
            control.send({name: stream.sent for name, stream in streams.items()})


class Source:
    """The messages of one (type, device)."""

    def __init__(self, via: str) -> None:
        self.via = via
        self.last: igtl.Message | None = None
        self.first_id = 0
        self.count = 0
        self.arrivals: deque[float] = deque(maxlen=2000)
        self.latency: deque[float] = deque(maxlen=500)
        self.trail: deque[tuple[float, float]] = deque(maxlen=120)

    def add(self, message: igtl.Message) -> None:
        """Count a message."""
        now = time.perf_counter()
        self.first_id = self.first_id or message.message_id
        self.count += 1
        self.last = message
        self.arrivals.append(now)
        if message.timestamp is not None and message.received is not None:
            self.latency.append(message.received - message.timestamp)
        if isinstance(message, igtl.Transform):
            self.trail.append((float(message.position[0]), float(message.position[1])))

    def recent(self) -> list[float]:
        """Arrivals of the last two seconds."""
        start = time.perf_counter() - _WINDOW
        return [t for t in list(self.arrivals) if t >= start]

    def rate(self) -> float:
        """Messages a second."""
        times = self.recent()
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def jitter(self) -> float:
        """Return the standard deviation of the intervals, in seconds."""
        times = self.recent()
        gaps = [b - a for a, b in itertools.pairwise(times)]
        return statistics.pstdev(gaps) if len(gaps) > 1 else 0.0

    def lost(self) -> int:
        """Message ids that never came."""
        return self.last.message_id - self.first_id + 1 - self.count if self.last else 0

    def age(self) -> float:
        """Seconds since the last message; infinity before there is one."""
        return time.perf_counter() - self.arrivals[-1] if self.arrivals else float("inf")

    def value(self) -> str:
        """Return the last message in a few words."""
        match self.last:
            case igtl.Transform() as m:
                x, y, z = m.position
                return f"{x:6.1f} {y:6.1f} {z:6.1f} mm"
            case igtl.TrackingData() as m:
                x, y, z = m.tools[0].matrix[:3, 3]
                return f"{len(m.tools)} tools, {x:.0f} {y:.0f} {z:.0f} mm"
            case igtl.Image() as m:
                i, j, _ = m.size
                return f"{i}×{j}, mean {m.array.mean():.0f}"
        return ""


class Client:
    """The receiving side: two threads that fill the sources."""

    def __init__(self, receiver: igtl.udp.Receiver, link: igtl.Link) -> None:
        self.sources: dict[tuple[str, str], Source] = {}
        self.bad = 0
        self._arrived = Changes()
        self._threads = [
            threading.Thread(target=self._datagrams, args=(receiver,), daemon=True),
            threading.Thread(target=self._stream, args=(link,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _add(self, message: igtl.Message, via: str) -> None:
        key = message.type_name, message.device_name
        with self._arrived:
            if key not in self.sources:
                self.sources[key] = Source(via)
            self.sources[key].add(message)
            self._arrived.notify_all()

    def _datagrams(self, receiver: igtl.udp.Receiver) -> None:
        for message, _ in receiver:
            self._add(message, "UDP")

    def _stream(self, link: igtl.Link) -> None:
        try:
            for message in link:
                self._add(message, "TCP")
        except igtl.ConnectionClosed:
            self.bad += 1

    def wait_for(self, messages: int, seconds: float) -> None:
        """Return when so many have come, or after so long: the last are still in the sockets."""
        with self._arrived:
            self._arrived.wait_for(
                lambda: sum(s.count for s in self.sources.values()) >= messages, seconds
            )

    def join(self) -> None:
        """Wait until both threads have ended."""
        for thread in self._threads:
            thread.join(5)


def _table(client: Client, width: int, *, title: str) -> Table:
    titles = (
        "device", "type", "via", "Hz", "jitter ms", "latency ms", "lost", "age ms", "last value"
    )  # fmt: skip
    rows: list[list[Cell]] = []
    for (type_name, device), source in sorted(client.sources.items()):
        lost, age = source.lost(), source.age()
        latency = 1000 * statistics.median(source.latency) if source.latency else 0.0
        rows.append([
            device, type_name, source.via, f"{source.rate():.1f}",
            f"{1000 * source.jitter():.2f}", f"{latency:.2f}",
            (str(lost), "red" if lost else "green"),
            (f"{1000 * age:.0f}", "green" if age < 0.5 else "red"), source.value(),
        ])  # fmt: skip
    drop = ["via", "latency ms", "jitter ms", "age ms", "last value"]
    out = table(titles, rows, left=3, width=width, trim=True, drop=drop)
    out.title, out.title_style = title, "bold"
    return out


def _picture(image: igtl.Image, columns: int, rows: int) -> Text:
    """Return the first slice in half blocks: two pixels a character."""
    pixels = image.array[0]
    y = np.linspace(0, pixels.shape[0] - 1, 2 * rows).astype(int)
    x = np.linspace(0, pixels.shape[1] - 1, columns).astype(int)
    small = pixels[np.ix_(y, x)]
    text = Text()
    for row in range(rows):
        for upper, lower in zip(small[2 * row], small[2 * row + 1], strict=True):
            text.append("▀", f"rgb({upper},{upper},{upper}) on rgb({lower},{lower},{lower})")
        text.append("\n")
    text.rstrip()
    return text


def _trail(source: Source, columns: int, rows: int) -> Text:
    """Path of the tool seen from above, 260 × 160 mm."""
    grid = [
        ["·" if (c % 11 == 5 and r % 6 == 2) else " " for c in range(columns)] for r in range(rows)
    ]
    points = list(source.trail)
    for k, (x, y) in enumerate(points):
        c, r = int((x + 130) / 260 * columns), int((80 - y) / 160 * rows)
        if 0 <= c < columns and 0 <= r < rows:
            grid[r][c] = "●" if k == len(points) - 1 else "•" if k > len(points) - 40 else "∙"
    return Text("\n".join("".join(row) for row in grid), style="green")


def screen(client: Client, console: Console, left: float) -> Group:
    """Return what a terminal shows of the streams now, with so many seconds left."""
    streams = _table(client, console.width, title=f"igtl demo · {left:.0f} s left · Ctrl-C ends")
    parts: list[Any] = [streams]
    by_type = {key[0]: source for key, source in client.sources.items()}
    rows = min(_ROWS, console.height - streams.row_count - _AROUND)
    room = console.width - 9  # without the edges of both panels
    stacked = room < _COLUMNS + _TRAIL and rows == _ROWS <= console.height - rows - _AROUND - 8
    if stacked:  # a narrow and high terminal
        wide = trail_wide = min(_COLUMNS, console.width - 4)
    else:
        wide = min(_COLUMNS, room * _COLUMNS // (_COLUMNS + _TRAIL))
        trail_wide = min(_TRAIL, room - wide)
    panels: list[RenderableType] = []
    image = by_type["IMAGE"].last if "IMAGE" in by_type else None
    if isinstance(image, igtl.Image):
        picture = _picture(image, wide, rows)
        panels.append(Panel.fit(picture, title="IMAGE Image_Reference", border_style="cyan"))
    if "TRANSFORM" in by_type:
        trail = _trail(by_type["TRANSFORM"], trail_wide, rows)
        panels.append(Panel.fit(trail, title="ProbeToTracker", border_style="cyan"))
    if panels and rows >= _FEWEST:
        if stacked:
            parts += panels
        else:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(*panels)
            parts.append(grid)
    return Group(*parts)


def _watch(client: Client, console: Console, seconds: float) -> None:
    end = time.perf_counter() + seconds
    if not console.is_terminal:
        time.sleep(seconds)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for _ in igtl.Rate(10):
            left = end - time.perf_counter()
            if left <= 0:
                return
            live.update(screen(client, console, left), refresh=True)


@click.command("demo")
@arguments.seconds("run (default 10; with --view until Ctrl-C)", None, 0.5)
@click.option("--view", is_flag=True, help="See it in a browser instead (igtl[view]).")
def command(seconds: float | None, view: bool) -> None:
    """A tracking loop to watch, on simulated devices.

    A tracker sends TRANSFORM at 120 Hz by UDP and TDATA at 60 Hz by TCP, an ultrasound scanner 20
    images a second by TCP, all on loopback; a client receives them.

    With --view, a tracker, an ultrasound scanner, a CT and a force sensor are shown on a page; open
    the printed address.
    """
    if view:
        _view(seconds)
    else:
        _loop(10.0 if seconds is None else seconds)


def _view(seconds: float | None) -> None:
    """Show the page of `igtl view`, on devices of `igtl simulate`."""
    devices = ("tracker", "ultrasound", "ct", "force")
    with (
        igtl.View() as view,
        igtl.simulate.serve(*devices, port=0, dropout=0.05, statuses=True) as simulator,
        igtl.connect("127.0.0.1", simulator.port, hello=True) as link,
    ):
        view.follow(link)
        say(view.url)
        threading.Event().wait(seconds)


def _loop(seconds: float) -> None:
    """Run the devices in a second process, and show a table of what this one receives."""
    console = terminal()
    sys.setswitchinterval(0.0005)  # drawing shall not keep the receiving threads waiting
    context = multiprocessing.get_context("spawn")
    control, theirs = context.Pipe()
    with igtl.udp.Receiver(0) as receiver:
        devices = context.Process(
            target=run_devices, args=(theirs, (receiver.host, receiver.port)), daemon=True
        )
        devices.start()
        theirs.close()
        try:
            if not control.poll(30):
                raise click.ClickException("the simulated devices did not start")
            port = control.recv()
            with igtl.connect("127.0.0.1", port, version=2) as link:
                console.print(f"simulated devices on 127.0.0.1: TCP {port}, UDP {receiver.port}")
                client = Client(receiver, link)
                with contextlib.suppress(KeyboardInterrupt):
                    _watch(client, console, seconds)
                summary = _table(client, console.width, title="igtl demo · summary")
                control.send("stop")
                sent = control.recv() if control.poll(10) else {}
                client.wait_for(sum(sent.values()), seconds=2)
                receiver.close()
                client.join()
                _summarize(console, summary, client, sent)
        except EOFError:
            raise click.ClickException("the simulated devices ended early") from None
        finally:
            control.close()
            devices.join(5)


def _summarize(console: Console, table: Table, client: Client, sent: dict[str, int]) -> None:
    console.print(table)
    missing = 0
    for (type_name, device), source in sorted(client.sources.items()):
        lost = sent.get(type_name, 0) - source.count
        missing += lost
        line = (
            f"{type_name:<10} {device:<16} sent {sent.get(type_name, 0):>6}, "
            f"received {source.count:>6}, lost {lost}"
        )
        console.print(styled(line))
    if missing or client.bad or len(client.sources) != len(_RATES):
        console.print(styled(("some messages did not arrive", "yellow")))
        return
    console.print(styled(("every message arrived", "green")))
