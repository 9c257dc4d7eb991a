"""Passing on what a source sends to the clients of a server.

    with igtl.connect("tracker") as link, igtl.serve(port=18945) as server:
        relay = Relay(server, rename={"Probe": "ProbeToTracker"}, version="auto")
        for frame in link.frames():
            relay.forward(frame)

Frames can be chosen, renamed, sent in another header version, and thinned to a rate. They are not
decoded: frames stay as they are, wrong CRCs and damaged bodies included, and changes are made in
their bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Self

from igtl._core import Frame
from igtl.blocking.server import Peer, Server
from igtl.codec.message import Message
from igtl.tools.asking import Askers
from igtl.tools.routing import HeaderVersion, Renaming, Stream, Streams, Thinner, Versions, renamed


class Relay:
    """Passes the frames of a source to the clients of a server.

    Args:
        server: its clients get them; each has its own queue, so one that stalls delays no other.
        takes: called with type and device name; whether such messages are passed on. Default: all.
        rename: new device names by old ones, see `igtl.tools.routing.Renaming`.
        version: "as is" (default): frames keep their header version, and an old client that gets
            version 2 loses its place in the stream. "auto": each client gets version 1 until it has
            sent 2. 1, 2: all clients get that one.
        max_rate: messages a second of one stream at most; the newest of those in between is passed
            on when it is due, the others are left out.

    Attributes:
        passed, filtered, thinned: messages by (type, device name): passed on, not wanted, left out
            because of `max_rate`. Of MAX_STREAMS streams at most; more are counted, and
            thinned, together, under ("*", "*").
        answered: answers that one client got, see `both_ways`.
        lost: what version 1 could not hold: how often "metadata", how often "message id".
    """

    def __init__(
        self,
        server: Server,
        *,
        takes: Callable[[str, str], bool] = lambda type_name, device_name: True,
        rename: Mapping[str, str] | None = None,
        version: HeaderVersion = "as is",
        max_rate: float | None = None,
    ) -> None:
        self._server = server
        self._takes = takes
        self._rename = Renaming(rename or {})
        self._versions = Versions(version)
        self._thinner = None if max_rate is None else Thinner(max_rate, self._pass)
        self.passed, self.filtered = Counter[Stream](), Counter[Stream]()
        self.thinned = self._thinner.thinned if self._thinner else Counter[Stream]()
        self.lost = self._versions.lost
        self.answered = 0
        self._streams = Streams()
        self._askers = Askers()

    def both_ways(self, send: Callable[[Message], None]) -> None:
        """Also pass on what clients send: messages, commands and requests, with their ids.

        The server then answers nothing itself: an answer of the source goes to the client that has
        asked, and to no other one, unless the others get that stream anyway.

        Args:
            send: sends to the source; what it raises is logged.
        """
        self._askers.hand_on(self._server, send)

    def forward(self, frame: Frame) -> None:
        """Pass on a frame, or keep it until it is due."""
        stream = self._streams.of(frame)
        asker = self._askers.of(frame)
        if asker is not None and not self.passed[stream]:
            self._answer(frame, asker)
        elif not self._takes(frame.type_name, frame.device_name):
            self.filtered[stream] += 1
        elif self._thinner is not None:
            self._thinner.offer(frame, stream)
        else:
            self._pass(frame, stream)

    def _pass(self, frame: Frame, stream: Stream) -> None:
        """Pass on a frame to all clients."""
        new = self._rename(frame.device_name)
        if new is not None:
            frame = renamed(frame, new)
        if self._versions.version == "auto":
            self._versions.send_to_each(frame, self._server.clients)
        else:
            self._server.broadcast(self._versions.of(frame, 1))
        self.passed[stream] += 1

    def _answer(self, frame: Frame, asker: Peer) -> None:
        """Pass on a frame to the client that has asked."""
        self._versions.send_to_each(frame, [asker])
        self.answered += 1

    def close(self) -> None:
        """Pass on what was kept. The server stays open."""
        if self._thinner is not None:
            self._thinner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()
