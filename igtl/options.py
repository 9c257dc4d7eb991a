"""The options of links and servers: each is declared here once, with its default, unit and check.

A function that opens something takes its options as keyword arguments, typed by a TypedDict
(`Settings`), and turns them into frozen `Options` (`Options.of`), which check all of them at the
call: a misspelt name or a wrong value raises there, not in a later `recv`.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypedDict,
    get_args,
)

if TYPE_CHECKING:
    from socket import socket
    from ssl import SSLContext

    from igtl.codec.compression import Compression

Version = Literal["auto", 1, 2]
CRCPolicy = Literal["verify", "warn", "off"]
"""What is done about a message with a wrong CRC: see the option `crc`."""
OnError = Literal["raise", "skip"]
Policy = Literal["block", "drop_oldest", "drop_newest", "latest"]
InboxPolicy = Literal["drop_oldest", "drop_newest", "latest"]

PORT = 18944
"""The port of OpenIGTLink, as assigned by IANA."""
UNIX = "unix:"  # what a host begins with that is the path of a Unix socket
SITE = "site:"  # what a host begins with that is the name of a site of a bridge
MAX_SIZE = 1 << 30
LARGEST = 1 << 62  # bytes; nothing larger can be addressed
LONGEST = 2_000_000.0  # seconds (23 days): the longest wait that every system can count


def seconds(name: str, value: float | None) -> float | None:
    """Return a time-out in seconds, checked.

    0 means at once; None and infinity mean that there is none. One over LONGEST is shortened to
    LONGEST.

    Args:
        name: of the argument, for the error.
        value: of the argument.

    Raises:
        ValueError: it is negative or not a number.
        TypeError: it is of another type.
    """
    if value is None or value == math.inf:
        return None
    if isinstance(value, bool) or math.isnan(value) or value < 0:
        raise ValueError(
            f"{name} must be 0 seconds or more, or None for no time-out, not {value!r}"
        )
    return min(float(value), LONGEST)


def unknown(name: str, known: Iterable[str], noun: str = "options") -> str:
    """Return an error's text for a name that does not exist.

    It has a similar name, and all that there are.

    Args:
        name: the wrong name.
        known: all names.
        noun: what the names are called.
    """
    from difflib import get_close_matches  # for the error only

    names = sorted(known)
    near = get_close_matches(name, names, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{name!r}{hint}; the {noun} are {', '.join(names) or 'none'}"


# -- how an option is checked


class _Option(NamedTuple):
    """One option: its default, and what gives a value that was checked, or raises."""

    default: Any
    check: Callable[[str, Any], Any]


def _option(default: Any, check: Callable[[str, Any], Any]) -> Any:
    return _Option(default, check)


def _seconds(default: float | None, *, at_least: float = 0.0, at_most: float = LONGEST) -> Any:
    """Seconds; None switches the time-out off. More than `at_most` counts as that."""

    def check(name: str, value: Any) -> float | None:
        checked = seconds(name, value)
        if checked is not None and checked < at_least:
            raise ValueError(f"{name} must be at least {at_least:g} s, or None, not {value!r}")
        return None if checked is None else min(checked, at_most)

    return _option(default, check)


def _count(default: int, *, at_least: int = 1, at_most: int = 1 << 62) -> Any:
    """Return a whole number."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be a whole number, not {value!r}")
        number: int = value.__index__()
        if not at_least <= number <= at_most:
            raise ValueError(f"{name} must be between {at_least} and {at_most}, not {value!r}")
        return number

    return _option(default, check)


def _choice(default: Any, kind: Any) -> Any:
    """One of the values of a Literal type."""
    choices = get_args(kind)

    def check(name: str, value: Any) -> Any:
        # True == 1, but True is not meant as header version 1
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ValueError(
                f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}"
            )
        return value

    return _option(default, check)


