"""A link whose connection is read and written by a thread.

So its peer never waits for the program that uses it. What arrives waits in the inbox, within its
bounds; what is sent waits in the outbox, under its policy, and is packed at the call.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from igtl._core import Frame
from igtl.blocking.changes import Changes
from igtl.blocking.channel import Channel
from igtl.blocking.link import Answer, Link
from igtl.blocking.transport import SocketTransport
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, ProtocolError
from igtl.messages.queries import Stop
from igtl.net.sockets import LINGER, finish
from igtl.options import LinkOptions, QueueOptions
from igtl.session.compress import CompressingProtocol
from igtl.session.facade import AnyLink, new_outbox
from igtl.session.inbox import Wanted
from igtl.session.packed import Packed
from igtl.session.protocol import hello_message
from igtl.session.session import Session, closed_by

T = TypeVar("T")
_WINDOWS = sys.platform == "win32"
_QUEUE = QueueOptions(policy="block", max_queued_bytes=1 << 20)


class Pump:
    """The thread of a link, and what it shares with the threads that use the link.

    Attributes:
        session: of the connection there is, or was last.
        changed: held by a thread that uses the session; notified when something has happened.
        closed: whether this end was closed.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.changed = Changes()
        self.channel: Channel | None = None
        self.closed = False
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._waker, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)

    def start(self, name: str, work: Callable[..., Any], *args: Any) -> None:
        """Begin to run the thread."""

        def run() -> None:
            work(*args)
            closed = ConnectionClosed("this link was closed", clean=True)
            self.session.over.tell(self.end() or closed)

        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Descriptor of the socket of the present connection; -1 where there is none."""
        channel = self.channel
        return -1 if channel is None else channel.sock.fileno()

    @property
    def is_here(self) -> bool:
        """Whether the thread is one of this process: a forked child has none."""
        return os.getpid() == self._process

    def wake(self) -> None:
        """Let the thread look again at what it waits for."""
        with contextlib.suppress(OSError):  # a full pipe wakes it too
            self._waker.send(b"\0")

    def end(self) -> Exception | None:
        """Return why nothing more can arrive; None while something can."""
        return self.session.end()

    def attach(self, channel: Channel) -> None:
        """Use this connection from now on."""
        with self.changed:
            self.channel = channel
            self.session = channel.session
            self.session.opened()
            protocol = channel.session.protocol
            if isinstance(protocol, CompressingProtocol):
                protocol.answer = self._answer
            self.changed.notify_all()

    def _answer(self, offer: bytes) -> bool:
        self.session.greeting.append(Packed(offer, as_it_is=True))
        return True

    def put(self, packed: Packed) -> None:
        """Queue a message, and send what the system takes at once. The caller holds `changed`."""
        self.session.put(packed)
        self.flush()

    def flush(self) -> None:
        """Send what the system takes at once; the thread goes on with the rest."""
        channel = self.channel
        if channel is None or self.session.ended:
            return
        if channel.peer_has_closed():
            self.wake()  # the thread will read what is left, and see the end
            return
        channel.write()
        if channel.wants_write or self.session.has_more or self.session.ended:
            self.wake()

    def sort(self, session: Session) -> None:
        """Put what has arrived into the inbox."""
        session.sort()

    def run(self, channel: Channel) -> None:
        """Move bytes until the session ends."""
        session = channel.session
        with self.changed:
            channel.begin()
            self.sort(session)
            self.changed.notify_all()
        while True:
            with self.changed:
                if self.closed or session.ended:
                    return
                write = channel.wants_write
                deadline = session.next_deadline()
            readable, writable = self._wait(channel.sock, write, deadline)
            with self.changed:
                if self.closed:
                    return
                if readable:
                    channel.read()
                    self.sort(session)
                if writable and not session.ended:
                    channel.write()
                session.expired(time.monotonic())
                self.changed.notify_all()

    def _wait(self, sock: socket.socket, write: bool, deadline: float) -> tuple[bool, bool]:
        """Wait until the socket can be read or written, the time has come, or `wake` was called."""
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        try:
            if _WINDOWS:
                ready = select.select([sock, self._woken], [sock] if write else [], [], left)
                readable, writable = sock in ready[0], bool(ready[1])
                woken = self._woken in ready[0]
            else:
                poll = select.poll()
                poll.register(sock, select.POLLIN | (select.POLLOUT if write else 0))
                poll.register(self._woken, select.POLLIN)
                events = dict(poll.poll(None if left is None else math.ceil(left * 1000)))
                found = events.get(sock.fileno(), 0)
                readable = bool(found & ~select.POLLOUT)
                writable = bool(found & select.POLLOUT)
                woken = self._woken.fileno() in events
        except (OSError, ValueError):  # the socket was closed
            return True, False
        if woken:
            with contextlib.suppress(BlockingIOError):
                while self._woken.recv(1024):
                    pass
        return readable, writable

    def close(self, *, linger: bool) -> None:
        """End the connection and the thread.

        Args:
            linger: send what waits, for at most one second.
        """
        with self.changed:
            if linger and self.channel is not None:
                end = time.monotonic() + LINGER
                writing = self.channel
                while (writing.wants_write or self.session.has_more) and not self.session.ended:
                    self.wake()
                    if not self.changed.wait(max(0.0, end - time.monotonic())):
                        break
            self.closed = True
            if self.session.outbox is not None:
                self.session.give_up("closed")
            self.session.close()
            channel, self.channel = self.channel, None
            finishing = channel if linger and self.session.close_reason is None else None
            reason = self.session.close_reason
            if channel is not None and (finishing is not None or isinstance(reason, ProtocolError)):
                channel.send_closing()  # with the lock: the thread may still read what has come
            self.changed.notify_all()
        self.wake()
        if finishing is not None:
            finish(finishing.sock)
        if channel is not None:
            channel.close()
        if linger and self._thread is not threading.current_thread() and self._thread is not None:
            self._thread.join(LINGER)  # it may be connecting, and stops after that
        self._waker.close()
        self._woken.close()


class DrainedLink(Link):
    """A link whose connection is read and written by a thread, see `connect(drain=True)`.

    Sending packs at once, queues under the policy of the link, and returns. Any number of threads
    may receive; each message goes to one of them. A link that nothing refers to any more is closed.
    """

    def __init__(self, pump: Pump, options: LinkOptions, *, ends_quietly: bool = False) -> None:
        AnyLink.__init__(self, pump, ends_quietly=ends_quietly)
        self._pump = pump
        self.options = options
        self.guard = pump.changed

    # -- sending

    @property
    def queued(self) -> int:
        """Messages that wait to be sent; one that is on its way counts until it has left whole."""
        with self._pump.changed:
            outbox, channel = self.session.outbox, self._pump.channel
            leaving = channel is not None and channel.wants_write
            return leaving + (0 if outbox is None else len(outbox))

    def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Send one message: it is packed at once and queued.

        The link's thread sends what the system does not take now.

        Args:
            message: see Link.send.
            crc: see Link.send.

        Raises:
            EncodeError: the message cannot be sent.
            ConnectionClosed: the link is closed.
            TimeoutError: with the policy "block", the peer took nothing for the write_timeout.
        """
        with self._pump.changed:
            self._check_open()
            self._queue(self.session.pack(message, crc=crc))

    def send_hello(self) -> None:
        """Offer header version 2; see `Link.send_hello`."""
        with self._pump.changed:
            self._check_open()
            self._queue(Packed(hello_message(), as_it_is=True))

    def _check_open(self) -> None:
        if (reason := self._pump.end()) is not None or self.closed:
            raise closed_by(self.peer, reason or ConnectionClosed("this link was closed"))

    def _queue(self, packed: Packed) -> None:
        outbox = self.session.outbox
        assert outbox is not None
        while outbox.policy == "block" and not outbox.has_room(packed.size):
            if not self._pump.changed.wait(self.options.write_timeout):
                raise TimeoutError(f"the peer took nothing for {self.options.write_timeout} s")
            self._check_open()
        self._pump.put(packed)

    # -- receiving

    def _until(self, take: Callable[[], T | None], timeout: float | None) -> T:
        deadline = None if timeout is None else time.monotonic() + timeout
        changed = self._pump.changed
        with changed:
            while (found := take()) is None:
                if self.closed:
                    raise ConnectionClosed("this link was closed", clean=True)
                if (reason := self._pump.end()) is not None:
                    raise reason.with_traceback(None)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                changed.wait(left)
            return found

    def _take(self) -> Message | None:  # type: ignore[override]
        return self.session.take()

    def until(self, take: Callable[[], T | None], wanted: Any, timeout: float | None) -> T:
        """Wait until `take` returns something, and return that; see `AnyLink`."""
        try:
            return self._until(take, timeout)
        except TimeoutError:
            raise self.session.unseen(wanted, timeout) from None

    def newest(self, wanted: Wanted, newer_than: float | None) -> Message | None:
        """Return the newest that has arrived; see `AnyLink.newest`."""
        return AnyLink.newest(self, wanted, newer_than)

    # -- requests

    def _send_request(self, request: Message) -> Callable[[], None]:
        with self._pump.changed:
            self._check_open()
            packed = self.session.pack(request)
            self._queue(packed)
            outbox = self.session.outbox

        def withdraw() -> None:
            if outbox is not None and not isinstance(request, Stop):  # the stream must not go on
                with self._pump.changed:
                    outbox.discard(packed)

        return withdraw

    def _wait_answer(self, answers: list[Answer], deadline: float | None) -> Answer:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        found: Answer = self._until(lambda: answers[0] if answers else None, left)  # type: ignore[assignment]
        return found

    # -- end

    def close(self) -> None:
        """End the link; a recv or send that waits in another thread raises ConnectionClosed.

        What is queued is sent first, for at most one second; the rest is counted as "closed".
        """
        if not self.closed:
            self.closed = True
            self._pump.close(linger=True)

    def __del__(self) -> None:
        pump = getattr(self, "_pump", None)
        if pump is not None and not self.closed and pump.is_here:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            if not sys.is_finalizing():  # the thread is stopped then, and may hold the lock
                pump.close(linger=False)


def drained(transport: SocketTransport, options: LinkOptions) -> DrainedLink:
    """Return the link of a connection that a thread of its own reads from now on."""
    session = transport.session
    session.outbox = new_outbox(_QUEUE, session.protocol.stats)
    pump = Pump(session)
    channel = Channel(transport)
    pump.attach(channel)
    pump.flush()
    pump.start("igtl link", pump.run, channel)
    return DrainedLink(pump, options)
