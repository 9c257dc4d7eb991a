"""The messages of sites for OpenIGTLink clients that know nothing of a bridge."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Self, Unpack

from igtl import _core
from igtl._core import Frame
from igtl.blocking.server import Peer, Server
from igtl.bridge.hub import Refused
from igtl.bridge.lanes import is_kept
from igtl.bridge.names import ALL
from igtl.bridge.subscriber import MAX_STREAMS, Received, Subscriber
from igtl.codec.message import Message, message_types
from igtl.errors import CommandFailed, ConnectionClosed, IgtlError
from igtl.messages.general import Command, CommandReply, Status, StatusCode
from igtl.messages.queries import Get, GetCapability, GetStatus, Start, Stop
from igtl.options import SubscriberSettings
from igtl.tools.routing import renamed

MAX_REQUESTS: Final = 64
"""GET_ requests of all clients that wait for sites; further ones are refused."""
_NAME: Final = 20  # bytes of a device name
_CODES: Final[dict[type[Exception], StatusCode]] = {
    TimeoutError: StatusCode.TIME_OUT, LookupError: StatusCode.NOT_FOUND,
    Refused: StatusCode.ACCESS_DENIED, ConnectionClosed: StatusCode.NOT_PRESENT,
    Exception: StatusCode.UNKNOWN_ERROR,
}  # fmt: skip


class Names:
    """Device names under which the streams of several sites are sent on.

    A name is SITE_DEVICE. The name of the site is cut where both do not fit 20 bytes, and gets a
    number where the result is the name of another stream.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._streams: dict[str, tuple[str, str]] = {}

    def of(self, site: str, device: str) -> str:
        """Return the name of a device of a site.

        Raises:
            ValueError: there are too many.
        """
        name = self._names.get((site, device))
        if name is not None:
            return name
        if len(self._names) >= MAX_STREAMS:
            raise ValueError(f"more than {MAX_STREAMS} devices")
        room = max(_NAME - 1 - len(device.encode()), 6)  # for the site
        number = 1
        while name is None or name in self._streams:
            tail = "" if number == 1 else f"~{number}"
            head = _core.fit(site, room - len(tail)) + tail
            name = _core.fit(f"{head}_{device}" if device else head, _NAME)
            number += 1
        self._names[site, device] = name
        self._streams[name] = site, device
        return name

    def stream(self, name: str) -> tuple[str, str] | None:
        """Return the site and its device that have this name; None if there are none."""
        return self._streams.get(name)


class Outlet:
    """Hands the messages of sites to the clients of a server, and their requests to the sites.

        with igtl.serve(port=18945, start=False) as server:
            with igtl.bridge.Outlet(server, "or1", connect="tcp/hub:7447"):
                server.start()
                server.wait()

    With one site, device names stay; with several, they become SITE_DEVICE, see `names`. Commands
    and GET_ requests go to the source of the site whose name the device name begins with, or of the
    only one; its answer goes to the client that has asked. STT_ and STP_ are refused with a STATUS:
    a stream is started where its source is.

    Args:
        server: not started yet, so that its clients get everything from the beginning.
        sites, on_event, settings: as of `Subscriber`.

    Attributes:
        names: device names under which clients get the streams of several sites; None for one.
        passed: messages that the server got.
        stats: of the subscriber.

    Raises:
        As `Subscriber`.
    """

    def __init__(
        self,
        server: Server,
        sites: str | list[str] = ALL,
        *,
        on_event: Callable[[str], Any] = lambda text: None,
        **settings: Unpack[SubscriberSettings],
    ) -> None:
        names = [sites] if isinstance(sites, str) else list(sites)
        self.names = None if len(names) == 1 and ALL not in names else Names()
        self.passed = 0
        self._server = server
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        server.command("*")(self._command)
        for kind in message_types().values():
            if issubclass(kind, Get) and kind not in (GetCapability, GetStatus):
                server.on(kind)(self._requested)
        for start in (Start, Stop):
            server.on(start)(self._refuse_stream)
        self.subscriber = Subscriber(names, on_frame=self._pass, on_event=on_event, **settings)
        self.stats = self.subscriber.stats

    def _pass(self, received: Received) -> None:
        frame, site = received
        if self.names is not None:
            frame = renamed(frame, self.names.of(site, frame.device_name))
        self._server.broadcast(frame, latch=is_kept(frame.type_name))
        self.passed += 1

    # -- requests

    def _target(self, message: Message) -> tuple[str, str]:
        """Return the site that a request goes to, and its device name there.

        Raises:
            LookupError: it names no site.
        """
        name = message.device_name
        if self.names is None:
            return self.subscriber.names[0], name
        known = self.names.stream(name)
        if known is not None:
            return known
        sites = self.subscriber.sites
        for site in sites:
            if name == site or name.startswith(f"{site}_"):
                return site, name.removeprefix(site).removeprefix("_")
        if len(sites) == 1:
            return sites[0], name
        there = ", ".join(sites) or "none"
        raise LookupError(f"the device name {name!r} names no site; sites that are there: {there}")

    def _asked(self, message: Message) -> Frame:
        asked = message.device_name
        site, message.device_name = self._target(message)
        frame = self.subscriber.request(site, message)
        return frame if isinstance(message, Command) else renamed(frame, asked)

    def _command(self, command: Command, peer: Peer) -> CommandReply:
        try:
            reply = self._asked(command).unpack()
        except (LookupError, TimeoutError, Refused, ConnectionClosed) as error:
            raise CommandFailed(None, str(error)) from None
        if not isinstance(reply, CommandReply):
            raise CommandFailed(reply, f"the site answers with {reply.type_name}")
        return reply

    def _requested(self, request: Message, peer: Peer) -> None:
        if not self._slots.acquire(blocking=False):
            _refuse(peer, request, StatusCode.BUSY, f"{MAX_REQUESTS} requests are in progress")
            return
        threading.Thread(
            target=self._answer, args=(request, peer), name="igtl bridge request", daemon=True
        ).start()

    def _answer(self, request: Message, peer: Peer) -> None:
        name = request.device_name
        try:
            peer.send(self._asked(request))
        except (LookupError, OSError, IgtlError) as error:
            code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
            request.device_name = name
            _refuse(peer, request, code, str(error))
        finally:
            self._slots.release()

    def _refuse_stream(self, request: Message, peer: Peer) -> None:
        text = "a bridge hands out streams as their source sends them: start and stop them there"
        _refuse(peer, request, StatusCode.UNKNOWN_INSTRUCTION, text)

    def close(self) -> None:
        """Leave the bridge. The server goes on."""
        self.subscriber.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _refuse(peer: Peer, request: Message, code: StatusCode, text: str) -> None:
    # without a device name, a STATUS ends 3D Slicer
    status = Status(code, 0, request.type_name, text, device_name=request.device_name or "igtl")
    try:
        peer.send(status)
    except ConnectionClosed:  # it is gone
        return
