"""Every kind of link behind one blocking face, so that one suite of tests runs over all of them.

`pair(kind)` gives two links joined to each other, `raw_pair(kind)` a link and the bare other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest

import igtl
import igtl.aio
from igtl.addresses import of_tcp
from igtl.blocking.pipe import MemoryTransport
from igtl.net.sockets import connected_socket

KINDS = ["pipe", "tcp", "tls", "aio", "aio-tls", "aio-uvloop"]
if hasattr(socket, "AF_UNIX"):
    KINDS += ["unix", "aio-unix"]
WEBSOCKETS = ["ws", "aio-ws"] if find_spec("websockets") else []
KINDS += WEBSOCKETS


@cache
def authority() -> Any:
    return pytest.importorskip("trustme", reason="trustme is not installed").CA()


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server on 127.0.0.1, and of a client that trusts it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("127.0.0.1", "localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority().configure_trust(client)
    return server, client


class Loop:
    """An event loop in a thread."""

    def __init__(self, *, uvloop: bool = False) -> None:
        if uvloop:
            import uvloop as module

            self.loop = module.new_event_loop()
        else:
            self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def __call__(self, work: Any) -> Any:
        return self.start(work).result(30)

    def tasks(self) -> int:
        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return int(self(count()))

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class Aio:
    """An asyncio link with the face of a blocking one."""

    def __init__(self, loop: Loop, link: igtl.aio.Link) -> None:
        self.loop = loop
        self.link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)

    def send(self, message: Any, **options: Any) -> None:
        self.loop(self.link.send(message, **options))

    def recv(self, *args: Any, **options: Any) -> Any:
        return self.loop(self.link.recv(*args, **options))

    def latest(self, *args: Any, **options: Any) -> Any:
        return self.loop(self.link.latest(*args, **options))

    def recv_frame(self, **options: Any) -> Any:
        return self.loop(self.link.recv_frame(**options))

    def query(self, request: Any, **options: Any) -> Any:
        return self.loop(self.link.query(request, **options))

    def command(self, *args: Any, **options: Any) -> Any:
        return self.loop(self.link.command(*args, **options))

    def close(self) -> None:
        self.loop(self.link.close())

    @contextlib.contextmanager
    def stream(self, start: Any, **options: Any) -> Iterator[Any]:
        manager = self.link.stream(start, **options)
        reader = self.loop(manager.__aenter__())
        try:
            yield Reader(self.loop, reader)
        except BaseException as error:
            if not self.loop(manager.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self.loop(manager.__aexit__(None, None, None))

    def sync(self, *streams: Any, **options: Any) -> Any:
        return Reader(self.loop, self.link.sync(*streams, **options))

    def frames(self) -> Any:
        return Reader(self.loop, self.link.frames())

    def __iter__(self) -> Aio:
        return self

    def __next__(self) -> Any:
        return next(Reader(self.loop, self.link))

    def __enter__(self) -> Aio:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Reader:
    """An async iterator as a plain one."""

    def __init__(self, loop: Loop, reader: Any) -> None:
        self.loop = loop
        self.reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    def recv(self, **options: Any) -> Any:
        return self.loop(self.reader.recv(**options))

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Any:
        async def step() -> Any:  # StopIteration cannot leave a future
            try:
                return await self.reader.__anext__()
            except StopAsyncIteration:
                return StopIteration

        found = self.loop(step())
        if found is StopIteration:
            raise StopIteration
        return found


@contextlib.contextmanager
def loop_for(kind: str) -> Iterator[Loop | None]:
    if not kind.startswith("aio"):
        yield None
        return
    if kind == "aio-uvloop":
        import pytest

        pytest.importorskip("uvloop")
    loop = Loop(uvloop=kind == "aio-uvloop")
    try:
        yield loop
        assert loop.tasks() == 0
    finally:
        loop.close()


@contextlib.contextmanager
def host_for(kind: str) -> Iterator[str]:
    """Where a listener of this kind listens."""
    if not kind.endswith("unix"):
        yield "ws://127.0.0.1" if kind.endswith("ws") else "127.0.0.1"
        return
    with tempfile.TemporaryDirectory() as folder:  # a path of pytest's own may be too long
        yield f"unix:{folder}/link"


def has_handshake(kind: str) -> bool:
    return kind.endswith(("tls", "ws"))


@contextlib.contextmanager
def pair(kind: str, **settings: Any) -> Iterator[tuple[Any, Any]]:
    """Two links, each the other's peer; `settings` are those of the second."""
    server_ssl, client_ssl = contexts() if kind.endswith("tls") else (None, None)
    with loop_for(kind) as loop, host_for(kind) as host:
        if kind == "pipe":
            a: Any
            b: Any
            a, b = igtl.pipe()
            with a, b:
                yield a, b
        elif loop is None:
            with igtl.listen(host, 0, ssl=server_ssl, **settings) as listener:
                server: list[Any] = []
                thread = threading.Thread(target=lambda: server.append(listener.accept()))
                thread.start()
                if has_handshake(kind):  # which takes two
                    shake = threading.Thread(target=lambda: _shake(listener, server))
                    shake.start()
                with igtl.connect(host, listener.port, ssl=client_ssl) as a:
                    thread.join(10)
                    with server[0] as b:
                        yield a, b
        else:
            listener_ = loop(_opened(igtl.aio.listen(host, 0, ssl=server_ssl, **settings)))
            made = igtl.aio.connect(host, listener_.port, ssl=client_ssl)
            a = Aio(loop, loop(_opened(made)))
            b = Aio(loop, loop(listener_.accept(timeout=10)))
            try:
                yield a, b
            finally:
                a.close()
                b.close()
                loop(listener_.close())


