"""Open devices behind a server: what they send goes to its clients, and answers their requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple, Self

from igtl.blocking.server import Server
from igtl.codec.message import Message
from igtl.devices.source import Source
from igtl.errors import EncodeError
from igtl.log import log
from igtl.messages.general import Status
from igtl.messages.imaging import Image, Video
from igtl.messages.queries import Get, GetStatus, Start
from igtl.messages.tracking import QuaternionTrackingData, TrackingData
from igtl.video import Publisher
from igtl.video.encoder import pixels_of, size_of

_Key = tuple[type[Message], str]
_ASKED_FOR = (TrackingData, QuaternionTrackingData)
"""What goes only to clients that ask for it, by STT_ and GET_."""
_MOST = 256  # streams of a device of which requests are answered; more are sent all the same
_LAST_WORDS = 2.0  # seconds until a thread that waits for the server is left alone


class Feed:
    """Devices that feed a server; see `feed`.

    Attributes:
        sources: the open devices.
    """

    def __init__(self, server: Server, sources: Sequence[Source], on_request: bool) -> None:
        self.sources = tuple(sources)
        self._streams: list[_Streams] = [_Streams(server, s, on_request) for s in sources]
        self._threads = [
            threading.Thread(target=s.run, name=f"igtl feed {s.source.device.name}", daemon=True)
            for s in self._streams
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all devices have ended, or `timeout` seconds; returns whether they have."""
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Close the devices. The server stays open."""
        for source in self.sources:
            source.close()
        for streams in self._streams:
            streams.close()
        for thread in self._threads:
            thread.join(_LAST_WORDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Streams:
    """The streams of one device: each is provided from its first message on."""

    def __init__(self, server: Server, source: Source, on_request: bool) -> None:
        self.source = source
        self._server = server
        self._on_request = on_request
        self._newest: dict[_Key, tuple[int, Message]] = {}  # with how many there were
        self._waiting: dict[_Key, list[_Fresh]] = {}  # owned by the event loop of the server
        self._films: dict[str, Publisher] = {}
        self._over = False
        self._status = Status.ok(device_name=source.device.name)
        server.provides(GetStatus, source.device.name)(lambda request, peer: self._status)

    def run(self) -> None:
        """Pass on what arrives, until the device ends."""
        try:
            for message in self.source:
                try:
                    self._take(message)
                except EncodeError as error:
                    log(
                        logging.WARNING, "device %s: %s", self.source.device.name, error,
                        device=message.device_name, type=message.type_name, cause=error,
                    )  # fmt: skip
        except ConnectionError:
            pass  # the server was closed
        finally:
            self.close()

    def _take(self, message: Message) -> None:
        if isinstance(message, Status) and message.device_name == self.source.device.name:
            self._status = message
            self._server.broadcast(message, latch=True)
            return
        key = type(message), message.device_name
        if key in self._newest or len(self._newest) < _MOST:
            self._remember(key, message)
        if not self._waits(message):
            self._server.broadcast(message)
        film = self._films.get(message.device_name)
        if isinstance(message, Image) and film is not None:
            film.publish(message)

    def _remember(self, key: _Key, message: Message) -> None:
        number = self._newest[key][0] + 1 if key in self._newest else 1
        self._newest[key] = number, message
        if number == 1:
            self._provide(message)
        for fresh in list(self._waiting.get(key, ())):
            fresh.set()

    def _waits(self, message: Message) -> bool:
        """Return whether only clients that ask get messages like this one."""
        return self._on_request or isinstance(message, _ASKED_FOR)

    def _provide(self, message: Message) -> None:
        """Answer requests for messages of this type and name."""
        kind, name = type(message), message.device_name
        for get in Get.__subclasses__():
            if get.answer is kind and not isinstance(message, Status):
                self._server.provides(get, name)(lambda request, peer: self._newest[kind, name][1])
        for start in Start.__subclasses__():
            if start.answer is kind and self._waits(message) and not isinstance(message, Video):
                self._server.provides(start, name)(self._stream_of(kind, name))
        if isinstance(message, Image) and _is_film(message):
            self._films[name] = Publisher(self._server, name)

    def _stream_of(self, kind: type[Message], name: str) -> Callable[..., AsyncGenerator[Message]]:
        async def stream(request: Start[Any], peer: Any) -> AsyncGenerator[Message]:
            fresh = _Fresh(asyncio.get_running_loop(), asyncio.Event())
            waiting = self._waiting.setdefault((kind, name), [])
            waiting.append(fresh)
            sent = 0
            try:
                while not self._over:
                    fresh.event.clear()
                    number, message = self._newest[kind, name]
                    if number == sent:
                        await fresh.event.wait()
                    else:
                        sent = number
                        yield message
            finally:
                waiting.remove(fresh)

        return stream

    def close(self) -> None:
        """End the streams that clients have asked for."""
        self._over = True
        for waiting in list(self._waiting.values()):
            for fresh in list(waiting):
                fresh.set()


def _is_film(image: Image) -> bool:
    """Return whether it can be encoded as VIDEO."""
    try:
        size_of(pixels_of(image), "RGB")
    except EncodeError:
        return False
    return True


class _Fresh(NamedTuple):
    """One client that waits for the next message of a stream, in the event loop of the server."""

    loop: asyncio.AbstractEventLoop
    event: asyncio.Event

    def set(self) -> None:
        """Wake the client; from any thread."""
        with contextlib.suppress(RuntimeError):  # the server was closed meanwhile
            self.loop.call_soon_threadsafe(self.event.set)


def feed(server: Server, *sources: Source, on_request: bool = False) -> Feed:
    """Pass on to the clients of a server what devices send.

        with igtl.serve(start=False, policy="latest") as server:
            with igtl.devices.feed(server, igtl.devices.open("camera:0")):
                server.start()
                server.wait()

    Each message goes to all clients, but TDATA and QTDATA, which go to those that ask for them by
    STT_. GET_ is answered with the newest message of a stream, STT_VIDEO with the frames of an
    IMAGE stream in the codec that the client asks for, GET_STATUS with the state of the device. A
    STATUS of a device that fails, stalls or works again also goes to every client that comes
    later. One device that fails does not stop the others.

    Args:
        server: registered handlers and providers stay; those for the same requests come first.
        sources: open devices, with different names. The feed closes them.
        on_request: send nothing but STATUS to clients that do not ask (GET_, STT_).

    Raises:
        ValueError: two devices have the same name.
    """
    names = [source.device.name for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"two devices are named {min(twice)!r}: give one of them another name, by ?name=…"
        )
    return Feed(server, sources, on_request)
