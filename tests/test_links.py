"""One behaviour, over every kind of link: in memory, TCP, TLS, asyncio, asyncio with TLS, uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from igtl.session.requests import name_fits
from tests.cpp import free_port
from tests.links import KINDS, WEBSOCKETS, Aio, loop_for, pair, raw_pair
from tests.wire import frame, transform

SOCKETS = [kind for kind in KINDS if kind != "pipe"]
NO_TLS = [kind for kind in KINDS if not kind.endswith("tls")]
Pair = tuple[Any, Any]


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with pair(request.param) as both:
        yield both


@pytest.fixture(params=KINDS)
def raw(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with raw_pair(request.param) as both:
        yield both


def run(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def image(size: int = 2_400_000, name: str = "CT") -> igtl.Image:
    pixels = np.random.default_rng(1).integers(0, 255, (1, size // 1000, 1000), np.uint8)
    return igtl.Image(pixels, device_name=name)


def is_receiving(link: Any) -> bool:
    receiving = link._receiving
    return bool(receiving if isinstance(receiving, bool) else receiving.locked())


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """For states that nothing signals."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


# ---- order and content ------------------------------------------------------------------------


def test_there_and_back(ends: Pair) -> None:
    a, b = ends
    t = transform()
    a.send(t)
    got = b.recv(timeout=5)
    assert got == t
    assert got.received == pytest.approx(time.time(), abs=60)
    assert got.received_monotonic <= time.monotonic()
    assert got.peer == b.peer
    b.send(igtl.Status.ok("thanks", device_name="B"))
    assert a.recv(igtl.Status, timeout=5).message == "thanks"
    assert (a.stats.sent, a.stats.received) == (1, 1)
    assert a.stats.streams["TRANSFORM", "Probe"].sent == 1
    assert b.stats.streams["TRANSFORM", "Probe"].received_bytes == a.stats.sent_bytes
    assert a.close_reason is None


def test_order(ends: Pair) -> None:
    a, b = ends
    messages: list[igtl.Message] = []
    for k in range(300):
        messages.append(transform(f"T{k % 7}", k))
        if k % 50 == 0:
            messages.append(image(200_000 + k, "CT"))
    thread = run(lambda: [a.send(m) for m in messages])
    got = [b.recv(timeout=20) for _ in messages]
    thread.join(10)
    for name in {m.device_name for m in messages}:  # a pose may overtake an image that waits
        of_stream = [m for m in messages if m.device_name == name]
        assert [m for m in got if m.device_name == name] == of_stream


def test_large_both_ways_at_once(ends: Pair) -> None:
    a, b = ends
    im = image(10_000_000)
    got: list[igtl.Message] = []
    threads = [run(lambda: a.send(im)), run(lambda: b.send(im))]
    threads.append(run(lambda: got.append(a.recv(timeout=20))))
    got.append(b.recv(timeout=20))
    for thread in threads:
        thread.join(20)
    assert got == [im, im]


def test_many_threads_send_while_one_receives(ends: Pair) -> None:
    a, b = ends
    back = run(lambda: [b.send(image(100_000, "back")) for _ in range(20)])
    threads = [
        run(lambda n=n: [a.send(transform(f"T{n}", k)) for k in range(100)])  # type: ignore[misc]
        for n in range(4)
    ]
    drain = run(lambda: [a.recv(igtl.Image, timeout=20) for _ in range(20)])
    seen: dict[str, list[float]] = {}
    for _ in range(400):
        m = b.recv(igtl.Transform, timeout=20)
        seen.setdefault(m.device_name, []).append(float(m.position[0]))
    assert seen == {f"T{n}": list(range(100)) for n in range(4)}
    for thread in (*threads, back, drain):
        thread.join(20)


def test_array_may_be_reused_right_after_send(ends: Pair) -> None:
    a, b = ends
    pixels = np.zeros((4, 200, 200), np.uint8)
    im = igtl.Image(pixels)
    got: list[igtl.Image] = []
    thread = run(lambda: got.extend(b.recv(igtl.Image, timeout=10) for _ in range(5)))
    for k in range(5):
        pixels[:] = k
        a.send(im)
    thread.join(20)
    assert [int(m.array.min()) for m in got] == [int(m.array.max()) for m in got] == [0, 1, 2, 3, 4]


def test_frames_pass_a_relay_unchanged(ends: Pair) -> None:
    a, b = ends
    wire = bytearray(transform().pack())
    wire[70] ^= 1  # a wrong CRC
    p = igtl.Protocol()
    p.receive_data(bytes(wire) + igtl.Unknown("ODD", b"??", device_name="X").pack())
    sent = list(p.frames())
    for f in sent:
        a.send(f)
    got = [b.recv_frame(timeout=5) for _ in sent]
    assert [bytes(f) for f in got] == [bytes(f) for f in sent]
    a.send(transform())
    assert next(iter(b.frames())).type_name == "TRANSFORM"


# ---- however the bytes arrive -----------------------------------------------------------------


def test_split_at_every_byte_and_glued(raw: Pair) -> None:
    link, other = raw
    wire = transform().pack()
    message = igtl.unpack(wire)
    for at in range(1, len(wire)):
        other.sendall(wire[:at])
        if at % 20 == 0:  # in different calls of the system, too
            with pytest.raises(TimeoutError):
                link.recv(timeout=0.005)
        other.sendall(wire[at:] + wire)
        assert link.recv(timeout=5) == message
        assert link.recv(timeout=5) == message