def _flag(default: bool) -> Any:
    def check(name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, not {value!r}")
        return value

    return _option(default, check)


def _stream_socket(name: str, value: Any) -> Any:
    if value is None:
        return None
    import socket  # not before one is there

    if not isinstance(value, socket.socket):
        raise TypeError(f"{name} must be a socket, not {value!r}")
    if value.type != socket.SOCK_STREAM:
        raise ValueError(f"{name} must be a stream socket, not {value!r}")
    return value


def _origins(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{name} must be a list of texts, not {value!r}")
    return tuple(value)


def _path(name: str, value: Any) -> str | None:
    return None if value is None else os.fspath(value)


def _endpoints(name: str, value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value)
    for each in found:
        if not re.fullmatch(r"(tcp|tls)/.+:\d{1,5}", str(each)):
            raise ValueError(
                f"{name}: {each!r} is not an endpoint; give tcp/HOST:PORT or tls/HOST:PORT"
            )
    return found


def _any(default: Any) -> Any:
    return _option(default, lambda name, value: value)


class Options:
    """Base of the option classes: frozen, and checked when made.

    They are no dataclasses, each of which costs a millisecond when igtl is imported.

    Attributes:
        known: the options of the class with their defaults and checks, by name.
    """

    known: ClassVar[Mapping[str, _Option]] = {}
    _own: ClassVar[dict[str, _Option]] = {}  # those that the class itself declares

    def __init_subclass__(cls) -> None:
        cls._own = {name: each for name, each in vars(cls).items() if isinstance(each, _Option)}
        for name, each in cls._own.items():
            setattr(cls, name, each.default)
        cls.known = {}
        for base in reversed(cls.__mro__):
            cls.known = {**cls.known, **vars(base).get("_own", {})}

    def __init__(self, **settings: Any) -> None:
        for name in settings:
            if name not in self.known:
                raise TypeError(f"there is no option {unknown(name, self.known)}")
        for name, (default, check) in self.known.items():
            vars(self)[name] = check(name, settings.get(name, default))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"options are frozen: {name!r} cannot be set")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Return the options that a caller has given as keyword arguments.

        Raises:
            TypeError: there is no option of that name; the text lists what there is.
            ValueError: a value is not allowed.
        """
        return cls(**settings)


# -- the options


class WireOptions(Options):
    """How messages are written and read on one connection.

    Attributes:
        version: header version that is written: "auto" (1 until the peer has sent 2), 1 or 2.
        max_size: bytes of the largest message that is accepted, header included; a larger one
            ends the connection.
        crc: "verify" refuses a message with a wrong CRC; "warn" delivers it with `crc_ok=False`,
            counts it and logs one warning for each peer; "off" does not look.
        on_error: "raise" raises what is wrong with a message where it is received; "skip" counts it
            in `stats.errors` and goes on.
        cut_names: cut device names to the 20 bytes of the header instead of refusing longer ones.
        resync: look in a message that is wrong for the next header, instead of losing the framing:
            for a peer that breaks off and begins again, as PLUS does. What was given up is counted
            in `stats.dropped["resync"]`.
        compression: True, or a `Compression`: exchange compressed messages with an igtl peer that
            was told so too. Every other peer gets plain ones.
    """

    version: Version = _choice("auto", Version)
    max_size: int = _count(MAX_SIZE, at_most=LARGEST)
    crc: CRCPolicy = _choice("verify", CRCPolicy)
    on_error: OnError = _choice("raise", OnError)
    cut_names: bool = _flag(False)
    resync: bool = _flag(False)
    compression: Compression | bool = _any(False)


class WireSettings(TypedDict, total=False):
    """See `WireOptions`."""

    version: Version
    max_size: int
    crc: CRCPolicy
    on_error: OnError
    cut_names: bool
    resync: bool
    compression: Compression | bool


class SocketOptions(WireOptions):
    """What every stream connection knows, of a client and of a server.

    Attributes:
        keepalive: seconds after which a peer that vanished silently is noticed (TCP keep-alive), at
            least 2; None leaves it to the system.
        ssl: a context makes the connection TLS, see `igtl.tls`; it is for "wss://", not for "ws://".
        sock: a stream socket (TCP or Unix) instead of host and port: connected, for a client; bound
            or listening, for a listener or server, which removes no path of it. It is closed with
            what it was given to, also where that fails.
        inbox_policy: what happens when a stream that is received but not read reaches its bounds:
            "drop_oldest", "drop_newest", or "latest" (only the newest message of it is kept; of
            commands, requests and VIDEO each counts).
        inbox_messages, inbox_bytes: bounds of one stream (a type and a device name). A single
            message that is larger always passes.
        inbox_total_bytes: bound of all streams together; the largest stream gives way.
        inbox_max_age: seconds after which a pose that waits is passed over by `recv(kind, name)`,
            if a newer one of its stream waits behind it; None keeps all of them. Iterating, `sync`
            and the reader of `stream` get all.
    """

    keepalive: float | None = _seconds(60.0, at_least=2.0, at_most=65_000.0)
    ssl: SSLContext | None = _any(None)
    sock: socket | None = _option(None, _stream_socket)
    inbox_policy: InboxPolicy = _choice("drop_oldest", InboxPolicy)
    inbox_messages: int = _count(1000)
    inbox_bytes: int = _count(64 << 20)
    inbox_total_bytes: int = _count(256 << 20)
    inbox_max_age: float | None = _seconds(0.2)


class SocketSettings(WireSettings, total=False):
    """See `SocketOptions`."""

    keepalive: float | None
    ssl: SSLContext | None
    sock: socket | None
    inbox_policy: InboxPolicy
    inbox_messages: int
    inbox_bytes: int
    inbox_total_bytes: int
    inbox_max_age: float | None


class LinkOptions(SocketOptions):
    """What a link knows, of a client and of a listener.

    Attributes:
        read_timeout: seconds that what a receiver asks for may stay away, where the call names no
            time-out of its own; None waits without end.
        message_timeout: seconds in which the peer must send more of a message that it has begun,
            while this end receives; then the link ends. None waits without end.
        write_timeout: seconds in which the peer must take something while there is something to
            send; None waits without end.
        drain: read the connection in a thread (asyncio: as bytes arrive), so that a program that is
            busy never holds the peer up; what it does not take in time is dropped under
            `inbox_policy`, and counted.
    """

    read_timeout: float | None = _seconds(None)
    message_timeout: float | None = _seconds(10.0)
    write_timeout: float | None = _seconds(None)
    drain: bool = _flag(False)

    def for_pipe(self, *others: str) -> Self:
        """Return the same, for two links that are joined in memory.

        Args:
            others: further options that mean nothing there.

        Raises:
            TypeError: an option was given that is for connections.
        """
        foreign = {*_OF_CONNECTIONS, *others} & set(self.known)
        given = sorted(n for n in foreign if getattr(self, n) != self.known[n].default)
        if given:
            valid = ", ".join(sorted(set(self.known) - foreign))
            raise TypeError(f"a pipe has no {', '.join(given)}; the options are {valid}")
        return self


_OF_CONNECTIONS = ("hello", "keepalive", "open_timeout", "server_hostname", "sock", "ssl")


class LinkSettings(SocketSettings, total=False):
    """See `LinkOptions`."""

    read_timeout: float | None
    message_timeout: float | None
    write_timeout: float | None
    drain: bool


class ConnectOptions(LinkOptions):
    """What a client knows.

    Attributes:
        open_timeout: seconds to connect, TLS and WebSocket included; None waits as long as the
            system does.
        server_hostname: the name that the server's certificate must have; None: the host, which a
            Unix socket or `sock` does not have.
        hello: send a version 2 STATUS first, which PLUS and other igtl ends answer with version 2.
            3D Slicer answers none: `version=2` is for it. Neither is for libraries that know
            version 1 only: they lose the framing.
    """

    open_timeout: float | None = _seconds(10.0)
    server_hostname: str | None = _any(None)
    hello: bool = _flag(False)

    def for_reconnecting(self) -> Self:
        """Return the same, for connections that are made again and again.

        Raises:
            TypeError: a socket was given, which can be used once.
        """
        if self.sock is not None:
            raise TypeError("sock= is for one connection: a link that reconnects opens its own")
        return self


class ConnectSettings(LinkSettings, total=False):
    """See `ConnectOptions`."""

    open_timeout: float | None
    server_hostname: str | None
    hello: bool


class QueueOptions(Options):
    """How messages wait to be sent to one peer.

    Attributes:
        policy: what happens when the queue is full. "block": the sender waits. "drop_oldest",
            "drop_newest", "latest" (the newest of each stream takes the place of the one that
            waits, except of commands, requests and VIDEO): the loss is counted in
            `stats.dropped`.
        max_queued, max_queued_bytes: bounds of the queue. A message of any size fits an empty one.
        max_age: seconds after which a pose that waits gives way to a newer one of its stream; None
            keeps all of them, and so does "block".
    """

    policy: Policy = _choice("drop_oldest", Policy)
    max_queued: int = _count(1000)
    max_queued_bytes: int = _count(256 << 20)
    max_age: float | None = _seconds(0.2)


class QueueSettings(TypedDict, total=False):
    """See `QueueOptions`."""

    policy: Policy
    max_queued: int
    max_queued_bytes: int
    max_age: float | None


class ReconnectOptions(ConnectOptions, QueueOptions):
    """What a link that reconnects by itself knows.

    Its queue holds what is sent while the peer is away.
    """


class ReconnectSettings(ConnectSettings, QueueSettings, total=False):
    """See `ReconnectOptions`."""


class AioConnectOptions(ConnectOptions, QueueOptions):
    """What a client in asyncio knows; `send` waits where the queue is full, by default."""

    policy: Policy = _choice("block", Policy)
    max_queued_bytes: int = _count(1 << 20)


class AioConnectSettings(ConnectSettings, QueueSettings, total=False):
    """See `AioConnectOptions`."""


class AcceptOptions(SocketOptions):
    """What a listener and a server know of the clients that come.

    Attributes:
        handshake_timeout: seconds for a handshake of TLS or WebSocket.
        origins: of a WebSocket, the origins of web pages that may connect ("https://example.org"),
            as browsers name them; "*" admits all. Programs that name none are always let in.
    """

    handshake_timeout: float | None = _seconds(10.0)
    origins: Iterable[str] = _option((), _origins)


class AcceptSettings(SocketSettings, total=False):
    """See `AcceptOptions`."""

    handshake_timeout: float | None
    origins: Iterable[str]


class ListenOptions(LinkOptions, AcceptOptions):
    """What a listener knows, which hands out a link for each client."""

    on_error: OnError = _choice("skip", OnError)


class ListenSettings(LinkSettings, AcceptSettings, total=False):
    """See `ListenOptions`."""


class AioListenOptions(ListenOptions, QueueOptions):
    """What a listener in asyncio knows."""

    policy: Policy = _choice("block", Policy)
    max_queued_bytes: int = _count(1 << 20)


class AioListenSettings(ListenSettings, QueueSettings, total=False):
    """See `AioListenOptions`."""


class ServerOptions(AcceptOptions, QueueOptions):
    """What a server of many clients knows; each client has a queue of its own.

    Attributes:
        max_clients: connections beyond are refused, and counted.
        allow: addresses and networks ("192.168.7.0/24") that may connect; None: all of them, an
            empty list: none.
        stall_timeout: seconds after which a client that takes nothing, while something waits for
            it, is dropped.
        idle_timeout: seconds after which a client that says nothing is dropped; None: never.
        message_timeout: seconds after which a client that has begun a message and sends nothing
            more of it is dropped; None: never.
        max_requests, max_commands, max_streams: what is in progress for one client at most:
            requests that providers answer, commands, streams. Beyond, a request is answered with
            STATUS "busy" and a command with a failure, and counted in the client's
            `stats.dropped` under the name of the limit. A stream that was stopped counts until its
            provider has ended.
    """

    on_error: OnError = _choice("skip", OnError)
    max_clients: int = _count(1000)
    allow: Iterable[str] | None = _any(None)
    stall_timeout: float | None = _seconds(10.0)
    idle_timeout: float | None = _seconds(None)
    message_timeout: float | None = _seconds(5.0)
    max_requests: int = _count(64, at_least=0)
    max_commands: int = _count(64, at_least=0)
    max_streams: int = _count(64, at_least=0)


class ServerSettings(AcceptSettings, QueueSettings, total=False):
    """See `ServerOptions`."""

    max_clients: int
    allow: Iterable[str] | None
    stall_timeout: float | None
    idle_timeout: float | None
    message_timeout: float | None
    max_requests: int
    max_commands: int
    max_streams: int


class BridgeOptions(Options):
    """What each end of a bridge knows of its way to the hub.

    Attributes:
        connect: endpoints of the hub: "tcp/HOST:PORT" or "tls/HOST:PORT", one or several; the first
            that answers is taken.
        ca: file of the authority (PEM) that has signed the certificates of the others.
        cert, key: files of this end's own certificate and its key (PEM).
        send_buffer: bytes that the system holds for the hub at most. A pose waits behind what is
            there already, so it is small by default; a connection carries at most
            send_buffer / round trip, so a long way with a high rate needs more.
        open_timeout: seconds of one try to connect, handshakes included. A way whose round trip
            takes more than a sixth of it needs more.
        lease: seconds of silence after which the other end takes this one for lost: more than a
            busy computer keeps a process waiting. Linux notices a cut itself, within two seconds;
            other systems do not, so there the default is 2.
    """

    connect: tuple[str, ...] = _option((), _endpoints)
    ca: str | None = _option(None, _path)
    cert: str | None = _option(None, _path)
    key: str | None = _option(None, _path)
    send_buffer: int = _count(16 << 10, at_least=4096, at_most=1 << 30)
    open_timeout: float | None = _seconds(0.7, at_least=0.1, at_most=60.0)
    lease: float | None = _seconds(
        10.0 if sys.platform == "linux" else 2.0, at_least=1.0, at_most=60.0
    )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")


class WaySettings(TypedDict, total=False):
    """See `BridgeOptions`: all but where the hub is."""

    ca: str | os.PathLike[str] | None
    cert: str | os.PathLike[str] | None
    key: str | os.PathLike[str] | None
    send_buffer: int
    open_timeout: float | None
    lease: float | None


class BridgeSettings(WaySettings, total=False):
    """See `BridgeOptions`."""

    connect: str | Iterable[str]


class PublisherOptions(BridgeOptions):
    """What the end of a bridge knows that puts the messages of a site.

    Attributes:
        requests: hand commands and GET_ requests from far away to the source.
        request_timeout: seconds that the source has for an answer.
        max_queued, max_queued_bytes: bounds of each lane. Beyond, the oldest message is dropped and
            counted as "overflow". A message of any size fits an empty lane.
    """

    requests: bool = _flag(True)
    request_timeout: float | None = _seconds(5.0)
    max_queued: int = _count(4096)
    max_queued_bytes: int = _count(256 << 20)


class PublisherSettings(BridgeSettings, total=False):
    """See `PublisherOptions`."""

    requests: bool
    request_timeout: float | None
    max_queued: int
    max_queued_bytes: int


class SubscriberOptions(BridgeOptions):
    """What the end of a bridge knows that gets the messages of sites.

    Attributes:
        max_age: seconds after which a pose or a value of a sensor is not handed out any more, but
            counted as "stale"; None hands out all.
        request_timeout: seconds until a request to a site is given up.
        max_queued, max_queued_bytes: bounds of what waits for `recv`. Beyond, the oldest message is
            dropped and counted as "unread".
    """

    max_age: float | None = _seconds(0.2)
    request_timeout: float | None = _seconds(5.0)
    max_queued: int = _count(10_000)
    max_queued_bytes: int = _count(256 << 20)


class SubscriberSettings(BridgeSettings, total=False):
    """See `SubscriberOptions`."""

    max_age: float | None
    request_timeout: float | None
    max_queued: int
    max_queued_bytes: int


class RouterOptions(BridgeOptions):
    """What the hub of a bridge knows.

    Attributes:
        listen: endpoints where sites connect: "tcp/HOST:PORT" or "tls/HOST:PORT".
        connect: endpoints of other hubs that belong to the same bridge; all of them.
        allow: rules of access, see `igtl.bridge.Router`; None: every connection may do all.
        max_connections: further ones are refused.
    """

    listen: tuple[str, ...] = _option("tcp/127.0.0.1:7447", _endpoints)
    allow: Iterable[str] | None = _any(None)
    max_connections: int = _count(10_000)


class RouterSettings(BridgeSettings, total=False):
    """See `RouterOptions`."""

    listen: str | Iterable[str]
    allow: Iterable[str] | None
    max_connections: int
