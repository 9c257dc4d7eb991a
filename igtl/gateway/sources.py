"""Where messages come from: connections, datagrams, recordings, simulated devices.

A connection is made or taken. Each source passes on frames as they come, from threads of its own.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from igtl._core import Frame
from igtl._stream import Stats
from igtl.blocking.link import Link
from igtl.blocking.listener import listen
from igtl.blocking.opening import connect
from igtl.blocking.udp import Receiver
from igtl.codec.message import Message
from igtl.devices.source import open as open_device
from igtl.errors import ConnectionClosed, IgtlError
from igtl.gateway.config import Entry
from igtl.gateway.parts import (
    BACKOFF,
    Part,
    Tally,
    context_of_client,
    context_of_server,
    settle,
)  # fmt: skip
from igtl.log import log, named
from igtl.messages.queries import StartQuaternionTrackingData, StartTrackingData
from igtl.session.access import AllowList
from igtl.session.backoff import LinkEvent

_STARTS: Final[dict[str, type[Message]]] = {
    "TDATA": StartTrackingData,
    "QTDATA": StartQuaternionTrackingData,
}
Take = Callable[[Frame, "Source"], None]


class Source(Part):
    """A source.

    Args:
        take: called with each frame.

    Attributes:
        stats: messages that arrived, by stream.
        connections: how many there were.
    """

    word = "source"

    def __init__(self, entry: Entry, take: Take) -> None:
        super().__init__(entry)
        self._take = take
        self._silent_after: float | None = entry.get("silent_after")
        self._since = time.monotonic()
        self._lost = Tally()
        self._busy: dict[int, float] = {}
        self.stats = Stats()
        self.connections = 0

    def take(self, frame: Frame) -> None:
        """Hand on a frame."""
        thread = threading.get_ident()
        self._since = self._busy[thread] = now = time.monotonic()
        try:
            self.stats.count_received(frame, now)
            self._take(frame, self)
        finally:
            del self._busy[thread]

    def stuck(self, now: float) -> float:
        """Return for how many seconds one frame has been on its way to the sinks."""
        return max((now - begun for begun in [*self._busy.values()]), default=0.0)

    @property
    def lost(self) -> Counter[str]:
        """Messages lost before they reached a route, by cause."""
        return self._lost.copy()

    @property
    def reason(self) -> str:
        """Why nothing comes, silence for too long included; "" while all is well."""
        silent = time.monotonic() - self._since
        if not self._failure and self._silent_after is not None and silent > self._silent_after:
            return f"no message for {silent:.1f} s"
        return self._failure


class Connected(Source):
    """A server that is connected to, again and again."""

    _link: Any = None

    def send(self, message: Message) -> None:
        """Say something to the server.

        Raises:
            ConnectionClosed: it is away.
        """
        link = self._link
        if link is None or not link.connected:
            raise ConnectionClosed(f"{self} is away")
        link.send(message)

    def run(self) -> None:
        """Hand on what the server sends, until it is closed."""
        host, port = self.entry.place
        link = connect(
            host, port, reconnect=BACKOFF, on_event=self._happened, on_error="skip",
            ssl=context_of_client(self.entry), **self.entry.options,
        )  # fmt: skip
        self._link = link
        try:
            if select := self.entry.get("select"):
                from igtl.peers.plus.selection import Select

                link.send(Select.of(select).message(), latch=True)
            if start := self.entry.get("start"):
                link.send(_STARTS[start](), latch=True)
            while not self.closed.is_set():
                self.take(link.recv_frame())
        finally:
            link.close()
            settle(self._lost, link.stats)
            self._link = None

    @property
    def lost(self) -> Counter[str]:
        """What its connections have lost, by cause."""
        found = super().lost
        if (link := self._link) is not None:
            found.update(link.stats.dropped)
            found.update(link.stats.errors)
        return found

    def _happened(self, event: LinkEvent) -> None:
        if event.kind == "connected":
            self.connections += 1
            self.opened()
        elif not self.closed.is_set():
            why = f": {event.error}" if event.error else ""
            self.failed(f"{named(event.peer)} {event.kind}{why}")

    def stop(self) -> None:
        """Close the connection."""
        if (link := self._link) is not None:
            link.close()


class Listening(Source):
    """Clients that connect here and send."""

    _listener: Any = None

    def __init__(self, entry: Entry, take: Take) -> None:
        super().__init__(entry, take)
        self._links: set[Link] = set()
        self._changed = threading.Lock()

    def run(self) -> None:
        """Take connections until it is closed, each followed by a thread."""
        host, port = self.entry.place
        allowed = AllowList(self.entry.get("allow"))
        most: int = self.entry.get("max_clients", 1000)
        context = context_of_server(self.entry)
        with listen(host, port, ssl=context, **self.entry.options) as listener:
            self._listener = listener
            self.opened()
            for link in listener:
                if not allowed.admits(link.peer):
                    self._refuse(link, "not allowed")
                elif len(self._links) >= most:
                    self._refuse(link, "max_clients")
                else:
                    threading.Thread(target=self._follow, args=(link,), daemon=True).start()
        self._close_links()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.port)

    def _refuse(self, link: Link, why: str) -> None:
        log(
            logging.WARNING,
            "source %s: %s is refused: %s",
            self.name,
            link.peer,
            why,
            peer=link.peer,
            cause=why,
        )
        link.close()

    def _follow(self, link: Link) -> None:
        with self._changed:
            self._links.add(link)
            self.connections += 1
        try:
            for frame in link.frames():
                self.take(frame)
        except (IgtlError, OSError) as error:
            log(logging.INFO, "source %s: %s", self.name, error, peer=link.peer, cause=error)
        finally:
            link.close()
            with self._changed:
                self._links.discard(link)
                settle(self._lost, link.stats)

    @property
    def lost(self) -> Counter[str]:
        """What its connections have lost, by cause."""
        with self._changed:
            found = super().lost
            for link in self._links:
                found.update(link.stats.dropped)
                found.update(link.stats.errors)
            return found

    def _close_links(self) -> None:
        with self._changed:
            links = [*self._links]
        for link in links:
            link.close()

    def stop(self) -> None:
        """Stop listening, and close all connections."""
        if self._listener is not None:
            self._listener.close()
        self._close_links()


class Datagrams(Source):
    """Datagrams that come to a port."""

    _receiver: Any = None

    def run(self) -> None:
        """Hand on what the datagrams hold, until it is closed."""
        host, port = self.entry.place
        group, interface = self.entry.get("group"), self.entry.get("interface")
        with Receiver(port, host, group=group, interface=interface) as receiver:
            self._receiver = receiver
            self.opened()
            try:
                while not self.closed.is_set():
                    self.take(receiver.recv_frame()[0])
            finally:
                settle(self._lost, receiver.stats)
                self._receiver = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._receiver.port)

    @property
    def lost(self) -> Counter[str]:
        """What was lost of the datagrams, by cause."""
        found = super().lost
        if (receiver := self._receiver) is not None:
            found.update(receiver.stats.dropped)
            found.update(receiver.stats.errors)
        return found

    def stop(self) -> None:
        """Close the socket."""
        if (receiver := self._receiver) is not None:
            receiver.close()


class Replayed(Source):
    """A recording that is sent again."""

    def run(self) -> None:
        """Play the recording; at its end wait, as faulty, until it is closed."""
        from igtl.recording import Recording

        get = self.entry.get
        with Recording(self.entry.place) as recording:
            self.opened()
            for frame in recording.play(
                speed=get("speed", 1.0), loop=get("loop", False), restamp=get("restamp", False)
            ):
                if self.closed.is_set():
                    return
                self.take(frame)
        self.failed("the recording has ended")
        self.closed.wait()


class Simulated(Source):
    """Simulated devices."""

    def run(self) -> None:
        """Run the devices until it is closed."""
        from igtl.simulate import Stream, sources

        with contextlib.ExitStack() as stack:
            values = self.entry.values
            settings = {
                k: values[k] for k in ("noise", "dropout", "statuses", "seed") if k in values
            }
            for name in self.entry.place:
                for each in sources(name, **settings):
                    stack.callback(Stream(each.produce, self._send, each.hz).stop)
            self.opened()
            self.closed.wait()

    def _send(self, message: Any) -> None:
        self.take(Frame.from_bytes(message.pack()))


class Device(Source):
    """A device that igtl or another package knows, see `igtl.devices`."""

    _device: Any = None

    def run(self) -> None:
        """Hand on what the device sends; at its end wait, as faulty, until it is closed."""
        with open_device(self.entry.place) as device:
            self._device = device
            self.opened()
            try:
                for message in device:
                    self.take(Frame.from_bytes(message.pack()))
            finally:
                self._device = None
                self._lost.update(_lost_by(device))
        if not self.closed.is_set():
            self.failed("the device has ended")
            self.closed.wait()

    @property
    def reason(self) -> str:
        """What is wrong with the device; "" while nothing is."""
        device = self._device
        if device is not None and device.error is not None:
            return f"{type(device.error).__name__}: {device.error}"
        return super().reason

    @property
    def lost(self) -> Counter[str]:
        """What was lost of the device, by cause."""
        device = self._device
        return super().lost + (Counter() if device is None else _lost_by(device))

    def stop(self) -> None:
        """Close the device."""
        if (device := self._device) is not None:
            device.close()


def _lost_by(device: Any) -> Counter[str]:
    return Counter(drop_oldest=device.dropped, unreadable=device.unreadable)