def test_time_out_in_mid_message_loses_nothing(raw: Pair) -> None:
    link, other = raw
    for message in (transform(), image(300_000)):
        wire = message.pack()
        cuts = (0, 30, 70, len(wire) // 2 + 40, len(wire))
        for start, end in itertools.pairwise(cuts[:-1]):
            other.sendall(wire[start:end])
            with pytest.raises(TimeoutError):
                link.recv(timeout=0.02)
        other.sendall(wire[cuts[-2] :])
        assert link.recv(timeout=5) == igtl.unpack(wire)


def test_bad_message_raises_and_the_next_is_read(raw: Pair) -> None:
    link, other = raw
    bad_crc = bytearray(transform().pack())
    bad_crc[80] ^= 4
    version = struct.pack(">H", 9) + transform().pack()[2:]
    other.sendall(
        frame("TRANSFORM", bytes(47)) + bytes(bad_crc) + version + transform("after").pack()
    )
    for error in (igtl.BodyError, igtl.CRCError, igtl.VersionError):
        with pytest.raises(error):
            next(link)
    assert next(link).device_name == "after"
    assert link.stats.errors == {"BodyError": 1, "CRCError": 1, "VersionError": 1}
    assert link.stats.received == 4
    assert link.stats.streams["TRANSFORM", "Probe"].crc_errors == 1


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_closes_the_link(kind: str) -> None:
    with raw_pair(kind, max_size=1000) as (link, other):
        other.sendall(frame("IMAGE", b"", size=1 << 40))
        with pytest.raises(igtl.MessageTooLarge) as caught:
            link.recv(timeout=5)
        assert (caught.value.size, caught.value.limit) == ((1 << 40) + 58, 1000)
        with contextlib.suppress(ConnectionError, OSError):
            assert other.recv() == b""
        # told once: a loop that goes on after bad messages ends
        for _ in range(3):
            with pytest.raises(igtl.ConnectionClosed, match="exceeds the limit") as closed:
                link.recv(timeout=1)
            assert not closed.value.clean
            assert isinstance(closed.value.__cause__, igtl.MessageTooLarge)
        with pytest.raises(igtl.ConnectionClosed):
            link.recv_frame(timeout=1)
        assert isinstance(link.close_reason, igtl.MessageTooLarge)
        link.close()
        with pytest.raises(igtl.ConnectionClosed):
            link.recv(timeout=1)


@pytest.mark.parametrize("kind", NO_TLS)
def test_garbage(kind: str) -> None:
    with raw_pair(kind, max_size=1 << 20) as (link, other):
        other.sendall(np.random.default_rng(3).bytes(5000))
        with pytest.raises(igtl.IgtlError):
            for _ in range(100):
                with contextlib.suppress(igtl.VersionError):
                    link.recv(timeout=0.5)


def test_unknown_types_pass(raw: Pair) -> None:
    link, other = raw
    other.sendall(frame("WHATEVER", b"abc"))
    m = link.recv(timeout=5)
    assert (m.type_name, m.content) == ("WHATEVER", b"abc")
    link.send(m)
    p = igtl.Protocol()
    p.receive_data(other.recv(1000))
    assert list(p.messages()) == [m]


# ---- selective receiving ----------------------------------------------------------------------


def test_selective_recv_keeps_the_rest_in_order(ends: Pair) -> None:
    a, b = ends
    for k in range(3):
        a.send(transform("Stylus", k))
        a.send(igtl.String(f"note {k}", device_name="Log"))
    a.send(transform("ProbeToTracker"))
    assert b.recv(igtl.Transform, "Probe*", timeout=5).device_name == "ProbeToTracker"
    notes = [b.recv(igtl.String, timeout=5).string for _ in range(3)]
    assert notes == ["note 0", "note 1", "note 2"]
    assert [float(b.recv(igtl.Transform, timeout=5).position[0]) for _ in range(3)] == [0, 1, 2]


def test_time_out_says_what_was_seen(ends: Pair) -> None:
    a, b = ends
    a.send(transform("Image_Reference"))
    with pytest.raises(TimeoutError, match=r"Image 'Image'.*TRANSFORM 'Image_Reference'"):
        b.recv(igtl.Image, "Image", timeout=0.2)
    assert b.recv(timeout=5).device_name == "Image_Reference"


@pytest.mark.parametrize("kind", ["tcp", "aio"])
@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("drop_oldest", [4, 5, 6, 7, 8, 9]),
        ("drop_newest", [0, 1, 2, 3, 4, 5]),
        ("latest", [8, 9]),
    ],
)
def test_what_selective_recv_leaves_is_bounded(kind: str, policy: Any, kept: list[int]) -> None:
    settings = {"inbox_policy": policy, "inbox_messages": 3}
    with igtl.listen(port=0) as listener:
        if kind == "tcp":
            link: Any = igtl.connect(port=listener.port, **settings)
        else:
            loop = link_loop()
            link = Aio(loop, loop(_open(igtl.aio.connect(port=listener.port, **settings))))
        with link, listener.accept(timeout=5) as other:
            for k in range(10):
                other.send(transform(f"T{k % 2}", k))
            other.send(igtl.Status.ok(device_name="end"))
            link.recv(igtl.Status, timeout=5)
            got = [int(link.recv(timeout=5).position[0]) for _ in kept]
            assert got == kept
            assert sum(link.stats.dropped.values()) == 10 - len(kept)
            assert set(link.stats.dropped) == {"superseded" if policy == "latest" else "unread"}
            streams = link.stats.streams
            assert sum(sum(s.lost.values()) for s in streams.values()) == 10 - len(kept)
        if kind == "aio":
            loop.close()


@pytest.mark.parametrize("kind", ["tcp", "aio", "healing"])
def test_an_inbox_gives_up_the_oldest_by_default(kind: str) -> None:
    with igtl.listen(port=0) as listener, contextlib.ExitStack() as stack:
        settings: dict[str, Any] = {"port": listener.port, "inbox_messages": 3}
        link: Any
        if kind == "aio":
            loop = link_loop()
            stack.callback(loop.close)
            link = Aio(loop, loop(_open(igtl.aio.connect(**settings))))
        elif kind == "healing":
            link = igtl.connect(**settings, reconnect=igtl.Backoff())
        else:
            link = igtl.connect(**settings)
        with link, listener.accept(timeout=5) as other:
            for k in range(10):
                other.send(transform("T", k))
            other.send(igtl.Status.ok(device_name="end"))
            link.recv(igtl.Status, timeout=5)
            assert link.stats.dropped == {"unread": 7}
            assert [int(link.recv(timeout=5).position[0]) for _ in range(3)] == [7, 8, 9]


def test_brackets_in_a_name_are_no_wildcards(ends: Pair) -> None:
    a, b = ends
    for name in ("Tool1", "Tool[1]", "Tool[12]"):
        a.send(transform(name))
    assert b.recv(igtl.Transform, "Tool[1]", timeout=5).device_name == "Tool[1]"
    assert b.recv(igtl.Transform, "Tool[1?]", timeout=5).device_name == "Tool[12]"
    assert b.recv(igtl.Transform, "Tool*", timeout=5).device_name == "Tool1"


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("", "*", True), ("a", "*", True), ("a", "?", True), ("ab", "?", False),
        ("Tool[1]", "Tool[1]", True), ("Tool1", "Tool[1]", False), ("Tool[1]", "*[1]", True),
        ("[", "[", True), ("]", "[]]", False), ("a]", "a]", True), ("tool", "Tool", False),
        ("a[!b]c", "a[!b]*", True), ("axc", "a[!b]*", False), ("a\nb", "a*b", True),
    ],
)  # fmt: skip
def test_only_the_star_and_the_question_mark_are_wildcards(
    name: str, pattern: str, fits: bool
) -> None:
    assert name_fits(name, pattern) is fits


def link_loop() -> Any:
    from tests.links import Loop

    return Loop()


async def _open(opening: Any) -> Any:
    return await opening


# ---- ends -------------------------------------------------------------------------------------


def test_iteration_ends_when_the_peer_closes(ends: Pair) -> None:
    a, b = ends
    for k in range(5):
        a.send(transform(x=k))
    a.close()
    assert [float(m.position[0]) for m in b] == [0, 1, 2, 3, 4]
    with pytest.raises(igtl.ConnectionClosed) as caught:
        b.recv()
    assert caught.value.clean
    assert b.close_reason is caught.value


