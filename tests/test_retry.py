"""Connections that come back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from igtl.blocking.opening import open_transport
from igtl.session.backoff import Supervisor
from tests.cpp import free_port
from tests.links import WEBSOCKETS, RawWebSocket
from tests.test_links import until
from tests.wire import frame, transform

QUICK = igtl.Backoff(0.001, 0.02)


@contextlib.contextmanager
def one_client(port: int) -> Iterator[igtl.Link]:
    """A server that is there for one connection."""
    with igtl.listen(port=port) as listener:
        link = listener.accept(timeout=10)
    with link:
        yield link


# ---- the supervisor, without a network --------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def supervisor(backoff: igtl.Backoff, events: list[Any] | None = None) -> tuple[Supervisor, Clock]:
    clock = Clock()
    on_event = events.append if events is not None else None
    limits = Supervisor(("t", 1), backoff, on_event, clock=clock, share=lambda: 1.0)
    return limits, clock


def test_limits_double_up_to_the_maximum() -> None:
    s, _ = supervisor(igtl.Backoff())
    waits = [s.failed(ConnectionRefusedError()) for _ in range(12)]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-3:] == [30, 30, 30]
    assert igtl.Backoff().limit(100_000) == 30


def test_full_jitter() -> None:
    s = Supervisor(("t", 1), igtl.Backoff(1, 1))
    waits = [s.failed(OSError()) for _ in range(500)]
    assert 0 <= min(waits) < 0.1 < 0.9 < max(waits) <= 1
    assert np.mean(waits) == pytest.approx(0.5, abs=0.1)


def test_starts_anew_only_after_a_connection_has_lived() -> None:
    s, clock = supervisor(igtl.Backoff(settled=5))
    waits = []
    for _ in range(5):  # a peer that accepts and closes is no reason to hurry
        s.connected()
        clock.now += 1
        waits.append(s.lost(None))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6]
    s.connected()
    clock.now += 5
    assert s.lost(None) == 0.1


def test_attempts() -> None:
    s, _ = supervisor(igtl.Backoff(attempts=3))
    error = ConnectionRefusedError("third")
    s.failed(OSError())
    s.failed(OSError())
    with pytest.raises(ConnectionRefusedError, match="third"):
        s.failed(error)
    s, _ = supervisor(igtl.Backoff(attempts=1))
    s.connected()
    with pytest.raises(igtl.ConnectionClosed):
        s.lost(None)


@pytest.mark.parametrize(
    "error",
    [ssl.SSLCertVerificationError("bad certificate"), igtl.MessageTooLarge(2, 1), ssl.SSLError()],
)
def test_refusals_are_not_retried_for_ever(error: Exception) -> None:
    s, _ = supervisor(igtl.Backoff())
    s.failed(error)
    s.failed(error)
    s.failed(OSError())  # something else in between
    s.failed(error)
    s.connected()
    s.lost(error)  # with TLS 1.3 it shows after connecting
    with pytest.raises(type(error)):
        s.failed(error)
    s, _ = supervisor(igtl.Backoff())
    for _ in range(10):
        s.failed(ssl.SSLEOFError())  # a server that is restarting


def test_events() -> None:
    events: list[igtl.LinkEvent] = []
    s, _ = supervisor(igtl.Backoff(), events)
    error = OSError("x")
    s.failed(error)
    s.connected()
    s.lost(None)
    assert [(e.kind, e.error, e.delay) for e in events] == [
        ("failed", error, 0.1),
        ("connected", None, 0.0),
        ("disconnected", None, 0.2),
    ]
    assert {e.peer for e in events} == {("t", 1)}


def test_wrong_settings() -> None:
    for settings in ({"initial": 0.0}, {"initial": 2.0, "maximum": 1.0}, {"attempts": 0}):
        with pytest.raises(ValueError):
            igtl.Backoff(**settings)  # type: ignore[arg-type]


# ---- link after link --------------------------------------------------------------------------


def test_reconnect() -> None:
    port = free_port()
    events: list[str] = []
    got: list[list[Any]] = []
    reasons = []

    def use() -> None:
        links = igtl.reconnect(
            "127.0.0.1", port, backoff=QUICK, on_event=lambda e: events.append(e.kind), hello=True
        )
        previous: igtl.Link | None = None
        for link in links:
            if previous is not None:
                assert previous.closed  # the next turn closes the old one first
            got.append([m.device_name for m in link])
            reasons.append(link.close_reason)
            previous = link
            if len(got) == 4:
                return

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    until(lambda: events.count("failed") > 2)
    for k in range(4):
        with one_client(port) as link:
            assert link.recv(timeout=5).device_name == "igtl"  # a hello each time
            link.send(transform(f"T{k}"))
            if k == 1:  # cut in a message
                link._transport.send([transform().pack()[:70]])
    thread.join(10)
    assert got == [["T0"], ["T1"], ["T2"], ["T3"]]
    assert [r.clean for r in reasons if isinstance(r, igtl.ConnectionClosed)] == [
        True, False, True, True,
    ]  # fmt: skip
    assert events.count("connected") == 4
    assert events.count("disconnected") == 3


def test_reconnect_gives_up() -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError):
        next(iter(igtl.reconnect("127.0.0.1", port, backoff=igtl.Backoff(0.001, 0.01, 3))))


def test_a_peer_that_talks_nonsense_is_given_up() -> None:
    with igtl.listen(port=0) as listener:

        def serve() -> None:
            for link in listener:
                with link, contextlib.suppress(igtl.ConnectionClosed):
                    link._transport.send([frame("IMAGE", b"", size=1 << 50)])
                    list(link)

        threading.Thread(target=serve, daemon=True).start()
        turns = 0
        with pytest.raises(igtl.MessageTooLarge):
            for link in igtl.reconnect("127.0.0.1", listener.port, backoff=QUICK):
                turns += 1
                assert list(link) == []
                assert isinstance(link.close_reason, igtl.MessageTooLarge)
        assert turns == 3


def test_reconnect_in_asyncio() -> None:
    async def main() -> None:
        port = free_port()
        got: list[Any] = []
        reasons: list[Any] = []

        async def use() -> None:
            links = igtl.aio.reconnect("127.0.0.1", port, backoff=QUICK)
            async with contextlib.aclosing(links):
                async for link in links:
                    got.append([m.device_name async for m in link])
                    reasons.append(link.close_reason)
                    if len(got) == 3:
                        return

        task = asyncio.create_task(use())
        await asyncio.sleep(0.02)
        for k in range(3):
            async with igtl.aio.listen(port=port) as listener:
                link = await listener.accept(timeout=10)
            async with link:
                await link.send(transform(f"T{k}"))
        await asyncio.wait_for(task, 10)
        assert got == [["T0"], ["T1"], ["T2"]]
        with pytest.raises(ConnectionRefusedError):
            async for _ in igtl.aio.reconnect(port=port, backoff=igtl.Backoff(0.001, 0.01, 3)):
                pass

    asyncio.run(main())


# ---- the link that heals itself ---------------------------------------------------------------


@contextlib.contextmanager
def healing(
    port: int, host: str = "127.0.0.1", **settings: Any
) -> Iterator[tuple[igtl.ReconnectingLink, list[str]]]:
    settings.setdefault("max_age", None)  # tests of what is kept: old poses too
    events: list[str] = []
    with igtl.connect(
        host, port, reconnect=QUICK, on_event=lambda e: events.append(e.kind), **settings
    ) as link:
        yield link, events
    # it may be connecting, and stops after that
    until(lambda: not [t for t in threading.enumerate() if t.name == "igtl reconnect"])


def test_what_is_sent_while_the_peer_is_away_is_kept() -> None:
    port = free_port()
    with healing(port) as (link, events):
        assert not link.connected
        assert not link.wait_connected(0.01)
        pixels = np.zeros((1, 300, 300), np.uint8)
        for k in range(3):
            pixels[:] = k
            link.send(igtl.Image(pixels, device_name=f"I{k}"))  # packed at once
        for turn in range(3):
            with one_client(port) as peer:
                if turn == 0:
                    got = [peer.recv(igtl.Image, timeout=5) for _ in range(3)]
                    assert [int(m.array.max()) for m in got] == [0, 1, 2]
                assert link.wait_connected(5)
                link.send(transform(f"T{turn}"))
                assert peer.recv(igtl.Transform, timeout=5).device_name == f"T{turn}"
            until(lambda: not link.connected)
        link.send(transform("kept"))
        assert link.stats.sent == 6
        assert events.count("connected") == 3
    assert link.stats.dropped == {"closed": 1}
    with pytest.raises(igtl.ConnectionClosed):
        link.send(transform())


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("drop_oldest", [7, 8, 9]), ("drop_newest", [0, 1, 2]), ("latest", [8, 9])],
)
def test_policies_while_the_peer_is_away(policy: Any, kept: list[int]) -> None:
    port = free_port()
    with healing(port, policy=policy, max_queued=3) as (link, _):
        for k in range(10):
            link.send(transform(f"T{k % 2}", k))
        assert link.stats.dropped == {policy: 10 - len(kept)}
        with one_client(port) as peer:
            got = [peer.recv(igtl.Transform, timeout=5).position[0] for _ in kept]
            assert got == kept


def test_the_oldest_is_dropped_by_default() -> None:
    with healing(free_port(), max_queued=3) as (link, _):
        for k in range(10):
            link.send(transform("T", k))
        assert link.stats.dropped == {"drop_oldest": 7}


def test_what_is_queued_is_of_version_1_until_the_peer_has_shown_2() -> None:
    port = free_port()
    with healing(port) as (link, _):
        link.send(transform())
        link.send(igtl.Command(1, "Go"))
        with one_client(port) as peer:
            assert [peer.recv_frame(timeout=5).header_version for _ in range(2)] == [1, 1]


class Stalled:
    """A peer that takes nothing until it is told to read."""

    def __init__(self, port: int, files: Any = None, *, websocket: bool = False) -> None:
        self.context = None if files is None else igtl.tls.server(files.server)
        self.websocket = websocket
        self.listener = socket.create_server(("127.0.0.1", port))
        self.protocol = igtl.Protocol()

    def accept(self) -> Any:
        self.listener.settimeout(20)
        sock, _ = self.listener.accept()
        sock.settimeout(20)
        self.protocol = igtl.Protocol()
        if self.websocket:
            return RawWebSocket(sock, server=True)
        if self.context is not None:
            sock = self.context.wrap_socket(sock, server_side=True)
        return sock

    def read(self, sock: Any, count: int) -> list[Any]:
        got: list[Any] = []
        while len(got) < count:
            data = sock.recv(1 << 20)
            assert data, "the link has closed"
            self.protocol.receive_data(data)
            got.extend(self.protocol.messages())
        return got

    def __enter__(self) -> Stalled:
        return self

    def __exit__(self, *exc: object) -> None:
        self.listener.close()


def picture(k: int) -> igtl.Image:
    return igtl.Image(np.full((1, 1000, 1000), k, np.uint8), device_name=f"I{k}")


@pytest.fixture(params=["tcp", "tls", *WEBSOCKETS[:1]])
def stalled(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[tuple[Stalled, Any]]:
    """A peer, and a healing link to it whose sender has little patience."""
    files = context = None
    if request.param == "tls":
        from tests.test_tls import Files

        files = Files(tmp_path)
        context = igtl.tls.client(files.ca)
    port = free_port()
    # the listener ends first: a link that is connecting to it would not end at once
    websocket = request.param == "ws"
    host = "ws://127.0.0.1" if websocket else "127.0.0.1"
    with (
        healing(port, host, ssl=context) as (link, _),
        Stalled(port, files, websocket=websocket) as peer,
    ):
        yield peer, link


def test_sending_to_a_peer_that_takes_nothing_queues(stalled: tuple[Stalled, Any]) -> None:
    """A pulled cable looks so until keep-alive gives up."""
    peer, link = stalled
    with peer.accept() as sock:
        assert link.wait_connected(10)
        n = 40
        for k in range(n):
            link.send(picture(k))  # returns, though nobody reads
        assert link.stats.sent < n
        assert link.connected
        got = peer.read(sock, n)  # and all of it comes, in order
        assert [m.device_name for m in got] == [f"I{k}" for k in range(n)]
        assert [int(m.array.max()) for m in got] == list(range(n))
        assert int(got[-1].array.min()) == n - 1
        until(lambda: link.stats.sent == n)
        link.send(transform("after"))
        assert peer.read(sock, 1)[0].device_name == "after"


def test_what_a_broken_connection_has_not_taken_goes_to_the_next(
    stalled: tuple[Stalled, Any],
) -> None:
    peer, link = stalled
    n = 20
    with peer.accept():
        assert link.wait_connected(10)
        for k in range(n):
            link.send(picture(k))
        assert link.stats.sent < n
    with peer.accept() as sock:
        names: list[str] = []
        while f"I{n - 1}" not in names:
            names += [m.device_name for m in peer.read(sock, 1)]
        # those before had been taken by the system, and may be lost
        assert names == [f"I{k}" for k in range(n - len(names), n)]
        until(lambda: link.stats.sent == n)
    assert link.stats.dropped == {}


def test_closing_counts_what_a_stalled_peer_has_not_taken(stalled: tuple[Stalled, Any]) -> None:
    peer, link = stalled
    with peer.accept():
        assert link.wait_connected(10)
        for k in range(20):
            link.send(picture(k))
        link.close()
        assert link.stats.sent + link.stats.dropped["closed"] == 20
        assert set(link.stats.dropped) == {"closed"}


def test_a_stream_of_a_peer_that_takes_nothing_is_ended_all_the_same(
    stalled: tuple[Stalled, Any],
) -> None:
    peer, link = stalled
    with peer.accept() as sock:

        def answer() -> None:
            asked.extend(peer.read(sock, 1))
            sock.sendall(igtl.ReadyTrackingData().pack())

        asked: list[Any] = []
        thread = threading.Thread(target=answer)
        thread.start()
        with link.stream(igtl.StartTrackingData(), timeout=20):
            thread.join(20)
            assert [m.type_name for m in asked] == ["STT_TDATA"]
            for k in range(20):
                link.send(picture(k))
        got = [m.type_name for m in peer.read(sock, 21)]
        assert sorted(got) == ["IMAGE"] * 20 + ["STP_TDATA"]


def test_a_request_to_a_peer_that_takes_nothing_times_out(stalled: tuple[Stalled, Any]) -> None:
    peer, link = stalled
    with peer.accept() as sock:
        assert link.wait_connected(10)
        for k in range(20):
            link.send(picture(k))
        with pytest.raises(TimeoutError):
            link.query(igtl.GetImage(), timeout=0.2)
        assert len(peer.read(sock, 20)) == 20
        link.send(transform("next"))
        assert peer.read(sock, 1)[0].device_name == "next"  # the request was not kept


def test_wrong_arguments_are_refused_at_the_call() -> None:
    for opens in (
        lambda **s: igtl.connect(reconnect=QUICK, **s),
        igtl.connect,
        igtl.reconnect,
        igtl.aio.reconnect,
    ):
        with pytest.raises(
            TypeError,
            match=r"no option 'open_timout' \(did you mean 'open_timeout'\?\); the options are compression, ",
        ):
            opens(open_timout=3)  # type: ignore[operator]
        for wrong in (
            {"version": 3}, {"max_size": -1}, {"crc": "maybe"}, {"on_error": "cry"},
            {"inbox_policy": "block"}, {"inbox_messages": 0},
        ):  # fmt: skip
            with pytest.raises((ValueError, TypeError, OverflowError)):
                opens(**wrong)  # type: ignore[operator]
    with pytest.raises(TypeError, match="are for links with reconnect="):
        igtl.connect(policy="latest")  # type: ignore[call-overload]


def test_a_stream_is_asked_for_once_and_never_again_once_it_was_left() -> None:
    """However connecting, asking and leaving fall together."""
    port = free_port()
    tdata = igtl.TrackingData([igtl.Tool("a", matrix=np.eye(4))])
    with healing(port) as (link, events):
        got: list[Any] = []
        leave = threading.Event()

        def use() -> None:
            with link.stream(igtl.StartTrackingData(), timeout=20) as frames:
                got.append(frames.recv(timeout=20))
                leave.wait(20)

        thread = threading.Thread(target=use)
        thread.start()
        until(lambda: link._pump.streams)  # it waits for a peer
        with one_client(port) as peer:
            assert isinstance(peer.recv(timeout=10), igtl.StartTrackingData)
            peer.send(igtl.ReadyTrackingData())
            peer.send(tdata)
            until(lambda: len(got) == 1)
            link.send(transform("end"))
            assert peer.recv(timeout=10).device_name == "end"  # no second request
        until(lambda: "disconnected" in events)
        leave.set()  # while the peer is away
        thread.join(20)
        assert not thread.is_alive()
        with one_client(port) as peer:
            link.send(transform("only"))
            assert peer.recv(timeout=10).device_name == "only"


def test_compression_is_waited_for() -> None:
    with igtl.serve(port=0, compression=True) as server:
        with healing(server.port, compression=True) as (link, _):
            assert link.wait_compressed(20)


def test_a_link_to_which_nothing_refers_is_closed() -> None:
    with igtl.listen(port=0) as listener:
        link = igtl.connect("127.0.0.1", listener.port, reconnect=QUICK)
        with listener.accept(timeout=10) as peer:
            assert link.wait_connected(10)
            thread = link._pump._thread
            with pytest.warns(ResourceWarning, match="unclosed <ReconnectingLink"):  # noqa: PT031
                del link
                gc.collect()
            with pytest.raises(igtl.ConnectionClosed):
                peer.recv(timeout=10)
            thread.join(10)
            assert not thread.is_alive()
        with pytest.raises(TimeoutError):
            listener.accept(timeout=0.2)  # it does not come back
    away = igtl.connect("127.0.0.1", free_port(), reconnect=igtl.Backoff(30, 30))
    thread = away._pump._thread
    with pytest.warns(ResourceWarning, match="unclosed <ReconnectingLink"):  # noqa: PT031
        del away
        gc.collect()
    thread.join(10)
    assert not thread.is_alive()


FORKS = """
import gc, os, time, igtl
with igtl.listen(port=0) as listener:
    link = igtl.connect(port=listener.port, reconnect=igtl.Backoff())
    plain = igtl.connect(port=listener.port)
    incoming = igtl.subscribe(igtl.connect(port=listener.port))
    peers = [listener.accept(timeout=20) for _ in range(3)]
    link.wait_connected(20)
    child = os.fork()
    if child == 0:
        del link, plain, incoming
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    for peer in peers:
        try:
            peer.recv(timeout=0.2)
        except TimeoutError:
            print("alive")
    link.close(), plain.close(), incoming.close()
