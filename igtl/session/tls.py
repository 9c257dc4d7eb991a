"""TLS: contexts for clients and servers, and the layer that encrypts a connection.

Every option `ssl=` takes any `ssl.SSLContext`; `client` and `server` make the usual ones.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path
from typing import Any

__all__ = ["client", "server"]

_File = str | os.PathLike[str]


def client(
    ca: _File | None = None, *, cert: _File | None = None, key: _File | None = None
) -> ssl.SSLContext:
    """Context of a client that checks the server's certificate and name. TLS 1.2 at least.

    Args:
        ca: PEM file of the authority that signed the server's certificate. Default: the
            system's authorities.
        cert: PEM file of this client's own certificate (with its chain), for servers that ask
            for one.
        key: PEM file of its key; default: it is in cert.
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
        cert: PEM file of the certificate (with its chain).
        key: PEM file of its key; default: it is in cert.
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


_RECORDS = (0x14, 0x15, 0x16)  # how the bytes of a peer that shakes hands begin
# OpenSSL sends no alert to a peer whose bytes are no TLS, which would learn nothing: fatal (2),
# protocol_version (70)
_ALERT = bytes([0x15, 3, 1, 0, 2, 2, 70])
HUNG_UP = "the peer hung up during the TLS handshake: perhaps it does not speak TLS"


class TLSLayer:
    """TLS as a layer (see `igtl.session.layers`), for an event loop and for threads alike.

    Its state lies between two buffers in memory. OpenSSL forbids two threads to use one connection
    at once: a driver with threads holds a lock around each call, and never while it waits for the
    network.

    Attributes:
        ready: whether the handshake is done.
        clean_end: whether the peer has ended the stream with TLS's own message. Else a third party
            may have cut it (RFC 8446, 6.1).
    """

    name = "TLS"

    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
    ) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=server_side, server_hostname=server_hostname
        )
        self._heard = False  # whether the peer has sent anything
        self._foreign = False  # whether that was no TLS
        self._alert = b""
        self.ready = False
        self.clean_end = False

    def begin(self) -> None:
        """Prepare the first message of the handshake."""
        self._shake_hands()

    def feed(self, data: memoryview) -> None:
        """Take bytes of the network."""
        if not self._heard and data[0] not in _RECORDS:
            self._foreign = True
            self._alert = _ALERT
        self._heard = True
        self._in.write(data)

    def feed_eof(self) -> None:
        """Note that the network has reached its end."""
        self._in.write_eof()

    def read_into(self, buffer: memoryview) -> int | None:
        """Decrypt to the start of the buffer; see `Layer`. The handshake goes on here.

        Raises:
            ssl.SSLError: a check failed, or the peer does not speak TLS; the text says which.
            ConnectionResetError: the peer hung up during the handshake.
        """
        if self._foreign:
            text = "the peer does not speak TLS, and this end does"
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, text)
        if not self.ready and not self._shake_hands():
            return None
        try:
            n: Any = self._tls.read(len(buffer), buffer)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLEOFError:
            return 0
        except ssl.SSLZeroReturnError:
            n = 0
        self.clean_end = self.clean_end or n == 0
        return int(n)

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLEOFError:
            raise ConnectionResetError(HUNG_UP) from None
        self.ready = True
        return True

    def wrap(self, data: memoryview | bytes) -> None:
        """Encrypt bytes of the session, for `outgoing`."""
        self._tls.write(data)

    def prepare_close(self, reason: Exception | None = None) -> None:
        """Prepare the message that says that this end sends nothing more."""
        if self.ready:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()  # queues the message, then wants the peer's

    def outgoing(self) -> bytes:
        """Bytes for the network."""
        alert, self._alert = self._alert, b""
        return alert or self._out.read()
