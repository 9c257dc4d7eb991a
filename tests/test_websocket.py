"""WebSocket links against an independent client and server (`websockets.sync`), bare bytes and a
browser. The behaviour that all links share is in test_links.py."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from igtl.addresses import websocket_address
from igtl.aio.dialing import open_dialing
from igtl.log import named
from igtl.options import ServerOptions
from igtl.session.layers import Layer, Stack
from igtl.session.tls import TLSLayer
from igtl.session.websocket import by_client, by_server
from tests.browser import opened, program
from tests.conftest import missing_peer
from tests.links import contexts
from tests.test_links import until
from tests.wire import transform

websockets = pytest.importorskip("websockets", reason="websockets is not installed")

from websockets.exceptions import (  # noqa: E402
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidStatus,
)
from websockets.frames import Frame, Opcode  # noqa: E402
from websockets.sync.client import connect  # noqa: E402
from websockets.sync.server import serve  # noqa: E402

PING, CLOSE, TEXT, BINARY, CONT = (
    Opcode.PING, Opcode.CLOSE, Opcode.TEXT, Opcode.BINARY, Opcode.CONT,
)  # fmt: skip
LARGE = igtl.Image(np.arange(1_400_000, dtype=np.uint8).reshape(1, 1000, 1400), device_name="CT")


def url(server: Any, path: str = "/") -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


@pytest.fixture
def echo() -> Iterator[igtl.Server]:
    """Sends back what comes."""
    with igtl.serve("ws://127.0.0.1", 0, start=False) as server:
        server.on(igtl.Message)(lambda message, peer: peer.send(message))
        server.start()
        yield server


class Bare:
    """A client that has shaken hands and sends frames of its own making."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.send(
            b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.file = self.sock.makefile("rb")
        self.status = self.file.readline()
        while self.file.readline() != b"\r\n":
            pass

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def frame(self) -> tuple[int, bytes]:
        """First byte and data of the next frame; (0, b"") at the end."""
        head = self.file.read(2)
        if not head:
            return 0, b""
        size = head[1]
        assert not size & 0x80  # a server does not mask
        if size >= 126:
            size = int.from_bytes(self.file.read(2 if size == 126 else 8), "big")
        return head[0], self.file.read(size)

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()
        self.sock.close()


