"""Blocking links: `connect`, `serve`, and the Link both hand out.

Any thread may `send` or `close`; one at a time receives. A link has no thread of its own.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, Self, TypeVar, overload
from typing import Protocol as Interface

from igtl.errors import ConnectionClosed, MessageTooLarge
from igtl.message import CRCPolicy, Message, NoData
from igtl.messages.general import Status, StatusCode
from igtl.messages.queries import Get
from igtl.protocol import MAX_SIZE, PORT, OnError, Protocol, Stats, Version

M = TypeVar("M", bound=Message)
_MAX_PENDING = 10_000


class Transport(Interface):
    """Moves bytes for a Link."""

    def send(self, parts: list[bytes | memoryview]) -> None:
        """Return when all bytes are taken."""

    def recv_into(self, buffer: memoryview, timeout: float | None) -> int:
        """Bytes received, 0 at the end. TimeoutError after `timeout` seconds without any."""

    def shutdown(self) -> None:
        """End both directions, and any wait in recv_into."""

    def close(self) -> None:
        """Give the resources back."""


class SocketTransport:
    """A connected stream socket in blocking mode."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(True)
        with contextlib.suppress(OSError):  # not a TCP socket
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, parts: list[bytes | memoryview]) -> None:
        if not hasattr(self._sock, "sendmsg"):  # Windows
            for part in parts:
                self._sock.sendall(part)
            return
        while parts:
            sent = self._sock.sendmsg(parts)
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if sent:
                parts[0] = memoryview(parts[0])[sent:]

    def recv_into(self, buffer: memoryview, timeout: float | None) -> int:
        if timeout is not None or sys.platform == "win32":
            wait_readable(self._sock, timeout)
        return self._sock.recv_into(buffer)

    def shutdown(self) -> None:
        with contextlib.suppress(OSError):  # the peer was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()


def wait_readable(sock: socket.socket, timeout: float | None) -> None:
    """Return when sock can be read; TimeoutError after `timeout` seconds."""
    if sys.platform == "win32":
        # Ctrl-C does not end a select there: look up between slices
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 0.2 if deadline is None else min(0.2, deadline - time.monotonic())
            if select.select([sock], [], [], max(left, 0))[0]:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(None if timeout is None else max(0, timeout) * 1000):
        raise TimeoutError


