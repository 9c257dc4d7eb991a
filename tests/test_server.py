"""The server of many clients: blocking, and in asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from igtl.aio.transport import Connection
from igtl.fields import u8
from igtl.options import AioConnectOptions
from igtl.session import packed
from igtl.session.access import AllowList
from igtl.session.facade import new_session
from igtl.session.tls import TLSLayer
from tests.links import Loop, contexts
from tests.test_links import until
from tests.wire import frame, mended, transform


def image(size: int = 300_000, name: str = "CT") -> igtl.Image:
    return igtl.Image(np.zeros((1, size // 100, 100), np.uint8), device_name=name)


class Blocking:
    """`igtl.serve`."""

    def __init__(self, **settings: Any) -> None:
        self.server = igtl.serve(port=0, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.server, name)

    def broadcast(self, *args: Any, **options: Any) -> Any:
        return self.server.broadcast(*args, **options)

    def close(self) -> None:
        self.server.close()


class Asyncio:
    """`igtl.aio.serve` in a loop in a thread, with the same face; handlers get its own peers."""

    def __init__(self, *, uvloop: bool = False, **settings: Any) -> None:
        self.loop = Loop(uvloop=uvloop)
        try:
            self.server = self.loop(self._open(settings))
        except BaseException:
            self.loop.close()
            raise

    async def _open(self, settings: Any) -> igtl.aio.Server:
        return await igtl.aio.serve(port=0, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.server, name)

    def broadcast(self, *args: Any, **options: Any) -> Any:
        return self.loop(self.server.broadcast(*args, **options))

    def send_to(self, *args: Any) -> None:
        self.loop(self.server.send_to(*args))

    def disconnect(self, client: int) -> None:
        self.loop(self.server.disconnect(client))

    def shutdown(self, **options: Any) -> None:
        self.loop(self.server.shutdown(**options))

    def close(self) -> None:
        self.loop(self.server.close())
        assert self.loop.tasks() == 0
        self.loop.close()


@contextlib.contextmanager
def serving(kind: str, **settings: Any) -> Iterator[Any]:
    server: Any
    if kind == "sync":
        server = Blocking(**settings)
    else:
        server = Asyncio(uvloop=kind == "uvloop", **settings)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(params=["sync", "aio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


TASKS: list[Any] = []


def call(result: Any) -> None:
    """Peers of asyncio answer with coroutines; tests use them in its loop."""
    if asyncio.iscoroutine(result):
        TASKS.append(asyncio.ensure_future(result))


def call_in(server: Any, result: Any) -> Any:
    """What a method of a peer gives, in either kind of server."""
    return server.loop(result) if asyncio.iscoroutine(result) else result


def stalling_client(port: int) -> socket.socket:
    """Connects, and never reads; small buffers, so that it stalls soon."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    return sock


# ---- clients ----------------------------------------------------------------------------------


def test_broadcast_send_to_and_disconnect(kind: str) -> None:
    with serving(kind) as server, contextlib.ExitStack() as stack:
        links = [stack.enter_context(igtl.connect(port=server.port)) for _ in range(5)]
        until(lambda: len(server.clients) == 5)
        assert [p.id for p in server.clients] == [1, 2, 3, 4, 5]
        assert [p.peer for p in server.clients] == [link.local for link in links]
        server.broadcast(transform("all"))
        assert [link.recv(timeout=5).device_name for link in links] == ["all"] * 5
        server.send_to(3, transform("one"))
        assert links[2].recv(timeout=5).device_name == "one"
        peer = server.clients[2]
        until(lambda: peer.stats.sent == 2)
        assert (peer.queued, peer.header_version) == (0, 1)
        assert 0 <= peer.uptime < 60
        assert peer.connected_at == pytest.approx(time.time(), abs=60)
        server.disconnect(2)
        assert [p.id for p in server.clients] == [1, 3, 4, 5]
        assert server.gone == {"disconnected": 1}
        assert list(links[1]) == []
        with pytest.raises(KeyError):
            server.send_to(2, transform())
        for link in (links[0], links[2], links[3], links[4]):
            with pytest.raises(TimeoutError):
                link.recv(timeout=0.01)
        links[0].close()
        until(lambda: len(server.clients) == 3)
        assert server.gone == {"disconnected": 1, "closed": 1}


def test_handlers_in_order_by_type_and_device(kind: str) -> None:
    seen: list[Any] = []
    with serving(kind) as server, igtl.connect(port=server.port) as link:

        @server.on(igtl.Transform, "Probe*")
        def _(message: Any, peer: Any) -> None:
            seen.append(("probe", float(message.position[0]), peer.id))

        @server.on(igtl.String)
        def _(message: Any, peer: Any) -> None:
            seen.append(("string", message.string, peer.id))
            call(peer.send(igtl.String("echo " + message.string)))

        @server.on(igtl.Status)
        def _(message: Any, peer: Any) -> None:
            raise ZeroDivisionError  # the server goes on

        @server.on()
        def _(message: Any, peer: Any) -> None:
            seen.append(("any", message.type_name, peer.id))

        for k in range(3):
            link.send(transform("ProbeToTracker", k))
            link.send(transform("Stylus", k))
            link.send(igtl.Status.ok())
            link.send(igtl.String(str(k)))
        echoes = [link.recv(igtl.String, timeout=5).string for _ in range(3)]
        assert echoes == ["echo 0", "echo 1", "echo 2"]
        until(lambda: len(seen) == 18)
    for k in range(3):
        assert seen[6 * k : 6 * k + 6] == [
            ("probe", k, 1),
            ("any", "TRANSFORM", 1),
            ("any", "TRANSFORM", 1),
            ("any", "STATUS", 1),
            ("string", str(k), 1),
            ("any", "STRING", 1),
        ]


@pytest.mark.parametrize("whom", ["itself", "another"])
def test_a_handler_disconnects_a_client(kind: str, whom: str) -> None:
    """Neither waits for the handlers of that client, which wait for this one."""
    events: SimpleQueue[Any] = SimpleQueue()
    with serving(kind, max_clients=2) as server:
        server.on_disconnect(lambda peer: events.put(("left", peer.id)))

        def listed() -> tuple[str, list[int]]:
            return "listed", [one.id for one in server.clients]

        if kind == "sync":

            @server.on(igtl.Transform)
            def _(message: Any, peer: Any) -> None:
                for link in links:
                    link.send(igtl.Status.ok())  # which waits behind this handler
                server.disconnect(peer.id if whom == "itself" else 3 - peer.id)
                events.put(listed())

        else:

            @server.on(igtl.Transform)
            async def _(message: Any, peer: Any) -> None:
                await (peer if whom == "itself" else server.server.peers[3 - peer.id]).disconnect()
                events.put(listed())

        with igtl.connect(port=server.port) as a, igtl.connect(port=server.port) as b:
            links = [a, b]
            until(lambda: len(server.clients) == 2)
            gone = 1 if whom == "itself" else 2
            a.send(transform())
            both = dict(events.get(timeout=10) for _ in range(2))
            assert both == {"listed": [3 - gone], "left": gone}
            assert list(links[gone - 1]) == []
            with igtl.connect(port=server.port) as c:  # there is room again
                server.broadcast(transform("new"), latch=True)
                assert c.recv(timeout=10).device_name == "new"
            assert server.gone["disconnected"] == 1


def test_connect_and_disconnect_handlers(kind: str) -> None:
    events: list[Any] = []
    with serving(kind) as server:
        server.on_connect(lambda peer: events.append(("+", peer.id)))
        server.on_disconnect(lambda peer: events.append(("-", peer.id, type(peer.close_reason))))
        with igtl.connect(port=server.port):
            until(lambda: len(events) == 1)
        until(lambda: len(events) == 2)
        assert events == [("+", 1), ("-", 1, igtl.ConnectionClosed)]