def masked(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


# ---- with the other implementation ------------------------------------------------------------


def test_a_message_is_one_binary_message(echo: igtl.Server) -> None:
    with connect(url(echo), compression=None, max_size=None) as client:
        for message in (transform(), LARGE, igtl.Status.ok("there")):
            wire = message.pack()
            client.send(wire)
            assert client.recv(10) == wire
    until(lambda: echo.gone == {"closed": 1})


def test_small_messages_are_one_frame_and_large_ones_fragments(echo: igtl.Server) -> None:
    with Bare(echo.port) as client:
        wire = transform().pack()
        client.send(masked(BINARY, wire))
        assert client.frame() == (0x82, wire)
        wire = LARGE.pack()
        client.send(masked(BINARY, wire))
        got, firsts = b"", []
        while len(got) < len(wire):
            first, data = client.frame()
            firsts.append(first)
            got += data
            assert len(data) <= 256 * 1024
        assert got == wire
        assert firsts == [0x02, *[0x00] * (len(firsts) - 2), 0x80]


def test_what_arrives_may_be_split_in_any_way(echo: igtl.Server) -> None:
    wires = [transform(f"T{k}", k).pack() for k in range(3)]
    stream = b"".join(wires)
    with connect(url(echo), compression=None) as client:
        client.send(stream)  # several in one frame
        assert [client.recv(10) for _ in wires] == wires
        client.send([stream[:5], b"", stream[5:130], stream[130:]])  # fragments of one message
        assert [client.recv(10) for _ in wires] == wires
        for k in range(0, len(stream), 7):  # messages that end anywhere
            client.send(stream[k : k + 7])
        assert [client.recv(10) for _ in wires] == wires
    with Bare(echo.port) as bare:
        for byte in masked(BINARY, wires[0], fin=False) + masked(CONT, wires[1]):
            bare.send(bytes([byte]))
        assert [bare.frame(), bare.frame()] == [(0x82, wires[0]), (0x82, wires[1])]


def test_igtl_as_the_client() -> None:
    seen: list[Any] = []

    def handler(connection: Any) -> None:
        seen.append((connection.request.path, connection.request.headers.get("Origin")))
        with contextlib.suppress(ConnectionClosedOK):
            while True:
                connection.send(connection.recv())
        seen.append(connection.close_code)

    with serve(handler, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        with igtl.connect(f"ws://127.0.0.1:{port}/room?a=1") as link:
            for message in (transform(), LARGE):
                link.send(message)
                assert link.recv(timeout=10) == message
        until(lambda: len(seen) == 2)
        assert seen == [("/room?a=1", None), 1000]
        server.shutdown()
        thread.join(10)


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011])
def test_close_codes(code: int) -> None:
    def handler(connection: Any) -> None:
        connection.send(transform().pack())
        connection.close(code, "as it is")

    with serve(handler, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with igtl.connect("ws://127.0.0.1", server.socket.getsockname()[1]) as link:
            assert link.recv(timeout=10).device_name == "Probe"
            with pytest.raises(igtl.ConnectionClosed) as caught:
                link.recv(timeout=10)
            assert caught.value.clean == (code < 1002)
            if not caught.value.clean:
                assert f"{code} " in str(caught.value)
                assert "as it is" in str(caught.value)
        server.shutdown()
        thread.join(10)


def test_a_cut_is_not_clean() -> None:
    with igtl.listen("ws://127.0.0.1", 0) as listener:
        made: list[Bare] = []
        thread = threading.Thread(target=lambda: made.append(Bare(listener.port)))
        thread.start()
        with listener.accept(timeout=10) as link:
            with pytest.raises(TimeoutError):
                link.recv(timeout=0.05)
            thread.join(10)
            made[0].__exit__()  # no close frame
            with pytest.raises(igtl.ConnectionClosed, match="no close frame") as caught:
                link.recv(timeout=10)
            assert not caught.value.clean


def test_pings_are_answered(echo: igtl.Server) -> None:
    with connect(url(echo)) as client:
        assert client.ping(b"there?").wait(10)
    with Bare(echo.port) as bare:  # in the middle of a fragmented message
        wire = transform().pack()
        bare.send(masked(BINARY, wire[:50], fin=False) + masked(PING, b"now"))
        assert bare.frame() == (0x8A, b"now")
        bare.send(masked(CONT, wire[50:]))
        assert bare.frame() == (0x82, wire)


@pytest.mark.parametrize("drain", [False, True])
def test_a_blocking_link_answers_pings(drain: bool) -> None:
    with igtl.listen("ws://127.0.0.1", 0, drain=drain) as listener:
        answers: list[tuple[int, bytes]] = []

        def ping() -> None:
            with Bare(listener.port) as bare:
                bare.send(masked(PING, b"now"))
                answers.append(bare.frame())
                bare.send(masked(BINARY, transform().pack()))
                bare.frame()

        thread = threading.Thread(target=ping)
        thread.start()
        with listener.accept(timeout=10) as link:
            assert link.recv(timeout=10).device_name == "Probe"
        thread.join(10)
        assert answers == [(0x8A, b"now")]


def layers(*, secure: bool) -> tuple[Layer, Layer]:
    """Of a client and of a server, before their handshake."""
    address = websocket_address("ws://127.0.0.1", 80)
    assert address is not None
    client: Layer = by_client(address)
    server: Layer = by_server(None, ())
    if not secure:
        return client, server
    server_ssl, client_ssl = contexts()
    below = TLSLayer(client_ssl, server_side=False, server_hostname="127.0.0.1")
    return Stack(client, below), Stack(server, TLSLayer(server_ssl, server_side=True))


def read(layer: Layer, data: bytes, step: int) -> bytes:
    """What a layer makes of bytes that come in pieces."""
    buffer, got = memoryview(bytearray(1000)), b""
    for k in range(0, len(data), step):
        layer.feed(memoryview(data)[k : k + step])
        while n := layer.read_into(buffer):
            got += buffer[:n]
    return got


def shake_hands(client: Layer, server: Layer, step: int = 1 << 20) -> None:
    client.begin()
    server.begin()
    while not (client.ready and server.ready):
        read(server, client.outgoing(), step)
        read(client, server.outgoing(), step)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 13, 1000])
