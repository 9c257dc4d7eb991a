"""What only asyncio has: cancelling, its own time-outs, back-pressure, tasks."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from igtl.codec import rtp
from tests.links import contexts
from tests.test_links import until
from tests.wire import transform


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """In a loop of its own, after which no task is left."""

    async def main() -> None:
        await asyncio.wait_for(work(), 30)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def image(size: int, name: str = "CT") -> igtl.Image:
    return igtl.Image(np.zeros((1, size // 1000, 1000), np.uint8), device_name=name)


async def stalled(link: igtl.aio.Link) -> None:
    """Return when nothing more leaves."""
    before = -1
    while before != (before := link._connection.taken):
        await asyncio.sleep(0.05)


def test_cancelled_recv_loses_nothing() -> None:
    async def main() -> None:
        a, b = await igtl.aio.pipe()
        async with a, b:
            for k in range(200):
                waiting = asyncio.create_task(b.recv())
                await asyncio.sleep(0)
                if k % 2:
                    await a.send(transform(x=k))
                    for _ in range(k % 7):  # at any moment of the arrival
                        await asyncio.sleep(0)
                waiting.cancel()
                try:
                    got = await waiting
                except asyncio.CancelledError:
                    if not k % 2:
                        continue
                    got = await b.recv(timeout=5)
                assert isinstance(got, igtl.Transform)
                assert got.position[0] == k

    run(main)


def test_timeouts_are_honest() -> None:
    async def main() -> None:
        a, b = await igtl.aio.pipe()
        async with a, b:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.05):
                    await b.recv(timeout=10)  # the outer one strikes
            assert "seen" not in str(caught.value)
            with pytest.raises(TimeoutError, match="seen: nothing"):
                async with asyncio.timeout(10):
                    await b.recv(timeout=0.05)
            await a.send(transform())
            assert (await b.recv(timeout=5)).device_name == "Probe"

    run(main)


def test_cancelled_send_goes_out_whole_or_not_at_all() -> None:
    async def main() -> None:
        a, b = await igtl.aio.pipe()
        async with a, b:
            sent = []
            for k in range(30):
                task = asyncio.create_task(a.send(image(500_000 + 1000 * k, f"I{k}")))
                for _ in range(k % 5):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    sent.append(f"I{k}")
            await b.recv(timeout=5)  # begins to read
            await a.send(image(1000, "end"))
            got = []
            async for m in b:
                got.append(m.device_name)
                if m.device_name == "end":
                    break
            assert ["I0", *got] == ["I0", *sent[1:], "end"] or got == [*sent[1:], "end"]
            assert 0 < len(sent) < 30

    run(main)


def test_a_sender_feels_a_reader_that_does_not_read() -> None:
    async def main() -> None:
        async with igtl.aio.listen(port=0) as listener:
            async with igtl.aio.connect(port=listener.port) as a:
                async with await listener.accept(timeout=5) as b:
                    done = 0

                    async def send() -> None:
                        nonlocal done
                        for _ in range(400):
                            await a.send(image(100_000))
                            done += 1

                    task = asyncio.create_task(send())
                    await stalled(a)
                    assert done < 400
                    queue = a.session.outbox
                    assert queue is not None
                    assert queue.bytes <= queue.max_bytes
                    assert (
                        b.session.protocol.waiting <= 1 << 20
                    )  # and the reader's memory is bounded
                    for _ in range(400):
                        await b.recv(timeout=10)
                    await task

    run(main)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "latest"])
def test_policies_of_a_slow_reader(policy: Any) -> None:
    async def main() -> None:
        async with igtl.aio.listen(port=0) as listener:
            opening = igtl.aio.connect(port=listener.port, policy=policy, max_queued=5)
            async with opening as a, await listener.accept(timeout=5) as b:
                n = 300
                for k in range(n):
                    await a.send(image(100_000 + 1000 * k, f"I{k % 2}"))
                    await asyncio.sleep(0)
                assert set(a.stats.dropped) == {policy}
                assert a.session.outbox is not None
                assert a.session.outbox.bytes <= 2 << 20
                reader = asyncio.create_task(collect(b))
                await a.close()
                got = await reader
                assert len(got) + a.stats.lost == n  # sent = received + counted
                assert len(got) == a.stats.sent
                for name in ("I0", "I1"):  # each stream in order
                    sizes = [m.array.size for m in got if m.device_name == name]
                    assert sizes == sorted(sizes)
                    if policy != "drop_newest":
                        assert sizes[-1] == 398_000 + 1000 * int(name[1])

    run(main)


async def collect(link: igtl.aio.Link) -> list[Any]:
    return [m async for m in link]


def resident() -> int:
    """Bytes of memory in use, numpy's and the extension's included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_committed_memory_follows_what_arrives() -> None:
    async def main() -> None:
        async with igtl.aio.listen(port=0) as listener:
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            async with await listener.accept(timeout=5) as link:
                wire = igtl.Image(np.zeros((400, 1000, 1000), np.uint8)).pack_parts()
                before = resident()
                writer.write(bytes(wire[0]) + bytes(1_000_000))  # of 400 MB announced
                with pytest.raises(TimeoutError):
                    await link.recv(timeout=0.2)
                assert resident() - before < 50_000_000
            writer.close()

    run(main)