class Link:
    """A connection to one peer.

    Iterating yields messages until the peer closes cleanly. Use as a context manager, or close().

    Attributes:
        stats: counters, see `igtl.protocol.Stats`.
        peer: address of the other end.
        local: address of this end.
    """

    def __init__(
        self, transport: Transport, protocol: Protocol, *, peer: Any = None, local: Any = None
    ) -> None:
        self._transport = transport
        self._protocol = protocol
        self._pending: deque[Message] = deque()
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._closed = False
        self._ended: ConnectionClosed | None = None
        self.peer = peer
        self.local = local

    @property
    def stats(self) -> Stats:
        """Counters of this link."""
        return self._protocol.stats

    @property
    def header_version(self) -> int:
        """Header version of what is sent now."""
        return self._protocol.version

    def send(self, message: Message, *, crc: bool = True) -> None:
        """Send one message; returns when the system has taken all of it. Pixels are not copied.

        Args:
            crc: False writes 0 in its place.

        Raises:
            EncodeError: the message cannot be sent; the link is as before.
            ConnectionClosed: the link is over.
        """
        with self._sending:
            self._write(self._protocol.send(message, crc=crc))

    def _write(self, parts: list[bytes | memoryview]) -> None:
        if self._closed:
            raise ConnectionClosed("this link was closed")
        try:
            self._transport.send(parts)
        except ConnectionError as error:
            raise ConnectionClosed(f"{self.peer}: {error}", clean=False) from error
        except BaseException as error:
            if self._closed and isinstance(error, OSError):  # by another thread
                raise ConnectionClosed("this link was closed") from error
            # perhaps cut in the middle of a message: whatever followed would be out of step
            self.close()
            raise

    @overload
    def recv(self, *, timeout: float | None = None) -> Message: ...
    @overload
    def recv(self, kind: type[M], name: str = "*", *, timeout: float | None = None) -> M: ...
    def recv(
        self, kind: type[Message] = Message, name: str = "*", *, timeout: float | None = None
    ) -> Message:
        """The next message, or the next of a type and device name; others stay queued, in order.

        Args:
            kind: a message class.
            name: device name, with the wildcards * and ?.
            timeout: seconds, or None to wait for ever.

        Raises:
            TimeoutError: nothing came in time; the text lists what was seen meanwhile.
            ConnectionClosed: the link is over.
            ProtocolError: a bad message came; the next one can be read (not after
                MessageTooLarge, which closes the link).
            RuntimeError: another thread is receiving.
        """
        if not self._receiving.acquire(blocking=False):
            raise RuntimeError("another thread is receiving on this link")
        try:
            return self._recv(lambda m: isinstance(m, kind) and fnmatchcase(m.device_name, name),
                              timeout, f"{kind.__name__} {name!r}")  # fmt: skip
        finally:
            self._receiving.release()

    def _recv(self, wanted: Any, timeout: float | None, what: str) -> Message:
        for k, message in enumerate(self._pending):
            if wanted(message):
                del self._pending[k]
                return message
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                message = self._next(deadline)
            except TimeoutError:
                seen = sorted({f"{m.type_name} {m.device_name!r}" for m in self._pending})
                raise TimeoutError(
                    f"no {what} within {timeout} s; seen: {', '.join(seen) or 'nothing'}"
                ) from None
            if wanted(message):
                return message
            if len(self._pending) >= _MAX_PENDING:
                self._pending.popleft()
                self.stats.dropped += 1
            self._pending.append(message)

    def _next(self, deadline: float | None) -> Message:
        """The next message off the wire."""
        while True:
            try:
                if (message := self._protocol.next_message()) is not None:
                    return message
            except MessageTooLarge:
                self._end(ConnectionClosed("the framing was lost", clean=False))
                self._transport.shutdown()
                raise
            if self._ended is None and self._closed:
                self._end(ConnectionClosed("this link was closed"))
            if self._ended is not None:
                raise self._ended
            left = None if deadline is None else deadline - time.monotonic()
            try:
                n = self._transport.recv_into(self._protocol.get_buffer(), left)
            except TimeoutError:
                raise
            except (OSError, ValueError) as error:  # ValueError: polled a closed socket
                if self._closed:
                    raise self._end(ConnectionClosed("this link was closed")) from None
                if not isinstance(error, ConnectionError):
                    raise
                raise self._end(ConnectionClosed(f"{self.peer}: {error}", clean=False)) from error
            if n == 0:
                clean = self._closed or self._protocol.at_boundary
                how = "closed" if clean else "closed in the middle of a message"
                raise self._end(ConnectionClosed(f"{self.peer} {how}", clean=clean))
            self._protocol.received(n)

    def _end(self, reason: ConnectionClosed) -> ConnectionClosed:
        self._ended = reason
        return reason

    def query(self, request: Get[M], *, timeout: float | None = None) -> M | NoData:
        """Ask for one message and wait for it; what else comes stays queued.

        Args:
            request: for example GetImage(device_name="CT"). An empty name accepts any.
            timeout: seconds, or None to wait for ever.

        Returns:
            The answer; NoData if the peer has none (an empty answer, or STATUS "not found").

        Raises:
            TimeoutError, ConnectionClosed: see recv.
        """
        answer = type(request).answer
        name = request.device_name

        def answers(m: Message) -> bool:
            if name and m.device_name not in (name, ""):
                return False
            if isinstance(m, Status) and answer is not Status:
                return m.code == StatusCode.NOT_FOUND
            return isinstance(m, answer) or (
                isinstance(m, NoData) and m.type_name == answer.type_name
            )

        if not self._receiving.acquire(blocking=False):
            raise RuntimeError("another thread is receiving on this link")
        try:
            self.send(request)
            reply = self._recv(answers, timeout, f"answer to {request.type_name} {name!r}")
        finally:
            self._receiving.release()
        if isinstance(reply, Status) and answer is not Status:
            return NoData(answer.type_name, device_name=name)
        return reply  # type: ignore[return-value]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        try:
            return self.recv()
        except ConnectionClosed as closed:
            if closed.clean:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """End the link; a recv that waits in another thread raises ConnectionClosed."""
        if self._closed:
            return
        self._closed = True
        self._transport.shutdown()
        # give the descriptor back only when nobody is in recv with it any more
        held = self._receiving.acquire(timeout=1)
        self._transport.close()
        if held:
            self._receiving.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Link to {self.peer} {self.stats}>"


