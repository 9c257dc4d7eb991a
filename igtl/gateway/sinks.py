"""Where messages go: clients, servers, recordings.

A sink never delays what it gets frames from: what it cannot take is counted by cause.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Final

from igtl._core import Frame
from igtl.blocking.healing import ReconnectingLink
from igtl.blocking.opening import connect
from igtl.blocking.server import Peer, Server, serve
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.gateway.config import Entry
from igtl.gateway.parts import BACKOFF, Part, Tally, context_of_client, context_of_server
from igtl.log import named
from igtl.session.backoff import LinkEvent
from igtl.session.requests import name_fits
from igtl.tools.asking import Askers
from igtl.tools.routing import Stream, Streams, Versions

NOT_OPEN: Final = "not open"
"""The cause of what is dropped while a sink does not work."""


class Sink(Part):
    """A sink.

    Attributes:
        taken: messages that it was handed. Each of them is delivered, counted as dropped, or waits
            still; of `serve` it is each of them for each client.
    """

    word = "sink"

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.taken = 0
        self._taking = threading.Lock()
        self._dropped = Tally()
        self.versions = Versions(entry.get("version", "as is"))

    def put(self, frame: Frame, source: str) -> None:
        """Take a frame of a source, without waiting, in any thread."""
        with self._taking:
            self.taken += 1
            try:
                self.send(frame, source)
            except ConnectionClosed:
                self._dropped.add(NOT_OPEN)

    @abstractmethod
    def send(self, frame: Frame, source: str) -> None:
        """Send a frame.

        Raises:
            ConnectionClosed: the sink is not open.
        """

    @property
    @abstractmethod
    def delivered(self) -> int:
        """Messages that were sent, or written."""

    @property
    def dropped(self) -> Counter[str]:
        """What was not, by cause."""
        return self._dropped.copy()

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Messages that were taken, and are neither yet."""


class Serving(Sink):
    """A server for many clients.

    Attributes:
        server: while it is open.
        came: clients that there were.
        latch: types, with * and ?, of which a client that comes gets the last message of each
            stream.
        asks: the source that gets what clients send, and answers them; None: that is left out.
        ask: sends to that source; the gateway sets it.
        answered: answers that went to the client that has asked, and nowhere else.
    """

    server: Server | None = None

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.latch: tuple[str, ...] = entry.get("latch", ())
        self.asks: str | None = entry.get("asks")
        self.ask: Callable[[Message], None] | None = None
        self.answered = 0
        self._askers = Askers()
        self._streams = Streams()
        self._passed: set[Stream] = set()
        self.came = 0
        self._sent: int = 0

    def run(self) -> None:
        """Serve until it is closed."""
        host, port = self.entry.place
        with serve(
            host, port, ssl=context_of_server(self.entry), start=False,
            **{"policy": "drop_oldest", **self.entry.options},
        ) as server:  # fmt: skip
            if self.ask is not None:
                self._askers.hand_on(server, self.ask)
            server.on_connect(self._arrived)
            server.on_disconnect(self._left)
            server.start()
            self.server = server
            self.opened()
            server.wait()
        self.server = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self.server is not None
        return int(self.server.port)

    @property
    def clients(self) -> list[Peer]:
        """Who is connected."""
        server = self.server
        return [] if server is None else server.clients

    def _arrived(self, peer: Peer) -> None:
        self.came += 1

    def _left(self, peer: Peer) -> None:
        self._dropped.update(peer.stats.dropped)
        self._sent += peer.stats.sent

    def send(self, frame: Frame, source: str) -> None:
        """Hand a frame to all clients; never waits."""
        server = self.server
        if server is None:
            raise ConnectionClosed
        if self.asks is not None:
            self._passed.add(self._streams.of(frame))
        if self.versions.version == "auto":
            self.versions.send_to_each(frame, server.clients)
        else:
            latch = any(name_fits(frame.type_name, each) for each in self.latch)
            server.broadcast(self.versions.of(frame, 1), latch=latch)

    def answer(self, frame: Frame) -> bool:
        """Hand a frame of the source that clients ask to the client that has asked.

        Returns:
            Whether it was an answer that the other clients do not get anyway.
        """
        asker = self._askers.of(frame)
        if asker is None or self._streams.of(frame) in self._passed:
            return False
        self.versions.send_to_each(frame, [asker])
        self.answered += 1
        return True

    @property
    def delivered(self) -> int:
        """Messages that were sent, to all clients together."""
        return self._sent + sum(peer.stats.sent for peer in self.clients)

    @property
    def dropped(self) -> Counter[str]:
        """What clients did not get, by cause."""
        found = super().dropped
        for peer in self.clients:
            found.update(peer.stats.dropped)
        return found

    @property
    def refused(self) -> Counter[str]:
        """Connections that were not let in, by cause."""
        return Counter() if self.server is None else Counter(self.server.refused)

    @property
    def waiting(self) -> int:
        """Messages that wait in the queues of all clients."""
        return sum(peer.queued for peer in self.clients)

    def stop(self) -> None:
        """Stop serving."""
        if self.server is not None:
            self.server.close()


class Connecting(Sink):
    """A server that is connected to, again and again."""

    _link: ReconnectingLink | None = None

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self._sent: int = 0

    def run(self) -> None:
        """Keep the connection until it is closed."""
        host, port = self.entry.place
        link = connect(
            host, port, reconnect=BACKOFF, on_event=self._happened,
            ssl=context_of_client(self.entry), on_error="skip",
            **{"policy": "drop_oldest", **self.entry.options},
        )  # fmt: skip
        self._link = link
        try:
            while not self.closed.is_set():  # what the server says is not for the gateway
                link.recv_frame()
        finally:
            self._link = None
            link.close()
            self._sent += link.stats.sent
            self._dropped.update(link.stats.dropped)

    def _happened(self, event: LinkEvent) -> None:
        if event.kind == "connected":
            self.opened()
        elif not self.closed.is_set():
            why = f": {event.error}" if event.error else ""
            self.failed(f"{named(event.peer)} {event.kind}{why}")

    def send(self, frame: Frame, source: str) -> None:
        """Queue a frame for the server; never waits."""
        link = self._link
        if link is None:
            raise ConnectionClosed
        link.send(self.versions.of(frame, link.header_version))

    @property
    def delivered(self) -> int:
        """Messages that were sent."""
        link = self._link
        return self._sent + (link.stats.sent if link is not None else 0)

    @property
    def dropped(self) -> Counter[str]:
        """What was not, by cause."""
        found = super().dropped
        if (link := self._link) is not None:
            found.update(link.stats.dropped)
        return found

    @property
    def waiting(self) -> int:
        """Messages that wait for the connection."""
        return max(0, self.taken - self.delivered - self.dropped.total())

    def stop(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()