def test_any_split_of_the_bytes_means_the_same(secure: bool, step: int) -> None:
    if secure:
        pytest.importorskip("trustme", reason="trustme is not installed")
    client, server = layers(secure=secure)
    shake_hands(client, server, step)
    wires = [transform("T", k).pack() for k in range(2)]
    wires.append(igtl.Image(np.zeros((1, 100, 300 if step < 1000 else 6000), np.uint8)).pack())
    for one, other in ((client, server), (server, client)):
        data = b""
        for wire in wires:
            for k in range(0, len(wire), 40_000):
                one.wrap(wire[k : k + 40_000])
            data += one.outgoing()
        assert read(other, data, step) == b"".join(wires)
    client.prepare_close()
    read(server, client.outgoing(), step)
    assert server.clean_end
    read(client, server.outgoing(), step)
    assert client.clean_end
    with pytest.raises(BrokenPipeError):
        server.wrap(wires[0])


def test_of_many_pings_the_newest_is_answered() -> None:
    client, server = layers(secure=False)
    shake_hands(client, server)
    read(server, b"".join(masked(PING, b"%d" % k) for k in range(1000)), 1 << 20)
    assert server.outgoing() == b"\x8a\x03999"
    assert server.outgoing() == b""


def test_random_frames_raise_nothing_but_their_error() -> None:
    random = np.random.default_rng(5)
    failed = 0
    for _ in range(300):
        client, server = layers(secure=False)
        shake_hands(client, server)
        data = masked(BINARY, b"") + random.bytes(60)
        try:
            read(server, data, 7)
        except ConnectionAbortedError:
            failed += 1
            assert server.outgoing()[0] == 0x88  # the peer is told
            with pytest.raises(ConnectionAbortedError):
                server.read_into(memoryview(bytearray(10)))
        with contextlib.suppress(OSError):
            server.feed_eof()
            server.read_into(memoryview(bytearray(10)))
    assert failed > 200


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (masked(TEXT, b"hello"), 1003),
        (Frame(BINARY, b"unmasked").serialize(mask=False), 1002),
        (masked(CONT, b"of nothing"), 1002),
        (masked(BINARY, b"a", fin=False) + masked(BINARY, b"b"), 1002),
        (b"\xc2" + masked(BINARY, b"reserved")[1:], 1002),
        (b"\x83" + masked(BINARY, b"opcode")[1:], 1002),
        (b"\x89\xfe\x00\x80\0\0\0\0" + bytes(128), 1002),  # a long ping
        (masked(CLOSE, struct.pack(">H", 999)), 1002),
    ],
    ids=["text", "unmasked", "continuation", "two", "reserved", "opcode", "ping", "close"],
)
def test_wrong_frames_close_with_a_code(echo: igtl.Server, frame: bytes, code: int) -> None:
    with Bare(echo.port) as bare:
        bare.send(frame)
        first, data = bare.frame()
        assert first == 0x88
        assert struct.unpack(">H", data[:2]) == (code,)
        assert bare.frame() == (0, b"")
    until(lambda: sum(echo.gone.values()) == 1)
    assert echo.gone.keys() & {"closed"} == set()