def connect(
    host: str = "localhost",
    port: int = PORT,
    *,
    open_timeout: float | None = 10.0,
    version: Version = "auto",
    hello: bool = False,
    max_size: int = MAX_SIZE,
    crc: CRCPolicy = "verify",
    on_error: OnError = "raise",
    cut_names: bool = False,
) -> Link:
    """Connect to a server.

    Args:
        host, port: default localhost, 18944.
        open_timeout: seconds to connect; None waits as long as the system does.
        version: header version written: "auto" (1 until the peer has sent 2), 1 or 2.
        hello: send a version 2 STATUS first, which PLUS, 3D Slicer and other igtl ends answer
            with version 2. Not for libraries that know version 1 only: they lose step.
        max_size, crc, on_error, cut_names: see `igtl.Protocol`.

    Raises:
        OSError: no connection (ConnectionRefusedError, socket.gaierror, TimeoutError, …).
    """
    protocol = Protocol(
        max_size=max_size, crc=crc, on_error=on_error, version=version, cut_names=cut_names
    )
    sock = socket.create_connection((host, port), timeout=open_timeout)
    link = link_over(sock, protocol)
    if hello:
        link._write(protocol.hello())
    return link


def link_over(sock: socket.socket, protocol: Protocol) -> Link:
    """A Link over a connected socket, which it owns from now on."""
    protocol.peer = sock.getpeername()[:2]
    return Link(SocketTransport(sock), protocol, peer=protocol.peer, local=sock.getsockname()[:2])


class Server:
    """A listening socket that hands out a Link for each client.

    Iterating yields links as clients come, until the server is closed.

    Attributes:
        host, port: where it listens.
    """

    def __init__(self, sock: socket.socket, settings: dict[str, Any]) -> None:
        self._sock = sock
        self._settings = settings
        self._closed = False
        self.host, self.port = sock.getsockname()[:2]

    def accept(self, *, timeout: float | None = None) -> Link:
        """Wait for the next client.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            ConnectionClosed: the server was closed.
        """
        try:
            wait_readable(self._sock, timeout)
            sock, _ = self._sock.accept()
        except TimeoutError:
            raise TimeoutError(f"no client within {timeout} s") from None
        except (OSError, ValueError) as error:
            if self._closed:
                raise ConnectionClosed("this server was closed") from error
            raise
        return link_over(sock, Protocol(**self._settings))

    def __iter__(self) -> Iterator[Link]:
        while True:
            try:
                yield self.accept()
            except ConnectionClosed:
                return

    def close(self) -> None:
        """Stop listening; links that were handed out live on."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes accept on Linux
            self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    version: Version = "auto",
    max_size: int = MAX_SIZE,
    crc: CRCPolicy = "verify",
    on_error: OnError = "skip",
    cut_names: bool = False,
) -> Server:
    """Listen for clients.

    Args:
        host: address to listen on; default loopback only, "0.0.0.0" for everybody.
        port: default 18944; 0 takes a free one.
        version, max_size, crc, on_error, cut_names: see `igtl.Protocol`; here bad messages are
            skipped and counted by default.

    Raises:
        OSError: the address cannot be used.
    """
    settings: dict[str, Any] = {
        "version": version, "max_size": max_size, "crc": crc, "on_error": on_error,
        "cut_names": cut_names,
    }  # fmt: skip
    Protocol(**settings)  # wrong settings show here, not at the first client
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family)
    return Server(sock, settings)