def test_closing_loses_nothing_that_was_sent(ends: Pair) -> None:
    a, b = ends
    b.send(transform("unread"))  # closing with this unread resets the connection
    im = image(5_000_000)
    got: list[Any] = []
    thread = run(lambda: got.extend(b))
    a.send(im)
    a.close()
    thread.join(20)
    assert got == [im]


def test_cut_in_mid_message_is_not_clean(raw: Pair) -> None:
    link, other = raw
    other.sendall(transform("whole").pack() + transform().pack()[:60])
    other.close()
    assert next(link).device_name == "whole"
    with pytest.raises(igtl.ConnectionClosed) as caught:
        list(link)
    assert not caught.value.clean


@pytest.mark.parametrize("kind", [k for k in SOCKETS if not k.endswith("tls")])
def test_reset_is_not_clean(kind: str) -> None:
    with raw_pair(kind) as (link, other):
        link.send(transform())  # unread there: its close is a reset
        other.reset()
        with pytest.raises(igtl.ConnectionClosed) as caught:
            link.recv(timeout=5)
        assert not caught.value.clean
        with pytest.raises(igtl.ConnectionClosed):
            for _ in range(100):
                link.send(transform())
                time.sleep(0.005)


def test_a_send_to_a_peer_that_has_closed_ends(raw: Pair) -> None:
    link, other = raw
    other.close()
    assert list(link) == []
    with pytest.raises(igtl.ConnectionClosed):
        while True:
            link.send(transform())


@pytest.mark.parametrize("kind", ["tcp", "aio", "aio-uvloop"])
def test_half_open_peer_still_gets_what_is_sent(kind: str) -> None:
    with raw_pair(kind) as (link, other):
        other.sendall(transform().pack())
        other.half_close()
        assert len(list(link)) == 1
        link.send(transform("answer"))
        assert igtl.unpack(other.recv(106)).device_name == "answer"


def test_close_wakes_recv(ends: Pair) -> None:
    a, _ = ends
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            a.recv()
        except igtl.ConnectionClosed as closed:
            caught.append(closed)

    thread = run(wait)
    until(lambda: is_receiving(a))
    a.close()
    thread.join(5)
    assert len(caught) == 1
    with pytest.raises(igtl.ConnectionClosed):
        a.send(transform())


@pytest.mark.parametrize("kind", SOCKETS)
def test_close_ends_a_send_that_waits(kind: str) -> None:
    with raw_pair(kind) as (link, _):  # the other end does not read
        caught: list[BaseException] = []

        def fill() -> None:
            try:
                while True:
                    link.send(image(1_000_000))
            except igtl.ConnectionClosed as closed:
                caught.append(closed)

        thread = run(fill)
        stalled(link)
        if isinstance(link, Aio):
            link.loop(link.link.close(timeout=0.2))
            assert link.stats.dropped["disconnected"] >= 1
        else:
            link.close()
        thread.join(10)
        assert len(caught) == 1


def stalled(link: Any) -> None:
    """Return when nothing more leaves."""
    before = -1
    while before != (before := link.stats.sent):
        time.sleep(0.3)


def test_a_closed_link_says_so(ends: Pair) -> None:
    a, b = ends
    b.send(transform("kept"))
    with pytest.raises(TimeoutError):
        a.recv(igtl.Status, timeout=0.2)
    a.close()
    a.close()
    assert a.recv(timeout=1).device_name == "kept"  # what had come is not lost
    for timeout in (None, 0, 0.1):
        with pytest.raises(igtl.ConnectionClosed):
            a.recv(timeout=timeout)
    assert list(a) == []


def test_second_receiver_is_refused(ends: Pair) -> None:
    a, b = ends
    thread = run(lambda: a.recv())
    until(lambda: is_receiving(a))
    with pytest.raises(RuntimeError, match="another t"):
        a.recv(timeout=1)
    b.send(transform())
    thread.join(5)


def test_interrupted_send_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    with pair("tcp", write_timeout=60) as (b, a):  # so that it goes through `send`
        send = a._transport.send

        def cut(parts: Any, patience: Any) -> None:
            send([bytes(parts[0])[:70]])
            raise KeyboardInterrupt

        monkeypatch.setattr(a._transport, "send", cut)
        with pytest.raises(KeyboardInterrupt):
            a.send(transform())
        monkeypatch.undo()
        with pytest.raises(igtl.ConnectionClosed):
            a.send(transform())  # it would have been out of step
        with pytest.raises(igtl.ConnectionClosed) as caught:
            b.recv(timeout=5)
        assert not caught.value.clean


@pytest.mark.parametrize("kind", SOCKETS)
def test_a_receiver_learns_that_a_send_has_timed_out(kind: str) -> None:
    """The link is cut in the middle of a message: that is no end in order."""
    with raw_pair(kind, write_timeout=0.3) as (link, _):
        ended: list[Any] = []

        def receive() -> None:
            try:
                ended.extend(link)
            except igtl.ConnectionClosed as closed:
                ended.append(closed)

        thread = run(receive)
        until(lambda: is_receiving(link))
        with pytest.raises(TimeoutError):
            while True:
                link.send(image(1_000_000))
        thread.join(20)
        (closed,) = ended
        assert not closed.clean
        assert "took nothing" in str(closed)
        assert link.close_reason is closed


class Failing:
    """A socket whose system has something to say of its connection."""

    def __init__(self, sock: Any, error: OSError) -> None:
        self._sock = sock
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def fail(self, *args: Any) -> Any:
        raise self._error

    recv_into = sendall = sendmsg = fail


def break_with(link: Any, error: OSError) -> None:
    if isinstance(link, Aio):
        connection = link.link._connection

        async def fail() -> None:
            connection.connection_lost(error)
            connection.transport.abort()

        link.loop(fail())
        return
    transport = link._transport
    use(link, Failing(transport.sock, error))


def use(link: Any, sock: Any) -> None:
    """Let a blocking link move its bytes by this socket."""
    transport = link._transport
    transport.sock = sock
    link._begin(link.session, transport, link.options)


@pytest.mark.parametrize("kind", SOCKETS)
@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH])
def test_an_error_of_the_system_ends_a_link_with_its_reason(kind: str, number: int) -> None:
    with raw_pair(kind) as (link, other):
        other.sendall(transform().pack())
        assert link.recv(timeout=5).device_name == "Probe"
        break_with(link, OSError(number, "what the system says"))
        with pytest.raises(igtl.ConnectionClosed, match="what the system says") as caught:
            next(link)  # no bare TimeoutError, no quiet end
        assert not caught.value.clean
        with pytest.raises(igtl.ConnectionClosed):
            link.recv(timeout=1)