def test_listener() -> None:
    async def main() -> None:
        listener = await igtl.aio.listen(port=0)
        with pytest.raises(TimeoutError, match="no client"):
            await listener.accept(timeout=0.01)
        links = []

        async def accept() -> None:
            async for link in listener:
                links.append(link)

        task = asyncio.create_task(accept())
        async with igtl.aio.connect(port=listener.port), igtl.aio.connect(port=listener.port):
            while len(links) < 2:
                await asyncio.sleep(0.001)
        await listener.close()
        await task
        for link in links:
            await link.close()
        with pytest.raises(igtl.ConnectionClosed):
            await listener.accept(timeout=1)
        with pytest.raises(OSError):
            await igtl.aio.connect(port=listener.port, open_timeout=1)

    run(main)


def test_open_timeout() -> None:
    async def main() -> None:
        with socket.socket() as mute:  # accepts, and never says anything
            mute.bind(("127.0.0.1", 0))
            mute.listen()
            context = igtl.tls.client()
            with pytest.raises(TimeoutError, match="no connection"):
                await igtl.aio.connect(port=mute.getsockname()[1], ssl=context, open_timeout=0.2)

    run(main)


@pytest.fixture(params=[True, False], ids=["direct", "by Python's socket"])
def by_udp(request: Any, monkeypatch: Any) -> None:
    """Datagrams move past the methods of the socket, or by them as on other systems than Linux."""
    for side in (igtl.aio.udp.Receiver, igtl.aio.udp.Sender):
        monkeypatch.setattr(side, "_direct", request.param)


@pytest.mark.usefixtures("by_udp")
def test_udp() -> None:
    async def main() -> None:
        async with igtl.aio.udp.Receiver(0) as receiver:
            async with igtl.aio.udp.Sender("127.0.0.1", receiver.port) as out:
                for k in range(10):
                    await out.send(transform(x=k))
                for k in range(10):
                    m, address = await receiver.recv(timeout=5)
                    assert isinstance(m, igtl.Transform)
                    assert m.position[0] == k
                    assert address[0] == "127.0.0.1"
                big = image(300_000)
                await out.send(big)
                assert (await receiver.recv(timeout=5))[0] == big
                with pytest.raises(TimeoutError, match="no message"):
                    await receiver.recv(timeout=0.02)
                with pytest.raises(ValueError, match="timeout must be 0 seconds or more"):
                    await receiver.recv(timeout=-1)
                waiting = asyncio.create_task(receiver.recv())
                await asyncio.sleep(0)
                with pytest.raises(RuntimeError):
                    await receiver.recv()
                waiting.cancel()
                await asyncio.wait([waiting])
                await out.send(transform("after"))
                assert (await receiver.recv(timeout=5))[0].device_name == "after"
                ending = asyncio.create_task(receiver.__anext__())
                await asyncio.sleep(0)
                receiver.close()
                with pytest.raises(StopAsyncIteration):
                    await ending

    run(main)


