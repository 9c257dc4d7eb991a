"""A link that heals itself, and `connect`, which makes it or a plain one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, Unpack, overload

from igtl import _core
from igtl._core import Frame
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.exchange import Exchange
from igtl.link import MAX_WAITING, MAX_WAITING_BYTES, Inbox, LinkBase, Packed
from igtl.log import named
from igtl.message import Message
from igtl.messages.queries import Start
from igtl.protocol import MAX_SIZE, PORT, Protocol
from igtl.queues import Policy, Queue
from igtl.retry import Backoff, OnEvent, Supervisor
from igtl.sync import Link, Settings, StreamReader
from igtl.sync import connect as connect_once

M = TypeVar("M", bound=Message)
_KNOWN = 1.0  # seconds until the reason of an end is known


class ReconnectingLink(Link):
    """A link that heals itself: one object for as long as you like; see `connect`.

    Sending while the peer is away queues, under a policy; receiving waits. A thread keeps the
    connection; on a new one it sends the hello, asks again for the streams that are open, and
    sends what was latched and what is queued, in this order. Iterating goes on over all of them.

    What had been handed to the system when a connection broke may or may not have arrived: nobody
    can tell. Everything else that is lost is in `stats.dropped`.

    Attributes:
        stripped: queued messages that went out without metadata and id, since the new peer had
            not shown header version 2 yet.
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
        self._open_link = open_link
        self._supervisor = supervisor
        self._hello = hello
        self._receiving = threading.Lock()
        # two locks: `_sending` keeps the order of what is sent, and may be held for long;
        # `_changed` guards the links, and never is. Always taken in this order.
        self._sending: Any = threading.RLock()
        self._room = threading.Condition(self._sending)
        self._queue = queue
        self._latched: dict[bytes, Packed] = {}
        self._streams: list[Start[Any]] = []
        self._changed = threading.Condition()
        self._link: Link | None = None  # to send to, while the peer is there
        self._opening: Link | None = None  # it gets what is queued
        self._unread: deque[Link] = deque()  # to receive from, the oldest first
        self._left: Queue[Frame] = Queue("drop_oldest", MAX_WAITING, MAX_WAITING_BYTES)
        self._reading = threading.Lock()  # held by whoever reads from the first of them
        self._asked: Link | None = None  # where a request waits for its answer
        self._thread = threading.Thread(target=self._supervise, name="igtl reconnect", daemon=True)
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
        with self._changed:
            self._changed.wait_for(lambda: self._link is not None or self._closed, timeout)
            if self._closed:
                raise self._over()
            return self._link is not None

    def _over(self) -> Exception:
        return self.close_reason or ConnectionClosed("this link was closed")

    # -- the thread

    def _supervise(self) -> None:
        try:
            while not self._closed:
                try:
                    link = self._open_link()
                except OSError as error:
                    self._pause(self._supervisor.failed(error))
                    continue
                link._protocol.stats = self.stats  # one account over all of them
                self._supervisor.connected()
                try:
                    self._begin(link)
                    self._watch(link)
                except OSError as error:  # ConnectionClosed is one
                    self._failed_opening(link)
                    self._lost(link, error)
                self._empty_old()
                with self._changed:  # whoever is reading from it will know why it ended
                    self._changed.wait_for(partial(self._is_read, link), _KNOWN)
                if not self._closed:
                    self._pause(self._supervisor.lost(link.close_reason))
        except Exception as error:  # the supervisor gave up
            self.close_reason = error
            self._shut()

    def _is_read(self, link: Link) -> bool:
        return link not in self._unread

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def _begin(self, link: Link) -> None:
        """Send what a new connection begins with, then let the others send."""
        with self._changed:
            if self._closed:
                raise self._lost(link, ConnectionClosed("this link was closed"))
            self._opening = link
        with self._sending:
            link._greet(self._hello)
            for start in self._streams:
                self._inbox.ignore(Exchange(start))
                link.send(start)
            for packed in self._latched.values():
                self._send_packed(link, packed)
            while self._queue:
                self._send_packed(link, self._queue.items()[0])
                self._queue.get()
            self._room.notify_all()
            with self._changed:
                self._unread.append(link)
                self._link = link
                self.local = link.local
                self._changed.notify_all()
        self._empty_old()

    def _failed_opening(self, link: Link) -> None:
        """What the peer had sent by then can be read, and the socket is given back, as always."""
        with self._changed:
            self._opening = None
            if not self._closed and link not in self._unread:
                self._unread.append(link)
        if self._closed:
            link.close()

    def _empty_old(self) -> None:
        """Take what connections that are over still hold, and close them at once: a peer that is
        restarted may need its port."""
        if not self._reading.acquire(blocking=False):
            return  # somebody is reading, and will do the same
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

    def _send_packed(self, link: Link, packed: Packed) -> None:
        wire, stripped = packed.wire_for(link._protocol)
        link._write([wire])
        self.stripped += stripped

    def _watch(self, link: Link) -> None:
        """Wait until the connection is over."""
        if not link._transport.wait_ended():  # this system cannot tell: others will
            with self._changed:
                self._changed.wait_for(lambda: self._link is not link or self._closed)
        self._lost(link, ConnectionClosed(f"{link.peer} closed"))

    def _lost(self, link: Link, error: Exception) -> Exception:
        """Somebody has noticed the end of a connection. What it still holds can be read."""
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
                link = self._link
                if link is not None and link._transport.ended():
                    self._drop_link(link, ConnectionClosed(f"{link.peer} closed"))
                elif link is not None:
                    try:
                        return link.send(message, crc=crc)
                    except OSError as error:
                        self._drop_link(link, error)
                packed = packed or self._pack(message, crc)
                if self._queue.policy != "block" or self._queue.has_room(packed.size):
                    for lost, cause in self._queue.put(packed, packed.size, packed.stream):
                        self.stats.count_dropped(lost.wire, cause)
                    return None
                self._room.wait()
            raise self._over()

    def send_hello(self) -> None:
        """Offer header version 2 now; `connect(hello=True)` does so on each connection."""
        with self._sending:
            if self._link is not None:
                self._link.send_hello()

    def _drop_link(self, link: Link, error: Exception) -> None:
        self._lost(link, error)
        link._transport.shutdown()  # ends the thread's watch

    def _pack(self, message: Message | Frame, crc: bool) -> Packed:
        fixed = self._protocol.fixed
        versions: set[int] = {fixed or 1}
        if not fixed and isinstance(message, Message) and _core.needs_v2(message):
            versions = {1, 2}  # the peer's version is not known yet
        return Packed(message, versions, crc=crc, cut_name=self._protocol.cut_names)

    # -- receiving

    def _next(self, deadline: float | None, *, raw: bool = False) -> Any:
        with self._reading:
            while True:
                if self._left:
                    frame = self._left.get()
                    if (left := frame if raw else self._decoded(frame)) is not None:
                        return left
                    continue
                link = self._readable_link(deadline)
                try:
                    found: Any = link._next(deadline, raw=True) if raw else link._next(deadline)
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
                raise self._over()
            return self._unread[0]

    def _asked_in_vain(self) -> bool:
        """Whether the connection that a request went to is over and read empty."""
        return self._asked is not None and self._asked not in self._unread

    def _ask(self, exchange: Exchange, timeout: float | None) -> Message:
        self._claim()
        try:
            if not self.wait_connected(timeout):
                raise TimeoutError(f"{named(self.peer)} was not there within {timeout} s")
            if not isinstance(exchange.request, Start):  # that is asked again anyhow
                self._asked = self._link
            self.send(exchange.request)
            return self._recv(exchange, timeout)
        finally:
            self._asked = None
            self._receiving.release()

    @contextlib.contextmanager
    def stream(self, start: Start[M], *, timeout: float | None = 5.0) -> Iterator[StreamReader[M]]:
        """As Link.stream; after a reconnect it is asked for again, and goes on."""
        self._streams.append(start)
        try:
            with super().stream(start, timeout=timeout) as frames:
                yield frames
        finally:
            self._streams.remove(start)

    # -- end

    def close(self) -> None:
        """End it. What is still queued is dropped, and counted as "closed"."""
        self._shut()
        if threading.current_thread() is not self._thread:
            self._thread.join(1)  # it may be connecting; then it ends by itself

    def _shut(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            links = [link for link in (*self._unread, self._link, self._opening) if link]
            self._changed.notify_all()
        for link in links:
            link.close()
        with self._sending:
            for packed in self._queue.clear():
                self.stats.count_dropped(packed.wire, "closed")
            self._room.notify_all()

    def __repr__(self) -> str:
        state = "connected to" if self.connected else "waiting for"
        return f"<ReconnectingLink {state} {named(self.peer)} {self.stats}>"


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
    policy: Policy = "drop_oldest",
    max_queued: int = 1000,
    max_queued_bytes: int = 256 << 20,
    **settings: Unpack[Settings],
) -> Link:
    """Connect to a server.

    Args:
        host, port: default localhost, 18944.
        open_timeout: seconds to connect, TLS included; None waits as long as the system does.
            Default 10.
        read_timeout: seconds that recv and iteration wait; default for ever.
        write_timeout: seconds in which the peer must take something while there is something to
            send; default for ever.
        keepalive: seconds after which a silently vanished peer is noticed (TCP keep-alive);
            None: as the system does. Default 60.
        ssl: a context makes it TLS, see `igtl.tls.client`.
        server_hostname: name in the server's certificate; default: host.
        version: header version written: "auto" (default; 1 until the peer has sent 2), 1 or 2.
        hello: send a version 2 STATUS first, which PLUS, 3D Slicer and other igtl ends answer
            with version 2. Not for libraries that know version 1 only: they lose step.
        max_size, crc, on_error, cut_names, resync: see `igtl.Protocol`.
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
        OSError: no connection (ConnectionRefusedError, socket.gaierror, TimeoutError, …).
        ssl.SSLError: a check of TLS failed; the text says which.
    """
    if reconnect is None:
        return connect_once(host, port, **settings)
    protocol = Protocol(
        max_size=settings.get("max_size", MAX_SIZE), version=settings.get("version", "auto"),
        crc=settings.get("crc", "verify"), on_error=settings.get("on_error", "raise"),
        cut_names=settings.get("cut_names", False), peer=(host, port),
    )  # fmt: skip
    inbox = Inbox(
        protocol, settings.pop("inbox_policy", "drop_oldest"),
        settings.pop("inbox_messages", MAX_WAITING), settings.pop("inbox_bytes", MAX_WAITING_BYTES),
    )  # fmt: skip
    hello = settings.pop("hello", False)
    return ReconnectingLink(
        lambda: connect_once(host, port, greet=False, **settings),
        Supervisor((host, port), reconnect, on_event),
        protocol,
        Queue(policy, max_queued, max_queued_bytes),
        hello=hello,
        read_timeout=settings.pop("read_timeout", None),
        inbox=inbox,
    )