"""


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
def test_a_forked_child_that_forgets_a_link_does_not_close_the_parents() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["alive"] * 3, done.stderr


def test_lost_framing_is_told_of_once() -> None:
    with igtl.listen(port=0) as listener:

        def serve() -> None:
            for peer in listener:
                with peer, contextlib.suppress(igtl.ConnectionClosed):
                    peer._transport.send([frame("IMAGE", b"", size=1 << 50)])
                    list(peer)

        threading.Thread(target=serve, daemon=True).start()
        with healing(listener.port) as (link, _):
            for _ in range(3):  # no ProtocolError, after which callers go on for ever
                with pytest.raises(igtl.ConnectionClosed, match="exceeds the limit"):
                    link.recv(timeout=20)


def test_block_waits_for_the_peer() -> None:
    port = free_port()
    with healing(port, policy="block", max_queued=2) as (link, _):
        sent: list[int] = []

        def send() -> None:
            for k in range(6):
                link.send(transform(x=k))
                sent.append(k)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        until(lambda: len(sent) == 2)
        time.sleep(0.05)
        assert len(sent) == 2
        with one_client(port) as peer:
            got = [peer.recv(igtl.Transform, timeout=5).position[0] for _ in range(6)]
            assert got == list(range(6))
        thread.join(5)
    blocked = igtl.connect(port=free_port(), reconnect=QUICK, policy="block", max_queued=1)
    blocked.send(transform())
    caught: list[Any] = []

    def wait() -> None:
        try:
            blocked.send(transform())
        except igtl.ConnectionClosed as closed:
            caught.append(closed)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.02)
    blocked.close()
    waiting.join(5)
    assert len(caught) == 1


def test_receiving_goes_on_over_connections() -> None:
    port = free_port()
    with healing(port) as (link, _):
        got: list[str] = []
        thread = threading.Thread(
            target=lambda: got.extend(m.device_name for m in link), daemon=True
        )
        thread.start()
        for turn in range(4):
            with one_client(port) as peer:
                for k in range(20):
                    peer.send(transform(f"{turn}.{k}"))
        until(lambda: len(got) == 80)
        assert got == [f"{turn}.{k}" for turn in range(4) for k in range(20)]
        link.close()
        thread.join(5)
        assert not thread.is_alive()


def test_what_an_old_connection_still_holds_is_read_first() -> None:
    port = free_port()
    with healing(port) as (link, events):
        with pytest.raises(TimeoutError):
            link.recv(timeout=0.01)  # it does receive
        for turn in range(2):
            with one_client(port) as peer:
                for k in range(10):
                    peer.send(transform(f"{turn}.{k}"))
                until(lambda n=turn: events.count("connected") > n)
            until(lambda n=turn: events.count("disconnected") > n)
        got = [link.recv(timeout=5).device_name for _ in range(20)]
        assert got == [f"{turn}.{k}" for turn in range(2) for k in range(10)]


def test_hello_latched_messages_and_streams_are_renewed() -> None:
    port = free_port()
    tdata = igtl.TrackingData([igtl.Tool("a", matrix=np.eye(4))])
    with healing(port, hello=True) as (link, _):
        link.send(transform("Reference", 1), latch=True)
        link.send(transform("Reference", 2), latch=True)
        got: list[Any] = []

        def use() -> None:
            with link.stream(igtl.StartTrackingData(resolution_ms=7), timeout=10) as frames:
                got.extend(frames.recv(timeout=10) for _ in range(6))

        thread = threading.Thread(target=use)
        thread.start()
        for turn in range(3):
            with one_client(port) as peer:
                first = peer.recv(timeout=5)
                assert (first.type_name, first.header_version) == ("STATUS", 2)
                start = peer.recv(igtl.StartTrackingData, timeout=5)
                assert start.resolution_ms == 7
                latched = peer.recv(igtl.Transform, timeout=5)
                assert latched.position[0] in ((1, 2) if turn == 0 else (2,))
                peer.send(igtl.ReadyTrackingData())
                for _ in range(2):
                    peer.send(tdata)
                if turn == 2:
                    assert peer.recv(igtl.StopTrackingData, timeout=5)
                    peer.send(igtl.ReadyTrackingData())
                    thread.join(10)
        assert len(got) == 6
        with pytest.raises(TimeoutError):
            link.recv(timeout=0.02)  # no RTS_TDATA is left over


def test_what_is_latched_while_the_peer_is_away_comes_once_and_in_order() -> None:
    port = free_port()
    with healing(port) as (link, _):
        for k in (1, 2):
            link.send(transform("Reference", k), latch=True)
        link.send(transform("Other", 3), latch=True)
        link.send(igtl.Image(np.zeros((1, 2, 2), np.uint8), device_name="I"), latch=True)
        link.send(transform("Reference", 4))
        link.send(igtl.Status.ok("end"))

        def what_comes() -> list[Any]:
            with one_client(port) as peer:
                if turn:
                    until(lambda: link.connected)
                    link.send(igtl.Status.ok("end"))
                got = []
                while len(got) < (6, 4)[turn]:
                    m = peer.recv(timeout=5)
                    got.append((m.device_name, m.position[0] if m.type_name == "TRANSFORM" else 0))
                with pytest.raises(TimeoutError):
                    peer.recv(timeout=0.05)
                return sorted(got, key=lambda one: one[0])

        turn = 0
        pairs = [("Reference", 1), ("Reference", 2), ("Reference", 4)]
        assert what_comes() == [("", 0), ("I", 0), ("Other", 3), *pairs]
        turn = 1  # what was latched, each once
        assert what_comes() == [("", 0), ("I", 0), ("Other", 3), ("Reference", 2)]
    assert link.stats.dropped == {}


def test_metadata_while_the_version_is_not_known() -> None:
    port = free_port()
    message = igtl.String("x", device_name="N", metadata={"k": "v"})
    with healing(port) as (link, _):
        link.send(message)
        with one_client(port) as peer:
            got = peer.recv(igtl.String, timeout=5)
            assert (got.header_version, dict(got.metadata)) == (1, {})
            until(lambda: link.stripped == 1)
            assert link.wait_connected(5)
            assert got.peer == link.local
            link.send(message)  # connected, still at version 1: the same
            assert peer.recv(igtl.String, timeout=5).header_version == 1
            assert link.stripped == 2
            link.send_hello()
            assert peer.recv(igtl.Status, timeout=5).header_version == 2
            peer.send(igtl.String("now at version 2", metadata={"k": "v"}))
            link.recv(igtl.String, timeout=5)
            link.send(message)
            assert peer.recv(igtl.String, timeout=5).metadata == {"k": "v"}
            assert link.stripped == 2
    with healing(port, version=1) as (fixed, _):
        with pytest.raises(igtl.EncodeError):  # no peer will ever get it whole
            fixed.send(message)


def test_a_connection_that_breaks_as_it_begins() -> None:
    """What the peer had sent by then is read, though a write to it fails first."""
    port = free_port()
    with healing(port, hello=True) as (link, _):
        for k in range(3):
            with one_client(port) as peer:
                peer.send(transform(f"T{k}"))
            assert link.recv(timeout=10).device_name == f"T{k}"


def test_a_connection_that_is_made_when_the_link_was_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Any] = []
    connecting, closed = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        opened.append(open_transport(*args))
        connecting.set()
        closed.wait(10)
        return opened[0]

    monkeypatch.setattr("igtl.blocking.opening.open_transport", slow)
    with igtl.listen(port=0) as listener:
        link = igtl.connect("127.0.0.1", listener.port, reconnect=QUICK)
        connecting.wait(10)
        link.close()
        closed.set()
        link._pump._thread.join(10)  # type: ignore[union-attr]
    assert opened[0].fileno() == -1


def test_a_request_whose_connection_breaks_is_not_waited_for() -> None:
    port = free_port()
    with healing(port) as (link, _):
        with igtl.listen(port=port) as listener:

            def cut() -> None:
                with listener.accept(timeout=10) as peer:
                    peer.recv(igtl.GetImage, timeout=5)

            thread = threading.Thread(target=cut)
            thread.start()
            with pytest.raises(igtl.ConnectionClosed, match="before it answered"):
                link.query(igtl.GetImage(), timeout=20)
            thread.join(5)
            with listener.accept(timeout=10) as peer:  # and it goes on
                peer.send(transform())
                assert link.recv(igtl.Transform, timeout=5).device_name == "Probe"
    with healing(free_port()) as (away, _), pytest.raises(TimeoutError, match="not there"):
        away.query(igtl.GetImage(), timeout=0.05)


def test_giving_up_reaches_everybody() -> None:
    link = igtl.connect(port=free_port(), reconnect=igtl.Backoff(0.001, 0.01, attempts=3))
    with pytest.raises(ConnectionRefusedError):
        link.recv(timeout=10)
    with pytest.raises(ConnectionRefusedError):
        link.send(transform())
    with pytest.raises(ConnectionRefusedError):
        link.wait_connected(1)
    link.close()


def test_what_nobody_has_read_is_kept_and_bounded() -> None:
    port = free_port()
    with healing(port, inbox_messages=10) as (link, events):
        for turn in range(3):
            with one_client(port) as peer:
                for k in range(4):
                    peer.send(transform("T", 10 * turn + k))
                until(lambda n=turn: events.count("connected") > n)
            until(lambda: not link.connected)
        until(lambda: link.stats.dropped == {"unread": 2})
        got = [link.recv(timeout=5).position[0] for _ in range(10)]
        assert got == [2, 3, *(10 * turn + k for turn in (1, 2) for k in range(4))]


def test_frames_go_on_over_connections() -> None:
    """Those that had come before the first call too."""
    port = free_port()
    with healing(port) as (link, events):
        for turn in range(3):
            with one_client(port) as peer:
                peer.send(transform(f"T{turn}"))
                until(lambda n=turn: events.count("connected") > n)
            until(lambda: not link.connected)
            if turn:
                got = [link.recv_frame(timeout=5).device_name for _ in range(3 - turn)]
                assert got == (["T0", "T1"] if turn == 1 else ["T2"])


def test_an_end_is_noticed_without_sending_or_receiving() -> None:
    port = free_port()
    with healing(port) as (link, events):
        with one_client(port) as peer:
            peer.send(transform("unread"))
            until(lambda: link.connected)
        until(lambda: "disconnected" in events)


def test_restarts_are_survived_idly_and_nothing_is_uncounted() -> None:
    """A server that goes and comes back ten times under a client that sends all the time."""
    port = free_port()
    received = 0
    with healing(port, max_queued=50) as (link, events):
        n = 0
        stop = threading.Event()

        def send() -> None:
            nonlocal n
            for _ in igtl.Rate(500):
                if stop.is_set():
                    return
                link.send(transform(f"{n}"))
                n += 1

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        for turn in range(10):
            server = igtl.serve(port=port, start=False)
            count = 0

            @server.on(igtl.Transform)
            def _(message: Any, peer: Any) -> None:
                nonlocal count
                count += 1

            server.start()
            until(lambda k=turn: events.count("connected") > k and count > 20)  # noqa: B023
            server.close()
            received += count
        stop.set()
        thread.join(5)
        cpu = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - cpu < 0.25  # idle while nobody is there
        assert events.count("connected") == 10
        link.close()
    stats = link.stats
    assert n == stats.sent + sum(stats.dropped.values())
    # a server that closes in order reads what the client has sent until the client sees it
    assert received == stats.sent


def test_with_tls(tmp_path: Any) -> None:
    from tests.test_tls import Files

    files = Files(tmp_path)
    port = free_port()
    with healing(port, ssl=igtl.tls.client(files.ca)) as (link, _):
        for turn in range(3):
            with igtl.serve(port=port, ssl=igtl.tls.server(files.server)) as server:
                seen: list[str] = []
                server.on()(lambda m, peer, out=seen: out.append(m.device_name))
                link.send(transform(f"T{turn}"))
                until(lambda: len(seen) > 0)  # noqa: B023
                assert seen == [f"T{turn}"]
            until(lambda: not link.connected)


@pytest.mark.parametrize("receives", [True, False])
def test_a_refused_certificate_is_not_retried_for_ever(tmp_path: Any, receives: bool) -> None:
    """With TLS 1.3 the client connects, and learns that it was refused when it reads."""
    from tests.test_tls import Files

    files = Files(tmp_path)
    context = igtl.tls.server(files.server, client_ca=files.ca)
    with igtl.serve(port=0, ssl=context) as server:
        with healing(server.port, ssl=igtl.tls.client(files.ca)) as (link, events):
            if receives:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    link.recv(timeout=20)
            until(lambda: link.close_reason is not None)
            assert isinstance(link.close_reason, ssl.SSLError)
        assert events.count("connected") <= 6