@pytest.mark.usefixtures("by_udp")
def test_wrong_datagrams_do_not_hold_up_a_loop() -> None:
    async def run() -> None:
        stop = threading.Event()
        async with igtl.aio.udp.Receiver(0) as receiver:

            def flood() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                    while not stop.is_set():
                        out.sendto(b"wrong", ("127.0.0.1", receiver.port))

            flooding = asyncio.create_task(asyncio.to_thread(flood))
            try:
                with pytest.raises(TimeoutError, match="no message within"):
                    await receiver.recv(timeout=0.2)
            finally:
                stop.set()
                await flooding

    asyncio.run(run())


@pytest.mark.usefixtures("by_udp")
def test_udp_gives_up_what_is_overdue() -> None:
    async def main() -> None:
        async with igtl.aio.udp.Receiver(0, reassembly_timeout=0.05) as receiver:
            packets = rtp.split(image(300_000).pack(version=2), sequence=0, time=0, ssrc=1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.connect(("127.0.0.1", receiver.port))
                for packet in packets[:-1]:
                    s.send(packet)
                with pytest.raises(TimeoutError):
                    await receiver.recv(timeout=0.5)
                assert receiver.stats.dropped == {"incomplete": 1}
                for packet in rtp.split(
                    image(300_000).pack(version=2), sequence=len(packets), time=0, ssrc=1
                )[:-1]:
                    s.send(packet)
                s.send(transform().pack())
                await receiver.recv(timeout=5)
        assert receiver.stats.dropped == {"incomplete": 2}  # counted by close

    run(main)


@pytest.mark.usefixtures("by_udp")
def test_a_sender_waits_for_room() -> None:
    """Where the system has none for a datagram, it is sent again; closing ends that."""

    class Full(igtl.aio.udp.Sender):
        refusals = 3

        def _hand_on(self, packet: bytes) -> None:
            if self.refusals and not self._closed:
                self.refusals -= 1
                raise BlockingIOError
            super()._hand_on(packet)

    async def main() -> None:
        async with igtl.aio.udp.Receiver(0) as receiver:
            async with Full("127.0.0.1", receiver.port) as out:
                await out.send(transform("late"))
                assert (await receiver.recv(timeout=5))[0].device_name == "late"
                out.refusals = 1_000_000
                stuck = asyncio.create_task(out.send(transform()))
                await asyncio.sleep(0.01)
            with pytest.raises(igtl.ConnectionClosed):
                await stuck

    run(main)


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_what_came_before_a_write_failed_is_handled(secure: bool, uvloop: bool) -> None:
    """A peer sends and leaves while the loop is busy; the next thing that the loop does is to send."""
    server_ssl, client_ssl = contexts() if secure else (None, None)
    got: list[float] = []

    def visit(link: igtl.Link) -> None:
        with link:
            for k in range(10):
                link.send(transform(x=k))

    async def main() -> None:
        async with igtl.aio.serve(port=0, ssl=server_ssl) as server:
            server.on(igtl.Transform)(lambda message, peer: got.append(message.matrix[0, 3]))
            link = await asyncio.to_thread(igtl.connect, "127.0.0.1", server.port, ssl=client_ssl)
            while not server.clients:
                await asyncio.sleep(0.001)
            peer = server.clients[0]
            leaving = threading.Thread(target=visit, args=(link,))
            leaving.start()
            leaving.join()  # without a turn of the loop
            while not peer.connection.is_over:
                await server.broadcast(transform())
            while server.clients:
                await asyncio.sleep(0.001)
            assert got == list(range(10))
            assert peer.stats.received == 10

    if uvloop:
        factory = pytest.importorskip("uvloop").new_event_loop
    else:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(main(), 30))


