"""Bytes of a session over a socket that does not block."""

from __future__ import annotations

import contextlib
import socket

from igtl.blocking.transport import SocketTransport
from igtl.net.sockets import broken
from igtl.session.layers import SCRATCH, Layer


class Channel:
    """Moves the bytes of a session over a socket that does not block.

    It takes and gives what the system does at once.

    Args:
        transport: a connection whose handshake is done; the channel takes it over.
    """

    def __init__(self, transport: SocketTransport) -> None:
        self.session = transport.session
        self.sock = transport.sock
        self._layer = transport.layer
        self._encrypted = memoryview(b"")  # out of the layer, and not taken by the system yet
        self._scratch = memoryview(b"") if self._layer is None else memoryview(bytearray(SCRATCH))
        self.sock.setblocking(False)

    def read(self) -> bool:
        """Feed the session with what is there; a broken connection closes it.

        Returns whether there may be more.
        """
        session, layer = self.session, self._layer
        buffer = session.get_buffer() if layer is None else self._scratch
        try:
            n = self.sock.recv_into(buffer)
            if layer is None:
                if n:
                    session.received(n)
                else:
                    session.received_eof()
                return n > 0
            if n:
                layer.feed(buffer[:n])
            else:
                layer.feed_eof()
            return self._read_layer(layer) and n > 0
        except BlockingIOError:
            return False
        except (OSError, ValueError) as error:  # ValueError: the socket was closed
            session.lost(broken(error) if isinstance(error, OSError) else error)
            return False

    def begin(self) -> None:
        """Feed the session with what came together with the end of the layer's handshake.

        The socket shows nothing of it.
        """
        if self._layer is not None:
            try:
                self._read_layer(self._layer)
            except OSError as error:
                self.session.lost(broken(error))

    def _read_layer(self, layer: Layer) -> bool:
        """Feed the session with what the layer has; whether more may come."""
        session = self.session
        while (k := layer.read_into(session.get_buffer())) is not None:
            if k == 0:
                session.received_eof(clean=layer.clean_end)
                return False
            session.received(k)
        if not self._encrypted:
            self._encrypted = memoryview(layer.outgoing())  # answers of the layer itself
        return True

    @property
    def wants_write(self) -> bool:
        """Whether something waits for the system to take it."""
        return self.session.can_send and (bool(self._encrypted) or self.session.wants_write)

    def write(self) -> None:
        """Send what the system takes at once."""
        session, layer = self.session, self._layer
        if not session.can_send:
            return
        try:
            while True:
                if self._encrypted:
                    self._encrypted = self._encrypted[self.sock.send(self._encrypted) :]
                elif layer is None:
                    if (piece := session.to_send()) is None:
                        return
                    session.sent(self.sock.send(piece))
                else:
                    if (piece := session.to_send()) is not None:
                        layer.wrap(piece)
                        session.sent(len(piece))
                    self._encrypted = memoryview(layer.outgoing())
                    if not self._encrypted:
                        return
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            session.send_failed(broken(error) if isinstance(error, OSError) else error)

    def peer_has_closed(self) -> bool:
        """Return whether the peer has closed or reset the connection.

        What it sent before may not have been read.
        """
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            return True

    def send_closing(self) -> None:
        """Send the closing message of the layer, if the system takes it at once."""
        if self._layer is None or self._encrypted:
            return
        with contextlib.suppress(OSError, ValueError):
            self._layer.prepare_close(self.session.close_reason)
            self.sock.send(self._layer.outgoing())

    def close(self) -> None:
        """Give the socket back; a thread that waits for it goes on."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
