"""What blocking and asyncio links share: what they show of their session, and what reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar
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
    LinkOptions,
    QueueOptions,
    ServerOptions,
    SocketOptions,
    WireOptions,
    seconds,
)
from igtl.session.compress import CompressingProtocol, protocol_for
from igtl.session.inbox import Inbox, Wanted
from igtl.session.layers import Layer, Stack
from igtl.session.outbox import Outbox
from igtl.session.packed import Packed
from igtl.session.protocol import Protocol, hello_message
from igtl.session.requests import StreamOf
from igtl.session.session import Session

F = TypeVar("F", bound=Callable[[Exception], Any])


# -- parts of a session, as options describe them


def new_protocol(options: WireOptions, *, peer: Any = None) -> Protocol:
    """Make the stream of messages of a connection."""
    return protocol_for(
        options.compression, max_size=options.max_size, crc=options.crc,
        on_error=options.on_error, version=options.version, cut_names=options.cut_names,
        resync=options.resync, peer=peer,
    )  # fmt: skip


def new_inbox(options: SocketOptions, stats: Stats) -> Inbox:
    """Make the inbox, where messages wait for their receiver."""
    return Inbox(
        stats, options.inbox_policy, options.inbox_messages, options.inbox_bytes,
        options.inbox_total_bytes, options.inbox_max_age,
    )  # fmt: skip


def new_outbox(options: QueueOptions, stats: Stats) -> Outbox[Packed]:
    """Make the outbox, where messages wait to leave; losses are counted in `stats`."""

    def lost(packed: Packed, cause: str) -> None:
        stats.count_dropped(packed.wire, cause)

    return Outbox(
        options.policy, options.max_queued, options.max_queued_bytes, lost, max_age=options.max_age
    )


def new_session(
    options: LinkOptions | ServerOptions,
    queue: QueueOptions | None = None,
    *,
    peer: Any = None,
    local: Any = None,
) -> Session:
    """Return the session of a connection with these options.

    Without a queue its driver sends each message at once.
    """
    protocol = new_protocol(options, peer=peer)
    outbox = None if queue is None else new_outbox(queue, protocol.stats)
    idle = stall = None
    if isinstance(options, ServerOptions):
        idle, stall = options.idle_timeout, options.stall_timeout
    elif queue is None:
        stall = options.write_timeout
    return Session(
        protocol, inbox=new_inbox(options, protocol.stats), outbox=outbox, local=local,
        message_timeout=options.message_timeout, idle_timeout=idle, stall_timeout=stall,
    )  # fmt: skip


def greeting(protocol: Protocol, *, hello: bool) -> list[bytes]:
    """Return the first messages of a client: offers of header version 2 and of compression."""
    wires = [hello_message()] if hello else []
    if isinstance(protocol, CompressingProtocol):
        wires.append(protocol.offer())
    return wires


def server_layers(options: AcceptOptions, host: str) -> Callable[[], Layer | None]:
    """Return a function that makes the layers for the clients of a server of this host.

    It makes None where there is no layer.

    Raises:
        MissingExtra: the host is a WebSocket, and the package for that is not installed.
        ValueError: the host is a damaged address of a WebSocket, or does not fit `ssl`.
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
    """Return the layer between a client's session and the network; None for nothing.

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

    @property
    def session(self) -> Session:
        """What happens on the connection."""

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
        """Descriptor of the socket; -1 where there is none: in memory, closed, or not connected.

        On a plain blocking link it may be given to `select` (what a readable one means is up to
        `recv`). Every other link is read by its own thread or event loop, also while its program is
        busy, so that its descriptor is for options of the socket only.
        """
        return self._carrier.fileno()

    def on_close(self, callback: F) -> F:
        """Call a function once, with the reason, when nothing more will arrive.

        It is called at once if that is so already. May be used as a decorator. Messages that have
        arrived before may still be taken.

        It is called where the end is noticed: in the link's own thread; in the event loop; on a
        plain blocking link in the thread that receives, or closes it. For a link that reconnects
        that is when it is closed or gives up, not when one connection is lost. What it raises is
        logged.
        """
        self.session.over.add(callback)
        return callback

    def ends_iteration(self, error: Exception) -> bool:
        """Return whether iterating ends with this error, instead of raising it."""
        return self._ends_quietly or (isinstance(error, ConnectionClosed) and error.clean)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {named(self.peer)} {self.stats}>"

    def _repr_html_(self) -> str:
        from igtl import notebook  # with its table of entities, for notebooks only

        return notebook.streams(repr(self), self.stats)


class AnyLink(LinkBase):
    """What blocking and asyncio links share.

    Attributes:
        options: what was asked for.
        guard: held where the session is used beside receiving.
        request, send, recv, recv_frame: see `igtl.Link`.
        until: gives what a function of no argument returns, as soon as it returns something. After
            the seconds of its last argument it raises TimeoutError, whose text says that there was
            none of the second. None waits without end.
    """

    options: LinkOptions
    guard: AbstractContextManager[Any] = contextlib.nullcontext()
    request: Callable[..., Any]
    send: Callable[..., Any]
    recv: Callable[..., Any]
    recv_frame: Callable[..., Any]
    until: Callable[..., Any]

    def patience(self, timeout: float | None) -> float | None:
        """Seconds that a receiver waits which has named this time-out."""
        return self.options.read_timeout if timeout is None else seconds("timeout", timeout)

    def recv_selected(self, wanted: Wanted, timeout: float | None) -> Any:
        """As `recv`, for any selection of messages."""
        return self.until(partial(self.session.take, wanted), wanted, self.patience(timeout))

    def newest(self, wanted: Wanted, newer_than: float | None) -> Message | None:
        """Return the newest that has arrived, and not before that time of the monotonic clock."""
        return self.session.latest(wanted, newer_than)

    def leaves(self, start: Start[Any]) -> bool:
        """End a stream at this end; return whether to send STP_ to the peer."""
        return True

    def drop_rest(self, stream: StreamOf[Any]) -> None:
        """Drop what still waits of a stream that has ended."""
        with self.guard:
            self.session.inbox.drop(stream, "after_stop")
