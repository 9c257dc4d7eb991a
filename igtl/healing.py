"""A link that heals itself, and `connect`, which makes it or a plain one."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar, Unpack, overload

from igtl import _core
from igtl._core import Frame
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.exchange import Exchange
from igtl.limits import seconds
from igtl.link import MAX_WAITING, MAX_WAITING_BYTES, Inbox, LinkBase, Packed
from igtl.log import log, named
from igtl.message import Message
from igtl.messages.queries import Start, Stop
from igtl.protocol import MAX_SIZE, PORT, Parts, Protocol, hello_message
from igtl.queues import Policy, Queue
from igtl.retry import Backoff, OnEvent, Supervisor
from igtl.sync import Link, Settings, StreamReader, checked_settings, inbox_of
from igtl.sync import connect as connect_once

M = TypeVar("M", bound=Message)
_KNOWN = 1.0  # seconds until the reason of an end is known
_DEFAULTS: tuple[Policy, int, int] = ("drop_oldest", 1000, 256 << 20)  # of what is queued
_PATIENCE = 0.5  # seconds that a sender waits for a peer that takes nothing


class _Outgoing(NamedTuple):
    """A message on its way to a peer.

    Attributes:
        packed: the message; None while its parts refer to the sender's own arrays.
        parts: what is to be handed over.
        head, size: of all that goes out, for the counters.
        stripped: whether it goes without metadata and id.
    """

    packed: Packed | None
    parts: Parts
    head: bytes | memoryview
    size: int
    stripped: bool


def _outgoing(packed: Packed, link: Link) -> _Outgoing:
    wire, stripped = packed.wire_for(link._protocol)
    return _Outgoing(packed, [wire], wire, len(wire), stripped)


class ReconnectingLink(Link):
    """A link that heals itself: one object for as long as you like; see `connect`.

    Sending while the peer is away, or has taken nothing for half a second, queues under a policy;
    receiving waits. A thread keeps the connection; on a new one it sends the hello, asks again for
    the streams that are open, and sends what was latched and what is queued, in this order.
    Iterating goes on over all of them. The link is closed when nothing refers to it any more.

    What had been handed to the system when a connection broke may or may not have arrived: this
    end cannot tell. Everything else that is lost is in `stats.dropped`.

    Attributes:
        stripped: messages that went out without metadata and id, since the peer had not shown
            header version 2 yet.
    """

    def __init__(
        self,
        open_link: Callable[[], Link],
        supervisor: Supervisor,
        protocol: Protocol,
        queue: Queue[Packed],
        *,
        hello: bool,
        read_timeout: float | None,
        inbox: Inbox,
    ) -> None:
        LinkBase.__init__(self, protocol, None, read_timeout, inbox, False)
        self.stripped = 0
        self._hello = hello
        self._process = os.getpid()
        self._receiving = threading.Lock()
        # two locks: `_sending` keeps the order of what is sent; `_changed` guards the links, and
        # nothing else is taken while it is held. Always taken in this order.
        self._sending: Any = threading.RLock()
        self._room = threading.Condition(self._sending)
        self._queue = queue
        self._begun: _Outgoing | None = None  # a message that the peer has not taken whole
        self._emptying = False  # whether a thread sends what is queued
        self._latched: dict[bytes, Packed] = {}
        self._renewed: deque[Packed] = deque()  # latched messages for a new connection
        self._streams: list[Start[Any]] = []
        self._awaited: Start[Any] | None = None  # of them, the one whose first answer is awaited
        self._changed = threading.Condition()
        self._link: Link | None = None  # to send to, while the peer is there
        self._unread: deque[Link] = deque()  # to receive from, the oldest first
        self._left: Queue[Frame] = Queue("drop_oldest", MAX_WAITING, MAX_WAITING_BYTES)
        self._reading = threading.Lock()  # held by the thread that reads from the first of them
        self._asked: Link | None = None  # where a request waits for its answer
        self._thread = threading.Thread(
            target=_supervise,
            args=(weakref.ref(self), self._changed, open_link, supervisor),
            name="igtl reconnect",
            daemon=True,
        )
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the peer is there now."""
        return self._link is not None

    @property
    def header_version(self) -> int:
        """Header version of what is sent now."""
        link = self._link
        return self._protocol.version if link is None else link.header_version

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until the peer is there; returns whether it is.

        Raises:
            ConnectionClosed, or the error with which the backoff gave up: it never will be.
        """
        timeout = seconds("timeout", timeout)
        with self._changed:
            self._changed.wait_for(lambda: self._link is not None or self._closed, timeout)
            if self._closed:
                raise self._end_error()
            return self._link is not None

    def _peer_takes(self) -> bool:
        link = self._link
        return link is not None and link._protocol.peer_takes

    # -- the thread

    def _keep(self, link: Link) -> None:
        """A new connection: send what it begins with, then what is queued."""
        link._protocol.stats = self.stats  # one account over all of them
        try:
            self._begin(link)
        except OSError as error:  # ConnectionClosed is one
            self._failed_opening(link)
            self._lost(link, error)
        self._empty_old()

    def _begin(self, link: Link) -> None:
        with self._sending:
            # the old connection is shut down, so what was going out there has failed, or soon will
            self._room.wait_for(lambda: not self._emptying)
            link._greet(self._hello)
            for start in self._streams:
                if start is not self._awaited:
                    self._inbox.ignore(Exchange(start))
                link.send(start)
            with self._changed:
                if self._closed:
                    raise ConnectionClosed("this link was closed")
                self._unread.append(link)
                self._link = link
                self.local = link.local
                self._changed.notify_all()
            self._renewed = deque(self._latched.values())
            self._emptying = True
        self._empty(link)

    def _leave(self, link: Link) -> None:
        """A connection is over."""
        self._drop_link(link, ConnectionClosed(f"{named(link.peer)} closed"))
        self._empty_old()
        with self._changed:  # the thread that reads from it will know why it ended
            self._changed.wait_for(lambda: link not in self._unread, _KNOWN)

    def _give_up(self, error: Exception) -> None:
        """The supervisor will not try again."""
        self.close_reason = error
        self._shut()

    def _failed_opening(self, link: Link) -> None:
        """What the peer had sent by then can be read, and the socket is given back, as always."""
        with self._changed:
            if not self._closed and link not in self._unread:
                self._unread.append(link)
        if self._closed:
            link.close()

    def _empty_old(self) -> None:
        """Take what connections that are over still hold, and close them at once: a peer that is
        restarted may need its port."""
        if not self._reading.acquire(blocking=False):
            return  # the thread that reads will do the same
        try:
            with self._changed:
                over = [link for link in self._unread if link is not self._link]
                self._unread = deque(link for link in self._unread if link is self._link)
            for link in over:
                with contextlib.suppress(OSError, ProtocolError):
                    while True:
                        frame = link._next(time.monotonic(), raw=True)
                        for lost, _ in self._left.put(frame, len(frame)):
                            self.stats.count_dropped(lost.data, "unread")
                link.close()
        finally:
            self._reading.release()

    def _empty(self, link: Link) -> None:
        """Send what the peer has not taken yet, and what is queued. Senders queue meanwhile, and
        never wait for the peer."""
        while (message := self._next_to_send(link)) is not None:
            try:
                with link._sending:
                    link._hand_over(message.parts)
            except OSError as error:
                self._drop_link(link, error)
                assert message.packed is not None
                self._keep_for_next(message.packed)
                return
            self._count(message)

    def _next_to_send(self, link: Link) -> _Outgoing | None:
        with self._sending:
            message, self._begun = self._begun, None
            if message is None and self._link is link and (self._renewed or self._queue):
                packed = self._renewed.popleft() if self._renewed else self._queue.get()
                message = _outgoing(packed, link)
            self._emptying = message is not None
            self._room.notify_all()
            return message

    def _keep_for_next(self, packed: Packed) -> None:
        """A message was not sent whole: the next connection begins with it."""
        with self._sending:
            self._emptying = False
            if self._closed:
                self.stats.count_dropped(b"\0\0" + packed.stream, "closed")
            elif self._latched.get(packed.stream) is not packed:
                self._queue.put_back(packed, packed.size)
            self._room.notify_all()

    def _count(self, message: _Outgoing) -> None:
        """A message was sent."""
        if message.stripped and not self.stripped:
            log(logging.WARNING, "%s has not shown header version 2: metadata and ids are left out",
                self.peer, peer=self.peer)  # fmt: skip
        self.stats.count_sent(message.head, message.size)
        self.stripped += message.stripped

    def _lost(self, link: Link, error: Exception) -> Exception:
        """The end of a connection was noticed. What it still holds can be read."""
        with self._changed:
            if link.close_reason is None and link not in self._unread:
                link.close_reason = error
            if self._link is link:
                self._link = None
            self._changed.notify_all()
        return error

    # -- sending

    def send(self, message: Message | Frame, *, crc: bool = True, latch: bool = False) -> None:
        """Send one message, or queue it while the peer is away, packed at once.

        Args:
            message, crc: see Link.send.
            latch: also send it on each new connection, until a newer one of this type and device
                name takes its place.

        Raises:
            EncodeError: the message cannot be sent.
            ConnectionClosed: the link was closed, or the error with which the backoff gave up.
        """
        with self._sending:
            packed = None
            if latch:
                packed = self._pack(message, crc)
                self._latched[packed.stream] = packed
            while not self._closed:
                if (link := self._free_link()) is not None:
                    try:
                        return self._send_on(link, message, crc)
                    except OSError as error:
                        self._drop_link(link, error)
                packed = packed or self._pack(message, crc)
                if self._queue.policy != "block" or self._queue.has_room(packed.size):
                    for lost, cause in self._queue.put(packed, packed.size, packed.stream):
                        self.stats.count_dropped(b"\0\0" + lost.stream, cause)
                    return None
                self._room.wait()
            raise self._end_error()

    def _free_link(self) -> Link | None:
        """Where a message can go out now: nothing waits there to be sent before it."""
        link = self._link
        if link is None or self._emptying:
            return None
        if link._transport.ended():
            self._drop_link(link, ConnectionClosed(f"{named(link.peer)} closed"))
            return None
        return link

    def _send_on(self, link: Link, message: Message | Frame, crc: bool) -> None:
        """Send; what the peer does not take in time goes out from another thread."""
        if link.header_version == 1 and isinstance(message, Message) and _core.needs_v2(message):
            going = _outgoing(self._pack(message, crc), link)
        else:
            parts = link._protocol.parts(message, crc=crc)
            going = _Outgoing(None, parts, parts[0], sum(map(len, parts)), False)
        with link._sending:
            whole = link._hand_over(going.parts, _PATIENCE)
        if whole:
            self._count(going)
            return
        packed = going.packed or self._pack(message, crc)
        self._begun = going._replace(packed=packed, parts=[])
        self._emptying = True
        thread = threading.Thread(target=self._empty, args=(link,), name="igtl send", daemon=True)
        thread.start()

    def send_hello(self) -> None:
        """Offer header version 2 now; `connect(hello=True)` does so on each connection."""
        if self._link is not None:
            self.send(Frame.from_bytes(hello_message()))

    def _drop_link(self, link: Link, error: Exception) -> None:
        self._lost(link, error)
        link._transport.shutdown()  # ends the thread's watch

    def _pack(self, message: Message | Frame, crc: bool) -> Packed:
        fixed = self._protocol.fixed
        versions: set[int] = {fixed or 1}
        if isinstance(message, Message) and _core.needs_v2(message):
            if fixed == 1:
                self._protocol.pack(message)  # which says that it cannot be sent
            versions = {fixed} if fixed else {1, 2}  # the peer's version may not be known yet
        return Packed(message, versions, crc=crc, cut_name=self._protocol.cut_names)

    # -- receiving

    def _next(self, deadline: float | None, *, raw: bool = False, reads: bool = True) -> Any:
        with self._reading:
            while True:
                if self._left:
                    frame = self._left.get()
                    if (left := frame if raw else self._decoded(frame)) is not None:
                        return left
                    continue
                link = self._readable_link(deadline)
                try:
                    found: Any = (
                        link._next(deadline, raw=True) if raw else link._next(deadline, reads=reads)
                    )
                except TimeoutError:
                    raise
                except (MessageTooLarge, OSError) as error:
                    self._read_empty(link, error)
                    continue
                self._protocol.last_size = link._protocol.last_size
                return found

    def _decoded(self, frame: Frame) -> Message | None:
        try:
            return self._protocol.decoded(frame)
        except ProtocolError:
            if self._protocol._on_error == "raise":
                raise
            return None

    def _read_empty(self, link: Link, error: Exception) -> None:
        """A connection has nothing more to read."""
        link.close_reason = error
        with self._changed:
            if link in self._unread:
                self._unread.remove(link)
        self._drop_link(link, error)
        link.close()

    def _readable_link(self, deadline: float | None) -> Link:
        with self._changed:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = lambda: self._unread or self._closed or self._asked_in_vain()  # noqa: E731
            if not self._changed.wait_for(ready, left):
                raise TimeoutError
            if self._asked_in_vain():
                raise ConnectionClosed(
                    f"{named(self.peer)} was lost before it answered", clean=False
                )
            if not self._unread:
                raise self._end_error()
            return self._unread[0]

    def _asked_in_vain(self) -> bool:
        """Whether the connection that a request went to is over and read empty."""
        return self._asked is not None and self._asked not in self._unread

    def _ask(self, exchange: Exchange, timeout: float | None) -> Message:
        timeout = self._limit(timeout)
        began = time.monotonic()
        end = None if timeout is None else began + timeout
        self._claim()
        try:
            self._request(exchange.request, end, timeout)
            return self._recv(exchange, timeout, began)
        finally:
            self._asked = self._awaited = None
            self._receiving.release()

    def _request(self, request: Message, end: float | None, timeout: float | None) -> None:
        """Send a request to the peer that is there now, and to no later one. (Streams are asked
        for on each connection; see `_begin`.)"""
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self.wait_connected(left):
                raise TimeoutError(f"{named(self.peer)} was not there within {timeout} s")
            with self._sending:
                left = None if end is None else max(0.0, end - time.monotonic())
                if self._emptying and self._link and isinstance(request, Stop):
                    self._asked = self._link
                    self.send(request)  # queued: the stream must not go on
                    return
                if not self._room.wait_for(lambda: not self._emptying or self._closed, left):
                    raise TimeoutError(f"{named(self.peer)} took nothing within {timeout} s")
                if (link := self._free_link()) is None:
                    continue
                if isinstance(request, Start):
                    self._awaited = request
                    self._streams.append(request)
                else:
                    self._asked = link
                try:
                    self._send_on(link, request, True)
                except OSError as error:  # a new connection asks for the stream, the rest is lost
                    self._drop_link(link, error)
                return

    @contextlib.contextmanager
    def stream(self, start: Start[M], *, timeout: float | None = 5.0) -> Iterator[StreamReader[M]]:
        """As Link.stream; after a reconnect it is asked for again, and goes on."""
        try:
            with super().stream(start, timeout=timeout) as frames:
                yield frames
        finally:
            self._forget(start)

    def _stop(self, start: Start[Any], acknowledged: bool) -> None:
        with self._sending:
            self._forget(start)  # before STP_: a connection that is made now does not ask for it
            if self._link is None:
                return
        super()._stop(start, acknowledged)

    def _forget(self, start: Start[Any]) -> None:
        with self._sending:
            self._streams = [other for other in self._streams if other is not start]

    # -- end

    def close(self) -> None:
        """End it. What is still queued is dropped, and counted as "closed"."""
        self._shut()
        if threading.current_thread() is not self._thread:
            self._thread.join(1)  # it may be connecting; then it ends by itself

    def _abandon(self) -> None:
        # the thread does the rest
        for link in self._end_all():
            link._transport.shutdown()

    def _end_all(self) -> list[Link]:
        """Refuse what is asked for from now on, and end every wait; returns the connections."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return [*self._unread, *([self._link] if self._link else [])]

    def _shut(self) -> None:
        if self._closed:
            return
        for link in self._end_all():
            link.close()
        self._drop_queued()

    def _drop_queued(self) -> None:
        """Senders that wait for room end; what is queued will never be sent."""
        with self._sending:
            self._room.notify_all()
            self._room.wait_for(lambda: not self._emptying, _KNOWN)
            for packed in self._queue.clear():
                self.stats.count_dropped(b"\0\0" + packed.stream, "closed")

    def __del__(self) -> None:
        """Close a link to which nothing refers any more, as a file or a socket does."""
        if not getattr(self, "_closed", True) and self._process == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._abandon()

    def __repr__(self) -> str:
        state = "connected to" if self.connected else "waiting for"
        return f"<ReconnectingLink {state} {named(self.peer)} {self.stats}>"