def test_a_client_that_is_gone_is_forgotten_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        with igtl.serve(port=0) as server:
            with igtl.connect(port=server.port):
                until(lambda: len(server.clients) == 1)
                peer = server.clients[0]._peer
                gone = [weakref.ref(peer), weakref.ref(peer.connection)]
                del peer
            with igtl.connect(port=server.port):
                until(lambda: [ref() for ref in gone] == [None, None])
    finally:
        gc.enable()


def test_a_receiver_goes_on_in_the_callback_that_brings_the_bytes() -> None:
    """Not a turn of the event loop later; but never within another task, nor when cancelled."""
    wire = transform("Probe").pack()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        a, b = await igtl.aio.pipe()
        got: list[str] = []
        where = contextvars.ContextVar("where", default="")

        async def receive() -> None:
            where.set("receiver")
            while True:
                m = await a.recv()
                assert asyncio.current_task() is task
                got.append(f"{m.device_name} {where.get()}")

        def arrive() -> None:
            a._connection.get_buffer(-1)[: len(wire)] = wire
            a._connection.buffer_updated(len(wire))

        def in_callback(done: asyncio.Future[list[str]]) -> None:
            arrive()
            done.set_result(got.copy())

        task = asyncio.create_task(receive())
        await asyncio.sleep(0)
        for k in range(3):
            done = loop.create_future()
            loop.call_soon(in_callback, done)
            assert await done == ["Probe receiver"] * (k + 1)
        arrive()  # within this task: a turn later
        assert len(got) == 3
        await asyncio.sleep(0)
        assert len(got) == 4
        arrive()
        task.cancel()  # after it has come: not lost
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if len(got) == 4:
            assert (await a.recv(timeout=1)).device_name == "Probe"
        waiting = asyncio.create_task(a.recv())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await b.send(transform("next"))
        assert (await a.recv(timeout=5)).device_name == "next"
        await a.close()
        await b.close()

    asyncio.run(main())


def test_one_task_at_a_time_receives() -> None:
    async def main() -> None:
        a, b = await igtl.aio.pipe()
        first = asyncio.create_task(a.recv())
        await asyncio.sleep(0)
        for wait in (a.recv(), a.recv(timeout=1), anext(a), a.latest(igtl.Image, timeout=1)):
            with pytest.raises(RuntimeError, match="another task is receiving"):
                await wait
        await b.send(transform("Probe"))
        assert (await first).device_name == "Probe"
        await a.close()
        await b.close()

    asyncio.run(main())


def test_iterating_ends_with_the_peer_also_with_a_time_out() -> None:
    async def main() -> None:
        for read_timeout in (None, 20):
            a, b = await igtl.aio.pipe(read_timeout=read_timeout)
            await b.send(transform("Probe"))
            await b.close()
            assert [m.device_name async for m in a] == ["Probe"]
            with pytest.raises(StopAsyncIteration):
                await anext(a)
            await a.close()

    asyncio.run(main())


@pytest.mark.usefixtures("by_udp")
def test_frames_come_as_they_are_in_asyncio() -> None:
    wrong = bytearray(transform().pack())
    wrong[60] ^= 1
    big = igtl.Image(np.zeros((10, 100, 300), np.uint8))

    async def work() -> None:
        async with (
            igtl.aio.udp.Receiver(0) as receiver,
            igtl.aio.udp.Sender("127.0.0.1", receiver.port) as out,
        ):
            for bad in (b"garbage", bytes(wrong)):
                out._sock.sendto(bad, out.address)
            frame, address = await receiver.recv_frame(timeout=5)
            assert bytes(frame) == wrong
            assert address[0] == "127.0.0.1"
            await out.send(big)
            frame, _ = await receiver.recv_frame(timeout=5)
            assert frame.unpack() == big
            with pytest.raises(TimeoutError, match="no message within"):
                await receiver.recv_frame(timeout=0)

    asyncio.run(work())