@pytest.mark.parametrize(
    "settings", [{}, {"drain": True}, {"reconnect": igtl.Backoff(attempts=3)}, {"aio": True}],
    ids=["plain", "drained", "healing", "aio"],
)  # fmt: skip
def test_a_client_says_that_a_message_is_too_large(settings: dict[str, Any]) -> None:
    closed: SimpleQueue[Any] = SimpleQueue()

    def handler(server: Any) -> None:
        server.send(LARGE.pack())
        try:
            server.recv(10)
        except ConnectionClosed as error:
            closed.put(error.rcvd)

    async def receive(at: str) -> None:
        async with await igtl.aio.connect(at, max_size=1000) as link:
            await link.recv(timeout=10)

    with serve(handler, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        at = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with pytest.raises(
            (igtl.MessageTooLarge, igtl.ConnectionClosed), match="exceeds the limit"
        ):
            if settings.pop("aio", False):
                asyncio.run(receive(at))
            else:
                with igtl.connect(at, max_size=1000, **settings) as link:
                    link.recv(timeout=10)
        assert closed.get(timeout=10).code == 1009
        server.shutdown()
        thread.join()


def test_a_length_is_not_believed() -> None:
    """Nothing is kept for a frame that only announces itself; the message in it is bounded."""
    with igtl.serve("ws://127.0.0.1", 0, max_size=1000, message_timeout=0.2) as server:
        with Bare(server.port) as bare:
            bare.send(b"\x82\xff" + struct.pack(">Q", 1 << 60) + bytes(4) + LARGE.pack()[:58])
            first, data = bare.frame()
            assert first == 0x88
            assert struct.unpack(">H", data[:2]) == (1009,)
            assert data[2:] == b"message of 1400130 bytes exceeds the limit of 1000"
        until(lambda: server.gone == {"MessageTooLarge": 1})
        with Bare(server.port) as bare:  # a message that does not go on, within a frame
            bare.send(b"\x82\xfe" + struct.pack(">H", 200) + bytes(4) + transform().pack()[:58])
            while bare.frame()[0]:
                pass
        until(lambda: server.gone["unfinished"] == 1)


def request(server: Any, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, "/", headers=headers, body=b"x" if method == "POST" else None)
        response = connection.getresponse()
        response.read()
        return response


def test_other_requests_get_a_proper_answer(echo: igtl.Server) -> None:
    response = request(echo)
    assert (response.status, response.headers["Upgrade"]) == (426, "websocket")
    assert request(echo, "HEAD").status in (400, 405)  # by the age of the package
    assert request(echo, "POST").status == 400
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert request(echo, **upgrade, **{"Sec-WebSocket-Version": "13"}).status == 400
    assert request(echo, long="x" * 10_000).status in (400, 431)
    with socket.create_connection(("127.0.0.1", echo.port), 10) as sock:
        sock.sendall(transform().pack() + b"\r\n\r\n")  # no HTTP at all
        assert sock.makefile("rb").readline() == b"HTTP/1.1 400 Bad Request\r\n"
    until(lambda: echo.refused == {"websocket": 6})
    assert echo.clients == []


@pytest.mark.parametrize("aio", [False, True])
def test_a_slow_handshake_is_bounded(aio: bool) -> None:
    if aio:
        with igtl.serve("ws://127.0.0.1", 0, handshake_timeout=1) as server:
            with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n")
                assert sock.recv(100) == b""
            until(lambda: server.refused == {"websocket": 1})
        return
    with igtl.listen("ws://127.0.0.1", 0, handshake_timeout=0.1) as listener:
        with socket.create_connection(("127.0.0.1", listener.port), 10) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n")
            with listener.accept(timeout=10) as link:
                with pytest.raises(igtl.ConnectionClosed, match="WebSocket handshake"):
                    link.recv(timeout=10)


def test_a_client_does_not_wait_for_a_server_that_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TimeoutError, match="WebSocket handshake"):
            igtl.connect("ws://127.0.0.1", port, open_timeout=0.1)
    with igtl.serve(port=0) as plain:  # which takes the request for a wrong message
        with pytest.raises(ConnectionError):
            igtl.connect("ws://127.0.0.1", plain.port)


# ---- who may connect --------------------------------------------------------------------------


def enter(address: str, **settings: Any) -> None:
    """Connect and leave."""
    with connect(address, **settings):
        pass


def test_origins() -> None:
    with igtl.serve("ws://127.0.0.1", 0, origins=["https://or.example"]) as server:
        enter(url(server), origin="https://or.example")
        enter(url(server))  # a program
        for origin in ("https://evil.example", "http://or.example", "null"):
            with pytest.raises(InvalidStatus) as caught:
                enter(url(server), origin=origin)
            assert caught.value.response.status_code == 403
        until(lambda: server.refused == {"websocket": 3})
    with igtl.serve("ws://127.0.0.1", 0) as server:  # no page at all
        with pytest.raises(InvalidStatus):
            enter(url(server), origin=f"http://127.0.0.1:{server.port}")
    with igtl.serve("ws://127.0.0.1", 0, origins=["*"]) as server:
        enter(url(server), origin="https://any.example")
    with pytest.raises(TypeError, match="list"):
        igtl.serve("ws://127.0.0.1", 0, origins="*")


def test_a_path_of_the_server_must_be_asked_for() -> None:
    with igtl.serve("ws://127.0.0.1/room", 0) as server:
        enter(url(server, "/room"))
        igtl.connect(f"ws://127.0.0.1:{server.port}/room").close()
        with pytest.raises(ConnectionRefusedError, match="HTTP 404"):
            igtl.connect(f"ws://127.0.0.1:{server.port}/other")

        async def other() -> None:
            await igtl.aio.connect(f"ws://127.0.0.1:{server.port}/other")

        with pytest.raises(ConnectionRefusedError, match="HTTP 404"):
            asyncio.run(other())


# ---- on TLS, and healing ----------------------------------------------------------------------


