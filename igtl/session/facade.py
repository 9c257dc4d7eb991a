"""What blocking and asyncio links share: what they show of their session, and what reads it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from typing import Protocol as Interface

from igtl._stream import Stats
from igtl.addresses import websocket_address
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.log import named
from igtl.messages.queries import Start
from igtl.options import (
    UNIX,
    AcceptOptions,
    ConnectOptions,
    QueueOptions,
    SocketOptions,
    WireOptions,
)
from igtl.session.compress import CompressingProtocol, protocol_for
from igtl.session.inbox import Inbox
from igtl.session.layers import Layer, Stack
from igtl.session.outbox import Outbox
from igtl.session.packed import Packed
from igtl.session.pairing import By, Method, Pairing
from igtl.session.protocol import Protocol, hello_message
from igtl.session.requests import Selection, part_of_stream
from igtl.session.session import Session

F = TypeVar("F", bound=Callable[[Exception], Any])
M = TypeVar("M", bound=Message)


# -- parts of a session, as options describe them


def new_protocol(options: WireOptions, *, peer: Any = None) -> Protocol:
    """The stream of messages of a connection."""
    return protocol_for(
        options.compression, max_size=options.max_size, crc=options.crc,
        on_error=options.on_error, version=options.version, cut_names=options.cut_names,
        resync=options.resync, peer=peer,
    )  # fmt: skip


def new_inbox(options: SocketOptions, stats: Stats) -> Inbox:
    """Where messages wait for their receiver."""
    return Inbox(
        stats, options.inbox_policy, options.inbox_messages, options.inbox_bytes,
        options.inbox_total_bytes, options.inbox_max_age,
    )  # fmt: skip


def new_outbox(options: QueueOptions, stats: Stats) -> Outbox[Packed]:
    """Where messages wait to leave; losses are counted in `stats`."""

    def lost(packed: Packed, cause: str) -> None:
        stats.count_dropped(packed.wire, cause)

    return Outbox(
        options.policy, options.max_queued, options.max_queued_bytes, lost, max_age=options.max_age
    )


def greeting(protocol: Protocol, *, hello: bool) -> list[bytes]:
    """What a client sends first: an offer of header version 2, and one of compression."""
    wires = [hello_message()] if hello else []
    if isinstance(protocol, CompressingProtocol):
        wires.append(protocol.offer())
    return wires


def server_layers(options: AcceptOptions, host: str) -> Callable[[], Layer | None]:
    """What makes the layer that a server of this host puts between a session and the network; it
    makes None for nothing.

    Raises:
        MissingExtra: the host is a WebSocket, and the package for that is not installed.
        ValueError: it is not one, or does not fit `ssl`.
    """
    context = options.ssl
    try:
        url = websocket_address(host, 0)
        if url is not None:
            if url.secure != (context is not None):
                raise ValueError("a server at wss:// needs ssl=; one at ws:// takes none")
            from igtl.session.websocket import by_server

            by_server(None, ())  # tells now what is missing
    except BaseException:
        if options.sock is not None:
            options.sock.close()
        raise

    def made() -> Layer | None:
        lower: Layer | None = None
        if context is not None:
            from igtl.session.tls import TLSLayer

            lower = TLSLayer(context, server_side=True)
        if url is None:
            return lower
        path = None if url.path == "/" else url.path
        upper = by_server(path, tuple(options.origins))
        return upper if lower is None else Stack(upper, lower)

    return made


def client_layer(options: ConnectOptions, host: str, port: int) -> Layer | None:
    """What a client of this address puts between its session and the network; None for nothing.

    Raises:
        MissingExtra: as `server_layers`.
        ValueError: as `server_layers`; or TLS has no name to check.
    """
    url, context = websocket_address(host, port), options.ssl
    if url is not None and url.secure and context is None:
        from igtl.session import tls

        context = tls.client()
    if url is not None and not url.secure and context is not None:
        raise ValueError("ws:// has no TLS: ssl= is for wss://")
    lower: Layer | None = None
    if context is not None:
        from igtl.session.tls import TLSLayer

        name = options.server_hostname
        if name is None and url is not None:
            name = url.host
        elif name is None and options.sock is None and not host.startswith(UNIX):
            name = host
        if name is None and context.check_hostname:
            raise ValueError("TLS over a Unix socket or sock= needs server_hostname=")
        lower = TLSLayer(context, server_side=False, server_hostname=name)
    if url is None:
        return lower
    from igtl.session.websocket import by_client

    return by_client(url) if lower is None else Stack(by_client(url), lower)


class Carrier(Interface):
    """What moves the bytes of a session."""

    session: Session

    def fileno(self) -> int:
        """Descriptor of the socket; -1 where there is none."""


class LinkBase:
    """What a link shows of its session.

    Attributes:
        peer, local: addresses of the other end and of this one.
        close_reason: why nothing more can be received; None while something can.
        stats: counters, see `igtl.Stats`.
        header_version: what is sent now, 1 or 2.
        connected: whether the peer is there, as far as this end knows.
        closed: whether this end was closed.
    """

    def __init__(self, carrier: Carrier, *, ends_quietly: bool = False) -> None:
        self._carrier = carrier
        self.closed = False
        self._ends_quietly = ends_quietly

    @property
    def session(self) -> Session:
        """What happens on the connection."""
        return self._carrier.session

    @property
    def peer(self) -> Any:
        """Address of the other end."""
        return self.session.protocol.peer

    @property
    def local(self) -> Any:
        """Address of this end."""
        return self.session.local

    @property
    def stats(self) -> Stats:
        """Counters of this link."""
        return self.session.protocol.stats

    @property
    def header_version(self) -> int:
        """Header version of what is sent now."""
        return self.session.protocol.version

    @property
    def close_reason(self) -> Exception | None:
        """Why nothing more can be received; None while something can."""
        return self.session.close_reason

    @property
    def connected(self) -> bool:
        """Whether the peer is there, as far as this end knows."""
        return not self.session.ended

    def fileno(self) -> int:
        """Descriptor of the socket; -1 where there is none: in memory, closed, or not connected
        now. On a plain blocking link it may be given to `select` (what a readable one means is up
        to `recv`). Every other link is read by its own thread or event loop, whatever its program
        does, so that its descriptor is for options of the socket only."""
        return self._carrier.fileno()

    def on_close(self, callback: F) -> F:
        """Call this once, with the reason, when nothing more will arrive; at once if that is so
        already. May be used as a decorator. Messages that have arrived before may still be taken.

        It is called where the end is noticed: in the link's own thread; in the event loop; on a
        plain blocking link in the thread that receives, or closes it. For a link that reconnects
        that is when it is closed or gives up, not when one connection is lost. What it raises is
        logged.
        """
        self.session.over.add(callback)
        return callback

    def ends_iteration(self, error: Exception) -> bool:
        """Whether iterating ends with this error, instead of raising it."""
        return self._ends_quietly or (isinstance(error, ConnectionClosed) and error.clean)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {named(self.peer)} {self.stats}>"


class StreamOf(Generic[M]):
    """Picks the messages of the stream that `start` has asked for."""

    def __init__(self, start: Start[M]) -> None:
        self._start = start

    def matches(self, m: Message) -> bool:
        """Whether m belongs to the stream."""
        return part_of_stream(self._start, m)

    def __str__(self) -> str:
        return f"{type(self._start).answer.__name__} of the stream"


class PairsOf:
    """What blocking and asyncio readers of `sync` share.

    Attributes:
        unmatched: messages without a partner so far, by their selection.
    """

    def __init__(self, pairing: Pairing, timeout: float | None) -> None:
        self._pairing = pairing
        self._timeout = timeout
        self._since = time.monotonic()
        self.unmatched = pairing.unmatched

    def _next(self, now: float) -> tuple[Any, ...] | None:
        found = self._pairing.next(now)
        if found is not None:
            self._since = now
        return found

    def _wait(self, now: float) -> float | None:
        """Seconds until something must be looked at again; None: until a message arrives.

        Raises:
            TimeoutError: there was no pair for the link's read_timeout; the text says how far the
                time stamps of the streams are apart.
        """
        end = math.inf if self._timeout is None else self._since + self._timeout
        if now >= end:
            self._since = now
            raise TimeoutError(f"no {self._pairing} within {self._timeout} s{self._pairing.gaps()}")
        due = self._pairing.due()
        at = end if due is None else min(due, end)
        return None if at == math.inf else max(0.0, at - now)


def pairing_of(
    streams: tuple[tuple[type[Message], str], ...], tolerance: float, method: Method, by: By
) -> Pairing:
    """The state of a `sync`, for the streams that a caller names."""
    return Pairing([Selection(*stream) for stream in streams], tolerance, method, by)
