"""Blocking links: the Link that `connect` and `listen` return.

Any thread may send, ask or close; one at a time receives. A plain link has no thread of its own: it
takes from the network what its caller receives.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Self, TypeVar

from igtl._core import Frame
from igtl._stream import Line
from igtl.blocking.changes import Changes
from igtl.blocking.steps import method, run
from igtl.blocking.transport import Transport
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.messages.queries import Start
from igtl.net.sockets import broken
from igtl.options import LinkOptions, seconds
from igtl.session import operations
from igtl.session.compress import CompressingProtocol
from igtl.session.facade import (
    AnyLink,
    greeting,
)  # fmt: skip
from igtl.session.inbox import Wanted
from igtl.session.operations import OVER, Pairs, Streaming, StreamMessages, Synchronized
from igtl.session.protocol import hello_message
from igtl.session.requests import ANYTHING, Exchange, Selection
from igtl.session.session import closed_by

_LEAVES: Final = 1.0  # seconds in which threads that were woken leave `send` and `recv`

M = TypeVar("M", bound=Message)
T = TypeVar("T")
Answer = Message | Exception


class Asking:
    """The requests of whatever can send one and wait for its answer."""

    request: Callable[[Exchange, float | None], Message]
    query = method(operations.query)
    command = method(operations.command)
    ask = method(operations.ask)
    clock = method(operations.clock)
    sleep = staticmethod(time.sleep)


class StreamReader(StreamMessages[M]):
    """The messages of one stream; see Link.stream."""

    def recv(self, *, timeout: float | None = None) -> M:
        """Receive the next message of the stream; see Link.recv."""
        return self.link.recv_selected(self, timeout)  # type: ignore[no-any-return]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> M:
        return self.recv()


class SyncReader(Pairs):
    """Iterator over messages of the same instant; see Link.sync."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Any, ...]:
        found = run(self.next_pair())
        if found is None:
            raise StopIteration
        return found