def _supervise(
    owner: weakref.ref[ReconnectingLink],
    changed: threading.Condition,
    open_link: Callable[[], Link],
    supervisor: Supervisor,
) -> None:
    """The thread of a link that heals itself. While it waits it refers to nothing but the
    connection, so that a link that its user has forgotten is collected, which closes it."""

    def over() -> bool:
        link = owner()
        return link is None or link._closed

    try:
        while not over():
            try:
                connection = open_link()
            except OSError as error:
                wait = supervisor.failed(error)
            else:
                supervisor.connected()
                _use(owner, changed, connection)
                if over():
                    break
                wait = supervisor.lost(connection.close_reason)
            with changed:
                changed.wait_for(over, wait)
        if (link := owner()) is not None:
            link._drop_queued()
    except Exception as error:  # the supervisor gave up
        if (link := owner()) is not None:
            link._give_up(error)


def _use(
    owner: weakref.ref[ReconnectingLink], changed: threading.Condition, connection: Link
) -> None:
    """One connection, from its beginning to its end."""

    def in_use() -> bool:
        link = owner()
        return link is not None and link._link is connection and not link._closed

    if (link := owner()) is not None:
        link._keep(connection)
        del link
        if not connection._transport.wait_ended():  # this system cannot tell: others will
            with changed:
                changed.wait_for(lambda: not in_use())
    if (link := owner()) is not None and not link._closed:
        link._leave(connection)
    else:
        connection.close()


