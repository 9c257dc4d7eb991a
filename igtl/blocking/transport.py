"""How a blocking link moves the bytes of its session: over a socket, perhaps through a layer.

A layer is TLS, for example. One thread sends and one receives at a time; any thread may shut a
transport down.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from igtl.errors import ProtocolError
from igtl.net.sockets import DONTWAIT, Quiet, Waiter, broken, finish
from igtl.session.layers import SCRATCH, Layer
from igtl.session.protocol import Parts
from igtl.session.session import SLICE, Session

_CLOSING = 1.0  # seconds in which the peer must take something, for the closing message to leave
_PARTS = 64  # buffers given to the system at once; it takes 1,024 or fewer
_WINDOWS = sys.platform == "win32"


class Transport(Protocol):
    """Moves bytes for a link.

    Attributes:
        session: whose bytes.
        descriptor: tells that of a connected stream socket that blocks, where the bytes of the
            session go over it as they are, so that the link may move them itself; else None.
    """

    session: Session

    @property
    def descriptor(self) -> Callable[[], int] | None:
        """What tells the descriptor, -1 once it is closed; None: only `send` and `receive` do."""

    def send(self, parts: Parts, patience: float | None = None) -> None:
        """Return when the system has taken all bytes; what it has taken leaves `parts`.

        Args:
            parts: buffers, in order.
            patience: seconds in which the peer must take something; None waits without end.

        Raises:
            TimeoutError: the peer took nothing for so long. `parts` has the rest.
            OSError: the connection is broken, or the layer has failed.
        """

    def receive(self, timeout: float | None) -> None:
        """Wait for bytes, and feed them, or the end of the stream, to the session.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            OSError: the connection is broken, or the layer has failed.
        """

    def ended(self) -> bool:
        """Return whether the peer has closed or reset the connection, as far as this can be seen.

        It does not wait, and takes nothing of what the peer has sent.
        """

    def finish(self) -> None:
        """Tell the peer that nothing more comes, and let its system take what was sent."""

    def shutdown(self) -> None:
        """End both directions, and any wait in `send` and `receive`."""

    def close(self) -> None:
        """Give the resources back."""

    def fileno(self) -> int:
        """Descriptor of the socket; -1 where there is none."""


class SocketTransport:
    """Over a connected stream socket.

    Args:
        sock: the socket, which this closes.
        session: whose bytes.
        layer: between the session and the network, for example TLS; None: nothing.
        handshake_timeout: seconds for the handshake of the layer, which takes place in
            `handshake` or at the first `send` or `receive`; None waits without end.
    """

    def __init__(
        self,
        sock: socket.socket,
        session: Session,
        layer: Layer | None = None,
        *,
        handshake_timeout: float | None = None,
    ) -> None:
        self.sock = sock
        self.session = session
        sock.setblocking(True)
        self.layer = layer
        self._readable = Waiter(sock)
        self._writable = Waiter(sock, write=True)
        self._handshake_timeout = handshake_timeout
        self._deadline: float | None = None  # of the handshake, from its begin on
        self._lock = threading.Lock()  # the state of the layer, never held while waiting
        self._shaking = threading.Lock()
        self._shaken = layer is None  # it may be ready before the thread that shakes hands is done
        self._flushing = threading.Lock()  # what the layer sends keeps its order
        self._unsent: Parts = []  # out of the layer, and not taken by the system yet
        self._scratch = memoryview(b"") if layer is None else memoryview(bytearray(SCRATCH))
        if layer is not None:
            layer.begin()

    @property
    def descriptor(self) -> Callable[[], int] | None:
        """What tells the descriptor, where nothing else is to be done.

        None for a subclass of `socket.socket`, which has its own way to move bytes.
        """
        plain = self.layer is None and type(self.sock) is socket.socket and not _WINDOWS
        return self.sock.fileno if plain else None

    # -- sending

    def send(self, parts: Parts, patience: float | None = None) -> None:
        """Send through the layer, if there is one; see `Transport.send`."""
        if self.layer is None:
            self._send(parts, patience)
            return
        self.handshake(None)
        self._flush(patience)
        while parts:
            data = memoryview(parts[0]).cast("B")
            with self._lock:
                self.layer.wrap(data[:SLICE])
            if len(data) > SLICE:
                parts[0] = data[SLICE:]
            else:
                del parts[0]
            self._flush(patience)

    def _send(self, parts: Parts, patience: float | None) -> None:
        try:
            if patience is None and not _WINDOWS:
                while parts:
                    _take(parts, self.sock.sendmsg(parts[:_PARTS]))
            elif DONTWAIT:
                self._send_without_waiting(parts, patience)
            else:
                self._send_slices(parts, patience)
        except Quiet:
            raise TimeoutError(f"the peer took nothing for {patience:g} s") from None
        except ValueError:  # another thread has closed the socket while this one waited for room
            raise ConnectionAbortedError(errno.EBADF, "the socket was closed") from None
        except OSError as error:
            raise broken(error) from error

    def _send_without_waiting(self, parts: Parts, patience: float | None) -> None:
        """Wait for room apart from writing: the only way to bound a send."""
        while parts:
            try:
                _take(parts, self.sock.sendmsg(parts[:_PARTS], (), DONTWAIT))
            except BlockingIOError:
                self._writable(patience)

    def _send_slices(self, parts: Parts, patience: float | None) -> None:
        """On Windows, which has no MSG_DONTWAIT: a socket that is writable takes so much."""
        while parts:
            self._writable(patience)
            _take(parts, self.sock.send(memoryview(parts[0]).cast("B")[:4096]))

    def _flush(self, patience: float | None = None, *, wait: bool = True) -> None:
        """Send what the layer has to send. Without `wait`, leave it to a thread that is sending."""
        layer = self.layer
        assert layer is not None
        while True:
            if not self._flushing.acquire(blocking=wait):
                return
            try:
                if not self._unsent:  # else the layer keeps what it has, and may sum it up
                    with self._lock:
                        data = layer.outgoing()
                    if not data:
                        return
                    self._unsent.append(data)
                self._send(self._unsent, patience)
            finally:
                self._flushing.release()

    # -- receiving

    def receive(self, timeout: float | None) -> None:
        """Wait for bytes, or for the handshake to go on; see `Transport.receive`."""
        session = self.session
        if not self._shaken:
            self.handshake(timeout)
            return
        if self.layer is not None:
            self._receive_layer(timeout)
            return
        n = self._recv_into(session.get_buffer(), timeout)
        if n:
            session.received(n)
        else:
            session.received_eof()

    def _recv_into(self, buffer: memoryview, timeout: float | None) -> int:
        try:
            if timeout is not None or _WINDOWS:
                self._readable(timeout)
            return self.sock.recv_into(buffer)
        except Quiet:
            raise
        except OSError as error:
            raise broken(error) from error

    def _receive_layer(self, timeout: float | None) -> None:
        """Feed the layer until it has something for the session, or is through its handshake."""
        session, layer = self.session, self.layer
        assert layer is not None
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            was_ready = layer.ready
            n = self._read_layer()
            if n is not None:
                if n:
                    session.received(n)
                else:
                    session.received_eof(clean=layer.clean_end)
                return
            # a thread that receives never waits for room
            with contextlib.suppress(TimeoutError):
                self._flush(0.0, wait=False)
            if layer.ready and not was_ready:
                return
            left = None if deadline is None else deadline - time.monotonic()
            n = self._recv_into(self._scratch, left)
            with self._lock:
                if n:
                    layer.feed(self._scratch[:n])
                else:
                    layer.feed_eof()

    def _read_layer(self) -> int | None:
        assert self.layer is not None
        try:
            with self._lock:
                return self.layer.read_into(self.session.get_buffer())
        except OSError:
            with contextlib.suppress(OSError):  # tell the peer why
                self._flush(0.0)
            raise

    def handshake(self, timeout: float | None) -> None:
        """Bring the layer's handshake to its end; at once where there is no layer.

        Raises:
            TimeoutError: it is not through within `timeout` seconds.
            ConnectionAbortedError: all calls together have taken the handshake_timeout.
            OSError: it failed; this end has sent the reason to the peer.
        """
        if self.layer is None or self._shaken:
            return
        end = None if timeout is None else time.monotonic() + timeout
        if not self._shaking.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError
        try:
            self._shake_hands(self.layer, end)
            self._shaken = True
        finally:
            self._shaking.release()

    def _shake_hands(self, layer: Layer, end: float | None) -> None:
        if self._deadline is None and self._handshake_timeout is not None:
            self._deadline = time.monotonic() + self._handshake_timeout
        while not layer.ready:
            limits = [at for at in (end, self._deadline) if at is not None]
            left = max(0.0, min(limits) - time.monotonic()) if limits else None
            try:
                self._receive_layer(left)
            except TimeoutError:
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    text = f"the {layer.name} handshake took too long"
                    raise ConnectionAbortedError(text) from None
                raise
            if self.session.ended:
                raise ConnectionResetError(f"the peer hung up during the {layer.name} handshake")
        self._flush()

    # -- the end

    def ended(self) -> bool:
        """Return whether the peer has closed the connection.

        False on Windows, where the next send will tell.
        """
        if not DONTWAIT:  # Windows: a send will tell
            return False
        try:
            return not self.sock.recv(1, socket.MSG_PEEK | DONTWAIT)
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            return True

    def finish(self) -> None:
        """Send the closing message of the layer, then see `Transport.finish`."""
        self._send_closing(_CLOSING)
        finish(self.sock)

    def _send_closing(self, patience: float, *, wait: bool = True) -> None:
        if self.layer is not None and self.layer.ready:
            with contextlib.suppress(OSError, ValueError):
                with self._lock:
                    self.layer.prepare_close(self.session.close_reason)
                self._flush(patience, wait=wait)

    def shutdown(self) -> None:
        """End both directions, and any wait in `send` and `receive`."""
        if isinstance(self.session.close_reason, ProtocolError):
            self._send_closing(0.0, wait=False)  # it tells the peer why
        with contextlib.suppress(OSError):  # the peer was faster
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def fileno(self) -> int:
        """Descriptor of the socket; -1 after `close`."""
        return self.sock.fileno()


def _take(parts: Parts, sent: int) -> None:
    """Remove the first bytes from parts."""
    while parts and sent >= len(parts[0]):
        sent -= len(parts.pop(0))
    if sent:
        parts[0] = memoryview(parts[0])[sent:]
