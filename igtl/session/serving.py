"""What blocking and asyncio servers share: the functions of their user, and what a client is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from igtl._core import Frame
from igtl.codec.message import Message
from igtl.messages.queries import Get, Start
from igtl.session.facade import Carrier, LinkBase
from igtl.session.steps import Steps

F = TypeVar("F", bound=Callable[..., Any])
Function = Callable[..., Any]


class Functions:
    """The functions of the user, which a server calls.

    Attributes:
        handlers, providers: each with the class and the device name that it is for.
        commands: by name.
        connected, disconnected: called with each peer that comes or goes.
    """

    def __init__(self) -> None:
        self.handlers: list[tuple[type[Message], str, Function]] = []
        self.providers: list[tuple[type[Message], str, Function]] = []
        self.commands: dict[str, Function] = {}
        self.connected: list[Function] = []
        self.disconnected: list[Function] = []


class ServerBase:
    """What a server shows.

    Attributes:
        refused: connections not let in, by cause: "max_clients", "not allowed", "tls",
            "websocket", "closing", "descriptors" (the system has none left).
        gone: clients that have left, by cause: "closed", "stalled", "unfinished", "idle",
            "disconnected", or the name of an error.
        peer_of: gives the client with an id.
        shutdown: see `igtl.Server`.
    """

    refused: Counter[str]
    gone: Counter[str]
    peer_of: Callable[[int], Any]
    shutdown: Callable[..., Any]

    def __init__(self, functions: Functions) -> None:
        self.functions = functions

    def on(self, kind: type[Message] = Message, name: str = "*") -> Callable[[F], F]:
        """Call the decorated function with (message, peer) for each message of a class.

        The device name must fit (wildcards * and ?). One message of a client after the other is
        handled; the handlers of a blocking server run one after the other, in one thread. A
        coroutine function is awaited.

        The connection is read meanwhile: messages for which the handlers have no time wait, within
        the bounds of the inbox (see `igtl.options.SocketOptions`), and then count as "unread".
        """
        if not (isinstance(kind, type) and issubclass(kind, Message)):
            raise TypeError(f"a handler is called for a class of messages, not for {kind!r}")
        return _kept(lambda handler: self.functions.handlers.append((kind, name, handler)))

    def provides(
        self, kind: type[Get[Any]] | type[Start[Any]], name: str = "*"
    ) -> Callable[[F], F]:
        """Answer requests of a Get or Start class by the decorated function.

        The device name of the request must fit `name` (wildcards * and ?). The function is called
        with (request, peer), on a blocking server in a thread of its own; it may be a coroutine
        function. For Get it returns the message, or None if there is none; a message without a name
        gets the name of the request. For Start it returns an iterable of messages, or is a
        (possibly async) generator of them, or returns None to refuse. The server sends RTS_, keeps
        the rate that the request allows, and stops at STP_ or when the client leaves.

        A request without a provider is answered with STATUS "not found".
        """
        if not issubclass(kind, Get | Start):
            raise TypeError(f"{kind.__name__} is not a Get or Start class")
        return _kept(lambda provider: self.functions.providers.append((kind, name, provider)))

    def command(self, name: str = "*") -> Callable[[F], F]:
        """Carry out the COMMAND of a name by the decorated function ("*": any other name).

        The function is called with (command, peer), in parallel to the handlers (on a blocking
        server in a thread of its own), so it may take its time; it may be a coroutine function. It
        returns the reply: text, a dict that becomes metadata, both as (text, dict), or None. An
        exception that it raises is reported as a failure with its text. A CommandReply is sent as
        it is, with a `Status` if it has none: 3D Slicer takes a reply without one for a failure.
        """
        return _kept(lambda handler: self.functions.commands.update({name: handler}))

    def on_connect(self, handler: F) -> F:
        """Call the decorated function with each new peer."""
        self.functions.connected.append(handler)
        return handler

    def on_disconnect(self, handler: F) -> F:
        """Call the decorated function with each peer that is gone; see its close_reason."""
        self.functions.disconnected.append(handler)
        return handler


def _kept(keep: Callable[[Any], Any]) -> Callable[[F], F]:
    def register(function: F) -> F:
        keep(function)
        return function

    return register


def close(server: ServerBase) -> Steps[None]:
    """Return the same as `shutdown`."""
    yield server.shutdown()


def send_to(
    server: ServerBase, client: int, message: Message | Frame, *, crc: bool = True
) -> Steps[None]:
    """Send to the client with this id.

    Raises:
        KeyError: there is none.
    """
    yield server.peer_of(client).send(message, crc=crc)


def disconnect(server: ServerBase, client: int) -> Steps[None]:
    """Send what is queued for the client with this id, then close it; then it is not in `clients`.

    A handler may call it.

    Raises:
        KeyError: there is none.
    """
    yield server.peer_of(client).disconnect()


class PeerBase(LinkBase):
    """One client of a server.

    Attributes:
        id: number of this client, from 1 on, never used again.
        connected_at: when it connected, seconds since 1970.
        others: see `LinkBase`.
    """

    def __init__(self, carrier: Carrier, number: int) -> None:
        super().__init__(carrier)
        self.id = number
        self.connected_at = time.time()
        self.since = time.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds since it connected."""
        return time.monotonic() - self.since

    @property
    def queued(self) -> int:
        """Messages that wait to be sent to it."""
        outbox = self.session.outbox
        return 0 if outbox is None else len(outbox)

    @property
    def stripped(self) -> int:
        """Messages that it got without their metadata and id.

        The peer had not shown that it understands header version 2.
        """
        return self.session.protocol.stripped