@overload
def connect(
    host: str = ..., port: int = ..., *, reconnect: None = None, **settings: Unpack[Settings]
) -> Link: ...
@overload
def connect(
    host: str = ...,
    port: int = ...,
    *,
    reconnect: Backoff,
    on_event: OnEvent | None = ...,
    policy: Policy = ...,
    max_queued: int = ...,
    max_queued_bytes: int = ...,
    **settings: Unpack[Settings],
) -> ReconnectingLink: ...
def connect(
    host: str = "localhost",
    port: int = PORT,
    *,
    reconnect: Backoff | None = None,
    on_event: OnEvent | None = None,
    policy: Policy = _DEFAULTS[0],
    max_queued: int = _DEFAULTS[1],
    max_queued_bytes: int = _DEFAULTS[2],
    **settings: Unpack[Settings],
) -> Link:
    """Connect to a server.

    Args:
        host, port: default localhost, 18944.
        open_timeout: seconds to connect, TLS included; None waits as long as the system does.
            Default 10.
        read_timeout: seconds that recv and iteration wait; default for ever.
        message_timeout: seconds in which the peer must send more of a message that it has begun,
            while this end receives; then the link ends. None: for ever. Default 10.
        write_timeout: seconds in which the peer must take something while there is something to
            send; default for ever.
        keepalive: seconds, 2 to 65,000, after which a silently vanished peer is noticed (TCP
            keep-alive); None: as the system does. Default 60.
        ssl: a context makes it TLS, see `igtl.tls.client`.
        server_hostname: name in the server's certificate; default: host.
        version: header version written: "auto" (default; 1 until the peer has sent 2), 1 or 2.
        hello: send a version 2 STATUS first, which PLUS, 3D Slicer and other igtl ends answer
            with version 2. Not for libraries that know version 1 only: they lose step.
        max_size, crc, on_error, cut_names: see `igtl.Protocol`.
        compression: True, or how (see `igtl.Compression`): offer it to the peer, by a CAPABILITY.
            An igtl end that was told so too then gets messages compressed, and sends them so;
            every other peer gets them as ever. Default: no.
        inbox_policy, inbox_messages, inbox_bytes: what selective `recv` leaves is queued, by
            default up to 10,000 messages and 1 GiB, and then "drop_oldest", "drop_newest", or
            "latest" (the newest of each stream only); see `stats.dropped`.
        reconnect: makes it a ReconnectingLink, which is returned at once, connected or not.
        on_event: for it: called with each LinkEvent, in its thread.
        policy, max_queued, max_queued_bytes: for it: what happens to messages sent while the peer
            is away. By default up to 1000 and 256 MiB are kept, then "drop_oldest"; also
            "drop_newest", "latest" (the newest of each stream), or "block".

    Raises:
        TypeError, ValueError: an argument is wrong.
        OSError: no connection (ConnectionRefusedError, socket.gaierror, TimeoutError, …).
        ssl.SSLError: a check of TLS failed, or the peer speaks none; the text says which.
    """
    checked_settings(settings)
    if reconnect is None:
        if on_event is not None or (policy, max_queued, max_queued_bytes) != _DEFAULTS:
            raise TypeError(
                "on_event, policy, max_queued and max_queued_bytes are for links with reconnect="
            )
        return connect_once(host, port, **settings)
    protocol = Protocol(
        max_size=settings.get("max_size", MAX_SIZE), version=settings.get("version", "auto"),
        crc=settings.get("crc", "verify"), on_error=settings.get("on_error", "raise"),
        cut_names=settings.get("cut_names", False), peer=(host, port),
    )  # fmt: skip
    return ReconnectingLink(
        lambda: connect_once(host, port, greet=False, **settings),
        Supervisor((host, port), reconnect, on_event),
        protocol,
        Queue(policy, max_queued, max_queued_bytes),
        hello=settings.get("hello", False),
        read_timeout=settings.get("read_timeout"),
        inbox=inbox_of(protocol, settings),
    )
