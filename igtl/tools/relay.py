"""Passing on what a source sends to the clients of a server: chosen, renamed, in another header
version, at most so often.

    with igtl.connect("tracker") as link, igtl.serve(port=18945) as server:
        relay = Relay(server, rename={"Probe": "ProbeToTracker"}, version="auto")
        for frame in link.frames():
            relay.forward(frame)

Frames stay as they are, wrong CRCs and bodies that cannot be decoded included; what is changed is
changed in their bytes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Self

from igtl import _core
from igtl._core import Frame
from igtl.blocking.server import Peer, Server
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, ProtocolError
from igtl.messages.general import Command
from igtl.messages.queries import Get, Start, Stop
from igtl.session.packed import in_version
from igtl.session.requests import Exchange

Stream = tuple[str, str]
"""Type and device name."""
MAX_STREAMS: Final = 4096
"""Streams that a relay counts apart: a source that invents names shall not fill the memory."""
_OTHERS: Final = "*", "*"
_REQUESTS: Final = (Command, Get, Start, Stop)
_PENDING: Final = 1000  # requests whose answers are awaited; the oldest is forgotten then
_PATIENCE: Final = 600.0  # seconds until a request is forgotten that nothing has answered


def renamed(frame: Frame, device_name: str) -> Frame:
    """With another device name; the CRC does not cover it.

    Raises:
        EncodeError: it does not fit 20 bytes.
    """
    name = _core.encode_field(device_name, 20, "Frame", "device_name")
    wire = bytes(frame.data)
    return Frame.from_bytes(wire[:14] + name.ljust(20, b"\0") + wire[34:])


class Relay:
    """Hands the frames of a source to the clients of a server.

    Args:
        server: its clients get them; each has its own queue, so one that stalls delays no other.
        takes: called with type and device name; whether such messages are passed on. Default: all.
        rename: new device names by old ones.
        version: "as is" (default): frames keep their header version, and an old client that gets
            version 2 loses step. "auto": each client gets version 1 until it has sent 2. 1, 2: all
            clients get that one.
        max_rate: messages a second of one stream at most; the newest of those in between is passed
            on when it is time, the others are left out.

    Attributes:
        passed, filtered, thinned: messages by (type, device name): passed on, not wanted, left out
            for the sake of `max_rate`. Of MAX_STREAMS streams at most; more are counted, and
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
        version: Literal["as is", "auto", 1, 2] = "as is",
        max_rate: float | None = None,
    ) -> None:
        if version not in ("as is", "auto", 1, 2):
            raise ValueError(f"version must be 'as is', 'auto', 1 or 2, not {version!r}")
        if max_rate is not None and not 0 < max_rate < float("inf"):
            raise ValueError(f"max_rate must be above 0, not {max_rate}")
        self._server = server
        self._takes = takes
        self._rename = dict(rename or {})
        for name in self._rename.values():
            _core.encode_field(name, 20, "Relay", "rename")
        self._version: Literal["as is", "auto", 1, 2] = version
        self._interval = 0.0 if max_rate is None else 1 / max_rate
        self.passed, self.filtered = Counter[Stream](), Counter[Stream]()
        self.thinned = Counter[Stream]()
        self.lost = Counter[str]()
        self.answered = 0
        self._streams: set[Stream] = set()
        # requests on their way: who has asked, and when
        self._asked = OrderedDict[Exchange, tuple[Peer, float]]()
        self._changed = threading.Condition()
        self._due: dict[Stream, float] = {}
        self._kept: dict[Stream, Frame] = {}
        self._closed = False
        self._thread: threading.Thread | None = None
        if self._interval:
            self._thread = threading.Thread(target=self._run, name="igtl relay", daemon=True)
            self._thread.start()

    def both_ways(self, send: Callable[[Message], None]) -> None:
        """Also hand on what clients send: messages, commands and requests, with their ids. The
        server then answers nothing itself: an answer of the source goes to the client that has
        asked, and to no other one, unless the others get that stream anyway.

        Args:
            send: sends to the source; what it raises is logged.
        """

        def back(message: Message, peer: Peer) -> None:
            now = time.monotonic()
            with self._changed:
                self._asked[Exchange(message)] = peer, now
                _, oldest = next(iter(self._asked.values()))
                if len(self._asked) > _PENDING or now - oldest > _PATIENCE:
                    self._asked.popitem(last=False)
            send(message)

        for kind in _REQUESTS:
            self._server.on(kind)(back)

        @self._server.on()
        def _(message: Message, peer: Peer) -> None:
            if not isinstance(message, _REQUESTS):
                send(message)

    def _asker_of(self, frame: Frame) -> Peer | None:
        """The client whose request this frame answers; None if it answers none."""
        if not self._asked:
            return None
        try:
            message = _core.unpack(frame.data)
        except ProtocolError:
            return None
        with self._changed:
            for exchange in self._asked:
                if exchange.matches(message):
                    return self._asked.pop(exchange)[0]
        return None

    def forward(self, frame: Frame) -> None:
        """Pass on a frame, or keep it until its time has come."""
        stream = self._stream_of(frame)
        asker = self._asker_of(frame)
        if asker is not None and not self.passed[stream]:
            self._pass(frame, stream, asker)
            return
        if not self._takes(frame.type_name, frame.device_name):
            self.filtered[stream] += 1
            return
        if not self._interval:
            self._pass(frame, stream)
            return
        with self._changed:
            now = time.monotonic()
            if now < self._due.get(stream, 0.0):
                if stream in self._kept:
                    self.thinned[stream] += 1
                self._kept[stream] = frame
                self._changed.notify()
                return
            self._take_turn(stream, now)
        self._pass(frame, stream)

    def _stream_of(self, frame: Frame) -> Stream:
        """Under what it is counted."""
        stream = frame.type_name, frame.device_name
        if stream not in self._streams:
            if len(self._streams) >= MAX_STREAMS:
                return _OTHERS
            self._streams.add(stream)
        return stream

    def _take_turn(self, stream: Stream, now: float) -> None:
        # the schedule does not drift, unless the stream was slower than it may be
        due = self._due.get(stream, 0.0) + self._interval
        self._due[stream] = due if due > now else now + self._interval

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                ripe = [stream for stream in self._kept if self._due[stream] <= now]
                frames = [(self._kept.pop(stream), stream) for stream in ripe]
                for stream in ripe:
                    self._take_turn(stream, now)
                if not frames:
                    waits = [self._due[stream] - now for stream in self._kept]
                    self._changed.wait(min(waits, default=None))
                    continue
            for frame, stream in frames:
                try:
                    self._pass(frame, stream)
                except ConnectionClosed:  # the server was closed
                    return

    def _pass(self, frame: Frame, stream: Stream, asker: Peer | None = None) -> None:
        """Pass on a frame to all clients, or as an answer to the one that has asked."""
        new = self._rename.get(frame.device_name)
        if new is not None and asker is None:
            frame = renamed(frame, new)
        if self._version == "auto":
            self._pass_to_each(frame, self._server.clients if asker is None else [asker])
        else:
            if self._version != "as is":
                frame = self._in_version(frame, self._version)
            if asker is None:
                self._server.broadcast(frame)
            else:
                with contextlib.suppress(ConnectionClosed):  # it is gone
                    asker.send(frame)
        if asker is None:
            self.passed[stream] += 1
        else:
            self.answered += 1

    def _pass_to_each(self, frame: Frame, peers: list[Peer]) -> None:
        frames: dict[int, Frame] = {}
        for peer in peers:
            version = peer.header_version
            if version not in frames:
                frames[version] = self._in_version(frame, version)
            try:
                peer.send(frames[version])
            except ConnectionClosed:  # this one is gone
                continue

    def _in_version(self, frame: Frame, version: int) -> Frame:
        form = in_version(bytes(frame.data), version)
        self.lost.update(form.lost)
        return Frame.from_bytes(form.wire)

    def close(self) -> None:
        """Pass on what was kept. The server goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            left = [(self._kept[stream], stream) for stream in self._kept]
            self._kept.clear()
        if self._thread is not None:
            self._thread.join()
        for frame, stream in left:
            self._pass(frame, stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()
