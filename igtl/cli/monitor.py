"""`igtl monitor`: the streams of a server, live in the terminal."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

import igtl
from igtl.cli import TIMED_OUT, UNREACHABLE, Failure, arguments
from igtl.cli.arguments import Address, Selection, selecting
from igtl.cli.brief import value
from igtl.cli.clock import delay
from igtl.cli.clock import option as clock_option
from igtl.cli.sources import Source, receiving
from igtl.cli.tables import Cell, counted, explain, table
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import echo, say, size, styled
from igtl.log import named

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

_HZ = 5  # pictures a second
_WINDOW = 2.0  # seconds that the greatest gap looks back
_STALE = 1.0  # seconds after which the age of a stream is red
_MAX = 1000  # streams that are kept apart


class Watched:
    """The messages of one (type, device name), beyond `igtl.StreamStats`."""

    def __init__(self) -> None:
        self.last: igtl.Message | None = None
        self.last_id = 0
        self.missing = 0
        self._arrivals: list[float] = []

    def add(self, message: igtl.Message) -> None:
        """Count a message."""
        number = message.message_id
        if self.last_id and number > self.last_id:
            self.missing += number - self.last_id - 1
        self.last_id = number
        self.last = message
        now = time.monotonic()
        self._arrivals.append(now)
        if len(self._arrivals) > 4000 or self._arrivals[0] < now - 2 * _WINDOW:
            self._arrivals = [t for t in self._arrivals if t >= now - _WINDOW][-2000:]

    def gap(self) -> float:
        """Return the greatest recent time between two messages, in seconds."""
        now = time.monotonic()
        recent = [t for t in list(self._arrivals) if t >= now - _WINDOW]
        return max((b - a for a, b in pairwise(recent)), default=0.0)

    def value(self) -> str:
        """Return the newest message, in a few words."""
        return "" if self.last is None else value(self.last)


class Watch:
    """Reads a source in a thread, and keeps account."""

    def __init__(self, source: Source, selection: Selection) -> None:
        self.source = source
        self.streams: dict[tuple[str, str], Watched] = {}
        self.error: Exception | None = None
        self._selection = selection
        self._thread = threading.Thread(target=self._run, name="igtl monitor", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether the source has ended."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for message in self.source.messages():
                key = message.type_name, message.device_name
                if self._selection.takes(*key):
                    if key not in self.streams and len(self.streams) >= _MAX:
                        key = "*", "*"
                    self.streams.setdefault(key, Watched()).add(message)
        except (igtl.IgtlError, OSError, click.ClickException) as error:
            self.error = error

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, as JSON-able values."""
        stats = self.source.stats
        clock = self.source.clock
        rows = []
        for key, stream in sorted(dict(stats.streams).items(), key=lambda item: item[0][::-1]):
            if not stream.received or not self._selection.takes(*key):
                continue
            watched = self.streams.get(key) or Watched()
            rows.append({
                "device_name": key[1], "type": key[0], "received": stream.received,
                "bytes": stream.received_bytes, "rate": stream.rate, "jitter": stream.jitter,
                **({} if clock is None else {"delay": delay(clock.clock, watched.last)}),
                "gap": watched.gap(), "age": stream.age, "missing": watched.missing,
                "wrong_crc": stream.crc_errors, "bad": sum(stream.lost.values()),
                "value": watched.value(),
            })  # fmt: skip
        return rows