def test_bad_messages_of_one_client(kind: str) -> None:
    with serving(kind, max_size=10_000) as server, igtl.connect(port=server.port) as good:
        seen = []
        server.on(igtl.Transform)(lambda m, peer: seen.append(peer.id))
        with socket.create_connection(("127.0.0.1", server.port)) as bad:
            bad.sendall(frame("TRANSFORM", bytes(47)) + transform().pack())
            until(lambda: seen == [2])
            assert server.clients[1].stats.errors == {"BodyError": 1}
            bad.sendall(frame("IMAGE", b"", size=1 << 50))
            until(lambda: len(server.clients) == 1)
        good.send(transform())
        until(lambda: seen == [2, 1])
        assert server.gone["MessageTooLarge"] == 1


def test_max_clients(kind: str) -> None:
    with serving(kind, max_clients=2) as server:
        with igtl.connect(port=server.port) as a, igtl.connect(port=server.port):
            until(lambda: len(server.clients) == 2)
            with igtl.connect(port=server.port) as third:
                with pytest.raises(igtl.ConnectionClosed):
                    third.recv(timeout=5)
            assert server.refused == {"max_clients": 1}
            a.close()
            until(lambda: len(server.clients) == 1)
            with igtl.connect(port=server.port) as fourth:
                until(lambda: len(server.clients) == 2)
                server.broadcast(transform())
                assert fourth.recv(timeout=5).device_name == "Probe"


def test_allow_list(kind: str) -> None:
    for allow, admitted in ((["127.0.0.0/8"], True), ([], False), (["10.0.0.0/8", "::1"], False)):
        with serving(kind, allow=allow) as server, igtl.connect(port=server.port) as link:
            if admitted:
                until(lambda s=server: len(s.clients) == 1)
                continue
            with pytest.raises(igtl.ConnectionClosed):
                link.recv(timeout=5)
            assert server.refused == {"not allowed": 1}
    for wrong, error in (("127.0.0.1", TypeError), (["localhost"], ValueError), ([""], ValueError)):
        with pytest.raises(error):
            igtl.serve(port=0, allow=wrong)


@pytest.mark.parametrize(
    ("entries", "address", "admitted"),
    [
        (None, "203.0.113.9", True),
        ([], "127.0.0.1", False),
        (["192.168.1.7"], "192.168.1.7", True),
        (["192.168.1.7"], "192.168.1.8", False),
        (["192.168.1.0/24"], "::ffff:192.168.1.8", True),
        (["::ffff:192.168.1.0/120"], "192.168.1.8", True),
        (["::ffff:192.168.1.8"], "::ffff:192.168.1.8", True),
        (["192.168.1.99/24"], "192.168.1.8", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["0.0.0.0/0"], "::1", False),
    ],
)
def test_allow_list_entries(entries: Any, address: str, admitted: bool) -> None:
    assert AllowList(entries).admits((address, 1)) is admitted
    assert AllowList(entries).admits(None) is (entries is None)


def test_idle_time_out(kind: str) -> None:
    with serving(kind, idle_timeout=2, stall_timeout=1) as server:
        with igtl.connect(port=server.port) as quiet, igtl.connect(port=server.port) as alive:
            for _ in igtl.Rate(20):
                alive.send(transform())
                if server.gone:
                    break
            assert server.gone == {"idle": 1}
            assert [p.id for p in server.clients] == [2]
            with pytest.raises(igtl.ConnectionClosed):
                quiet.recv(timeout=5)


def test_a_message_that_was_begun_is_waited_for_no_longer_than_message_timeout(kind: str) -> None:
    """Others who say nothing stay, and so does one whose message the server does not read yet."""
    busy = threading.Event()
    with serving(kind, message_timeout=1, inbox_messages=30_000) as server:
        wire = image(2_000_000).pack()
        with contextlib.ExitStack() as stack:
            quiet = stack.enter_context(igtl.connect(port=server.port))
            for n in (1, 57, 58, 60, len(wire) - 1):
                bad = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                bad.sendall(wire[:n])
            until(lambda: server.gone == {"unfinished": 5})
            assert [p.peer for p in server.clients] == [quiet.local]
            server.broadcast(transform())
            assert quiet.recv(timeout=20)
            handled: list[Any] = []

            async def slow(message: Any, peer: Any) -> None:
                while not busy.is_set():
                    await asyncio.sleep(0.001)
                handled.append(message)

            server.on(igtl.Transform)(slow)
            quiet._transport.send([transform().pack() * 20_000])
            quiet._transport.send([transform().pack()[:50]])
            (peer,) = server.clients
            until(lambda: peer.close_reason is not None)  # however busy the handlers are
            busy.set()
            until(lambda: len(handled) == 20_000)


def test_handlers_before_the_first_client(kind: str) -> None:
    with serving(kind, start=False) as server:
        with pytest.raises(ConnectionRefusedError):
            igtl.connect("127.0.0.1", server.port)
        seen: list[Any] = []
        server.on(igtl.Transform)(lambda m, peer: seen.append(m.device_name))
        started = server.start()
        if started is not None:
            server.loop(started)
        with igtl.connect(port=server.port) as link:
            link.send(transform("first"))
            link.send(igtl.String("nobody wants it", device_name="S"))
            until(lambda: server.clients[0].stats.received == 2 if server.clients else False)
            until(lambda: server.clients[0].stats.dropped == {"unhandled": 1})
            assert server.clients[0].stats.streams["STRING", "S"].lost == {"unhandled": 1}
        assert seen == ["first"]


# ---- queues -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "latest"])
def test_a_stalled_client_delays_nobody_and_is_dropped(kind: str, policy: Any) -> None:
    """The live one has each message before the next is sent, so that only the stalled one lags."""
    with serving(kind, policy=policy, max_queued=10, stall_timeout=0.5) as server:
        with igtl.connect(port=server.port) as live, stalling_client(server.port):
            until(lambda: len(server.clients) == 2)
            alive, stalled = server.clients
            n = 0
            while len(server.clients) == 2 or n < 100:
                server.broadcast(image(50_000 + 100 * n))
                n += 1
                assert live.recv(igtl.Image, timeout=20).array.size == 50_000 + 100 * (n - 1)
                assert stalled.queued <= 10
            assert server.gone == {"stalled": 1}
            stats = stalled.stats
            assert stats.dropped[policy] > 0
            assert 0 < stats.sent + stats.lost <= n  # sent or counted: nothing else
            assert alive.stats.lost == 0


class Trickle:
    """A client that takes a little at a time, so that the server has always more for it."""

    def __init__(self, port: int) -> None:
        self.sock = stalling_client(port)
        self.sock.settimeout(20)
        self.got = 0

    def take(self) -> bool:
        data = self.sock.recv(4096)
        self.got += len(data)
        return bool(data)


def test_a_client_that_is_slow_is_not_stalled(kind: str) -> None:
    """It takes a little at a time, for several times the stall_timeout, and is never up to date."""
    with serving(kind, stall_timeout=1.5) as server:
        client = Trickle(server.port)
        until(lambda: len(server.clients) == 1)
        (peer,) = server.clients
        for _ in range(100):
            server.broadcast(image(200_000))
        until(lambda: peer.queued > 50)
        end = time.monotonic() + 4.5
        while time.monotonic() < end:  # so slowly that this system takes nothing new for seconds
            assert client.take()
            time.sleep(0.15)
        assert (server.gone, peer.queued > 50, peer.close_reason) == ({}, True, None)
        client.sock.close()


