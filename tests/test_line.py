"""A blocking link over a plain socket, whose bytes its compiled part moves by itself."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import igtl
from tests.links import host_for
from tests.wire import transform

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="by Python's sockets there")

FAMILIES = ["127.0.0.1", "::1", "unix"]
WAITS = [None, 60]  # without a time-out, and with one, for which the link polls


@contextlib.contextmanager
def linked(family: str = "127.0.0.1", **settings: Any) -> Iterator[tuple[Any, Any]]:
    """Two links over one connection; the settings are those of the first."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(host_for("unix")) if family == "unix" else family
        try:
            listener = stack.enter_context(igtl.listen(host, 0))
        except OSError:
            pytest.skip(f"no {family} here")
        a = stack.enter_context(igtl.connect(host, listener.port, hello=False, **settings))
        yield a, stack.enter_context(listener.accept(timeout=10))


@contextlib.contextmanager
def beside(work: Callable[[], Any]) -> Iterator[None]:
    """Run something in another thread meanwhile; what it raises is raised here."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
    if raised:
        raise raised[0]


@contextlib.contextmanager
def handled(handler: Callable[[], Any]) -> Iterator[Callable[[], None]]:
    """Gives what sends a signal to this thread, which calls the handler."""
    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    try:
        yield lambda: signal.pthread_kill(main, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def in_place_of(number: int) -> tuple[socket.socket, socket.socket]:
    """A pair of sockets, the first of which has the descriptor that another one had."""
    others = []
    try:
        while True:
            left, right = socket.socketpair()
            if left.fileno() == number:
                return left, right
            others += [left, right]
            assert len(others) < 1000
    finally:
        for other in others:
            other.close()


def blob(size: int) -> igtl.Unknown:
    """A message of so many bytes on the wire."""
    body = np.random.default_rng(size).bytes(size - 58)
    return igtl.Unknown("BLOB", body, device_name="Blob")


# ---- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways(family: str) -> None:
    with linked(family) as (a, b):
        for k in range(3):
            a.send(transform("there", k))
            b.send(b.recv())
            assert a.recv(timeout=10).matrix[0, 3] == k
        assert a.stats.sent_bytes == b.stats.received_bytes == 3 * 106
        assert a.stats.streams["TRANSFORM", "there"].sent == 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "size", [58, 59, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 70_000, 3_000_000]
)
def test_any_size(family: str, size: int) -> None:
    """Packed into the memory that a link keeps, into some of its own, or sent from where it lies."""
    with linked(family) as (a, b):
        message, got = blob(size), []
        with beside(lambda: got.extend((b.recv(), b.recv_frame(), b.recv()))):
            a.send(message)
            a.send(message)
            a.send(igtl.Frame.from_bytes(message.pack()))
        for each in (got[0], got[1].unpack(), got[2]):
            assert each.pack() == message.pack()
        for stats, way in ((a.stats, "sent"), (b.stats, "received")):
            (stream,) = stats.streams.values()
            for counted in (stats, stream):
                assert getattr(counted, way) == 3
                assert getattr(counted, f"{way}_bytes") == 3 * size


def test_what_cannot_be_sent_leaves_the_link_as_it_was() -> None:
    with linked() as (a, b):
        with pytest.raises(igtl.EncodeError):
            a.send(igtl.Transform(np.eye(4), device_name="a name of more than 20 bytes"))
        with pytest.raises(TypeError):
            a.send("no message")
        a.send(transform("next"))
        assert b.recv(timeout=10).device_name == "next"
        assert a.stats.sent == 1


def test_a_message_arrives_when_it_does() -> None:
    with linked() as (a, b):
        a.send(transform())
        before = time.monotonic()
        message = b.recv(timeout=10)
        assert before <= message.received_monotonic <= time.monotonic()


def test_a_socket_of_a_class_of_its_own_moves_its_own_bytes() -> None:
    class Counting(socket.socket):
        calls = 0

        def recv_into(self, *args: Any) -> int:  # type: ignore[override]
            self.calls += 1
            return super().recv_into(*args)

        def sendmsg(self, *args: Any) -> int:
            self.calls += 1
            return super().sendmsg(*args)

    left, right = socket.socketpair()
    own = Counting(fileno=left.detach())
    with right, igtl.connect("a socket", sock=own) as link:
        sent = own.calls
        link.send(transform())
        right.sendall(transform("there").pack())
        assert link.recv(timeout=10).device_name == "there"
        assert own.calls == sent + 2


# ---- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", WAITS)
def test_a_signal_ends_no_wait(timeout: float | None) -> None:
    told: list[int] = []
    with linked() as (a, b), handled(lambda: told.append(0)) as send_signal:

        def disturb() -> None:
            until(b._receiving.locked)
            for k in range(3):
                time.sleep(0.05)  # it goes into the wait
                send_signal()
                until(lambda k=k: len(told) > k)  # the handler runs while it waits
            a.send(transform("after"))

        with beside(disturb):
            assert b.recv(timeout=timeout).device_name == "after"


def test_a_time_out_is_as_long_as_it_was_in_spite_of_signals() -> None:
    with linked() as (_, b), handled(lambda: None) as send_signal:

        def disturb() -> None:
            until(b._receiving.locked)
            for _ in range(10):
                time.sleep(0.02)
                send_signal()

        with beside(disturb):
            start = time.monotonic()
            with pytest.raises(TimeoutError, match=r"no message within 0\.5 s"):
                b.recv(timeout=0.5)
            assert time.monotonic() - start >= 0.5


@pytest.mark.parametrize("timeout", WAITS)
def test_what_a_handler_raises_ends_a_wait_and_not_the_link(timeout: float | None) -> None:
    def fail() -> None:
        raise RuntimeError("the handler")

    with linked() as (a, b), handled(fail) as send_signal:

        def disturb() -> None:
            until(b._receiving.locked)
            time.sleep(0.05)
            a._transport.sock.sendall(wire[:80])
            time.sleep(0.05)
            send_signal()

        wire = transform("whole").pack()
        with beside(disturb), pytest.raises(RuntimeError, match="the handler"):
            b.recv(timeout=timeout)
        a._transport.sock.sendall(wire[80:])
        assert b.recv(timeout=10).device_name == "whole"


def test_a_send_that_is_cut_short_goes_on() -> None:
    """The system takes what it has room for, and less where a signal comes."""
    told: list[int] = []
    got: list[Any] = []
    with linked() as (a, b), handled(lambda: told.append(0)) as send_signal:
        a._transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

        def disturb() -> None:
            until(a._sending.locked)
            for k in range(5):
                time.sleep(0.05)  # it waits for room
                send_signal()
                until(lambda k=k: len(told) > k)
            got.append(b.recv())

        message = blob(20_000_000)
        with beside(disturb):
            a.send(igtl.Frame.from_bytes(message.pack()))
        assert got[0].pack() == message.pack()
        assert a.stats.sent_bytes == 20_000_000


# ---- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("timeout", WAITS)
def test_a_thread_that_waits_leaves_before_the_descriptor_is_another_s(
    family: str, timeout: float | None
) -> None:
    with linked(family) as (_, b):
        number = b.fileno()
        raised: list[BaseException] = []

        def receive() -> None:
            with pytest.raises(igtl.ConnectionClosed) as caught:
                b.recv(timeout=timeout)
            raised.append(caught.value)

        with beside(receive):
            until(b._receiving.locked)
            time.sleep(0.05)
            b.close()
            left, right = in_place_of(number)
            right.sendall(b"for another")
        with left, right:
            assert left.recv(100) == b"for another"
        assert raised[0].clean  # type: ignore[attr-defined]


@pytest.mark.parametrize("timeout", WAITS)
def test_a_handler_that_closes_the_link_it_has_interrupted(timeout: float | None) -> None:
    """The thread goes on waiting after it, and the number is that of another socket then."""
    pairs: list[tuple[socket.socket, socket.socket]] = []

    def close() -> None:
        number = b.fileno()
        b.close()
        pairs.append(in_place_of(number))
        pairs[0][1].sendall(transform("for another").pack())

    with linked() as (_, b), handled(close) as send_signal:

        def disturb() -> None:
            until(b._receiving.locked)
            time.sleep(0.05)
            send_signal()

        with beside(disturb), pytest.raises(igtl.ConnectionClosed):
            b.recv(timeout=timeout)
        with pairs[0][0] as left, pairs[0][1]:
            assert len(left.recv(1000)) == 106


def test_a_link_is_closed_behind_the_thread_that_sends() -> None:
    with linked() as (a, b):
        sent_at_close: list[int] = []
        frame = igtl.Frame.from_bytes(blob(20_000_000).pack())

        def send() -> None:
            with contextlib.suppress(igtl.ConnectionClosed):
                a.send(frame)

        def drain() -> None:
            until(lambda: a.closed)
            time.sleep(0.2)
            with contextlib.suppress(igtl.ConnectionClosed):
                b.recv()

        def close() -> None:
            sent_at_close.append(a.stats.sent)
            shut_down()
            really_close()

        shut_down, really_close = a._transport.shutdown, a._transport.close
        a._transport.shutdown = lambda: None  # nothing wakes the sender: it is in the system
        a._transport.close = close
        with beside(send), beside(drain):
            until(a._sending.locked)
            time.sleep(0.1)
            a.close()
        assert sent_at_close == [1]


@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("timeout", WAITS)
def test_a_reset_while_it_waits(family: str, timeout: float | None) -> None:
    with linked(family) as (a, b):

        def reset() -> None:
            until(b._receiving.locked)
            time.sleep(0.05)
            sock = a._transport.sock
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

        with beside(reset), pytest.raises(igtl.ConnectionClosed, match="reset by peer") as caught:
            b.recv(timeout=timeout)
        assert not caught.value.clean
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(igtl.ConnectionClosed) as caught:
            for _ in range(100):
                b.send(transform())
        assert isinstance(caught.value.__cause__, BrokenPipeError)


def test_a_socket_that_was_closed_by_itself_says_so() -> None:
    with linked() as (a, b):
        for link in (a, b):
            link._transport.sock.close()
        with pytest.raises(igtl.ConnectionClosed):
            a.send(transform())
        with pytest.raises(igtl.ConnectionClosed):
            b.recv(timeout=60)
