"""WebSocket (RFC 6455): the layer that carries a connection in the binary frames of one.

The handshake, the order of frames and the close codes are those of the `websockets` package, which
does no I/O. It is shown every frame, but of a frame with data only the header, so that the data
passes as it arrives: memory and time-outs do not depend on the lengths that a peer announces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from igtl.addresses import WebSocketAddress
from igtl.errors import MessageTooLarge, ProtocolError
from igtl.extras import need
from igtl.session.session import SLICE

_TEXT, _PING, _PONG = 1, 9, 10  # opcodes
_END = b"\r\n\r\n"  # of the head of a request or response
_CONTROL = 8  # the bit that control frames have in their opcode
_MAX_CONTROL = 125  # bytes of a control frame
_LENGTHS = {126: 2, 127: 8}  # bytes of a longer length, by what stands in its place
_HEADER = 58  # bytes of the header of a message
_BODY_SIZE = slice(42, 50)  # in it
_DONE, _WRONG, _TOO_LARGE = 1000, 1002, 1009  # close codes
_MAX_REASON = 123  # bytes
_IN_ORDER = (1000, 1001, 1005)  # close codes: done, going away, none given
_NO_REQUEST = "the peer does not speak WebSocket: it sent no HTTP request"


def _part(name: str) -> Any:
    """Return a module of the package."""
    return need(f"websockets.{name}", "websocket")


class WebSocketLayer:
    """WebSocket as a layer (see `igtl.session.layers`); `by_client` and `by_server` make one.

    Each message of the session becomes one binary message: a single frame up to 256 KiB, beyond
    that in fragments of so much. What arrives may be split in any way. A ping is answered by the
    next that leaves; of several that wait, the newest is.

    Attributes:
        ready: whether the handshake is done.
        clean_end: whether the peer has closed by a close frame, in order.
    """

    name = "WebSocket"

    def __init__(self, protocol: Any, path: str | None = None) -> None:
        self._protocol = protocol
        names = _part("protocol")
        self._is_server = protocol.side is names.SERVER
        self._open = names.OPEN
        self._apply_mask = _part("frames").apply_mask
        self._path = path
        self._tail = b""  # the last bytes of the handshake so far, where its end may have begun
        self._in = bytearray()
        self._left = 0  # bytes of the frame that is being read
        self._mask = b""  # of it, turned to its next byte
        self._eof = False
        self._error: OSError | None = None
        self._out: list[bytes] = []
        self._ping: bytes | None = None  # not answered yet
        self._message = bytearray()  # of the session, not sent yet
        self._unsent: int | None = None  # bytes of it that are to come; None: not known yet
        self.ready = False
        self.clean_end = False

    def begin(self) -> None:
        """Prepare the request of a client."""
        if not self._is_server:
            self._protocol.send_request(self._protocol.connect())

    # -- bytes in

    def feed(self, data: memoryview) -> None:
        """Take bytes of the network."""
        self._in += data

    def feed_eof(self) -> None:
        """Note that the network has reached its end."""
        self._eof = True

    def _shake_hands(self) -> None:
        """Take the bytes of the handshake; those behind it stay."""
        data = bytes(self._in)
        end = (self._tail + data).find(_END)
        head = len(data) if end < 0 else end + len(_END) - len(self._tail)
        self._tail = (self._tail + data)[1 - len(_END) :]
        self._converse(data[:head])
        if self._error is None and not self.ready:
            self._converse(data[head:])  # the text of a refusal
            head = len(data)
        del self._in[:head]

    def _converse(self, data: bytes) -> None:
        protocol = self._protocol
        protocol.receive_data(data)
        for event in protocol.events_received():
            if self._is_server:
                protocol.send_response(self._response(event))
        self.ready = protocol.state is self._open
        error = protocol.handshake_exc
        if error is None or self._error is not None:
            return
        response = getattr(error, "response", None)
        if response is not None:
            text = f"the server refused the WebSocket: HTTP {response.status_code}"
            self._error = ConnectionRefusedError(f"{text} {response.reason_phrase}".rstrip())
        elif self._is_server and isinstance(error, _part("exceptions").InvalidMessage):
            self._error = ConnectionAbortedError(_NO_REQUEST)
            refusal = protocol.reject(400, f"This is a WebSocket server: {error.__cause__}\n")
            self._out.append(refusal.serialize())
        else:
            self._error = ConnectionAbortedError(f"no WebSocket: {error}")

    def _response(self, request: Any) -> Any:
        """Return the response of a server to the request of a client."""
        if self._path not in (None, request.path):
            self._error = ConnectionAbortedError(f"the client asked for {request.path!r}")
            return self._protocol.reject(404, f"There is no {request.path} here.\n")
        return self._protocol.accept(request)

    def read_into(self, buffer: memoryview) -> int | None:
        """Copy the data of frames to the start of the buffer; see `Layer`.

        The handshake goes on here.

        Raises:
            ConnectionRefusedError: the server answers with another HTTP status.
            ConnectionAbortedError: the peer breaks the rules of WebSocket, sends text, or closes
                with a code that tells of an error.
            ConnectionResetError: the connection was cut, without a close frame.
        """
        if not self.ready and self._error is None and self._in:
            self._shake_hands()
        while self._error is None and not self.clean_end:
            if self._left:
                if n := min(self._left, len(self._in), len(buffer)):
                    self._copy(n, buffer)
                    return n
                break
            if not self.ready or not self._next_frame():
                break
        if self._error is None and self._eof and not self.clean_end:
            text = "the connection was cut: there was no close frame"
            if not self.ready:
                text = "the peer hung up during the WebSocket handshake"
            self._error = ConnectionResetError(text)
        if self._error is not None:
            raise self._error
        return 0 if self.clean_end else None

    def _copy(self, n: int, buffer: memoryview) -> None:
        """Move so many bytes of a frame into the buffer."""
        data: Any = self._in[:n]
        del self._in[:n]
        if self._mask:
            data = self._apply_mask(data, self._mask)
            turn = n % 4
            self._mask = self._mask[turn:] + self._mask[:turn]
        buffer[:n] = data
        self._left -= n

    def _next_frame(self) -> bool:
        """Take a control frame, or the header of one with data; whether it was there."""
        if len(self._in) < 2:
            return False
        first, second = self._in[:2]
        opcode, short = first & 0x0F, second & 0x7F
        is_control = opcode & _CONTROL
        if is_control and short > _MAX_CONTROL:
            self._refuse(1002, "a control frame is too long")
            return True
        mask_at = 2 + _LENGTHS.get(short, 0)
        data_at = mask_at + (4 if second & 0x80 else 0)
        size = data_at + (short if is_control else 0)
        if len(self._in) < size:
            return False
        frame = bytes(self._in[:size])
        del self._in[:size]
        self._mask = frame[mask_at:data_at]
        if is_control:
            self._take_control(opcode, frame, data_at)
        elif opcode == _TEXT:
            self._refuse(1003, "OpenIGTLink goes in binary frames, not in text")
        else:
            self._left = int.from_bytes(frame[2:mask_at], "big") if mask_at > 2 else short
            self._show(bytes([first, second & 0x80]) + self._mask)
        return True

    def _take_control(self, opcode: int, frame: bytes, data_at: int) -> None:
        if opcode == _PING:  # answered in `outgoing`, so that many do not pile up
            data = frame[data_at:]
            self._ping = self._apply_mask(data, self._mask) if self._mask else data
            frame = bytes([frame[0] & 0xF0 | _PONG]) + frame[1:]
        self._show(frame)
        if (close := self._protocol.close_rcvd) is not None and self._error is None:
            if close.code in _IN_ORDER:
                self.clean_end = True
            else:
                self._error = ConnectionAbortedError(f"the peer closed the WebSocket: {close}")

    def _show(self, frame: bytes) -> None:
        """Let the package check a frame, and answer it."""
        protocol = self._protocol
        protocol.receive_data(frame)
        protocol.events_received()
        if protocol.parser_exc is not None:
            self._left = 0
            self._error = ConnectionAbortedError(f"wrong WebSocket frame: {protocol.parser_exc}")

    def _refuse(self, code: int, reason: str) -> None:
        self._protocol.fail(code, reason)
        self._error = ConnectionAbortedError(reason)

    # -- bytes out

    def wrap(self, data: memoryview | bytes) -> None:
        """Take bytes of the session, for `outgoing`: any number of its messages, in any pieces.

        Raises:
            BrokenPipeError: the WebSocket is closed.
        """
        rest = memoryview(data)
        while rest:
            if self._protocol.state is not self._open:
                raise BrokenPipeError("the WebSocket is closed")
            if self._unsent is None:
                wanted = _HEADER - len(self._message)
            else:
                wanted = min(self._unsent, SLICE - len(self._message))
            piece, rest = rest[:wanted], rest[wanted:]
            self._message += piece
            if self._unsent is not None:
                self._unsent -= len(piece)
            elif len(self._message) == _HEADER:
                self._unsent = int.from_bytes(self._message[_BODY_SIZE], "big")
            if self._unsent == 0 or len(self._message) >= SLICE:
                self._send_message(fin=self._unsent == 0)

    def _send_message(self, *, fin: bool) -> None:
        protocol = self._protocol
        if protocol.expect_continuation_frame:
            protocol.send_continuation(self._message, fin)
        else:
            protocol.send_binary(self._message, fin)
        self._message = bytearray()
        if fin:
            self._unsent = None

    def prepare_close(self, reason: Exception | None = None) -> None:
        """Prepare the close frame.

        Its code is 1009 if a message was too large, 1002 if the bytes of the peer were wrong in
        another way, else 1000.
        """
        if self._protocol.state is not self._open:
            return
        if isinstance(reason, ProtocolError):
            code = _TOO_LARGE if isinstance(reason, MessageTooLarge) else _WRONG
            self._protocol.send_close(
                code, str(reason).encode()[:_MAX_REASON].decode("utf-8", "ignore")
            )
        else:
            self._protocol.send_close(_DONE)

    def outgoing(self) -> bytes:
        """Bytes for the network."""
        ping, self._ping = self._ping, None
        if ping is not None and self._protocol.state is self._open:
            self._protocol.send_pong(ping)
        data = b"".join((*self._protocol.data_to_send(), *self._out))
        self._out.clear()
        return data


def by_client(address: WebSocketAddress) -> WebSocketLayer:
    """Return the layer of a client.

    Raises:
        MissingExtra: the package is not installed.
    """
    uri = _part("uri").parse_uri(str(address))
    return WebSocketLayer(_part("client").ClientProtocol(uri))


def by_server(path: str | None, origins: Sequence[str]) -> WebSocketLayer:
    """Return the layer of a server.

    Args:
        path: what clients must ask for; None: whatever they like.
        origins: see `igtl.options.AcceptOptions`.

    Raises:
        MissingExtra: the package is not installed.
    """
    allowed = None if "*" in origins else [None, *origins]
    return WebSocketLayer(_part("server").ServerProtocol(origins=allowed), path)
