"""TLS: contexts for clients and servers, and TLS under a blocking Link.

Whatever takes `ssl=` takes any `ssl.SSLContext`; these helpers make the usual ones.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from igtl.limits import seconds
from igtl.protocol import Parts
from igtl.sockets import SocketTransport

_SLICE = 256 * 1024
_FAREWELL = 1.0  # seconds in which the peer must take something, for the farewell to go out
RECORDS = (0x14, 0x15, 0x16)  # how the bytes of a peer that shakes hands begin
# OpenSSL sends none to a peer whose bytes are no TLS, which would learn nothing: fatal (2),
# protocol_version (70)
ALERT = bytes([0x15, 3, 1, 0, 2, 2, 70])
HUNG_UP = "the peer hung up during the TLS handshake: perhaps it does not speak TLS"
CUT = "the TLS connection was cut: the peer had not said that it closes"
_File = str | os.PathLike[str]


def client(
    ca: _File | None = None, *, cert: _File | None = None, key: _File | None = None
) -> ssl.SSLContext:
    """Context of a client that checks the server's certificate and name. TLS 1.2 at least.

    Args:
        ca: PEM file of the authority that signed the server's certificate. Default: the
            system's authorities.
        cert, key: PEM files of this client's own certificate (with its chain) and key, for
            servers that ask for one; key may stand in cert.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


def server(
    cert: _File, key: _File | None = None, *, client_ca: _File | None = None
) -> ssl.SSLContext:
    """Context of a server. TLS 1.2 at least.

    The files are read again when they change: a renewed certificate is used from the next
    connection on. (If they cannot be used then, the old ones stay.)

    Args:
        cert, key: PEM files of the certificate (with its chain) and its key; key may stand in
            cert.
        client_ca: PEM file of an authority; only clients with a certificate of it are let in.
    """
    return _ServerContexts(cert, key, client_ca).newest