class Link(Line, AnyLink, Asking, Synchronized[SyncReader]):
    """A connection to one peer.

    Iterating yields messages until the peer closes cleanly. Use as a context manager, or close().

    Attributes:
        options: what was asked for.
        others: see `LinkBase`.
    """

    reader = SyncReader
    _asking = False  # whether the thread that receives does so for the sake of an answer
    _queueing = 0  # threads that wait until that one stops receiving

    def __init__(
        self, transport: Transport, options: LinkOptions, *, ends_quietly: bool = False
    ) -> None:
        super().__init__(transport, ends_quietly=ends_quietly)
        self._transport = transport
        self.options = options
        self._take = transport.session.take
        transport.session.opened()
        self._begin(transport.session, transport, options)
        self._turns = Changes()  # guards these three
        protocol = self.session.protocol
        if isinstance(protocol, CompressingProtocol):
            protocol.answer = self._answer

    # -- sending

    def send_hello(self) -> None:
        """Offer header version 2, see `connect`."""
        with self._sending:
            self._write([hello_message()])

    def greet(self, *, hello: bool) -> None:
        """Send what a client's connection begins with."""
        with self._sending:
            for wire in greeting(self.session.protocol, hello=hello):
                self._write([wire])

    def _answer(self, offer: bytes) -> bool:
        """Send an offer of compression, unless another thread is sending.

        It might wait for the peer, which may wait for the thread that receives here.
        """
        if not self._sending.acquire(blocking=False):
            return False
        try:
            with contextlib.suppress(OSError):  # ConnectionClosed is one: recv will tell
                self._write([offer])
        finally:
            self._sending.release()
        return True

    def _unsent(self, error: BaseException) -> BaseException:
        """Return the error to raise to the sender that met this one."""
        if self.closed and isinstance(error, OSError):  # by another thread
            told = self._over()
            told.__cause__ = error
            return told
        if isinstance(error, OSError):
            error = broken(error)
        if isinstance(error, ConnectionError):
            self.session.send_failed(error)
            return closed_by(self.peer, error)
        # perhaps cut in the middle of a message: the peer would misread whatever followed
        self.session.lost(
            error if isinstance(error, Exception) else ConnectionAbortedError(repr(error))
        )
        self._transport.shutdown()
        return error

    # -- receiving

    def _take_turn(self, timeout: float | None) -> float | None:
        """Receive next, where another thread receives for the sake of an answer only.

        That thread stops receiving as soon as bytes have arrived. Returns the rest of the time-out.
        """
        began = time.monotonic()
        with self._turns:
            if self._receiving.acquire(blocking=False):
                return timeout
            if not self._asking:
                raise RuntimeError("another thread is receiving on this link")
            self._queueing += 1
        try:
            if not self._receiving.acquire(timeout=-1 if timeout is None else timeout):
                raise TimeoutError
        finally:
            with self._turns:
                self._queueing -= 1
                self._turns.notify_all()
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - began))

    def _tell_turns(self) -> None:
        """Tell the threads that wait for their turn that this one receives no more."""
        with self._turns:
            self._turns.notify_all()

    def _unread(self, error: OSError | ValueError) -> None:
        """No bytes have come. Raises it if that is for want of time only."""
        session = self.session
        if isinstance(error, TimeoutError) and error.errno is None:  # none of the system's
            session.listened()
            if session.expired(time.monotonic()) is None:
                raise error
            self._transport.shutdown()
        elif not self.closed:
            session.lost(broken(error) if isinstance(error, OSError) else error)

    def _over(self) -> Exception:
        reason = self.session.end() or ConnectionClosed("this link was closed")
        return reason.with_traceback(None)  # which would grow each time that it is raised

    def _recv(self, kind: type[Message] | None, name: str, timeout: float | None) -> Message:
        """As `recv`, whatever it is asked for."""
        timeout = self.options.read_timeout if timeout is None else seconds("timeout", timeout)
        kind = kind or Message
        if kind is Message and name == "*":
            return self.until(self._take, ANYTHING, timeout)
        wanted = Selection(kind, name)
        return self.until(partial(self.session.take, wanted, fresh=True), wanted, timeout)

    latest = method(operations.latest)

    def newest(self, wanted: Wanted, newer_than: float | None) -> Message | None:
        """Return the newest that has arrived, in the system's buffers too; see `AnyLink.newest`."""
        with contextlib.suppress(TimeoutError):
            while not self.session.ended:
                self._transport.receive(0.0)
                self.session.sort()
        return super().newest(wanted, newer_than)

    def recv_frame(self, *, timeout: float | None = None) -> Frame:
        """Receive the next message as it came: undecoded, its CRC unchecked.

        For relays and recorders.

        Messages that `recv` has queued are packed again; answers to requests are not among them.

        Raises:
            as recv.
        """
        timeout = self.options.read_timeout if timeout is None else seconds("timeout", timeout)
        return self.until(self.session.take_frame, "message", timeout)

    def frames(self) -> Iterator[Frame]:
        """Yield all messages as they come, until the peer closes cleanly; see recv_frame."""
        try:
            while True:
                yield self.recv_frame()
        except OVER as error:
            if not self.ends_iteration(error):
                raise

    # -- requests

    def request(self, exchange: Exchange, timeout: float | None) -> Message:
        """Send a request and wait for its answer; other messages stay queued."""
        timeout = seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        answers: list[Answer] = []

        def done(answer: Answer) -> None:
            answers.append(answer)
            if self._waiting:
                with self._turns:
                    self._turns.notify_all()

        with self.guard:
            self.session.ask(exchange, done)
        withdraw = self._send_request(exchange.request)
        try:
            answer = self._wait_answer(answers, deadline)
        except TimeoutError:
            withdraw()
            raise self.session.unseen(exchange, timeout) from None
        finally:
            self.session.forget(exchange)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _send_request(self, request: Message) -> Callable[[], None]:
        """Send it; returns what takes it back, if it has not left."""
        self.send(request)
        return lambda: None

    def _wait_answer(self, answers: list[Answer], deadline: float | None) -> Answer:
        """Receive until the answer is there; or wait while another thread receives.

        That thread hands the answer over.
        """

        def take() -> bool | None:
            self.session.sort()
            return bool(answers or self._queueing) or None

        def free() -> bool:
            return bool(answers) or not (self._queueing or self._receiving.locked())

        while not answers:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            with self._turns:
                if self._queueing or not self._receiving.acquire(blocking=False):
                    self._waiting += 1
                    try:
                        if not self._turns.wait_for(free, left):
                            raise TimeoutError
                    finally:
                        self._waiting -= 1
                    continue
                self._asking = True
            try:
                self._receive_until(take, left)
            finally:
                with self._turns:
                    self._asking = False
                    self._receiving.release()
                    self._turns.notify_all()
        return answers[0]

    @contextlib.contextmanager
    def stream(self, start: Start[M], *, timeout: float | None = 5.0) -> Iterator[StreamReader[M]]:
        """Ask for a stream, and end it in any case.

            with link.stream(StartTrackingData(resolution_ms=20)) as frames:
                for tracking_data in frames: ...

        Other messages stay queued. A peer that sends no RTS_ but the stream at once is understood.

        Args:
            start: what to send; a device name in it selects that stream.
            timeout: seconds to wait for the answer.

        Raises:
            CommandFailed: the peer refused (RTS_ with status 1, or an error STATUS).
            TimeoutError: no answer. STP_ is sent all the same.
            ConnectionClosed: see recv.
        """
        streaming = Streaming(self, start)
        try:
            run(streaming.begin(timeout))
            yield StreamReader(self, start)
        finally:
            run(streaming.end())

    wait_compressed = method(operations.wait_compressed)

    # -- end

    def close(self) -> None:
        """End the link; a recv or send that waits in another thread raises ConnectionClosed.

        What was sent is on its way to the peer: if its system has not taken it all, this waits
        for it, at most one second.
        """
        if self.closed:
            return
        self.closed = True
        linger = not self._sending.locked() and self.session.close_reason is None
        self.session.close()
        if linger:
            self._transport.finish()
        self._transport.shutdown()
        # give the descriptor back only when no thread is in send or recv with it any more
        end = time.monotonic() + _LEAVES
        locks = self._sending, self._receiving
        held = [each for each in locks if each.acquire(timeout=max(0.0, end - time.monotonic()))]
        self._transport.close()
        for each in held:
            each.release()
        self.session.over.tell(self.session.end())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