@pytest.mark.parametrize("kind", ["tcp", "tls", *WEBSOCKETS[:1]])
def test_an_error_that_the_sender_has_met_reaches_the_receiver(kind: str) -> None:
    """The system tells it once; then the end looks like one in order."""
    with raw_pair(kind) as (link, other):
        sock = link._transport.sock
        use(link, Failing(sock, OSError(errno.ETIMEDOUT, "what the system says")))
        with pytest.raises(igtl.ConnectionClosed, match="what the system says"):
            link.send(transform())
        use(link, sock)
        other.sendall(transform("on its way").pack())
        assert next(link).device_name == "on its way"
        other.close()
        with pytest.raises(igtl.ConnectionClosed, match="what the system says") as caught:
            next(link)
        assert not caught.value.clean


# ---- time-outs --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOCKETS)
def test_write_timeout_against_a_peer_that_does_not_read(kind: str) -> None:
    with raw_pair(kind, write_timeout=0.3) as (link, other):
        with pytest.raises(TimeoutError, match="took nothing"):
            while True:
                link.send(image(1_000_000))
        with pytest.raises(igtl.ConnectionClosed):
            link.send(transform())
        other.close()


@pytest.mark.parametrize("kind", SOCKETS)
def test_slow_reader_gets_everything(kind: str) -> None:
    with raw_pair(kind, write_timeout=5) as (link, other):
        messages = [image(700_000 + k, f"I{k}") for k in range(12)]
        thread = run(lambda: [link.send(m) for m in messages])
        data = b""
        total = sum(len(m.pack()) for m in messages)
        while len(data) < total:
            data += other.recv(200_000)
            time.sleep(0.001)
        thread.join(10)
        p = igtl.Protocol()
        p.receive_data(data)
        assert list(p.messages()) == messages


@pytest.mark.parametrize("kind", SOCKETS)
def test_read_timeout(kind: str) -> None:
    with raw_pair(kind, read_timeout=0.05) as (link, other):
        with pytest.raises(TimeoutError):
            next(link)
        other.sendall(transform().pack())
        assert as_soon_as_it_comes(lambda: next(link)).device_name == "Probe"


def as_soon_as_it_comes(receive: Callable[[], Any]) -> Any:
    found: list[Any] = []

    def come() -> bool:
        with contextlib.suppress(TimeoutError):
            found.append(receive())
        return bool(found)

    until(come)
    return found[0]


def test_zero_takes_what_has_come_and_waits_for_nothing(ends: Pair) -> None:
    a, b = ends
    a.send(transform())
    assert as_soon_as_it_comes(lambda: b.recv(timeout=0)).device_name == "Probe"
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        b.recv(timeout=0)
    with pytest.raises(TimeoutError):
        b.recv_frame(timeout=0)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("timeout", [0.05, 0.2])