class _ServerContexts:
    """The context in use, replaced at a handshake when a file has changed."""

    def __init__(self, cert: _File, key: _File | None, client_ca: _File | None) -> None:
        self._files = cert, key, client_ca
        self._seen = self._stamps()
        self.newest = self._made()

    def _stamps(self) -> list[tuple[int, int, int]]:
        stats = [Path(f).stat() for f in self._files if f is not None]
        return [(s.st_mtime_ns, s.st_size, s.st_ino) for s in stats]

    def _made(self) -> ssl.SSLContext:
        cert, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(cert, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        context.sni_callback = self._at_handshake
        return context

    def _at_handshake(self, connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        # half-written files, or a key that does not fit yet: the next handshake looks again
        with contextlib.suppress(OSError):
            stamps = self._stamps()
            if stamps != self._seen:
                self.newest = self._made()
                self._seen = stamps
        if self.newest is not context:
            connection.context = self.newest


class _TooLong(TimeoutError):
    """The handshake has taken its whole time: no time-out of one call."""


def not_tls() -> ssl.SSLError:
    """The error for a peer whose first bytes are no TLS."""
    return ssl.SSLError(ssl.SSL_ERROR_SSL, "the peer does not speak TLS, and this end does")


class TLSTransport:
    """TLS over a connected stream socket.

    OpenSSL forbids to read and write one connection from two threads at once. So the TLS state
    lives between two buffers in memory, under a lock that is never held while waiting for the
    network; thus one thread can send while another receives.

    The handshake takes place in the first send or recv_into, or in `handshake`.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        handshake_timeout: float | None = 10.0,
        write_timeout: float | None = None,
    ) -> None:
        self._raw = SocketTransport(sock, write_timeout=write_timeout)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=server_side, server_hostname=server_hostname
        )
        self._lock = threading.Lock()  # the TLS state
        self._flushing = threading.Lock()  # what goes out keeps its order
        self._shaking = threading.Lock()
        self._shaken = False
        self._heard = False  # whether the peer has said anything
        self._handshake_timeout = seconds("handshake_timeout", handshake_timeout)
        self._give_up: float | None = None  # when the handshake has taken too long
        self._unsent: Parts = []  # encrypted, and not taken by the system yet
        self._scratch = bytearray(_SLICE)

    def handshake(self) -> None:
        """Agree with the peer on keys, each side checking the other's certificate.

        Raises:
            ssl.SSLError: a check failed, or the peer does not speak TLS; the text says which.
            TimeoutError: the peer was silent.
            ConnectionError: it hung up.
        """
        self._shake_within(None)

    def _shake_within(self, timeout: float | None) -> None:
        """As `handshake`, which may go on in a later call.

        Raises:
            TimeoutError: it has taken `timeout` seconds.
            ConnectionAbortedError: all calls together have taken the handshake_timeout.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._shaking.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError
        try:
            if self._give_up is None and self._handshake_timeout is not None:
                self._give_up = time.monotonic() + self._handshake_timeout
            while not self._shaken:
                self._shake(deadline)
        finally:
            self._shaking.release()

    def _shake(self, deadline: float | None) -> None:
        """One step of the handshake."""
        try:
            with self._lock:
                self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            with contextlib.suppress(OSError):  # tell the peer why
                self._flush()
            raise
        else:
            self._flush()
            self._shaken = True
            return
        self._flush()
        ends = [end for end in (deadline, self._give_up) if end is not None]
        left = max(0.0, min(ends) - time.monotonic()) if ends else None
        try:
            n = self._raw.recv_into(memoryview(self._scratch), left)
        except TimeoutError:
            if self._give_up is not None and time.monotonic() >= self._give_up:
                raise _TooLong("the TLS handshake took too long") from None
            raise
        except ConnectionError as error:
            raise ConnectionResetError(HUNG_UP) from error
        if n == 0:
            raise ConnectionResetError(HUNG_UP)
        data = memoryview(self._scratch)[:n]
        with self._lock:
            if not self._heard and data[0] not in RECORDS:
                with contextlib.suppress(OSError):
                    self._raw.send([ALERT])
                raise not_tls()
            self._heard = True
            self._in.write(data)

    def _shake_at_first_use(self, timeout: float | None) -> None:
        try:
            self._shake_within(timeout)
        except _TooLong as error:
            raise ConnectionAbortedError(str(error)) from None

    def _flush(self, patience: float | None = None, *, wait: bool = True) -> None:
        """Send what TLS has to send; see Transport.send for `patience`. Without `wait`, leave it
        to a thread that is sending."""
        # looked at again after releasing: the thread that came second relies on it
        while self._out.pending or self._unsent:
            if not self._flushing.acquire(blocking=wait):
                return
            try:
                with self._lock:
                    data = self._out.read()
                if data:
                    self._unsent.append(data)
                self._raw.send(self._unsent, patience)
            finally:
                self._flushing.release()

    def _flush_now(self) -> None:
        """Send what the system takes at once: a thread that receives never waits for room."""
        with contextlib.suppress(TimeoutError):
            self._flush(0.0, wait=False)

    def send(self, parts: Parts, patience: float | None = None) -> None:
        if not self._shaken:
            self._shake_at_first_use(None)
        self._flush(patience)
        while parts:
            data = memoryview(parts[0]).cast("B")
            with self._lock:
                self._tls.write(data[:_SLICE])
            if len(data) > _SLICE:
                parts[0] = data[_SLICE:]
            else:
                del parts[0]
            self._flush(patience)

    def recv_into(self, buffer: memoryview, timeout: float | None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._shaken:
            self._shake_at_first_use(timeout)
        while True:
            try:
                with self._lock:
                    return self._tls.read(len(buffer), buffer)  # type: ignore[return-value]
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return 0
            except ssl.SSLEOFError:
                raise ConnectionAbortedError(CUT) from None
            self._flush_now()
            left = None if deadline is None else deadline - time.monotonic()
            n = self._raw.recv_into(memoryview(self._scratch), left)
            with self._lock:
                if n:
                    self._in.write(memoryview(self._scratch)[:n])
                else:
                    self._in.write_eof()

    def ended(self) -> bool:
        return self._raw.ended()

    def wait_ended(self) -> bool:
        return self._raw.wait_ended()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._lock:
            self._tls.unwrap()  # queues the farewell, then wants the peer's
        with contextlib.suppress(OSError, ValueError):
            self._flush(_FAREWELL)
        self._raw.finish()

    def shutdown(self) -> None:
        self._raw.shutdown()

    def close(self) -> None:
        self._raw.close()