@click.command("monitor")
@click.argument("address", type=Address(), default="localhost:18944")
@arguments.seconds()
@arguments.as_json
@clock_option
@selecting
@receiving
def command(
    address: tuple[str, int],
    seconds: float | None,
    as_json: bool,
    ask_clock: bool,
    selection: Selection,
    source: Callable[..., Source],
) -> None:
    """Watch the streams of a server: devices, types, rates, jitter, the greatest gap of late, age,
    sizes, missing message ids, wrong CRCs, and the newest values; with --clock the delay from time
    stamp to arrival.

    ADDRESS is HOST:PORT, default localhost:18944. The server is connected to again when it comes
    back. Works over ssh; where standard output is no terminal it prints the last table only; with
    --json an object a second.
    """
    from rich.live import Live

    console = terminal()
    end = None if seconds is None else time.monotonic() + seconds
    news: list[str] = []
    drawing = stopped = False

    def tell(text: str) -> None:
        news.append(text)
        if not drawing:
            say(text)

    with source(
        address, end=end, heal=True, crc="warn", tell=tell, ask_clock=ask_clock
    ) as incoming:
        drawing = console.is_terminal and not as_json
        watch = Watch(incoming, selection)
        begun = time.monotonic()
        try:
            watch.start()
            rate = igtl.Rate(1 if as_json else _HZ)
            if as_json:
                for _ in rate:
                    if _is_over(watch, end):
                        break
                    echo(json.dumps(_state(watch, news)))
            else:
                shown = console.is_terminal
                with Live(console=console, auto_refresh=False, screen=shown) as live:
                    for _ in rate:
                        if _is_over(watch, end):
                            break
                        if shown:
                            live.update(_screen(watch, console, begun, address, news), refresh=True)
            away = incoming.away
        except KeyboardInterrupt:
            away, stopped = "", True
        if watch.streams and not as_json:
            console.print(_table(watch, console))
    if stopped:
        if not watch.streams:
            say(incoming.nothing)
        return
    if watch.error is not None:
        raise watch.error
    if away:
        raise Failure(away, UNREACHABLE)
    if not watch.streams:
        raise Failure(incoming.nothing, TIMED_OUT)


def _is_over(watch: Watch, end: float | None) -> bool:
    return watch.over or (end is not None and time.monotonic() >= end)


def _state(watch: Watch, news: list[str]) -> dict[str, Any]:
    stats = watch.source.stats
    asked = watch.source.clock
    clock = {} if asked is None else {"clock": {"text": asked.text, **asked.clock.to_dict()}}
    return {
        "time": time.time(), "peer": named(watch.source.peer), **clock, "received": stats.received,
        "bytes": stats.received_bytes, "errors": dict(stats.errors), "news": news[-1:],
        "streams": watch.rows(),
    }  # fmt: skip


def _screen(
    watch: Watch, console: Console, begun: float, address: tuple[str, int], news: list[str]
) -> Group:
    from rich.console import Group

    stats = watch.source.stats
    line = (
        f"igtl monitor {named(address)} · {time.monotonic() - begun:.0f} s · {stats.received} "
        f"messages · {size(stats.received_bytes)}"
    )
    if stats.errors:
        line += f" · bad: {', '.join(f'{n} {kind}' for kind, n in stats.errors.items())}"
    parts: list[Any] = [styled((line + " · Ctrl-C ends", "bold"))]
    if news:
        parts.append(styled((news[-1], "yellow")))
    if watch.streams:
        parts.append(
            _table(watch, console, rows=console.height - (7 if watch.source.clock is None else 9))
        )
    return Group(*parts)


def _shown(delay: float | None) -> str:
    return "–" if delay is None else f"{1000 * delay:.1f}"


def _table(watch: Watch, console: Console, rows: int | None = None) -> Table:
    clock = watch.source.clock
    late = () if clock is None else ("delay",)
    titles = (
        "device", "type", "Hz", "jitter", "gap", "age", *late, "count", "MB", "missing", "CRC",
        "last value",
    )  # fmt: skip
    found = watch.rows()
    hidden = 0 if rows is None else max(0, len(found) - max(1, rows))
    cells: list[list[Cell]] = []
    for row in found[: len(found) - hidden]:
        age = row["age"] or 0.0
        cells.append([
            row["device_name"], row["type"], f"{row['rate']:.1f}", f"{1000 * row['jitter']:.2f}",
            f"{1000 * row['gap']:.0f}",
            (f"{1000 * age:.0f}", "green" if age < _STALE else "red"),
            *(_shown(row["delay"]) for _ in late),
            str(row["received"]), f"{row['bytes'] / 1e6:.1f}",
            counted(row["missing"]), counted(row["wrong_crc"]), row["value"],
        ])  # fmt: skip
    counts = {"missing": "missing", "CRC": "wrong_crc"}
    zero = [t for t, key in counts.items() if not any(row[key] for row in found)]
    bad = [t for t in counts if t not in zero]
    drop = ["MB", "count", *zero, "gap", "jitter", "last value", *late, *bad, "age"]
    out = table(titles, cells, left=2, width=console.width, trim=True, drop=drop)
    more = f"{hidden} more streams; " if hidden else ""
    means = {
        "jitter": "ms", "gap": "ms", "age": "ms", "missing": "message ids", "CRC": "wrong ones",
    }  # fmt: skip
    out.caption = more + explain(out, **means)
    if clock is not None:
        out.caption += f"\ndelay from time stamp to arrival in ms; {clock.text}"
    out.caption_justify = "left"
    return out