def test_a_time_out_ends_a_wait_while_others_stream(ends: Pair, timeout: float) -> None:
    a, b = ends
    stop = threading.Event()

    def feed() -> None:
        with contextlib.suppress(igtl.ConnectionClosed):
            while not stop.is_set():
                a.send(transform())

    thread = run(feed)
    try:
        b.recv(timeout=10)
        with pytest.raises(TimeoutError, match="TRANSFORM 'Probe'"):
            b.recv(igtl.Image, timeout=timeout)
    finally:
        stop.set()
        b.close()
        thread.join(10)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("tcp", 2000), ("tcp", 300_000), ("tls", 300_000), ("aio", 2000), ("aio", 300_000),
        ("aio-tls", 300_000), ("aio-uvloop", 2000), *((kind, 300_000) for kind in WEBSOCKETS),
    ],
)  # fmt: skip
def test_a_peer_that_stops_in_a_message(kind: str, size: int) -> None:
    wire = image(size).pack()
    with raw_pair(kind, message_timeout=0.6) as (link, other):
        with pytest.raises(TimeoutError):
            link.recv(timeout=0.8)  # between two messages it may be silent
        for cut in range(4):  # slow, but it goes on
            other.sendall(wire[cut * len(wire) // 4 : (cut + 1) * len(wire) // 4])
            if cut < 3:
                with pytest.raises(TimeoutError):
                    link.recv(timeout=0.02)
        assert link.recv(timeout=10) == igtl.unpack(wire)
        other.sendall(wire[:1000])
        with pytest.raises(igtl.ConnectionClosed, match="nothing more of a message") as caught:
            for _ in range(1000):  # however short the waits are
                with contextlib.suppress(TimeoutError):
                    next(link) if size > 2000 else link.recv(timeout=0.02)
        assert not caught.value.clean
        assert link.close_reason is caught.value
        with pytest.raises(igtl.ConnectionClosed):
            link.recv(timeout=1)
        other.close()


@pytest.mark.parametrize("kind", ["tcp", "aio", "aio-tls", *WEBSOCKETS[1:]])
def test_a_receiver_that_is_busy_does_not_take_its_peer_for_silent(kind: str) -> None:
    wire = image(600_000).pack()  # more than what is read ahead
    with raw_pair(kind, message_timeout=1.0) as (link, other):
        thread = run(lambda: [other.sendall(wire) for _ in range(3)])
        time.sleep(1.2)
        for _ in range(3):
            assert link.recv(timeout=10).type_name == "IMAGE"
        thread.join(10)
        other.sendall(wire[:300_000])
        with pytest.raises(TimeoutError):
            link.recv(timeout=0.05)
        if isinstance(link, Aio):  # the loop is busy, and then finds what has come meanwhile
            link.loop.loop.call_soon_threadsafe(time.sleep, 1.2)
            other.sendall(wire[300_000:])
        else:
            other.sendall(wire[300_000:])
            time.sleep(1.2)
        assert link.recv(timeout=10).type_name == "IMAGE"


def test_a_pipe_has_no_connection() -> None:
    sock, other = socket.socketpair()
    with sock, other:
        with pytest.raises(TypeError, match=r"a pipe has no sock; the options are .*read_timeout"):
            igtl.pipe(sock=sock)
        with pytest.raises(TypeError, match=r"a pipe has no drain, keepalive; the options are"):
            igtl.pipe(drain=True, keepalive=3)

        async def awaited(**settings: Any) -> None:
            await igtl.aio.pipe(**settings)

        with pytest.raises(TypeError, match=r"a pipe has no hello, sock; the options are .*policy"):
            asyncio.run(awaited(sock=sock, hello=True))
        sock.sendall(b"x")  # it was not touched
        assert other.recv(1) == b"x"


def test_keepalive_is_set() -> None:
    with igtl.listen(port=0, keepalive=8) as listener:
        with igtl.connect(port=listener.port, keepalive=8) as a, listener.accept() as b:
            for link in (a, b):
                sock = link._transport.sock  # type: ignore[attr-defined]
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    option = socket.TCP_USER_TIMEOUT
                    assert sock.getsockopt(socket.IPPROTO_TCP, option) == 8000
        with pytest.raises(ValueError):
            igtl.connect(port=listener.port, keepalive=0.1)


def test_open_timeout() -> None:
    with socket.socket() as full:  # a backlog of one, taken: further connections hang
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        held = []
        with contextlib.suppress(OSError):
            for _ in range(3):
                s = socket.socket()
                s.setblocking(False)
                held.append(s)
                with contextlib.suppress(BlockingIOError):
                    s.connect(("127.0.0.1", port))
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            igtl.connect("127.0.0.1", port, open_timeout=0.3)
        assert time.monotonic() - start < 5
        for s in held:
            s.close()


# ---- versions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "tls", "aio", "aio-tls", *WEBSOCKETS])
def test_hello_raises_both_ends_to_version_2(kind: str) -> None:
    with pair(kind) as (a, b):
        assert (a.header_version, b.header_version) == (1, 1)
        if isinstance(a, Aio):
            a.loop(a.link.send_hello())
        else:
            a.send_hello()
        status = b.recv(igtl.Status, timeout=5)
        assert (status.header_version, status.code, status.device_name) == (2, 1, "igtl")
        b.send(igtl.Transform(np.eye(4), metadata={"TransformStatus": "OK"}))
        assert a.recv(timeout=5).metadata == {"TransformStatus": "OK"}
        a.send(igtl.String("x", message_id=5))
        assert b.recv(timeout=5).message_id == 5
        a.send(igtl.GetImage(device_name="CT"))  # which is version 1 always
        assert b.recv(timeout=5).header_version == 1


@pytest.mark.parametrize("kind", SOCKETS)
def test_never_version_2_to_a_version_1_peer(kind: str) -> None:
    with raw_pair(kind) as (link, other):
        other.sendall(igtl.Status.ok().pack(version=1))
        link.recv(timeout=5)
        for m in (transform(), igtl.Command(1, "Go"), igtl.String("é"), igtl.Status.ok()):
            link.send(m)
        for m in (igtl.Transform(np.eye(4), message_id=1), igtl.String("", metadata={"a": 1})):
            with pytest.raises(igtl.EncodeError, match="hello=True"):
                link.send(m)
        closing = run(link.close)
        p = igtl.Protocol()
        p.receive_data(other.everything())
        other.close()
        closing.join(10)
        assert [f.header_version for f in p.frames()] == [1, 1, 1, 1]


# ---- requests ---------------------------------------------------------------------------------


def answering(link: Any, work: Callable[[Any], list[igtl.Message]]) -> threading.Thread:
    """The other end: answers each message until it is closed."""

    def serve() -> None:
        with contextlib.suppress(igtl.ConnectionClosed):
            for m in link:
                for reply in work(m):
                    link.send(reply)

    return run(serve)


def test_query(ends: Pair) -> None:
    a, b = ends
    other = igtl.Image(np.zeros((1, 2, 3), np.uint8), device_name="MR")

    def answer(m: Any) -> list[igtl.Message]:
        name = m.device_name
        replies: dict[str, igtl.Message] = {
            "CT": igtl.Image(np.ones((1, 2, 3), np.uint8), device_name="CT"),
            "US": igtl.NoData("IMAGE", device_name="US"),
            "PET": igtl.Status(igtl.StatusCode.NOT_FOUND, device_name="PET"),
            "no": igtl.Status(igtl.StatusCode.ACCESS_DENIED, 0, "GET_IMAGE", device_name="no"),
            "RTS": igtl.ReadyImage(1, device_name="RTS"),
        }
        return [transform("noise"), other, *([replies[name]] if name in replies else [])]

    thread = answering(b, answer)
    image_ = a.query(igtl.GetImage(device_name="CT"), timeout=5)
    assert image_.array[0, 0, 0] == 1
    for name in ("US", "PET", "RTS"):
        nothing = a.query(igtl.GetImage(device_name=name), timeout=5)
        assert (type(nothing), nothing.type_name) == (igtl.NoData, "IMAGE")
    with pytest.raises(igtl.CommandFailed) as caught:
        a.query(igtl.GetImage(device_name="no"), timeout=5)
    assert caught.value.reply.code == igtl.StatusCode.ACCESS_DENIED
    with pytest.raises(TimeoutError, match="GET_IMAGE"):
        a.query(igtl.GetImage(device_name="SPECT"), timeout=0.05)
    assert a.recv(igtl.Image, timeout=5).device_name == "MR"  # what was not asked for is queued
    a.close()
    thread.join(5)


def test_commands(ends: Pair) -> None:
    a, b = ends
    ids = []
    texts: dict[str, tuple[str, dict[str, str]]] = {
        "plain": ("done", {}),
        "xml": ('<CommandReply Name="x" Status="FAIL" Message="no &quot;probe&quot;"/>', {}),
        "good": ('<CommandReply Status="SUCCESS"/>', {}),
        "meta": ("", {"Status": "FAIL", "ErrorMessage": "no disk"}),
    }

    def answer(m: Any) -> list[igtl.Message]:
        if not isinstance(m, igtl.Command):
            return []
        ids.append(m.command_id)
        text, metadata = texts[m.name]
        another = igtl.CommandReply(m.command_id + 1000, m.name, "of another command")
        return [another, igtl.CommandReply(m.command_id, m.name, text, metadata=metadata)]

    thread = answering(b, answer)
    assert a.command("plain", "<go/>").text == "done"
    assert a.command("good").text == '<CommandReply Status="SUCCESS"/>'
    with pytest.raises(igtl.CommandFailed, match='no "probe"') as caught:
        a.command("xml")
    assert caught.value.reply.name == "xml"
    if isinstance(a, Aio):
        a.loop(a.link.send_hello())
    else:
        a.send_hello()
    with pytest.raises(igtl.CommandFailed, match="no disk"):
        a.command("meta")
    assert len(set(ids)) == len(ids) == 4
    a.close()
    thread.join(5)


@pytest.mark.parametrize("acknowledges", [True, False])
def test_stream(ends: Pair, acknowledges: bool) -> None:
    a, b = ends
    seen: list[str] = []
    stop = threading.Event()
    stopped = threading.Event()

    def tracker() -> None:
        tick = 0
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                m = b.recv(timeout=0.005)
                seen.append(m.type_name)
                if acknowledges and m.type_name[:4] in ("STT_", "STP_"):
                    b.send(igtl.ReadyTrackingData())
                if m.type_name == "STP_TDATA":
                    stopped.set()
            if seen and not stopped.is_set():
                tick += 1
                b.send(igtl.Status.ok(device_name="beside"))
                b.send(igtl.TrackingData([igtl.Tool("a", matrix=np.eye(4))], device_name="Tracker"))

    thread = run(tracker)
    with (
        pytest.raises(ZeroDivisionError),
        a.stream(igtl.StartTrackingData(resolution_ms=5)) as frames,
    ):
        for _, m in zip(range(10), frames, strict=False):
            assert m.tools.names == ["a"]
        assert frames.recv(timeout=5).device_name == "Tracker"
        raise ZeroDivisionError
    assert stopped.wait(5)  # also after an error
    stop.set()
    thread.join(5)
    assert seen == ["STT_TDATA", "STP_TDATA"]
    assert a.recv(igtl.Status, timeout=5).device_name == "beside"
    if acknowledges:
        with pytest.raises(TimeoutError):
            a.recv(igtl.TrackingData, timeout=0.05)  # what was on its way is not left over
        with pytest.raises(TimeoutError):
            a.recv(igtl.ReadyTrackingData, timeout=0.05)


@pytest.mark.parametrize("reply", ["RTS", "STATUS", "nothing"])
def test_refused_stream(ends: Pair, reply: str) -> None:
    a, b = ends
    seen: list[str] = []

    def answer(m: Any) -> list[igtl.Message]:
        seen.append(m.type_name)
        if reply == "RTS":
            return [igtl.ReadyTrackingData(1)]
        if reply == "STATUS":
            return [igtl.Status(igtl.StatusCode.NOT_FOUND, device_name="igtl")]
        return []

    thread = answering(b, answer)
    error, timeout = (TimeoutError, 0.2) if reply == "nothing" else (igtl.CommandFailed, 20)
    with pytest.raises(error), a.stream(igtl.StartTrackingData(), timeout=timeout):
        pytest.fail("it was refused")
    a.close()
    thread.join(5)
    assert seen == (["STT_TDATA", "STP_TDATA"] if reply == "nothing" else ["STT_TDATA"])


def test_leaving_a_stream_whose_peer_ignores_stp(ends: Pair) -> None:
    a, b = ends
    stop = threading.Event()

    def tracker() -> None:
        b.recv(igtl.StartTrackingData, timeout=10)
        b.send(igtl.ReadyTrackingData())
        with contextlib.suppress(igtl.ConnectionClosed):
            while not stop.is_set():
                b.send(igtl.TrackingData([igtl.Tool("a", matrix=np.eye(4))]))
                time.sleep(0.001)

    thread = run(tracker)
    left: list[bool] = []

    def use() -> None:
        with a.stream(igtl.StartTrackingData()) as frames:
            frames.recv(timeout=10)
        left.append(True)

    user = run(use)
    user.join(20)
    stop.set()
    a.close()
    thread.join(10)
    assert left == [True]
    assert a.stats.dropped["after_stop"] > 0


# ---- listening --------------------------------------------------------------------------------


class Accepting:
    """A listener of either kind, behind a blocking face."""

    def __init__(self, kind: str, **settings: Any) -> None:
        self.loop = link_loop() if kind == "aio" else None
        if self.loop is None:
            self.listener: Any = igtl.listen(port=0, **settings)
        else:
            self.listener = self.loop(_open(igtl.aio.listen(port=0, **settings)))
        self.port: int = self.listener.port

    def accept(self, timeout: float) -> Any:
        found = self.listener.accept(timeout=timeout)
        return found if self.loop is None else Aio(self.loop, self.loop(found))

    def close(self) -> None:
        if self.loop is None:
            self.listener.close()
        else:
            self.loop(self.listener.close())

    def __enter__(self) -> Accepting:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        if self.loop is not None:
            self.loop.close()


LISTENERS = pytest.mark.parametrize("kind", ["tcp", "aio"])


@LISTENERS
def test_several_accept_at_once(kind: str) -> None:
    with Accepting(kind) as listener, contextlib.ExitStack() as stack:
        got: list[Any] = []

        def accept() -> None:
            try:
                got.append(listener.accept(20))
            except BaseException as error:
                got.append(error)

        threads = [run(accept) for _ in range(5)]
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", listener.port)))
        for thread in threads:
            thread.join(30)
        assert not [g for g in got if isinstance(g, BaseException)]
        assert len({g.peer for g in got}) == 5
        for link in got:
            link.close()
        # and each keeps its own time-out
        waits = run(lambda: contextlib.suppress(igtl.ConnectionClosed) or listener.accept(60))
        with pytest.raises(TimeoutError, match="no client"):
            listener.accept(0.05)
        listener.close()
        waits.join(20)
        assert not waits.is_alive()


@LISTENERS
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNABORTED])
def test_accepting_goes_on_after_an_error(
    kind: str, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("igtl.net.sockets.REST", 0.01)
    failures = [OSError(number, "out of luck")] * 5
    with Accepting(kind) as listener:
        if listener.loop is None:
            real = listener.listener._sock

            class Poor:
                def __getattr__(self, name: str) -> Any:
                    return getattr(real, name)

                def accept(self) -> Any:
                    if failures:
                        raise failures.pop()
                    return real.accept()

            listener.listener._sock = Poor()
        else:
            accept = listener.loop.loop.sock_accept

            async def poor(sock: Any) -> Any:
                if failures:
                    raise failures.pop()
                return await accept(sock)

            monkeypatch.setattr(listener.loop.loop, "sock_accept", poor)
        with caplog.at_level(logging.WARNING, "igtl"):
            for _ in range(3):  # in asyncio the first one is taken by an accept of before
                with igtl.connect(port=listener.port) as link:
                    with listener.accept(20) as other:
                        link.send(transform())
                        assert other.recv(timeout=5).device_name == "Probe"
        assert failures == []
        rests = [r for r in caplog.records if "rests" in r.getMessage()]
        assert len(rests) == (1 if number == errno.EMFILE else 0)


@LISTENERS
def test_an_error_that_stays_is_raised(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Accepting(kind) as listener:
        if listener.loop is None:
            listener.listener._sock.close()
        else:

            async def broken(sock: Any) -> Any:
                raise OSError(errno.EINVAL, "no socket to listen with")

            monkeypatch.setattr(listener.loop.loop, "sock_accept", broken)
            # the accept of before takes the first client
            socket.create_connection(("127.0.0.1", listener.port), 5).close()
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                for _ in range(3):
                    listener.accept(5).close()
            assert caught.value.errno in (errno.EINVAL, errno.EBADF)


@pytest.mark.skipif(not hasattr(socket.socket, "sendmsg"), reason="no fork there")
@LISTENERS
def test_a_copy_of_its_socket_does_not_keep_a_closed_listener(kind: str) -> None:
    """As a forked child has one."""
    with Accepting(kind) as listener:
        inner = listener.listener
        sock = inner._sock if kind == "tcp" else inner._accepting._bound[0].sock
        copy = sock.dup()
        listener.close()
        with copy, pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port), 5)


