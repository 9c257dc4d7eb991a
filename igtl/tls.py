"""TLS: contexts for clients and servers, and TLS under a blocking Link.

Whatever takes `ssl=` takes any `ssl.SSLContext`; these helpers make the usual ones.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from igtl.protocol import Parts
from igtl.sockets import SocketTransport

_SLICE = 256 * 1024
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
        self._handshake_timeout = handshake_timeout
        self._scratch = bytearray(_SLICE)

    def handshake(self) -> None:
        """Agree with the peer on keys, each side checking the other's certificate.

        Raises:
            ssl.SSLError: a check failed; the text says which.
            TimeoutError: the peer was silent.
            ConnectionError: it hung up.
        """
        with self._shaking:
            if self._shaken:
                return
            left = self._handshake_timeout
            deadline = None if left is None else time.monotonic() + left
            while True:
                try:
                    with self._lock:
                        self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError:
                    with contextlib.suppress(OSError):  # tell the peer why
                        self._flush()
                    raise
                self._flush()
                left = None if deadline is None else deadline - time.monotonic()
                try:
                    n = self._raw.recv_into(memoryview(self._scratch), left)
                except TimeoutError:
                    # with a number, as the system's own: not a time-out of one recv
                    raise TimeoutError(errno.ETIMEDOUT, "the TLS handshake took too long") from None
                if n == 0:
                    raise ConnectionResetError("the peer hung up during the TLS handshake")
                with self._lock:
                    self._in.write(memoryview(self._scratch)[:n])
            self._flush()
            self._shaken = True

    def _flush(self, *, wait: bool = True) -> None:
        """Send what TLS has to send. Without `wait`, leave it to a thread that is sending."""
        while (
            self._out.pending
        ):  # looked at again after releasing: whoever came second relies on it
            if not self._flushing.acquire(blocking=wait):
                return
            try:
                with self._lock:
                    data = self._out.read()
                if data:
                    self._raw.send([data])
            finally:
                self._flushing.release()

    def send(self, parts: Parts) -> None:
        if not self._shaken:
            self.handshake()
        for part in parts:
            data = memoryview(part).cast("B")
            for at in range(0, len(data), _SLICE):
                with self._lock:
                    self._tls.write(data[at : at + _SLICE])
                self._flush()

    def recv_into(self, buffer: memoryview, timeout: float | None) -> int:
        if not self._shaken:
            self.handshake()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                with self._lock:
                    return self._tls.read(len(buffer), buffer)  # type: ignore[return-value]
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return 0
            self._flush(wait=False)
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
            self._flush(wait=False)
        self._raw.finish()

    def shutdown(self) -> None:
        self._raw.shutdown()

    def close(self) -> None:
        self._raw.close()