def _shake(listener: Any, server: list[Any]) -> None:
    while not server:
        threading.Event().wait(0.001)
    with contextlib.suppress(OSError):
        server[0]._transport.handshake(None)


async def _opened(opening: Any) -> Any:
    return await opening


class Raw:
    """The bare other end of a link."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def sendall(self, data: bytes) -> None:
        self.sock.sendall(data)

    def recv(self, n: int = 65536) -> bytes:
        return bytes(self.sock.recv(n))

    def everything(self) -> bytes:
        data = b""
        while chunk := self.recv():
            data += chunk
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if isinstance(self.sock, ssl.SSLSocket):
                self.sock.settimeout(0.2)
                self.sock.unwrap()
        self.sock.close()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        plain = self.sock
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        plain.close()


class RawWebSocket(Raw):
    """The same over a WebSocket, by the package that igtl takes the rules from."""

    def __init__(self, sock: socket.socket, *, server: bool = False) -> None:
        from websockets.client import ClientProtocol
        from websockets.server import ServerProtocol
        from websockets.uri import parse_uri

        super().__init__(sock)
        self.protocol: Any = (
            ServerProtocol(max_size=None)
            if server
            else ClientProtocol(parse_uri("ws://127.0.0.1/"), max_size=None)
        )
        self.lock = threading.Lock()
        self.data = b""
        if not server:
            self.protocol.send_request(self.protocol.connect())
            self.flush()
        while not (events := self.events()):
            pass
        if server:
            self.protocol.send_response(self.protocol.accept(events[0]))
            self.flush()

    def flush(self) -> None:
        with self.lock:
            for data in self.protocol.data_to_send():
                self.sock.sendall(data)

    def events(self) -> list[Any]:
        if data := self.sock.recv(65536):
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        with contextlib.suppress(OSError):
            self.flush()
        return self.protocol.events_received()

    def sendall(self, data: bytes) -> None:
        self.protocol.send_binary(data)
        self.flush()

    def recv(self, n: int = 65536) -> bytes:
        while not self.data:
            if self.protocol.state.name != "OPEN":
                return b""
            self.data = b"".join(bytes(e.data) for e in self.events() if e.opcode in (0, 2))
        taken, self.data = self.data[:n], self.data[n:]
        return taken

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self.protocol.state.name == "OPEN":
                self.protocol.send_close(1000)
            self.flush()
        self.sock.close()


class RawPipe(Raw):
    """The same over a pipe in memory."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport

    def sendall(self, data: bytes) -> None:
        self.transport.send([data])

    def recv(self, n: int = 65536) -> bytes:
        buffer = bytearray(n)
        return bytes(buffer[: self.transport.recv_into(memoryview(buffer), 10)])

    def close(self) -> None:
        self.transport.shutdown()

    half_close = reset = close


@contextlib.contextmanager
def raw_pair(kind: str, **settings: Any) -> Iterator[tuple[Any, Any]]:
    """A link, and the bare other end, which has connected to it."""
    server_ssl, client_ssl = contexts() if kind.endswith("tls") else (None, None)

    def dial(port: int) -> Raw:
        sock: Any = connected_socket(*of_tcp(host, port), 10)
        if client_ssl is not None:
            sock = client_ssl.wrap_socket(sock, server_hostname="127.0.0.1")
        return RawWebSocket(sock) if kind.endswith("ws") else Raw(sock)

    with loop_for(kind) as loop, host_for(kind) as host:
        raw: Raw
        if kind == "pipe":
            link, other = igtl.pipe(**settings)
            raw = RawPipe(other._transport)  # type: ignore[arg-type]
            with link:
                yield link, raw
            raw.close()
        elif loop is None:
            with igtl.listen(
                host, 0, ssl=server_ssl, **{"on_error": "raise", **settings}
            ) as listener:
                dialled: list[Raw] = []
                thread = threading.Thread(target=lambda: dialled.append(dial(listener.port)))
                thread.start()
                with listener.accept(timeout=10) as link:
                    if has_handshake(kind):
                        link._transport.handshake(None)  # type: ignore[attr-defined]
                    thread.join(10)
                    yield link, dialled[0]
                dialled[0].close()
        else:
            opening = igtl.aio.listen(host, 0, ssl=server_ssl, **{"on_error": "raise", **settings})
            listener_ = loop(_opened(opening))
            raw = dial(listener_.port)
            aio = Aio(loop, loop(listener_.accept(timeout=10)))
            try:
                yield aio, raw
            finally:
                aio.close()
                raw.close()
                loop(listener_.close())