def test_by_tls() -> None:
    pytest.importorskip("trustme", reason="trustme is not installed")
    server_ssl, client_ssl = contexts()

    async def there_and_back(port: int) -> None:
        async with igtl.aio.connect("wss://127.0.0.1", port, ssl=client_ssl) as link:
            await link.send(LARGE)
            assert await link.recv(timeout=10) == LARGE

    with igtl.serve("wss://127.0.0.1", 0, ssl=server_ssl, start=False) as server:
        server.on(igtl.Message)(lambda message, peer: peer.send(message))
        server.start()
        with connect(f"wss://127.0.0.1:{server.port}", ssl=client_ssl, max_size=None) as client:
            wire = LARGE.pack()
            client.send(wire)
            assert client.recv(10) == wire
        for settings in ({}, {"drain": True}, {"reconnect": igtl.Backoff()}):
            with igtl.connect("wss://127.0.0.1", server.port, ssl=client_ssl, **settings) as link:
                link.send(LARGE)
                assert link.recv(timeout=10) == LARGE
        asyncio.run(there_and_back(server.port))
        until(lambda: sum(server.gone.values()) == 5)
        assert server.gone == {"closed": 5}
        with pytest.raises(OSError, match="certificate"):
            igtl.connect("wss://127.0.0.1", server.port)  # the system does not know the authority
        until(lambda: server.refused == {"tls": 1})


def test_a_link_that_heals() -> None:
    with igtl.serve("ws://127.0.0.1", 0) as first:
        port = first.port
        link = igtl.connect("ws://127.0.0.1", port, reconnect=igtl.Backoff(0.01, 0.05))
        with contextlib.ExitStack() as stack:
            stack.enter_context(link)
            until(lambda: first.clients)
            first.broadcast(transform("one"))
            assert link.recv(timeout=10).device_name == "one"
            first.close()
            until(lambda: not link.connected)
            kept = transform("kept", 7)
            link.send(kept)
            second = stack.enter_context(igtl.serve("ws://127.0.0.1", port, start=False))
            got: list[igtl.Message] = []
            second.on(igtl.Message)(lambda message, peer: got.append(message))
            second.start()
            until(lambda: got)
            assert got == [kept]


# ---- addresses --------------------------------------------------------------------------------


def test_addresses() -> None:
    assert websocket_address("tracker", 1) is None
    assert websocket_address("unix:/ws://", 1) is None
    assert websocket_address("ws://tracker", 5) == (False, "tracker", 5, "/")
    assert websocket_address("wss://[::1]:80/a/b?c=d", 5) == (True, "::1", 80, "/a/b?c=d")
    assert websocket_address("ws://:7", 5) == (False, "localhost", 7, "/")
    assert named(("ws://tracker", 5)) == "ws://tracker:5"
    assert named(("wss://[::1]/a", 5)) == "wss://[::1]:5/a"
    for wrong in ("ws://h:99999", "ws://h:x", "ws://u:p@h", "ws://h/#f", "ws://h/ä", "ws://h/a b"):
        with pytest.raises(ValueError):
            websocket_address(wrong, 5)


def test_ssl_must_fit() -> None:
    server_ssl, client_ssl = contexts()
    with pytest.raises(ValueError, match="wss://"):
        igtl.serve("ws://127.0.0.1", 0, ssl=server_ssl)
    with pytest.raises(ValueError, match="needs ssl="):
        igtl.listen("wss://127.0.0.1", 0)
    with pytest.raises(ValueError, match="wss://"):
        igtl.connect("ws://127.0.0.1", 1, ssl=client_ssl)
    with pytest.raises(ValueError, match="wss://"):
        igtl.connect("ws://127.0.0.1", 1, ssl=client_ssl, reconnect=igtl.Backoff())


WITHOUT = """
import sys
sys.modules["websockets"] = None
import igtl
for open_ in (
    lambda: igtl.connect("ws://127.0.0.1", 9), lambda: igtl.listen("ws://127.0.0.1", 0),
    lambda: igtl.serve("ws://127.0.0.1", 0),
    lambda: igtl.connect("ws://127.0.0.1", 9, reconnect=igtl.Backoff()),
):
    try:
        open_()
    except ModuleNotFoundError as error:
        print(error)
with igtl.listen(port=0) as l, igtl.connect(port=l.port):
    pass
"""


@pytest.mark.processes
def test_without_the_package() -> None:
    out = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    assert len(out) == 4
    assert all('pip install "igtl[websocket]"' in line for line in out)