def test_a_closed_connection_waits_until_the_peer_has_what_was_sent(kind: str) -> None:
    """What the client still sends would make the system cut a connection that was closed before
    that, and the client would lose the rest."""
    with serving(kind) as server:
        client = Trickle(server.port)
        until(lambda: len(server.clients) == 1)
        (peer,) = server.clients
        server.broadcast(image(100_000))
        until(lambda: peer.stats.sent == 1)
        going = threading.Thread(target=server.disconnect, args=(peer.id,))
        going.start()
        end = time.monotonic() + 1.5  # longer than a client has to close when all was sent
        while time.monotonic() < end:
            client.sock.sendall(transform().pack())
            time.sleep(0.02)
        while client.take():
            pass
        assert client.got == len(image(100_000).pack())
        client.sock.close()
        going.join(20)


def test_a_connection_that_is_closing_still_counts(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, closing, go = Connection.finish, threading.Event(), threading.Event()

    async def slow_finish(self: Connection, *args: Any, **options: Any) -> None:
        closing.set()
        while not go.is_set():
            await asyncio.sleep(0.001)
        await finish(self, *args, **options)

    monkeypatch.setattr(Connection, "finish", slow_finish)
    with serving(kind, max_clients=1) as server:
        igtl.connect(port=server.port).close()
        assert closing.wait(20)
        with igtl.connect(port=server.port) as second, pytest.raises(igtl.ConnectionClosed):
            second.recv(timeout=20)
        assert server.refused == {"max_clients": 1}
        go.set()
        until(lambda: server.clients == [])


def new_connection() -> Connection:
    options = AioConnectOptions()
    return Connection(new_session(options, options))


def test_what_is_thrown_away_takes_no_memory_of_its_own() -> None:
    async def buffers() -> list[Any]:
        found = []
        for _ in range(2):
            connection = new_connection()
            connection._discards = True
            found.append(connection.get_buffer(-1).obj)
        return found

    first, second = asyncio.run(buffers())
    assert first is second


def test_nothing_is_written_inside_resume_writing() -> None:
    """asyncio would end the connection twice when that write fails."""

    class Transport:
        def __init__(self) -> None:
            self.written: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.written.append(bytes(data))

        def is_closing(self) -> bool:
            return False

        def get_write_buffer_size(self) -> int:
            return 0

    async def run() -> None:
        connection, transport = new_connection(), Transport()
        connection.transport = transport  # type: ignore[assignment]
        connection._ready.set_result(None)
        wire = transform().pack()
        connection.pause_writing()
        connection.put(packed.Packed(wire))
        connection.resume_writing()
        assert transport.written == []
        await asyncio.sleep(0)
        assert transport.written == [wire]

    asyncio.run(run())


def test_block_waits_for_the_slowest_until_it_is_dropped(kind: str) -> None:
    with serving(kind, policy="block", max_queued=4, stall_timeout=0.5) as server:
        with igtl.connect(port=server.port) as live, stalling_client(server.port):
            until(lambda: len(server.clients) == 2)
            got: list[Any] = []
            reader = threading.Thread(target=lambda: got.extend(live), daemon=True)
            reader.start()
            for _ in range(100):
                server.broadcast(image(100_000))
            assert server.gone == {"stalled": 1}
            until(lambda: len(got) == 100)
        reader.join(5)


def test_packed_at_the_call_and_once_per_version(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = packed.in_version

    def counted(wire: bytes, version: int) -> packed.Form:
        made.append(version)
        return make(wire, version)

    with serving(kind) as server, contextlib.ExitStack() as stack:
        links = [stack.enter_context(igtl.connect(port=server.port)) for _ in range(6)]
        for link in links[:3]:
            link.send_hello()
        until(lambda: sorted(p.header_version for p in server.clients) == [1, 1, 1, 2, 2, 2])
        pixels = np.zeros((1, 300, 300), np.uint8)
        im = igtl.Image(pixels, device_name="US", message_id=5, metadata={"a": "b"})
        monkeypatch.setattr(packed, "in_version", counted)
        for k in range(4):
            pixels[:] = k
            server.broadcast(im)
        for k in range(4):
            for n, link in enumerate(links):
                got = link.recv(igtl.Image, timeout=5)
                assert got.array.min() == got.array.max() == k
                assert dict(got.metadata) == ({"a": "b"} if n < 3 else {})
                assert got.message_id == (5 if n < 3 else 0)
        assert [p.stripped for p in server.clients] == [0, 0, 0, 4, 4, 4]
        assert made == [1, 1, 1, 1]  # of the bytes of version 2, once for all that need it
        assert im.metadata == {"a": "b"}


def test_latched_messages_are_handed_to_a_new_client(kind: str) -> None:
    with serving(kind) as server:
        server.broadcast(transform("Reference", 1), latch=True)
        server.broadcast(transform("Reference", 2), latch=True)
        server.broadcast(transform("Moving", 3))
        server.broadcast(igtl.String("hello", device_name="Note", metadata={"k": "v"}), latch=True)
        for _ in range(2):
            with igtl.connect(port=server.port) as link:
                first, second = link.recv(timeout=5), link.recv(timeout=5)
                assert isinstance(first, igtl.Transform)
                assert (first.device_name, first.position[0]) == ("Reference", 2)
                assert isinstance(second, igtl.String)
                assert (second.string, dict(second.metadata)) == ("hello", {})
                with pytest.raises(TimeoutError):
                    link.recv(timeout=0.02)


def test_shutdown_sends_what_is_queued(kind: str) -> None:
    with serving(kind) as server:
        with igtl.connect(port=server.port) as a:
            until(lambda: len(server.clients) == 1)
            for k in range(50):
                server.broadcast(image(200_000, f"I{k}"))
            closing = threading.Thread(target=lambda: server.shutdown(timeout=10))
            closing.start()
            assert [m.device_name for m in a] == [f"I{k}" for k in range(50)]
            a.close()
            closing.join(10)
        with pytest.raises(OSError):
            igtl.connect(port=server.port, open_timeout=1)


def test_shutdown_does_not_wait_for_ever(kind: str) -> None:
    with serving(kind) as server, stalling_client(server.port):
        until(lambda: len(server.clients) == 1)
        peer = server.clients[0]
        for _ in range(50):
            server.broadcast(image(200_000))
        start = time.monotonic()
        server.shutdown(timeout=0.3)
        assert time.monotonic() - start < 5
        assert peer.stats.sent + peer.stats.lost == 50


# ---- requests ---------------------------------------------------------------------------------


def test_provides(kind: str) -> None:
    with serving(kind) as server, igtl.connect(port=server.port) as link:

        @server.provides(igtl.GetImage, "CT*")
        def _(request: Any, peer: Any) -> Any:
            return image(name=request.device_name or "CT1")

        @server.provides(igtl.GetPoints)
        def _(request: Any, peer: Any) -> Any:
            return None

        @server.provides(igtl.GetTransform)
        def _(request: Any, peer: Any) -> Any:
            raise OSError("disk")

        assert link.query(igtl.GetImage(device_name="CT7"), timeout=5).device_name == "CT7"
        assert link.query(igtl.GetImage(), timeout=5).device_name == "CT1"
        for request in (
            igtl.GetImage(device_name="MR"),
            igtl.GetPoints(device_name="F"),
            igtl.GetTransform(device_name="T"),
            igtl.GetSensor(device_name="S"),
        ):
            assert isinstance(link.query(request, timeout=5), igtl.NoData)
        # on the wire: STATUS 4 with a name, and nothing else
        link.send(igtl.GetImage(device_name="MR"))
        link.send(igtl.GetBind())
        link.send(igtl.StartImage(device_name="Z"))
        link.send(igtl.StopImage(device_name="Z"))
        got = [link.recv(timeout=5) for _ in range(4)]
        assert [(m.code, m.device_name) for m in got if isinstance(m, igtl.Status)] == [
            (4, "MR"),
            (4, "igtl"),
            (4, "Z"),
            (4, "Z"),
        ]
        assert [getattr(m, "error_name", None) for m in got][:2] == ["GET_IMAGE", "GET_BIND"]
        capability = link.query(igtl.GetCapability(), timeout=5)
        assert isinstance(capability, igtl.Capability)
        assert {"IMAGE", "GET_CAPABIL"} <= set(capability.types)
        assert link.query(igtl.GetStatus(), timeout=5).is_ok  # type: ignore[union-attr]
        with pytest.raises(TimeoutError):
            link.recv(timeout=0.02)
        with pytest.raises(TypeError):
            server.provides(igtl.Image)


def frames(n: int = 10**9, closed: list[str] | None = None, pause: float = 0.0) -> Iterator[Any]:
    try:
        for k in range(n):
            time.sleep(pause)
            yield igtl.TrackingData([igtl.Tool("a", matrix=np.eye(4))], device_name=f"T{k}")
    finally:
        if closed is not None:
            closed.append("closed")


def test_provided_stream(kind: str) -> None:
    closed: list[str] = []
    with serving(kind) as server, igtl.connect(port=server.port) as link:

        @server.provides(igtl.StartTrackingData)
        def _(request: Any, peer: Any) -> Any:
            return None if request.coordinate_name == "Moon" else frames(closed=closed)

        with link.stream(igtl.StartTrackingData(resolution_ms=20)) as stream:
            start = time.monotonic()
            got = [stream.recv(timeout=5).device_name for _ in range(16)]
            assert got == [f"T{k}" for k in range(16)]
            assert time.monotonic() - start >= 0.28  # the rate that was asked for
        until(lambda: closed == ["closed"])
        with pytest.raises(TimeoutError):
            link.recv(timeout=0.05)
        with pytest.raises(igtl.CommandFailed):
            with link.stream(igtl.StartTrackingData(coordinate_name="Moon")):
                pytest.fail("it was refused")
        # asked for twice: the second takes the place of the first; the client's end stops it
        for _ in range(2):
            link.send(igtl.StartTrackingData(resolution_ms=5))
            while link.recv(igtl.TrackingData, timeout=20).device_name != "T0":
                pass  # of the stream before
        until(lambda: closed == ["closed"] * 2)
        link.close()
        until(lambda: closed == ["closed"] * 3)


def test_stop_ends_the_stream_of_its_name_and_without_one_all(kind: str) -> None:
    closed: list[str] = []

    def named(name: str) -> Iterator[Any]:
        try:
            while True:
                yield igtl.TrackingData(device_name=name)
        finally:
            closed.append(name)

    with serving(kind) as server, igtl.connect(port=server.port) as link:

        @server.provides(igtl.StartTrackingData)
        def _(request: Any, peer: Any) -> Any:
            return named(request.device_name)

        for name in "ABC":
            link.send(igtl.StartTrackingData(resolution_ms=5, device_name=name))
            link.recv(igtl.TrackingData, name, timeout=5)
        link.send(igtl.StopTrackingData(device_name="B"))
        until(lambda: closed == ["B"])
        link.send(igtl.StopTransform(device_name="A"))  # of another type: nothing to stop
        link.query(igtl.GetStatus(), timeout=5)  # it is handled by now
        for name in "AC":
            link.recv(igtl.TrackingData, name, timeout=5)
        assert closed == ["B"]
        link.send(igtl.StopTrackingData())
        until(lambda: sorted(closed) == ["A", "B", "C"])


def test_provided_stream_that_ends_or_fails(kind: str) -> None:
    with serving(kind) as server, igtl.connect(port=server.port) as link:

        @server.provides(igtl.StartTrackingData)
        def _(request: Any, peer: Any) -> Any:
            yield from frames(2)
            if request.coordinate_name:
                raise OSError("cable")

        for name in ("", "Patient"):
            link.send(igtl.StartTrackingData(coordinate_name=name))
            got = [link.recv(timeout=5).type_name for _ in range(3)]
            assert got == ["RTS_TDATA", "TDATA", "TDATA"]
        told = link.recv(igtl.Status, timeout=5)  # that it failed
        assert (told.code, told.error_name) == (4, "STT_TDATA")
        link.send(igtl.StopTrackingData())
        assert link.recv(timeout=5).type_name == "RTS_TDATA"


def test_a_stream_never_outruns_its_client(kind: str) -> None:
    with serving(kind, max_queued=3) as server, igtl.connect(port=server.port) as link:

        @server.provides(igtl.StartTrackingData)
        def _(request: Any, peer: Any) -> Any:
            return frames(3000)

        with link.stream(igtl.StartTrackingData()) as stream:
            got = [stream.recv(timeout=5).device_name for _ in range(3000)]
        assert got == [f"T{k}" for k in range(3000)]
        assert server.clients[0].stats.lost == 0


def test_commands_while_the_link_goes_on_streaming(kind: str) -> None:
    release = threading.Event()
    with serving(kind) as server, igtl.connect(port=server.port) as link:

        async def segment_async(command: Any, peer: Any) -> str:
            while not release.is_set():
                await asyncio.sleep(0.001)
            return f"<done id='{command.command_id}'/>"

        def segment(command: Any, peer: Any) -> str:
            release.wait(10)
            return f"<done id='{command.command_id}'/>"

        server.command("Segment")(segment if kind == "sync" else segment_async)

        @server.command("Fail")
        def _(command: Any, peer: Any) -> None:
            raise ValueError("no such file")

        @server.command("Own")
        def _(command: Any, peer: Any) -> Any:
            return igtl.CommandReply(command.command_id, "Own", "mine")

        until(lambda: len(server.clients) == 1)
        slow = igtl.Command(77, "Segment")
        link.send(slow)
        for k in range(20):
            server.broadcast(transform(x=k))
        got = [link.recv(igtl.Transform, timeout=5).position[0] for _ in range(20)]
        assert got == list(range(20))
        assert link.command("Own").text == "mine"
        with pytest.raises(igtl.CommandFailed, match="no such file"):
            link.command("Fail")
        with pytest.raises(igtl.CommandFailed, match="no command 'Else'"):
            link.command("Else")
        release.set()
        assert link.recv(igtl.CommandReply, timeout=5).text == "<done id='77'/>"
        link.send_hello()  # with version 2 the result also stands in the metadata
        until(lambda: server.clients[0].header_version == 2)
        with pytest.raises(igtl.CommandFailed) as caught:
            link.command("Fail")
        assert caught.value.reply.metadata["Status"] == "FAIL"
        assert "no such file" in caught.value.reply.metadata["ErrorMessage"]
        assert link.ask(igtl.Command(5, "Own", "x")).command_id == 5


def test_a_server_asks_its_client() -> None:
    with igtl.serve(port=0) as server, igtl.connect(port=server.port) as link:
        results: list[Any] = []

        @server.on(igtl.String)
        def _(message: Any, peer: Any) -> None:  # in a handler, while it keeps receiving
            results.append(peer.query(igtl.GetTransform(device_name="T"), timeout=5))
            results.append(peer.command("Go", timeout=5).text)
            try:
                peer.query(igtl.GetTransform(device_name="none"), timeout=0.05)
            except TimeoutError as error:
                results.append(str(error))

        link.send(igtl.String("ask me"))
        link.recv(igtl.GetTransform, timeout=5)
        link.send(transform("other"))
        link.send(transform("T", 7))
        command = link.recv(igtl.Command, timeout=5)
        link.send(igtl.CommandReply(command.command_id, "Go", "went"))
        until(lambda: len(results) == 3)
        assert results[0].position[0] == 7
        assert results[1] == "went"
        assert "no answer" in results[2]


def test_async_handlers_of_a_blocking_server() -> None:
    with igtl.serve(port=0) as server, igtl.connect(port=server.port) as link:

        @server.on(igtl.String)
        async def _(message: Any, peer: igtl.aio.Peer) -> None:
            await asyncio.sleep(0)
            await peer.send(igtl.String("async " + message.string))

        link.send(igtl.String("x"))
        assert link.recv(igtl.String, timeout=5).string == "async x"


# ---- what one client, handler or type must not do to the others --------------------------------


def shutdown_in(server: Any) -> Any:
    """What a handler does to close its server."""
    return server.server.shutdown(timeout=60)


def echoing(server: Any) -> list[str]:
    """A server that remembers the texts that come."""
    seen: list[str] = []
    server.on(igtl.String)(lambda m, peer: seen.append(m.string))
    return seen


@pytest.mark.parametrize("what", ["answer", "wrong CRC", "unknown version"])
def test_reading_goes_on_after_a_large_message_that_no_handler_gets(kind: str, what: str) -> None:
    with serving(kind) as server, igtl.connect(port=server.port) as link:
        seen = echoing(server)
        until(lambda: len(server.clients) == 1)
        if what == "answer":

            def answer() -> None:
                link.recv(igtl.GetImage, timeout=20)
                link.send(image(2_000_000))

            answering = threading.Thread(target=answer)
            answering.start()
            got = call_in(
                server, server.clients[0].query(igtl.GetImage(device_name="CT"), timeout=20)
            )
            assert got.array.size == 2_000_000
            answering.join(20)
        else:
            wire = bytearray(image(2_000_000).pack())
            wire[-1 if what == "wrong CRC" else 1] ^= 8
            link._transport.send([bytes(wire)])
        link.send(igtl.String("after"))
        until(lambda: seen == ["after"])
        link.close()
        until(lambda: server.clients == [])


class Silly(BaseException):
    """Of the kind that `except Exception` lets pass."""


RAISED = [
    SystemExit(1), StopIteration(), asyncio.CancelledError(), MemoryError(), KeyError("x"), Silly(),
]  # fmt: skip


@pytest.mark.parametrize("coroutine", [False, True], ids=["function", "coroutine"])
@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
def test_what_a_function_of_the_user_raises_stops_nothing(
    kind: str, error: BaseException, coroutine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def function(*args: Any) -> Any:
        raise error

    async def function_async(*args: Any) -> Any:
        raise error

    def frames(request: Any, peer: Any) -> Any:
        class Frames:
            def __iter__(self) -> Any:
                return self

            def __next__(self) -> Any:
                raise error

        return Frames() if not isinstance(error, StopIteration) else function()

    async def frames_async(request: Any, peer: Any) -> Any:
        yield igtl.TrackingData()
        raise error

    work = function_async if coroutine else function
    with serving(kind, start=False) as server:
        seen = echoing(server)
        server.on_connect(work)
        server.on_disconnect(work)
        server.on(igtl.Transform)(work)
        server.command("Go")(work)
        server.provides(igtl.GetImage)(work)
        server.provides(igtl.StartTrackingData)(frames_async if coroutine else frames)
        server.provides(igtl.StartBind)(work)
        started = server.start()
        if started is not None:
            server.loop(started)
        with igtl.connect(port=server.port) as bad, igtl.connect(port=server.port) as good:
            bad.send(transform())
            with pytest.raises(igtl.CommandFailed):
                bad.command("Go", timeout=20)
            assert isinstance(bad.query(igtl.GetImage(device_name="a"), timeout=20), igtl.NoData)
            for start in (igtl.StartTrackingData, igtl.StartBind):
                bad.send(start(device_name="a"))
                told = bad.recv(igtl.Status, timeout=20)
                assert told.error_name == start.type_name
            for link, text in ((bad, "bad"), (good, "good")):
                link.send(igtl.String(text))
                until(lambda t=text: t in seen)
        until(lambda: server.gone == {"closed": 2})
        until(lambda: server.clients == [])
    assert any(r.name == "igtl" and r.exc_info for r in caplog.records)
    assert [r.getMessage() for r in caplog.records if r.name == "asyncio"] == []


class Picky(igtl.Message, type_name="TESTPICKY"):
    """A type of a user whose check raises what is no ProtocolError."""

    n: int = u8()

    def _check(self) -> None:
        if self.n > 5:
            raise KeyError("n over 5")


def test_a_type_whose_check_fails_costs_its_message_alone(kind: str) -> None:
    with serving(kind) as server, igtl.connect(port=server.port) as link:
        seen = echoing(server)
        link._transport.send([Picky(9).pack() * 3, igtl.String("after").pack()])
        until(lambda: seen == ["after"])
        errors = server.clients[0].stats.errors
        assert errors.total() == 3
        link.close()
        until(lambda: server.gone == {"closed": 1})


def test_no_memory_for_a_message_ends_its_client_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, poor = igtl.Protocol.next_message, []

    def next_message(self: igtl.Protocol) -> Any:
        if self.peer in poor:
            raise MemoryError
        return real(self)

    monkeypatch.setattr(igtl.Protocol, "next_message", next_message)
    with serving(kind) as server, igtl.connect(port=server.port) as good:
        seen = echoing(server)
        with igtl.connect(port=server.port) as bad:
            until(lambda: len(server.clients) == 2)
            poor.append(bad.local)
            bad.send(igtl.String("large"))
            until(lambda: server.gone == {"MemoryError": 1})
        good.send(igtl.String("good"))
        until(lambda: seen == ["good"])


def test_a_query_in_a_handler_does_not_wait_behind_what_the_client_streams(kind: str) -> None:
    found: list[Any] = []
    with serving(kind, start=False) as server:

        def ask(message: Any, peer: Any) -> None:
            found.append(peer.query(igtl.GetImage(device_name="CT"), timeout=20))

        async def ask_async(message: Any, peer: Any) -> None:
            found.append(await peer.query(igtl.GetImage(device_name="CT"), timeout=20))

        server.on(igtl.String)(ask if kind == "sync" else ask_async)
        handled: list[Any] = []
        server.on(igtl.Transform)(lambda m, peer: handled.append(m))
        started = server.start()
        if started is not None:
            server.loop(started)
        with igtl.connect(port=server.port) as link:
            link.send(igtl.String("go"))
            link._transport.send([transform().pack() * 12_000])
            link.recv(igtl.GetImage, timeout=20)
            link.send(image(100))
            until(lambda: len(found) == 1)
            stats = server.clients[0].stats
            until(lambda: len(handled) + stats.dropped["unread"] == 12_000)
            assert len(handled) >= 1000  # the inbox is bounded, and what is lost was counted


def test_a_server_that_is_closed_in_its_handler(kind: str) -> None:
    """Nothing waits for the handler that waits for the end."""
    closed = threading.Event()
    with serving(kind, start=False) as server:

        def close(message: Any, peer: Any) -> None:
            shutdown_in(server)
            closed.set()

        async def close_async(message: Any, peer: Any) -> None:
            await shutdown_in(server)
            closed.set()

        server.on(igtl.String)(close if kind == "sync" else close_async)
        started = server.start()
        if started is not None:
            server.loop(started)
        with igtl.connect(port=server.port) as link, igtl.connect(port=server.port) as other:
            other.send(igtl.Status.ok())
            link._transport.send([igtl.String("stop").pack() * 5])  # some wait behind it
            assert closed.wait(20)  # of the 60 s that it may take
            with pytest.raises(OSError):
                igtl.connect(port=server.port, open_timeout=1)


def test_a_server_that_is_closed_by_a_command(kind: str) -> None:
    """The end of its client, which ends the command, does not end the shutdown: another client
    still gets all that is queued for it."""
    with serving(kind, start=False) as server:

        def close(command: Any, peer: Any) -> None:
            shutdown_in(server)

        async def close_async(command: Any, peer: Any) -> None:
            await shutdown_in(server)

        server.command("Stop")(close if kind == "sync" else close_async)
        started = server.start()
        if started is not None:
            server.loop(started)
        with igtl.connect(port=server.port) as link, stalling_client(server.port) as slow:
            until(lambda: len(server.clients) == 2)
            for _ in range(50):
                server.broadcast(image(200_000))
            link.send(igtl.Command(1, "Stop"))
            assert len(list(link)) == 50
            link.close()
            until(lambda: len(server.clients) == 1)
            slow.settimeout(20)
            got = 0
            while data := slow.recv(1 << 16):
                got += len(data)
            assert got == 50 * len(image(200_000).pack())


def test_an_async_handler_of_a_blocking_server_may_broadcast() -> None:
    with igtl.serve(port=0, max_queued=2000, start=False) as server:

        @server.on(igtl.String)
        async def _(message: Any, peer: Any) -> None:
            for k in range(300):
                server.broadcast(transform(x=k))

        server.start()
        with igtl.connect(port=server.port) as link:
            link.send(igtl.String("go"))
            got = [link.recv(igtl.Transform, timeout=20).position[0] for _ in range(300)]
    assert got == list(range(300))


def test_closing_does_not_wait_for_a_command_that_does_not_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = threading.Event()
    with igtl.serve(port=0) as server:
        serve_slowly(server, "sync", release)
        with igtl.connect(port=server.port) as link:
            for what in ("max_commands", "max_requests", "max_streams"):
                link.send(asks(what, 0))
            until(lambda: server._threads._apart == 3)
        start = time.monotonic()
        server.shutdown(timeout=60)
        assert time.monotonic() - start < 20
    release.set()
    gc.collect()
    assert [r for r in caplog.records if r.name == "asyncio"] == []


FORK = """
import os, igtl
server = igtl.serve(port=0)
told, tell = os.pipe()
if (child := os.fork()) == 0:
    try:
        server.broadcast(igtl.String("x"))
    except RuntimeError as error:
        print("child:", error, flush=True)
    server.close()  # not its own
    os.close(tell)
    os.read(told, 1)  # until the parent is done
    os._exit(0)
os.close(told)
with igtl.connect(port=server.port):
    pass
port = server.port
server.close()
try:
    igtl.connect(port=port, open_timeout=5)
except ConnectionRefusedError:
    print("refused")
igtl.serve(port=port).close()
print("free")
os.close(tell)
os.waitpid(child, 0)
"""


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_keeps_nothing_of_a_server() -> None:
    """It gets an error instead of waiting for a thread that it lacks, and the port is free when
    the server was closed."""
    ran = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True
    )
    child, *parent = sorted(ran.stdout.splitlines())
    assert "belongs to the process that this one was forked from" in child
    assert parent == ["free", "refused"]


@pytest.mark.parametrize("as_frame", [False, True], ids=["message", "frame"])
def test_who_comes_between_packing_and_delivery_gets_its_header_version(
    kind: str, as_frame: bool
) -> None:
    """A client that has said nothing is never sent version 2, but for frames as they came."""
    with serving(kind) as server, igtl.connect(port=server.port, hello=True) as new:
        until(lambda: [p.header_version for p in server.clients] == [2])
        inner = server.server._server if kind == "sync" else server.server
        message: Any = igtl.String("x", device_name="S", metadata={"a": "b"}, message_id=3)
        if as_frame:
            message = igtl.Frame.from_bytes(message.pack())
        whole_one = inner.audience.pack(message)
        with igtl.connect(port=server.port) as old:
            until(lambda: len(server.clients) == 2)
            loop = server.server._io.loop if kind == "sync" else server.loop.loop
            rest = inner.pass_on(whole_one, False, True)
            if rest is not None:
                loop.call_soon_threadsafe(inner.deliver_now, *rest)
            got, whole = old.recv(igtl.String, timeout=20), new.recv(igtl.String, timeout=20)
        assert (got.header_version, got.string) == (2 if as_frame else 1, "x")
        assert (whole.header_version, dict(whole.metadata), whole.message_id) == (2, {"a": "b"}, 3)
        assert [p.stripped for p in server.clients if p.header_version == 1] in ([], [not as_frame])


# ---- streams that begin and end ----------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2], ids=["asked once", "asked twice"])
def test_a_stream_is_stopped_while_its_provider_begins(kind: str, times: int) -> None:
    begun, go = threading.Event(), threading.Event()

    def provide(request: Any, peer: Any) -> Any:
        begun.set()
        assert go.wait(20)
        return frames()

    async def provide_async(request: Any, peer: Any) -> Any:
        begun.set()
        while not go.is_set():
            await asyncio.sleep(0.001)
        return frames()

    with serving(kind) as server, igtl.connect(port=server.port) as link:
        server.provides(igtl.StartTrackingData)(provide if kind == "sync" else provide_async)
        for _ in range(times):
            link.send(igtl.StartTrackingData(resolution_ms=1))
        assert begun.wait(20)
        link.send(igtl.StopTrackingData())
        assert link.recv(timeout=20).type_name == "RTS_TDATA"
        go.set()
        peer = server.clients[0]
        for k in range(50):  # nothing of the stream comes between, nor later
            link.send(igtl.GetStatus(device_name=f"S{k}"))
            assert isinstance(link.recv(timeout=20), igtl.Status)
        assert peer.stats.streams.keys() & {("TDATA", "T0")} == set()


def test_a_stream_asked_for_again_begins_when_the_last_one_has_ended(kind: str) -> None:
    """A device that two hold at once is one that none can use."""
    events: list[str] = []

    def held(name: str) -> Iterator[Any]:
        events.append(f"{name} opens")
        try:
            while True:
                yield igtl.TrackingData([igtl.Tool(name)])
        finally:
            time.sleep(0.05)  # it takes a moment
            events.append(f"{name} closes")

    names = iter("abc")
    with serving(kind) as server, igtl.connect(port=server.port) as link:

        @server.provides(igtl.StartTrackingData)
        def _(request: Any, peer: Any) -> Any:
            return held(next(names))

        for name in "abc":
            link.send(igtl.StartTrackingData(resolution_ms=1))
            while link.recv(igtl.TrackingData, timeout=20).tools[0].name != name:
                pass  # of the one before
        link.send(igtl.StopTrackingData())
        until(lambda: len(events) == 6)
    opened = [event for event in events if "opens" in event]
    assert events == [e for name in opened for e in (name, name.replace("opens", "closes"))]


# ---- work in progress --------------------------------------------------------------------------


def asks(what: str, k: int) -> igtl.Message:
    if what == "max_commands":
        return igtl.Command(k + 1, "Slow")
    if what == "max_streams":
        return igtl.StartTrackingData(device_name=f"D{k}")
    return igtl.GetImage(device_name=f"D{k}")


def serve_slowly(server: Any, kind: str, release: threading.Event) -> None:
    """Commands, requests and streams that end when they are released."""

    def slow(message: Any, peer: Any) -> None:
        assert release.wait(30)

    async def slow_async(message: Any, peer: Any) -> None:
        while not release.is_set():
            await asyncio.sleep(0.001)

    work = slow if kind == "sync" else slow_async
    server.command("Slow")(work)
    server.provides(igtl.GetImage)(work)
    server.provides(igtl.StartTrackingData)(work)


@pytest.mark.parametrize("what", ["max_commands", "max_requests", "max_streams"])
def test_work_in_progress_is_bounded(kind: str, what: Any) -> None:
    """Beyond the limit a client is told so; another is served, and so is this one later."""
    release = threading.Event()
    with serving(kind, **{what: 3}) as server:
        serve_slowly(server, kind, release)
        server.provides(igtl.GetTransform)(lambda request, peer: transform("T"))
        with igtl.connect(port=server.port) as link, igtl.connect(port=server.port) as other:
            before = threading.active_count()
            link._transport.send([b"".join(asks(what, k).pack() for k in range(300))])
            for _ in range(297):
                told = link.recv(timeout=20)
                if isinstance(told, igtl.CommandReply):
                    assert "too many commands" in told.text
                else:
                    assert isinstance(told, igtl.Status)
                    assert (told.code, told.error_name) == (6, asks(what, 0).type_name)
            peer = server.clients[0]
            assert peer.stats.dropped == {what: 297}
            assert threading.active_count() <= before + 3
            assert other.query(igtl.GetTransform(device_name="T"), timeout=20)
            release.set()
            for _ in range(3):
                link.recv(timeout=20)
            link.send(asks(what, 1000))
            link.recv(timeout=20)
            assert peer.stats.dropped == {what: 297}


def test_quick_requests_in_a_row_are_all_answered(kind: str) -> None:
    with serving(kind, max_queued=5000) as server, igtl.connect(port=server.port) as link:

        @server.provides(igtl.GetTransform)
        async def _(request: Any, peer: Any) -> Any:
            return transform(request.device_name)

        wire = b"".join(igtl.GetTransform(device_name=f"T{k}").pack() for k in range(900))
        link._transport.send([wire])
        got = {link.recv(igtl.Transform, timeout=20).device_name for _ in range(900)}
        assert got == {f"T{k}" for k in range(900)}


def test_threads_of_clients_that_left_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igtl.blocking.runner._MAX_THREADS", 4)
    release = threading.Event()
    with igtl.serve(port=0) as server:
        serve_slowly(server, "sync", release)
        for _ in range(2):
            with igtl.connect(port=server.port) as link:
                for k in range(2):
                    link.send(asks("max_requests", k))
                until(lambda: server.clients[0].stats.received == 2 if server.clients else False)
            until(lambda: server.clients == [])
        with igtl.connect(port=server.port) as link:
            for what, code in (("max_requests", 6), ("max_streams", 6)):
                link.send(asks(what, 0))
                assert link.recv(igtl.Status, timeout=20).code == code
            with pytest.raises(igtl.CommandFailed, match="one more than 4"):
                link.command("Slow", timeout=20)
            release.set()
            until(lambda: server._threads._apart == 0)
            assert isinstance(link.query(igtl.GetImage(device_name="a"), timeout=20), igtl.NoData)


@pytest.mark.parametrize("name", ["プローブ位置センサ".encode("shift-jis"), b"\xff" * 20, b"\xe9"])
def test_answers_carry_the_device_name_as_its_bytes_came(kind: str, name: bytes) -> None:
    """Of a device name that is no UTF-8, and so grows when it is decoded."""
    requests = [
        igtl.GetTransform(device_name="x"), igtl.GetStatus(device_name="x"),
        igtl.GetCapability(device_name="x"), igtl.StartTrackingData(device_name="x"),
        igtl.StopTrackingData(device_name="x"), igtl.StartBind(device_name="x"),
        igtl.Command(7, "none", device_name="x"),
    ]  # fmt: skip
    with serving(kind) as server, igtl.connect(port=server.port) as link:
        server.provides(igtl.StartTrackingData)(lambda request, peer: [])
        seen = echoing(server)
        for request in requests:
            wire = bytearray(request.pack())
            wire[14:34] = name.ljust(20, b"\0")
            link._transport.send([bytes(wire)])
            assert bytes(link.recv_frame(timeout=20))[14:34] == name.ljust(20, b"\0")
        link.send(igtl.String("there"))
        until(lambda: seen == ["there"])


def test_a_command_whose_name_or_failure_is_no_text_is_answered(kind: str) -> None:
    with serving(kind) as server, igtl.connect(port=server.port, version=2) as link:

        @server.command()
        def _(command: Any, peer: Any) -> Any:
            if command.text == "reply":
                return igtl.CommandReply(command.command_id, "x", "\ud800")
            if command.text == "text":
                return "\ud800"
            raise ValueError("\ud800 \0")

        for k, text in enumerate(("reply", "text", "error")):
            wire = bytearray(igtl.Command(k + 1, "n" * 128, text).pack(version=1))
            wire[62:190] = b"\xff" * 128  # the name
            link._transport.send([mended(bytes(wire))])
            reply = link.recv(igtl.CommandReply, timeout=20)
            assert reply.command_id == k + 1


# ---- life -------------------------------------------------------------------------------------


def test_closing_twice_and_using_it_closed() -> None:
    server = igtl.serve(port=0)
    assert not server.wait(0.01)
    server.close()
    server.close()
    assert server.wait(0)
    with pytest.raises(igtl.ConnectionClosed):
        server.broadcast(transform())
    assert not [t for t in threading.enumerate() if t.name.startswith("igtl")]


WRONG: list[dict[str, Any]] = [
    {"policy": "x"}, {"max_queued": 0}, {"version": 3}, {"crc": "maybe"}, {"keepalive": 1},
    {"max_clients": 0}, {"max_requests": -1}, {"max_commands": -1}, {"max_streams": -1},
]  # fmt: skip
TIMEOUTS = [
    "idle_timeout", "stall_timeout", "message_timeout", "handshake_timeout", "keepalive",
]  # fmt: skip
WRONG += [{name: value} for name in TIMEOUTS for value in (-1, float("nan"))]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_settings_raise_at_once(kind: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        with serving(kind, **wrong):
            pass
    assert not [t for t in threading.enumerate() if t.name.startswith("igtl")]


def test_a_port_that_is_taken(kind: str) -> None:
    with serving(kind) as server, pytest.raises(OSError):
        igtl.serve(port=server.port)
    assert not [t for t in threading.enumerate() if t.name.startswith("igtl")]


def test_infinity_is_no_time_out(kind: str) -> None:
    inf = float("inf")
    with serving(kind, **dict.fromkeys(TIMEOUTS, inf)) as server:
        with igtl.connect(port=server.port) as link:
            answer = threading.Thread(
                target=lambda: link.recv(igtl.GetImage, timeout=20) and link.send(image(100))
            )
            answer.start()
            until(lambda: len(server.clients) == 1)
            query = server.clients[0].query(igtl.GetImage(device_name="CT"), timeout=inf)
            assert call_in(server, query)
            answer.join(20)
        server.shutdown(timeout=inf)


def test_time_outs_of_calls_are_checked(kind: str) -> None:
    with serving(kind) as server, igtl.connect(port=server.port):
        until(lambda: len(server.clients) == 1)
        (peer,) = server.clients
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                call_in(server, peer.query(igtl.GetImage(), timeout=wrong))
            with pytest.raises(ValueError, match="timeout"):
                call_in(server, peer.command("x", timeout=wrong))
            with pytest.raises(ValueError, match="timeout"):
                server.shutdown(timeout=wrong)
            if kind == "sync":
                with pytest.raises(ValueError, match="timeout"):
                    server.wait(wrong)
        with pytest.raises(TimeoutError):  # 0 means at once
            call_in(server, peer.query(igtl.GetImage(), timeout=0))


def test_no_time_out_of_a_server_makes_it_spin() -> None:
    with igtl.serve(port=0, stall_timeout=0, idle_timeout=0, message_timeout=0):
        start = time.thread_time(), time.process_time()
        time.sleep(0.5)
        assert time.process_time() - start[1] < 0.25


# ---- accepting ---------------------------------------------------------------------------------

EMFILE = """
import asyncio, logging, os, resource, sys, time, igtl, igtl.aio
records = []
class Count(logging.Handler):
    def emit(self, record):
        records.append(record.getMessage())
logging.getLogger().addHandler(Count())
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
if sys.argv[1] == "sync":
    server = igtl.serve(port=0)
else:
    from tests.test_server import Asyncio
    server = Asyncio()
server.on(igtl.String)
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
print(server.port, flush=True)
sys.stdin.readline()  # clients are there
begun = time.process_time()
time.sleep(2)
cpu = time.process_time() - begun
for fd in taken:
    os.close(fd)
print(cpu < 0.5, len(records) == 1, server.refused["descriptors"] > 0, flush=True)
sys.stdin.readline()
print("served", flush=True)
os._exit(0)
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_without_descriptors_accepting_rests(kind: str) -> None:
    """The processor too; clients that come then are turned away, and later ones are taken in."""
    with subprocess.Popen(
        [sys.executable, "-c", EMFILE, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=Path(__file__).parent.parent,
    ) as process, contextlib.ExitStack() as stack:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            for _ in range(30):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().split() == ["True"] * 3
            with igtl.connect(port=port) as link:
                link.send(igtl.GetStatus())
                assert link.recv(igtl.Status, timeout=20)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == "served"
        finally:
            process.kill()


def test_a_client_that_cannot_be_taken_in_keeps_nobody_out(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gave up before its turn, or something failed for it: the next one is served."""
    loops: type = asyncio.SelectorEventLoop
    accept, failures = loops.sock_accept, [  # type: ignore[attr-defined]
        ConnectionAbortedError(errno.ECONNABORTED, "gave up"), OSError(errno.EPROTO, "broken"),
    ]  # fmt: skip

    async def failing(self: Any, sock: Any) -> Any:
        if failures:
            raise failures.pop()
        return await accept(self, sock)

    monkeypatch.setattr(loops, "sock_accept", failing)
    broken = [True]
    monkeypatch.setattr("igtl.aio.transport.tune", lambda *a, **k: _raise_once(broken))
    with serving(kind) as server:
        for _ in range(3):
            with igtl.connect(port=server.port) as link:
                link.send(igtl.GetStatus())
                assert link.recv(igtl.Status, timeout=20)
    assert (failures, broken) == ([], [])


def test_tls_that_fails_while_it_is_written_ends_its_client_only(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_ssl, client_ssl = contexts()
    wrap, broken = TLSLayer.wrap, [True]

    def failing(self: TLSLayer, data: Any) -> None:
        if broken:  # the server's layer to its first client
            broken.clear()
            raise ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
        wrap(self, data)

    with (
        serving(kind, ssl=server_ssl) as server,
        igtl.connect("127.0.0.1", server.port, ssl=client_ssl) as one,
        igtl.connect("127.0.0.1", server.port, ssl=client_ssl) as other,
    ):
        for link in (one, other):
            link.send(igtl.GetStatus())
            assert link.recv(igtl.Status, timeout=20)
        monkeypatch.setattr(TLSLayer, "wrap", failing)
        server.broadcast(igtl.String("to all"))
        assert other.recv(igtl.String, timeout=20).string == "to all"
        until(lambda: len(server.clients) == 1)
        with pytest.raises((igtl.ConnectionClosed, OSError)):
            one.recv(timeout=20)
    assert broken == []


def _raise_once(todo: list[bool]) -> None:
    if todo:
        todo.clear()
        raise OSError(errno.EINVAL, "the peer has gone")


def test_waiting_for_the_io_thread_inside_it_is_refused() -> None:
    with igtl.serve(port=0) as server, igtl.connect(port=server.port) as link:
        caught: list[str] = []

        @server.on(igtl.String)
        async def _(message: Any, peer: Any) -> None:
            try:
                server.disconnect(peer.id)
            except RuntimeError as error:
                caught.append(str(error))

        link.send(igtl.String("x"))
        until(lambda: len(caught) == 1)


def test_a_flood_of_broadcasts_is_bounded() -> None:
    with igtl.serve(port=0, max_queued=10) as server, stalling_client(server.port):
        until(lambda: len(server.clients) == 1)
        peer = server.clients[0]
        for _ in range(3000):
            server.broadcast(image(20_000))
        server.broadcast(transform())
        until(lambda: peer.stats.sent + peer.stats.lost + peer.queued >= 3000)
        assert peer.queued <= 10


@pytest.mark.parametrize("policy", ["latest", "block"])
def test_what_is_sent_to_a_client_that_was_told_goodbye(
    policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the end of what the server sends and the client's own end."""
    with igtl.serve(port=0, policy=policy) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            until(lambda: len(server.clients) == 1)
            peer = server.clients[0]
            going = threading.Thread(target=server.disconnect, args=(peer.id,))
            going.start()
            client.settimeout(10)
            assert client.recv(100) == b""
            if policy == "block":
                with pytest.raises(igtl.ConnectionClosed):
                    peer.send(igtl.Status.ok())
            else:
                peer.send(igtl.Status.ok())
                until(lambda: peer.stats.dropped["disconnected"] == 1)
        going.join(10)
    assert [r for r in caplog.records if r.name == "asyncio"] == []


def test_the_system_is_not_asked_about_a_client_for_whom_nothing_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server looks at each client twice a second."""
    asked: list[Any] = []
    monkeypatch.setattr("igtl.aio.sending.unsent", lambda sock: asked.append(sock) or 0)
    with igtl.serve(port=0) as server, igtl.connect(port=server.port):
        until(lambda: len(server.clients) == 1)
        (connection,) = server._server.audience.passages
        assert connection.expired(time.monotonic()) is None
        assert asked == []
        server._io.run(server._server.peers[1].send(igtl.Image(np.zeros((1, 4000, 4000), "u1"))))
        assert connection.expired(time.monotonic()) is None
        assert len(asked) == 1


@pytest.mark.parametrize(("version", "kept"), [("auto", False), (1, False), (2, True)])
def test_what_is_packed_for_nobody_fits_who_comes(version: Any, kept: bool) -> None:
    """A client may come between packing and delivery: it gets what its version can hold."""
    with igtl.serve(port=0, version=version) as server:
        message = server._server.audience.pack(transform_with_id())
        protocol = igtl.Protocol(version=version)
        assert igtl.unpack(message.wire_for(protocol)).message_id == (7 if kept else 0)
        assert protocol.stripped == (not kept)


def transform_with_id() -> igtl.Transform:
    return igtl.Transform(np.eye(4), device_name="P", message_id=7)


# ---- another event loop ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "test",
    [
        test_broadcast_send_to_and_disconnect, test_handlers_in_order_by_type_and_device,
        test_bad_messages_of_one_client, test_max_clients, test_shutdown_sends_what_is_queued,
        test_provided_stream, test_commands_while_the_link_goes_on_streaming,
        test_a_message_that_was_begun_is_waited_for_no_longer_than_message_timeout,
        test_a_closed_connection_waits_until_the_peer_has_what_was_sent,
        test_a_server_that_is_closed_in_its_handler, test_a_server_that_is_closed_by_a_command,
        test_quick_requests_in_a_row_are_all_answered, test_a_port_that_is_taken,
        test_infinity_is_no_time_out,
    ],
)  # fmt: skip
def test_on_uvloop(test: Callable[[str], None]) -> None:
    pytest.importorskip("uvloop")
    test("uvloop")
