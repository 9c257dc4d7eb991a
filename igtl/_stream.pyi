"""Types of _stream.pyx: a stream of messages without I/O."""

from asyncio import AbstractEventLoop, TimerHandle
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Generator
from socket import socket
from typing import Any, Generic, Literal, Self, TypeVar, final, overload

from typing_extensions import Buffer, disjoint_base

from igtl._core import Frame, Record
from igtl.codec.message import Message
from igtl.options import CRCPolicy, LinkOptions
from igtl.session import inbox
from igtl.session.inbox import Wanted
from igtl.session.layers import Layer
from igtl.session.packed import Form, Packed
from igtl.session.protocol import Protocol
from igtl.session.requests import Exchange
from igtl.session.session import Session

_M = TypeVar("_M", bound=Message)
_T = TypeVar("_T")
_O = TypeVar("_O", bound=Passage)
_W = TypeVar("_W", bound=Wire)

@final
class StreamStats:
    """Counters of one (type, device name) of a connection.

    Attributes:
        type_name, device_name: of the stream.
        received, received_bytes, sent, sent_bytes: messages, and their bytes.
        lost: number of messages lost by cause: an error ("CRCError", "BodyError", …) or the
            policy of a full queue ("drop_oldest", …).
        crc_errors: how many of them had a wrong CRC.
        age: seconds since the last one arrived; None before the first.
        rate: messages received a second, over the last 32 or so; 0 before the second.
        jitter: how far their intervals are from the mean one, on average, in seconds.
    """

    def __init__(self, type_name: str, device_name: str) -> None: ...
    @property
    def type_name(self) -> str: ...
    @property
    def device_name(self) -> str: ...
    @property
    def received(self) -> int: ...
    @property
    def received_bytes(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def lost(self) -> dict[str, int]: ...
    @property
    def crc_errors(self) -> int: ...
    @property
    def age(self) -> float | None: ...
    @property
    def rate(self) -> float: ...
    @property
    def jitter(self) -> float: ...

@final
class Stats:
    """What passed through a connection, what was lost, and why.

    Attributes:
        received, received_bytes: whole messages that arrived, bad ones included.
        sent, sent_bytes: messages handed to the transport.
        errors: number of bad messages received, by the name of their error ("CRCError", …).
        dropped: number of messages given up, by cause: the policy of the queue that was full
            ("drop_oldest", "drop_newest", "latest"), "disconnected", "stalled", ….
        lost: all of both.
        streams: the same for each (type name, device name), see StreamStats. After 4096 of
            them the rest is counted under ("*", "*").
    """

    def __init__(self) -> None: ...
    @property
    def received(self) -> int: ...
    @property
    def received_bytes(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def errors(self) -> Counter[str]: ...
    @property
    def dropped(self) -> Counter[str]: ...
    @property
    def lost(self) -> int: ...
    @property
    def streams(self) -> dict[tuple[str, str], StreamStats]: ...
    def count_received(self, frame: Frame | Buffer, now: float) -> None: ...
    def _repr_html_(self) -> str: ...
    def count_sent(
        self, what: Record | Frame | Buffer | list[Any], size: int, times: int = 1
    ) -> None: ...
    def count_dropped(self, what: Record | Frame | Buffer, cause: str, times: int = 1) -> None: ...
    def count_error(self, cause: str, frame: Frame | None = None) -> None: ...

@disjoint_base
class Decoder:
    """Cuts a byte stream into frames; owns whatever has arrived in part.

    Args:
        max_size: largest message, header included; default 1 GiB, at least 58 bytes.
        stats: counts what arrives.
        resync: see `igtl.Protocol`.

    Attributes:
        last_size: bytes of the last frame.
        peer_version: highest header version so far; 0 before the first frame.
        waiting: bytes received behind the message that is arriving.
    """

    def __init__(
        self, max_size: int = ..., stats: Stats | None = None, resync: bool = False
    ) -> None: ...
    stats: Stats | None
    last_size: int
    @property
    def peer_version(self) -> int: ...
    @property
    def max_size(self) -> int: ...
    @property
    def resync(self) -> bool: ...
    @property
    def at_boundary(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    def feed(self, data: Buffer) -> None: ...
    def get_buffer(self) -> memoryview: ...
    def received(self, n: int) -> None: ...
    def next_frame(self) -> Frame | None: ...

@disjoint_base
class Stream(Decoder):
    def __init__(
        self,
        max_size: int,
        stats: Stats,
        crc: CRCPolicy,
        fixed: int,
        cut_names: bool,
        peer: Any,
        resync: bool = False,
    ) -> None: ...
    stats: Stats
    peer: Any
    peer_takes: bool
    @property
    def cut_names(self) -> bool: ...
    @property
    def fixed(self) -> Literal[0, 1, 2]: ...
    @property
    def version(self) -> Literal[1, 2]: ...
    def receive_data(self, data: Buffer) -> None: ...
    def next_message(self) -> Message | None: ...
    def decoded(self, frame: Frame) -> Message: ...
    def parts(self, message: Message | Frame, *, crc: bool = True) -> list[bytes | memoryview]: ...
    def pack(self, message: Message | Frame, *, crc: bool = True) -> bytes: ...

@disjoint_base
class Waiting:
    """The part of an inbox at which every message looks. See `igtl.session.inbox.Inbox`, which says
    what the attributes are."""

    raw: bool
    @property
    def streams(self) -> dict[tuple[str, str], inbox.Stream]: ...
    @property
    def errors(self) -> deque[Exception]: ...

@disjoint_base
class Flow:
    """The part of a session that every message passes on its way in. See
    `igtl.session.session.Session`, which has what this calls.

    Args:
        protocol: the stream of messages.
        inbox: messages that wait for their receiver.
        clock: as `time.monotonic`.

    Attributes:
        requests: those that wait for an answer, each with what is called with it.
        others: see `igtl.session.session.Session`.
    """

    def __init__(
        self, protocol: Protocol, inbox: inbox.Inbox, clock: Callable[[], float]
    ) -> None: ...
    inbox: inbox.Inbox
    close_reason: Exception | None
    ended: bool
    heard: float
    @property
    def protocol(self) -> Protocol: ...
    @property
    def requests(self) -> dict[Exchange, Callable[[Message | Exception], None]]: ...
    @property
    def wants_read(self) -> bool: ...
    def received(self, n: int) -> None: ...
    def listens(self) -> None: ...
    def listened(self) -> None: ...
    def take(self, wanted: Wanted | None = None, *, fresh: bool = False) -> Message | None: ...
    def next_message(self) -> Message | None: ...

def on_time(sleep: Callable[[float], object], wait: float) -> None: ...

@final
class Lock:
    """As `threading.Lock`, for fewer instructions where it is free."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *exc: object) -> None: ...

@disjoint_base
class Line:
    """The part of `igtl.Link` that every message passes. See there, and in
    `igtl.blocking.transport`, what this calls.

    Attributes:
        closed: whether this end was closed.
    """

    closed: bool
    _waiting: int
    @property
    def _sending(self) -> Lock: ...
    @property
    def _receiving(self) -> Lock: ...
    def _begin(self, flow: Flow, transport: Any, options: LinkOptions) -> None: ...
    def send(self, message: Message | Frame, *, crc: bool = True) -> None: ...
    @overload
    def recv(
        self, kind: None = None, name: str = "*", *, timeout: float | None = None
    ) -> Message: ...
    @overload
    def recv(self, kind: type[_M], name: str = "*", *, timeout: float | None = None) -> _M: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Message: ...
    def _write(self, parts: list[bytes | memoryview]) -> None: ...
    def until(self, take: Callable[[], _T | None], wanted: Any, timeout: float | None) -> _T: ...
    def _receive_until(self, take: Callable[[], _T | None], timeout: float | None) -> _T: ...

@final
class Waiter:
    """What a task of asyncio awaits that receives, one task at a time, again and again.

    Args:
        loop: in which it runs.
    """

    _asyncio_future_blocking: bool
    def __init__(self, loop: AbstractEventLoop) -> None: ...
    def wake(self) -> None: ...
    def __await__(self) -> Generator[Any]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Self: ...
    def get_loop(self) -> AbstractEventLoop: ...
    def add_done_callback(self, fn: Callable[[Any], object], *, context: Any) -> None: ...
    def cancel(self, msg: Any = None) -> bool: ...
    def result(self) -> None: ...

@disjoint_base
class Passage:
    """The part of an asyncio connection that every message passes on its way in, and those that
    leave while nothing waits. See `igtl.aio.transport.Connection`, which has what this calls.

    The latter go straight to the socket, from any thread. The owner is the thread of the event
    loop, which alone opens and shuts the way out. `resume` is called, in any thread, when a message
    has left in part: the owner is to shut it then, and to send the rest.

    Args:
        session: what happens on the connection.
        layer: between the session and the network, for example TLS; None: nothing.

    Attributes:
        on_change: called when bytes have arrived or the connection has ended.
        drains: what arrives is put into the inbox at once, so that the peer never waits for the
            receiver.
        waiter: what one receiving task awaits, see `more`.
        is_open: whether nothing waits.
        passed: bytes that the system has taken from here.
    """

    def __init__(self, session: Session, layer: Layer | None = None) -> None: ...
    @property
    def session(self) -> Session: ...
    @property
    def layer(self) -> Layer | None: ...
    on_change: Callable[[], object]
    drains: bool
    waiter: Waiter
    _discards: bool
    _later: TimerHandle | None
    _reads: bool
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def _turn(self) -> None: ...
    def update_reading(self) -> None: ...
    def more(self) -> Awaitable[None]: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def passed(self) -> int: ...
    def open(self, fd: int) -> None: ...
    def shut(self) -> tuple[bytes, int] | None: ...
    def stay_shut(self) -> None: ...
    def arrived(self) -> None: ...
    def pass_now(self, wire: bytes) -> bool: ...
    def send_now(self, message: Message | Frame, crc: bool) -> Packed | None: ...

@disjoint_base
class Wire:
    """A message as it was packed; the base of `igtl.session.packed.Packed`.

    Attributes:
        wire: its bytes.
        size: how many.
        version: of its header; 0: every peer gets it as it is.
        other: the form in the other header version, if it was made.
        compressed: compressed forms, if any were made.

    Raises:
        ValueError: the bytes are shorter than a header.
    """

    other: Form | None
    compressed: dict[tuple[int, str], bytes] | None
    def __init__(self, wire: bytes, *, as_it_is: bool = False) -> None: ...
    @property
    def wire(self) -> bytes: ...
    @property
    def size(self) -> int: ...
    @property
    def version(self) -> int: ...

@disjoint_base
class Audience(Generic[_O, _W]):
    """The part of a server that a broadcast passes while nothing waits, in any thread.

    Args:
        kind: as which messages are packed.
        cut_names: see `Message.pack`.

    Attributes:
        passages: who gets what is sent; the list does not change.
    """

    def __init__(self, kind: type[_W], cut_names: bool) -> None: ...
    @property
    def passages(self) -> list[_O]: ...
    def join(self, passage: _O) -> None: ...
    def leave(self, passage: _O) -> None: ...
    def pack(self, message: Message | Frame | _W, crc: bool = True) -> _W: ...
    def pass_on(
        self, message: Message | Frame | _W, crc: bool = True
    ) -> tuple[_W, list[_O]] | None: ...

def pass_on(passages: list[_O], message: Packed) -> list[_O]: ...

MAX_DATAGRAM: int

@disjoint_base
class Socket:
    """What the sending and the receiving side of UDP share. See `igtl.net.datagrams`, which has
    what this and the two that follow call.

    Attributes:
        stats: what passed, what was lost.
    """

    _closed: bool
    @property
    def stats(self) -> Stats: ...
    @property
    def _sock(self) -> socket: ...
    def _open(self, sock: socket, direct: bool) -> None: ...
    def close(self) -> None:
        """Close the socket."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

@disjoint_base
class Outlet(Socket):
    """The part of `igtl.net.datagrams.Outgoing` that every message passes.

    Attributes:
        address: of the receiver.
    """

    @property
    def address(self) -> Any: ...
    def _aim(self, address: Any, host: bytes, port: int, flow: int = 0, scope: int = 0) -> None: ...
    def _send(self, message: Message | Frame, crc: bool) -> None: ...
    def _datagrams(self, message: Message | Frame, crc: bool) -> list[bytes]: ...
    def _hand_on(self, packet: bytes) -> None: ...

@disjoint_base
class Inlet(Socket):
    """The part of `igtl.net.datagrams.Incoming` that every datagram passes.

    Attributes:
        gaps, reordered, duplicates: see there.
    """

    gaps: int
    reordered: int
    duplicates: int
    @property
    def _sources(self) -> OrderedDict[Any, Any]: ...
    def _begin(self, crc: CRCPolicy, sources: OrderedDict[Any, Any]) -> None: ...
    @overload
    def _receive(self, framed: Literal[False], timeout: float | None) -> tuple[Message, Any]: ...
    @overload
    def _receive(self, framed: Literal[True], timeout: float | None) -> tuple[Frame, Any]: ...
    def _look(self, framed: bool) -> tuple[Any, Any] | None: ...