@pytest.mark.processes
def test_the_command_line(echo: igtl.Server) -> None:
    echo.broadcast(transform("here"), latch=True)
    done = subprocess.run(
        [sys.executable, "-m", "igtl", "dump", url(echo), "-n", "1", "-s", "20"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "here" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "igtl", "doctor", url(echo), "-s", "1.5"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "It is a WebSocket at /." in done.stdout
    assert "here" in done.stdout


PAGE = """
async url => new Promise(done => {
  const socket = new WebSocket(url); const got = [];
  socket.binaryType = "arraybuffer";
  socket.onopen = () => socket.send(Uint8Array.from(WIRE));
  socket.onmessage = event => { got.push(Array.from(new Uint8Array(event.data))); socket.close(); };
  socket.onclose = event => done({got, code: event.code, clean: event.wasClean});
})
"""


@pytest.mark.processes
def test_a_page_in_a_browser() -> None:
    if importlib.util.find_spec("playwright") is None:
        missing_peer("playwright")
    if program() is None:
        missing_peer("Chromium")
    wire = transform().pack()
    with opened() as browser, igtl.serve("ws://127.0.0.1", 0, origins=["null"]) as server:
        server.on(igtl.Message)(lambda message, peer: peer.send(message))
        page = browser.new_page()  # about:blank, whose origin is "null"
        found = page.evaluate(PAGE.replace("WIRE", str(list(wire))), url(server))
        assert [bytes(got) for got in found["got"]] == [wire]
        assert found["clean"]
        with igtl.serve("ws://127.0.0.1", 0) as closed:
            found = page.evaluate(PAGE.replace("WIRE", "[]"), url(closed))
            assert (found["got"], found["code"]) == ([], 1006)
            until(lambda: closed.refused == {"websocket": 1})


# ---- a server that opens its connection itself --------------------------------------------------


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_dialing(secure: bool) -> None:
    server_context, client_context = contexts()
    scheme, settings = ("wss", {"ssl": server_context}) if secure else ("ws", {})
    arrived: SimpleQueue[Any] = SimpleQueue()
    with igtl.serve(f"{scheme}://127.0.0.1/igtl", 0, start=False, **settings) as server:
        server.on(igtl.Transform)(lambda message, peer: arrived.put(message))
        server.start()

        async def main() -> int:
            options = ServerOptions.of({"ssl": client_context if secure else None, "version": 2})
            at = f"{scheme}://127.0.0.1:{server.port}/igtl"
            async with await open_dialing((at, 0), options, igtl.Backoff(0.01, 0.1), True) as mine:
                while not mine.clients:
                    await asyncio.sleep(0.005)
                await mine.broadcast(transform("There", 4))
                reply = await mine.clients[0].query(igtl.GetStatus(device_name="S"))
                return int(reply.code)

        assert asyncio.run(asyncio.wait_for(main(), 20)) == 1
        assert arrived.get(timeout=10).device_name == "There"


def test_dialing_refuses_what_can_never_be() -> None:
    async def dial(host: str, **settings: Any) -> None:
        await open_dialing((host, 18944), ServerOptions.of(settings), igtl.Backoff(), False)

    for host, reason in (
        ("127.0.0.1", "ssl is for connections that are accepted, and for wss://"),
        ("ws://127.0.0.1", "ssl is for connections that are accepted, and for wss://"),
    ):
        with pytest.raises(ValueError, match=reason):
            asyncio.run(dial(host, ssl=contexts()[1]))
    with pytest.raises(ValueError, match="no user"):
        asyncio.run(dial("ws://me@127.0.0.1"))


@pytest.mark.parametrize("kind", ["plain", "drained", "healing", "aio"])
def test_a_message_that_comes_with_the_answer_to_the_handshake(kind: str) -> None:
    from websockets.server import ServerProtocol

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer() -> None:
            sock, _ = listening.accept()
            with sock:
                protocol = ServerProtocol()
                while not (events := protocol.events_received()):
                    protocol.receive_data(sock.recv(4096))
                protocol.send_response(protocol.accept(events[0]))  # type: ignore[arg-type]
                protocol.send_binary(transform("one").pack())
                sock.sendall(b"".join(protocol.data_to_send()))
                while sock.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        if kind == "aio":

            async def receive() -> igtl.Message:
                async with igtl.aio.connect("ws://127.0.0.1", port) as link:
                    return await link.recv(timeout=10)

            got = asyncio.run(receive())
        else:
            how: dict[str, Any] = {"drained": {"drain": True}, "plain": {}}.get(
                kind, {"reconnect": igtl.Backoff(5, 5)}
            )
            with igtl.connect("ws://127.0.0.1", port, **how) as link:
                got = link.recv(timeout=10)
        thread.join(10)
    assert got.device_name == "one"