def test_clients_that_were_not_accepted_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igtl.aio.listener.MAX_ARRIVED", 3)
    with Accepting("aio") as listener, contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(socket.create_connection(("127.0.0.1", listener.port), 5))
        until(lambda: listener.listener._arrived.qsize() == 3)
        for _ in range(10):
            assert listener.listener._arrived.qsize() <= 3
            listener.accept(10).close()


# ---- links that are forgotten -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "aio"])
def test_a_link_to_which_nothing_refers_is_closed(kind: str) -> None:
    with igtl.listen(port=0) as listener:
        loop = None
        link: Any
        if kind == "tcp":
            link = igtl.connect(port=listener.port)
        else:
            loop = link_loop()
            link = loop(_open(igtl.aio.connect(port=listener.port)))
        with listener.accept(timeout=5) as peer:
            with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031
                del link
                gc.collect()
            with pytest.raises(igtl.ConnectionClosed):
                peer.recv(timeout=10)
        if loop is not None:
            loop.close()


# ---- samples of the same instant --------------------------------------------------------------


def pose(angle: float, time_: float, name: str = "Probe") -> igtl.Transform:
    c, s = np.cos(angle), np.sin(angle)
    m = np.array([[c, -s, 0, 100 * angle], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    return igtl.Transform(m, device_name=name, timestamp=time_)


def test_sync(ends: Pair) -> None:
    a, b = ends
    pixels = np.zeros((1, 2, 2), np.uint8)
    for k in range(10):  # 100 Hz poses, 50 Hz images in between, one image alone
        a.send(pose(k, 1000 + 0.01 * k))
        a.send(igtl.Status.ok(device_name="beside"))
        if k % 2:
            a.send(igtl.Image(pixels, device_name="US", timestamp=1000.002 + 0.01 * k))
    a.send(igtl.Image(pixels, device_name="US", timestamp=1009))
    a.send(pose(99, 1010))
    a.close()
    pairs = b.sync((igtl.Image, "US"), (igtl.Transform, "Probe"), tolerance=0.005)
    got = [(im.timestamp, float(t.position[0]) / 100) for im, t in pairs]
    assert [round(x) for _, x in got] == [1, 3, 5, 7, 9]
    assert pairs.unmatched["Image 'US'"] == 1
    assert b.recv(igtl.Status, timeout=1).device_name == "beside"


def test_receiving_while_another_thread_closes() -> None:
    """Whoever closes holds the right to receive for a moment: that is no second receiver."""
    a, b = igtl.pipe()
    raised: list[BaseException] = []

    def receive() -> None:
        try:
            b.recv(timeout=5)
        except BaseException as error:
            raised.append(error)

    def closing() -> None:
        thread = threading.Thread(target=receive)
        thread.start()
        thread.join(10)

    b._transport.close = closing  # type: ignore[method-assign]
    b.close()
    a.close()
    (error,) = raised
    assert isinstance(error, igtl.ConnectionClosed)
    assert error.clean


# ---- a peer that breaks off and begins again ----------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "compressing link", "reconnecting link", "aio"])
def test_a_client_finds_step_again(kind: str) -> None:
    large, small = image(300_000), transform()
    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as stack:
        port = listening.getsockname()[1]

        def serve() -> None:
            sock, _ = listening.accept()
            with sock:
                for m in (large, small):
                    wire = m.pack()
                    sock.sendall(wire[: len(wire) - 60] + wire)
                while sock.recv(1000):
                    pass

        thread = run(serve)
        if kind == "aio":
            loop = stack.enter_context(loop_for("aio"))

            async def received() -> list[igtl.Message]:
                async with igtl.aio.connect(port=port, resync=True) as link:
                    return [await link.recv(timeout=10) for _ in range(2)]

            got = loop(received())  # type: ignore[misc]
        else:
            settings: Any = {"link": {}, "compressing link": {"compression": True},
                             "reconnecting link": {"reconnect": igtl.Backoff()}}[kind]  # fmt: skip
            with igtl.connect(port=port, resync=True, **settings) as link:
                got = [link.recv(timeout=10) for _ in range(2)]
                assert link.stats.dropped["resync"] == 2
        assert got == [large, small]
        thread.join(10)


@pytest.mark.parametrize("api", ["blocking", "aio"])
@pytest.mark.parametrize("what", ["listen", "serve"])
def test_a_server_finds_step_again(api: str, what: str) -> None:
    large, small = image(300_000), transform()
    wires = b"".join(wire[: len(wire) - 60] + wire for wire in (large.pack(), small.pack()))
    with contextlib.ExitStack() as stack:
        got: list[igtl.Message] = []
        dropped: list[int] = []

        def take(message: igtl.Message, peer: Any) -> None:
            got.append(message)
            dropped.append(peer.stats.dropped["resync"])

        if api == "aio":
            loop = stack.enter_context(loop_for("aio"))

            async def received() -> None:
                module: Any = igtl.aio
                async with getattr(module, what)(port=0, resync=True) as end:
                    sock = socket.create_connection(("127.0.0.1", end.port))
                    with sock:
                        if what == "serve":
                            end.on()(take)
                        await asyncio.to_thread(sock.sendall, wires)
                        if what == "serve":
                            while len(got) < 2:
                                await asyncio.sleep(0.001)
                        else:
                            async with await end.accept(timeout=10) as link:
                                for _ in range(2):
                                    take(await link.recv(timeout=10), link)

            loop(received())  # type: ignore[misc]
        else:
            end: Any
            if what == "serve":
                end = stack.enter_context(igtl.serve(port=0, resync=True, start=False))
                end.on()(take)
                end.start()
            else:
                end = stack.enter_context(igtl.listen(port=0, resync=True))
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", end.port)))
            sender = run(lambda: sock.sendall(wires))
            if what == "listen":
                link = stack.enter_context(end.accept(timeout=10))
                for _ in range(2):
                    take(link.recv(timeout=10), link)
            until(lambda: len(got) == 2)
            sender.join(10)
        assert got == [large, small]
        assert dropped[-1] == 2


# ---- what a link says of its end ---------------------------------------------------------------


def test_the_end_is_told_once(ends: Pair) -> None:
    a, b = ends
    told: list[tuple[str, Exception]] = []
    for name, link in (("a", a), ("b", b)):
        link.on_close(lambda reason, name=name: told.append((name, reason)))
        link.on_close(lambda reason: 1 / 0)  # is logged, and stops nobody
    assert (a.closed, b.closed) == (False, False)
    a.close()
    with pytest.raises(igtl.ConnectionClosed):
        b.recv(timeout=5)
    b.close()
    until(lambda: len(told) == 2)
    assert sorted(name for name, _ in told) == ["a", "b"]
    assert all(isinstance(reason, igtl.ConnectionClosed) and reason.clean for _, reason in told)
    a.on_close(lambda reason: told.append(("late", reason)))
    assert told[2][0] == "late"
    assert (a.closed, b.closed) == (True, True)


def test_a_callback_may_close_its_link(ends: Pair) -> None:
    a, b = ends
    reasons: list[Exception] = []

    def closed(reason: Exception) -> None:
        reasons.append(reason)
        if not isinstance(b, Aio):  # a coroutine has to wait for its turn
            b.close()

    b.on_close(closed)
    a.close()
    with pytest.raises(igtl.ConnectionClosed):
        b.recv(timeout=5)
    until(lambda: bool(reasons))


def test_the_end_in_a_message_is_told_as_such(raw: Pair) -> None:
    link, other = raw
    reasons: list[Any] = []
    link.on_close(reasons.append)
    other.sendall(transform().pack()[:60])
    other.close()
    with pytest.raises(igtl.ConnectionClosed):
        link.recv(timeout=5)
    until(lambda: bool(reasons))
    assert not reasons[0].clean


def test_descriptors(ends: Pair) -> None:
    a, b = ends
    assert (a.fileno() == -1) == (str(b.peer).startswith("pipe"))
    a.close()
    assert a.fileno() == -1


DRAINED: list[dict[str, Any]] = [{"drain": True}, {"reconnect": igtl.Backoff(0.01, 0.05)}]


@pytest.mark.parametrize("settings", DRAINED, ids=["drained", "healing"])
def test_a_link_with_a_thread_tells_its_end_by_itself(settings: dict[str, Any]) -> None:
    reasons: list[Any] = []
    with igtl.listen(port=0) as listener:
        link = igtl.connect(port=listener.port, **settings)
        link.on_close(reasons.append)
        with listener.accept(timeout=10):
            until(lambda: link.fileno() != -1)
            assert socket.socket(fileno=link.fileno()).detach() == link.fileno()
            assert not reasons
        if "drain" in settings:
            until(lambda: bool(reasons))
            assert reasons[0].clean
        else:
            listener.accept(timeout=10).close()  # it has come back
            assert not reasons
        link.close()
        until(lambda: bool(reasons))
        assert len(reasons) == 1
        assert link.fileno() == -1


def test_a_healing_link_tells_each_connection() -> None:
    with igtl.listen(port=0) as listener:
        with igtl.connect(port=listener.port, reconnect=igtl.Backoff(0.01, 0.05)) as link:
            told = threading.Semaphore(0)

            @link.on_connect
            def greet() -> None:
                link.send(transform("hello"))
                told.release()

            for _ in range(3):
                with listener.accept(timeout=10) as peer:
                    assert told.acquire(timeout=10)
                    assert peer.recv(timeout=10).device_name == "hello"
            late = threading.Event()
            with listener.accept(timeout=10):
                assert told.acquire(timeout=10)
                link.on_connect(late.set)
                assert late.wait(10)


def test_a_healing_link_that_gives_up_tells_why() -> None:
    port = free_port()
    reasons: list[Any] = []
    backoff = igtl.Backoff(0.01, 0.01, attempts=2)
    with igtl.connect("127.0.0.1", port, reconnect=backoff) as link:
        link.on_close(reasons.append)
        until(lambda: bool(reasons))
    assert isinstance(reasons[0], ConnectionRefusedError)
    assert len(reasons) == 1


# ---- requests beside a receiver -----------------------------------------------------------------


def answer_commands(link: Any, wire: list[bytes]) -> None:
    """Answer each command; before the answer send frames."""
    with contextlib.suppress(igtl.ConnectionClosed):
        while True:
            asked = link.recv(igtl.Command)
            for k in range(20):
                t = transform(f"T{k % 3}", k)
                wire.append(t.pack(version=2))
                link.send(igtl.Frame.from_bytes(wire[-1]))
            link.send(igtl.CommandReply(asked.command_id, asked.name))


@pytest.mark.parametrize("kind", [*KINDS, "drained", "healing"])
def test_frames_arrive_while_a_command_is_in_progress(kind: str) -> None:
    with contextlib.ExitStack() as stack:
        if kind in ("drained", "healing"):
            listener = stack.enter_context(igtl.listen(port=0))
            settings = DRAINED[kind == "healing"]
            a = stack.enter_context(igtl.connect(port=listener.port, **settings))
            b = stack.enter_context(listener.accept(timeout=10))
        else:
            a, b = stack.enter_context(pair(kind))
        sent: list[bytes] = []
        got: list[bytes] = []
        if isinstance(b, Aio):
            thread = run(lambda: answer_commands(b, sent))
            loop = a.loop

            async def work() -> None:
                async with igtl.aio.subscribe(a.link, frames=True) as incoming:
                    incoming.on()(lambda frame: got.append(bytes(frame)))
                    for _ in range(10):
                        await incoming.command("go", timeout=20)
                    while len(got) < len(sent):
                        await asyncio.sleep(0.001)
                    assert isinstance(incoming.latest(igtl.Transform, "T1"), igtl.Frame)
                    assert incoming.latest(igtl.Image) is None

            loop(work())  # type: ignore[misc]
        else:
            thread = run(lambda: answer_commands(b, sent))
            with igtl.subscribe(a, start=False, frames=True) as incoming:
                incoming.on()(lambda frame: got.append(bytes(frame)))
                incoming.start()
                for _ in range(10):
                    incoming.command("go", timeout=20)
                until(lambda: len(got) >= len(sent))
                assert isinstance(incoming.latest(igtl.Transform, "T1"), igtl.Frame)
                assert incoming.latest(igtl.Image) is None
        assert got == sent
        b.close()
        thread.join(10)


@pytest.mark.parametrize("kind", ["pipe", "tcp", "tls", "unix", *WEBSOCKETS[:1]])
def test_a_thread_that_asks_gives_way_to_one_that_receives(kind: str) -> None:
    if kind not in KINDS:
        pytest.skip("no Unix sockets there")
    with pair(kind) as (a, b):
        replies: list[Any] = []
        thread = run(lambda: replies.append(a.command("go", timeout=20)))
        asked = b.recv(igtl.Command, timeout=10)
        until(a._receiving.locked)
        receiving: list[Any] = []
        other = run(lambda: receiving.append(a.recv(igtl.Transform, timeout=20)))
        until(lambda: bool(a._queueing))
        b.send(transform("one"))  # while the command is in progress
        other.join(20)
        assert receiving[0].device_name == "one"
        b.send(igtl.CommandReply(asked.command_id, asked.name))
        thread.join(20)
        assert replies[0].command_id == asked.command_id


def test_frames_and_messages_by_turns(ends: Pair) -> None:
    a, b = ends
    for k in range(4):
        a.send(transform(f"T{k}"))
    a.send(igtl.Status.ok())
    assert b.recv(igtl.Status, timeout=5).code == 1  # four wait decoded
    assert b.recv_frame(timeout=5).device_name == "T0"
    assert b.recv(timeout=5).device_name == "T1"
    assert b.recv_frame(timeout=5).device_name == "T2"
    assert b.recv(igtl.Transform, "T3", timeout=5).device_name == "T3"


def test_a_listener_closes_behind_the_thread_that_accepts(monkeypatch: Any) -> None:
    """The number of its descriptor may be another socket's at once, for which the thread would wait."""
    listener = igtl.listen(port=0)
    number = listener._sock.fileno()
    ready, about = listener._readable, threading.Event()
    told: list[int] = []

    def readable(timeout: float | None) -> None:
        about.set()
        time.sleep(0.05)  # and now `close` is called
        told.append(listener._sock.fileno())
        ready(timeout)

    monkeypatch.setattr(listener, "_readable", readable)
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(listener.accept)
        assert about.wait(20)
        listener.close()
        with socket.socket(), pytest.raises(igtl.ConnectionClosed):
            accepted.result(20)
        assert told == [number]
        with pytest.raises(igtl.ConnectionClosed):
            listener.accept()
