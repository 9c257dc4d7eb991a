"""What passes the queue of an asyncio connection, straight to its socket and from any thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from igtl._stream import Audience, Passage, pass_on
from igtl.session.packed import Packed
from igtl.session.session import Session
from tests.test_links import until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing passes there")

POSE = igtl.Transform(np.eye(4), device_name="Probe")
WIRE = POSE.pack(version=1)
NOTED = igtl.Transform(np.eye(4), device_name="Probe", metadata={"a": "b"})


class Way(Passage):
    """A passage to one end of a pair of sockets."""

    def __init__(self, *, version: Any = "auto") -> None:
        self.protocol = igtl.Protocol(version=version)
        super().__init__(Session(self.protocol))
        self.near, self.far = socket.socketpair()
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.resumed = 0
        self.open(self.near.fileno())

    def resume(self) -> None:
        self.resumed += 1

    def close(self) -> None:
        self.near.close()
        self.far.close()


@contextlib.contextmanager
def ways(n: int, **settings: Any) -> Iterator[list[Way]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Way(**settings))) for _ in range(n)]


def test_a_message_passes_where_nothing_waits() -> None:
    with ways(3) as (first, shut, last):
        assert shut.shut() is None
        assert pass_on([first, shut, last], Packed(WIRE)) == [shut]
        for way in (first, last):
            assert way.far.recv(1000) == WIRE
            assert (way.passed, way.protocol.stats.sent, way.protocol.stats.sent_bytes) == (
                len(WIRE), 1, len(WIRE)
            )  # fmt: skip
        assert (shut.passed, shut.protocol.stats.sent) == (0, 0)


def test_what_comes_later_waits_for_what_is_on_its_way_to_the_owner() -> None:
    with ways(1) as (way,):
        way.shut()
        assert pass_on([way], Packed(WIRE)) == [way]
        way.open(way.near.fileno())
        assert not way.is_open
        assert pass_on([way], Packed(WIRE)) == [way]
        way.arrived()
        way.arrived()
        way.open(way.near.fileno())
        assert pass_on([way], Packed(WIRE)) == []


def test_a_message_that_left_in_part_shuts_it() -> None:
    big = igtl.Image(np.zeros((1, 1000, 1000), np.uint8)).pack()
    with ways(2) as (way, other):
        assert pass_on([way, other], Packed(big)) == []
        for each in (way, other):
            assert (each.is_open, each.resumed, each.protocol.stats.sent) == (False, 1, 0)
            begun = each.shut()
            assert begun is not None
            wire, n = begun
            assert (wire, each.passed) == (big, n)
            assert 0 < n < len(big)
            assert each.shut() is None  # told once


def test_a_full_socket_leaves_it_to_the_owner() -> None:
    with ways(1) as (way,):
        with contextlib.suppress(BlockingIOError):
            while True:
                way.near.send(bytes(100_000), socket.MSG_DONTWAIT)
        assert pass_on([way], Packed(WIRE)) == [way]
        assert (way.is_open, way.resumed, way.shut()) == (False, 0, None)


def test_a_broken_socket_is_told_to_the_owner() -> None:
    with ways(1) as (way,):
        way.far.close()
        assert not way.pass_now(WIRE)
        with pytest.raises(BrokenPipeError, match=os.strerror(32)):
            way.shut()
        assert way.shut() is None
        assert way.protocol.stats.sent == 0


def test_the_form_fits_each_peer() -> None:
    """What version 1 cannot hold is for the owner, who waits for the peer to show its version."""
    with ways(1) as (old,), ways(1, version=2) as (new,):
        assert pass_on([old, new], Packed(NOTED.pack(version=2))) == [old]
        assert igtl.unpack(new.far.recv(1000)).metadata["a"] == "b"
        old.arrived()
        old.open(old.near.fileno())
        assert pass_on([old, new], Packed(POSE.pack(version=2))) == []
        assert old.far.recv(1000) == WIRE


def test_an_audience_packs_for_all_who_are_there() -> None:
    audience: Audience[Way, Packed] = Audience(Packed, False)
    assert audience.pass_on(POSE) is None
    with ways(1) as (old,), ways(1, version=2) as (new,):

        def versions() -> list[int]:
            frame = igtl.Frame.from_bytes(NOTED.pack(version=2))
            return [audience.pack(each).version for each in (POSE, NOTED, frame)]

        assert versions() == [1, 2, 0]
        audience.join(new)
        before = audience.passages
        assert (before, versions()) == ([new], [2, 2, 0])
        audience.join(old)
        assert (before, audience.passages, versions()) == ([new], [new, old], [1, 2, 0])
        rest = audience.pass_on(NOTED)
        assert rest is not None
        packed, left = rest
        assert (packed.wire, left) == (NOTED.pack(version=2), [old])
        assert new.far.recv(1000) == packed.wire
        audience.leave(old)
        assert audience.pass_on(packed) is None
        assert audience.passages == [new]


def test_an_audience_takes_messages_only() -> None:
    with pytest.raises(TypeError, match="kind of Wire"):
        Audience(bytes, False)  # type: ignore[type-var]
    with pytest.raises(TypeError):
        Audience(Packed, False).pass_on(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no message header"):
        Packed(b"bytes")


def test_without_a_descriptor_nothing_passes() -> None:
    with ways(1) as (way,):
        way.open(-1)
        assert way.is_open
        assert not way.pass_now(WIRE)
        assert pass_on([way], Packed(WIRE)) == [way]
        way.arrived()
        way.stay_shut()
        way.open(way.near.fileno())
        assert not way.is_open


def test_a_message_leaves_within_the_call() -> None:
    """Broadcasting needs no turn of the event loop where nothing waits."""
    with igtl.serve(port=0) as server, igtl.connect(port=server.port) as link:
        until(lambda: len(server.clients) == 1)
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go.wait(20)

        server._io.loop.call_soon_threadsafe(hold)
        assert held.wait(20)
        try:
            server.broadcast(POSE)
            server.clients[0].send(POSE)
            assert [link.recv(timeout=20), link.recv(timeout=20)] == [POSE, POSE]
        finally:
            go.set()


@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
def test_threads_broadcast_large_and_small_to_a_client_that_pauses(policy: Any) -> None:
    """Each message arrives whole, and each thread's in its order, or is counted as dropped."""
    threads, rounds = 4, 60
    got: list[igtl.Message] = []
    with igtl.serve(port=0, policy=policy, max_queued=20) as server:
        with igtl.connect(port=server.port, read_timeout=20) as link:
            until(lambda: len(server.clients) == 1)
            client = server.clients[0]
            pause = threading.Event()

            def read() -> None:
                for message in link:
                    got.append(message)
                    if len(got) % 40 == 0:
                        pause.wait(0.02)

            def write(k: int) -> None:
                for n in range(rounds):
                    pose = np.eye(4)
                    pose[0, 3] = n
                    server.broadcast(igtl.Transform(pose, device_name=f"T{k}"))
                    if n % 6 == k:
                        pixels = np.full((1, 400, 500 + 300 * k), n, np.uint8)
                        server.broadcast(igtl.Image(pixels, device_name=f"I{k}"))

            reader = threading.Thread(target=read)
            writers = [threading.Thread(target=write, args=(k,)) for k in range(threads)]
            for thread in (reader, *writers):
                thread.start()
            for thread in writers:
                thread.join()
            server.shutdown(timeout=20)
            reader.join(20)
    stats = client.stats
    assert len(got) == stats.sent
    assert stats.sent + sum(stats.dropped.values()) == threads * (rounds + rounds // 6)
    if policy == "block":
        assert not stats.dropped
    for k in range(threads):
        poses = [m.matrix[0, 3] for m in got if m.device_name == f"T{k}"]  # type: ignore[attr-defined]
        images = [m.array[0, 0, 0] for m in got if m.device_name == f"I{k}"]  # type: ignore[attr-defined]
        assert poses == sorted(poses)
        assert images == sorted(images)


def test_a_client_that_resets_is_told_as_such_and_disturbs_no_other() -> None:
    with igtl.serve(port=0) as server, igtl.connect(port=server.port) as link:
        sock = socket.create_connection(("127.0.0.1", server.port))
        until(lambda: len(server.clients) == 2)
        gone = max(server.clients, key=lambda peer: peer.id)
        held, go = threading.Event(), threading.Event()
        server._io.loop.call_soon_threadsafe(lambda: (held.set(), go.wait(20)))
        assert held.wait(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        for _ in range(3):  # before asyncio has seen it
            server.broadcast(POSE)
        go.set()
        assert [link.recv(timeout=20) for _ in range(3)] == [POSE] * 3
        until(lambda: len(server.clients) == 1)
        assert "reset" in str(gone.close_reason)
        assert (gone.stats.sent, gone.stats.dropped) == (0, {"disconnected": 1})


def test_what_is_latched_comes_before_what_is_broadcast_meanwhile() -> None:
    """A client never ends with an older message of a latched stream than was sent last."""
    stop = threading.Event()
    with igtl.serve(port=0) as server:
        last = 0

        def latch() -> None:
            nonlocal last
            while not stop.is_set():
                last += 1
                for name in ("A", "B", "C"):
                    server.broadcast(igtl.String(str(last), device_name=name), latch=True)

        thread = threading.Thread(target=latch)
        thread.start()
        try:
            for _ in range(30):
                with igtl.connect(port=server.port, read_timeout=20) as link:
                    seen: dict[str, int] = {}
                    for _ in range(12):
                        message: Any = link.recv(igtl.String)
                        number = int(message.string)
                        assert number >= seen.get(message.device_name, 0)
                        seen[message.device_name] = number
        finally:
            stop.set()
            thread.join()


def test_what_may_not_pass_is_left_to_be_queued() -> None:
    async def run() -> None:
        a, b = await igtl.aio.pipe(version=1)
        async with a, b:
            connection = a._connection
            connection.take_over()
            left = connection.send_now(POSE, True)
            assert left is not None
            assert left.wire == WIRE
            connection.flush()
            assert connection.send_now(POSE, True) is None
            connection.put(left)
            assert [await b.recv(timeout=20), await b.recv(timeout=20)] == [POSE, POSE]

    asyncio.run(run())


def test_asyncio_links_pass_it_too() -> None:
    async def run() -> None:
        a, b = await igtl.aio.pipe(version=1)
        async with a, b:
            await a.send(POSE)
            assert a._connection.passed == len(WIRE)
            assert await b.recv(timeout=20) == POSE

    asyncio.run(run())
