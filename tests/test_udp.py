"""Datagrams: plain, fragmented, lost, doubled, reordered, multicast; blocking."""

from __future__ import annotations

import random
import signal
import socket
import sys
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from igtl.blocking.udp import Receiver, Sender
from igtl.codec import rtp
from igtl.net.datagrams import Incoming
from tests.cpp import free_port
from tests.wire import transform

RNG = np.random.default_rng(11)


def volume(device_name: str = "CT", **header: Any) -> igtl.Image:
    return igtl.Image(
        RNG.integers(0, 255, (10, 100, 300), np.uint8), device_name=device_name, **header
    )


def test_there() -> None:
    with Receiver(0) as receiver, Sender("127.0.0.1", receiver.port) as out:
        for k in range(10):
            out.send(transform(x=k))
        got = [receiver.recv(timeout=5) for _ in range(10)]
        assert [m.matrix[0, 3] for m, _ in got if isinstance(m, igtl.Transform)] == list(range(10))
        assert {address for _, address in got} == {("127.0.0.1", out._sock.getsockname()[1])}
        assert receiver.stats.streams["TRANSFORM", "Probe"].received == 10
        assert out.stats.streams["TRANSFORM", "Probe"].sent == 10
        with pytest.raises(TimeoutError):
            receiver.recv(timeout=0.01)
    assert list(receiver) == []
    with pytest.raises(igtl.ConnectionClosed):
        out.send(transform())


def test_bad_datagrams_are_counted_and_the_next_is_read() -> None:
    for on_error in ("skip", "raise"):
        with Receiver(0, on_error=on_error) as receiver:  # type: ignore[arg-type]
            with Sender("127.0.0.1", receiver.port) as out:
                wire = bytearray(transform().pack())
                wire[60] ^= 1
                for bad in (b"garbage", b"", bytes(wire), b"\x80" * 30, b"\x80" * 300):
                    out._sock.sendto(bad, out.address)
                out.send(transform("after"))
                for _ in range(5 if on_error == "raise" else 0):
                    with pytest.raises(igtl.ProtocolError):
                        receiver.recv(timeout=5)
                assert receiver.recv(timeout=5)[0].device_name == "after"
            assert receiver.stats.errors == {"ProtocolError": 2, "CRCError": 1, "BodyError": 2}


def test_a_message_without_content_is_version_1() -> None:
    with Receiver(0) as receiver, Sender("127.0.0.1", receiver.port) as out:
        out.send(igtl.unpack(igtl.GetImage(device_name="x").pack(version=2)))
        frame, _ = receiver.recv_frame(timeout=5)
        assert frame.header_version == 1


def test_frames_come_as_they_are() -> None:
    wrong = bytearray(transform().pack())
    wrong[60] ^= 1
    big = volume()
    with Receiver(0) as receiver, Sender("127.0.0.1", receiver.port) as fragmented:
        with Sender("127.0.0.1", receiver.port) as out:
            for bad in (b"garbage", b"\x80" * 30, bytes(wrong), transform().pack() + b"x"):
                out._sock.sendto(bad, out.address)
        frame, address = receiver.recv_frame(timeout=5)
        assert bytes(frame) == wrong
        assert address[0] == "127.0.0.1"
        fragmented.send(big)
        frame, _ = receiver.recv_frame(timeout=5)
        assert frame.unpack() == big
        assert receiver.stats.errors == {"ProtocolError": 2, "BodyError": 1}


class PlainReceiver(Receiver):
    """Receives by Python's socket, as on other systems than Linux."""

    _direct = False


class PlainSender(Sender):
    _direct = False


BOTH = pytest.mark.parametrize("kind", [Receiver, PlainReceiver])


@BOTH
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_close_wakes_recv(kind: type[Receiver], timeout: float | None, on_error: Any) -> None:
    receiver = kind(0, on_error=on_error)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.recv, timeout=timeout)
        time.sleep(0.05)
        start = time.monotonic()
        receiver.close()
        with pytest.raises(igtl.ConnectionClosed, match="this receiver was closed"):
            waiting.result(20)
        assert time.monotonic() - start < 10
    assert receiver.stats.lost == 0
    with pytest.raises(igtl.ConnectionClosed):
        receiver.recv(timeout=0)
    assert list(receiver) == []


def test_a_receiver_closes_behind_the_thread_that_waits() -> None:
    """The number of its descriptor may be another socket's at once, for which the thread would wait."""
    about, told = threading.Event(), list[int]()

    class Slow(PlainReceiver):
        def _read(self, wait: float) -> tuple[bytes, Any, float | None] | None:
            about.set()
            time.sleep(0.05)  # and now `close` is called
            told.append(self._sock.fileno())
            return super()._read(wait)

    receiver = Slow(0)
    number = receiver._sock.fileno()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.recv, timeout=60)
        assert about.wait(20)
        receiver.close()
        with socket.socket(), pytest.raises(igtl.ConnectionClosed):
            waiting.result(20)
    assert told == [number]


def test_two_threads_receive() -> None:
    """One waits at the socket, the other for its turn; a message more ends neither's time-out."""
    with Receiver(0) as receiver, Sender("127.0.0.1", receiver.port) as out:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(receiver.recv)
            time.sleep(0.05)
            with pytest.raises(TimeoutError, match=r"no message within 0\.05 s"):
                receiver.recv(timeout=0.05)
            second = pool.submit(receiver.recv, timeout=60)
            out.send(transform("a"))
            out.send(transform("b"))
            got = {each.result(20)[0].device_name for each in (first, second)}
        assert got == {"a", "b"}


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to one thread")
@BOTH
def test_a_signal_is_handled_while_it_waits(kind: type[Receiver]) -> None:
    """Its handler is called at once; the wait goes on, or ends by what the handler does."""
    receiver = kind(0)
    with Sender("127.0.0.1", receiver.port) as out:
        acts: list[Callable[[], None]] = [lambda: out.send(transform("by signal")), receiver.close]
        before = signal.signal(signal.SIGUSR1, lambda *_: acts.pop(0)())
        main = threading.main_thread().ident
        assert main is not None
        try:
            for timeout in (None, 60):
                timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1))
                timer.start()
                if timeout is None:
                    assert receiver.recv()[0].device_name == "by signal"
                else:
                    start = time.monotonic()
                    with pytest.raises(igtl.ConnectionClosed):
                        receiver.recv(timeout=timeout)
                    assert time.monotonic() - start < 30
                timer.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
            receiver.close()


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_message_has_the_address_of_its_sender(kind: type[Receiver], host: str) -> None:
    """As Python's sockets show it, also where senders alternate."""
    try:
        receiver = kind(0, host)
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    with receiver, Sender(host, receiver.port) as a, PlainSender(host, receiver.port) as b:
        for k, sender in enumerate((a, a, b, a, b, b)):
            sender.send(igtl.Transform(np.eye(4), timestamp=1000 + k // 2))
            m, address = receiver.recv(timeout=5)
            own = sender._sock.getsockname()  # bound to any address, with the port it sends from
            assert address == (host, *own[1:])
            assert m.peer == address
        # a: 1000, 1000, 1001; b: 1001, 1002, 1002
        assert (receiver.duplicates, receiver.reordered) == (2, 0)


@BOTH
@pytest.mark.parametrize("size", [0, 1, 57, 58, 65_507, 65_509, 65_527])
def test_datagrams_of_every_size(kind: type[Receiver], size: int) -> None:
    """IPv6 carries a little more than fits a message here: that is cut, and counted as an error."""
    wire = igtl.String("x" * max(0, size - 62)).pack()[:size]
    try:
        receiver = kind(0, "::1")
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    with receiver, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
        out.sendto(wire, ("::1", receiver.port))
        out.sendto(transform("behind").pack(), ("::1", receiver.port))
        if size == 65_507:
            m, _ = receiver.recv(timeout=5)
            assert isinstance(m, igtl.String)
            assert len(m.string) == size - 62
        assert receiver.recv(timeout=5)[0].device_name == "behind"
        assert receiver.stats.errors.total() == (size != 65_507)


@BOTH
def test_the_default_time_out_of_sockets_is_not_theirs(kind: type[Receiver]) -> None:
    socket.setdefaulttimeout(0.01)
    try:
        receiver, out = kind(0), Sender("127.0.0.1", free_port(socket.SOCK_DGRAM))
    finally:
        socket.setdefaulttimeout(None)
    with receiver, out, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.recv)
        time.sleep(0.1)
        assert not waiting.done()
        out._sock.sendto(transform("late").pack(), ("127.0.0.1", receiver.port))
        assert waiting.result(20)[0].device_name == "late"


@pytest.mark.parametrize("kind", [Sender, PlainSender])
def test_what_cannot_be_sent(kind: type[Sender]) -> None:
    with Receiver(0) as receiver, kind("127.0.0.1", receiver.port) as out:
        for wrong in (None, "text", transform().pack()):
            with pytest.raises(TypeError):
                out.send(wrong)  # type: ignore[arg-type]
        with pytest.raises(igtl.EncodeError):
            out.send(transform("x" * 21))
        assert out.stats.sent == 0
        frame = igtl.Frame.from_bytes(transform("as it came").pack())
        out.send(frame)
        assert bytes(receiver.recv_frame(timeout=5)[0]) == bytes(frame)
        with pytest.raises(AttributeError):
            out.address = ("127.0.0.1", 1)  # type: ignore[misc]


def test_the_largest_message_without_rtp() -> None:
    """Of either sender; one byte more goes by RTP."""
    for size in (65_507, 65_508):
        sent = igtl.String("x" * (size - 62))
        with Receiver(0) as receiver, Sender("127.0.0.1", receiver.port) as a:
            with PlainSender("127.0.0.1", receiver.port) as b:
                for out in (a, b):
                    out.send(sent)
                    m, _ = receiver.recv(timeout=5)
                    assert isinstance(m, igtl.String)
                    assert m.string == sent.string
                    assert m.header_version == (1 if size == 65_507 else 2)


def test_streams_of_one_sender_alternate(air: Any) -> None:
    """Each has its own order, also by names that the header cuts."""
    in_air = air()
    long = [igtl.Transform(np.eye(4), device_name=f"{'x' * 25}{k}", timestamp=5) for k in range(2)]
    wires = [m.pack(version=2, cut_name=True) for m in long]
    in_air(*wires, *wires)
    assert (in_air.receiver.reordered, in_air.receiver.duplicates) == (0, 2)
    names = [f"T{k}" for k in range(4097)]  # a sender that invents names does not fill the memory
    for name in ["first", *names, "first"]:
        in_air(igtl.Transform(np.eye(4), device_name=name, timestamp=5).pack())
    assert in_air.receiver.duplicates == 2  # "first" was forgotten


def test_message_ids_tell_two_of_the_same_instant(air: Any) -> None:
    in_air = air()
    for number in (1, 2, 2):
        in_air(igtl.Transform(np.eye(4), timestamp=5, message_id=number).pack())
    assert (in_air.receiver.reordered, in_air.receiver.duplicates) == (0, 1)


def test_a_wrong_crc_that_may_pass_is_counted(air: Any) -> None:
    wrong = bytearray(transform().pack())
    wrong[60] ^= 1
    in_air = air(crc="warn")
    (m,) = in_air(bytes(wrong))
    assert m.crc_ok is False
    verified = air()
    assert verified(bytes(wrong)) == []
    for stats in (in_air.receiver.stats, verified.receiver.stats):  # as over TCP
        assert (stats.received, stats.errors) == (1, {"CRCError": 1})
        assert stats.streams["TRANSFORM", "Probe"].lost == {"CRCError": 1}
    with pytest.raises(ValueError, match="crc must be"):
        Receiver(0, crc="never")  # type: ignore[arg-type]


def test_large_messages_go_by_rtp() -> None:
    with Receiver(0) as receiver, Sender("127.0.0.1", receiver.port) as out:
        for k in range(3):
            image = volume(f"CT{k}", message_id=40000 + k, metadata={"slice": k})
            out.send(image)
            assert receiver.recv(timeout=5)[0] == image
            plain = volume("plain")
            out.send(plain)
            assert receiver.recv(timeout=5)[0] == plain
        assert (receiver.gaps, receiver.reordered, receiver.duplicates) == (0, 0, 0)
        out.send(igtl.unpack(volume("known").pack(version=1)))
        assert receiver.recv(timeout=5)[0].header_version == 2


class Aired(Receiver):
    """Receives what is in a queue."""

    _direct = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(0, **settings)
        self.queue: deque[tuple[bytes, Any, float | None]] = deque()

    def _read(self, wait: float) -> tuple[bytes, Any, float | None] | None:
        return self.queue.popleft() if self.queue else None


class Air:
    """A receiver without a network: datagrams are handed to it."""

    def __init__(self, **settings: Any) -> None:
        self.receiver = Aired(**settings)

    def __call__(self, *packets: bytes, source: Any = ("10.0.0.1", 1)) -> list[igtl.Message]:
        got: list[igtl.Message] = []
        for packet in packets:
            self.receiver.queue.append((packet, source, None))
            while (found := self.receiver._look(False)) is not None:
                got.append(found[0])
        return got


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which a receiver's clock is put forward."""
    seconds = [0.0]
    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + seconds[0])
    monkeypatch.setattr("igtl.net.datagrams.time", clock)
    return seconds


@pytest.fixture
def air() -> Any:
    made: list[Air] = []

    def make(**settings: Any) -> Air:
        made.append(Air(**settings))
        return made[-1]

    yield make
    for one in made:
        one.receiver.close()


def packets(image: igtl.Image, sequence: int = 0, ssrc: int = 1) -> list[bytes]:
    return rtp.split(image.pack(version=2), sequence=sequence, time=0, ssrc=ssrc)


@pytest.mark.parametrize("seed", range(10))
def test_fragments_in_any_order_and_twice(air: Any, seed: int) -> None:
    rng = random.Random(seed)
    images = [volume(f"CT{k}") for k in range(3)]
    sequence, sent = rng.randrange(65536), []
    for image in images:
        parts = packets(image, sequence)
        sequence = (sequence + len(parts)) & 0xFFFF
        sent += parts
    first, rest = sent[0], sent[1:] + rng.sample(sent, 5)
    rng.shuffle(rest)
    in_air = air(reassembly_timeout=None)
    got = in_air(first, *rest)
    by_name = {m.device_name: m for m in got}
    assert [by_name[i.device_name] for i in images] == images
    receiver = in_air.receiver
    assert receiver.gaps == 0
    assert receiver.duplicates == 5
    assert receiver.reordered > 0
    assert receiver._partial_bytes == 0
    receiver.close()
    assert receiver.stats.dropped == {}


def test_lost_packets_are_counted(air: Any, away: list[float]) -> None:
    in_air = air(reassembly_timeout=20)
    parts = packets(volume("cut"))
    in_air(*parts[:3], *parts[5:])
    assert in_air.receiver.gaps == 2
    away[0] = 21
    in_air(transform().pack())  # any datagram shows that the time is over
    assert in_air.receiver.stats.dropped == {"incomplete": 1}
    assert in_air.receiver.stats.streams["IMAGE", "cut"].lost == {"incomplete": 1}
    assert in_air.receiver._partial_bytes == 0
    assert in_air(*parts[3:5]) == []  # too late: neither a message nor the beginning of one
    in_air.receiver.close()
    assert in_air.receiver.stats.dropped == {"incomplete": 1}
    assert in_air.receiver.gaps == 0


def test_what_is_incomplete_at_the_end_is_counted(air: Any) -> None:
    in_air = air()
    in_air(*packets(volume("last"))[:-1])
    in_air.receiver.close()
    in_air.receiver.close()
    assert in_air.receiver.stats.dropped == {"incomplete": 1}


def test_waiting_gives_up_what_is_overdue() -> None:
    with Receiver(0, reassembly_timeout=0.05) as receiver:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for packet in packets(volume("cut"))[:-1]:
                s.sendto(packet, ("127.0.0.1", receiver.port))
            with pytest.raises(TimeoutError):
                receiver.recv(timeout=0.5)
            assert receiver.stats.dropped == {"incomplete": 1}
            assert receiver._partial_bytes == 0


def test_a_caller_that_comes_late_loses_nothing_that_is_in_the_socket(away: list[float]) -> None:
    """Two senders whose packets alternate; the caller is away between the halves."""
    images = [volume(f"CT{k}") for k in range(2)]
    parts = [packets(image, ssrc=k) for k, image in enumerate(images)]
    with Receiver(0, reassembly_timeout=20) as receiver:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect(("127.0.0.1", receiver.port))
            for pair in zip(*(p[:3] for p in parts), strict=True):
                for packet in pair:
                    s.send(packet)
            s.send(transform().pack())
            receiver.recv(timeout=5)
            for pair in zip(*(p[3:] for p in parts), strict=True):
                for packet in pair:
                    s.send(packet)
            away[0] = 100
            assert [receiver.recv(timeout=5)[0] for _ in images] == images
        assert receiver.stats.dropped == {}


class Network:
    """What hypothesis makes of a stream: packets lost, doubled and in another order.

    Attributes:
        sent: packets of each message.
        arrived: numbers of the packets in the order in which they arrive.
    """

    def __init__(self, data: Any) -> None:
        sizes = data.draw(st.lists(st.integers(0, 700), min_size=1, max_size=8), label="sizes")
        first = data.draw(st.integers(0, 0xFFFF), label="first number")
        stamped = data.draw(st.booleans(), label="with time stamps")
        self.sent: list[list[bytes]] = []
        for k, size in enumerate(sizes):
            # equal messages, unless they have time stamps
            wire = igtl.String("x" * size, timestamp=1000 + k if stamped else None).pack(version=2)
            sequence = (first + sum(map(len, self.sent))) & 0xFFFF
            self.sent.append(rtp.split(wire, sequence=sequence, time=0, ssrc=1, payload_length=170))
        numbers = range(sum(map(len, self.sent)))
        self.arrived: list[int] = data.draw(
            st.lists(st.sampled_from(numbers), max_size=2 * len(numbers)), label="arrived"
        )

    def packets(self) -> list[bytes]:
        every = [packet for message in self.sent for packet in message]
        return [every[n] for n in self.arrived]

    def check(self, receiver: Incoming, received: int) -> None:
        """Each message of which something came was handed out once, or counted once."""
        came = set(self.arrived)
        start, whole, touched = 0, 0, 0
        for message in self.sent:
            numbers = set(range(start, start + len(message)))
            start += len(message)
            whole += numbers <= came
            touched += bool(numbers & came)
        assert (received, receiver.stats.received) == (whole, whole)
        assert receiver.stats.dropped["incomplete"] == touched - whole
        assert receiver.stats.errors == {}
        assert receiver.duplicates == len(self.arrived) - len(came)
        span = max(came) - min(came) + 1 if came else 0
        assert receiver.gaps == span - len(came)


@given(st.data())
def test_sent_is_received_and_counted(data: Any) -> None:
    network = Network(data)
    in_air = Air(reassembly_timeout=None)
    with in_air.receiver:
        got = in_air(*network.packets())
    network.check(in_air.receiver, len(got))


def test_reassembly_is_bounded(air: Any) -> None:
    in_air = air(max_size=1_000_000, reassembly_timeout=1000)
    for k in range(20):  # 300 kB each, none complete
        in_air(*packets(volume(f"CT{k}"), ssrc=k)[:-1])
    assert in_air.receiver._partial_bytes <= 1_000_000
    assert in_air.receiver.stats.dropped["incomplete"] >= 16
    for size, error in ((1 << 40, "MessageTooLarge"), (100, "BodyError")):
        in_air = air(max_size=1_000_000)
        for packet in packets(volume("liar")):  # counted once, however many packets it has
            lying = bytearray(packet)
            lying[12 + 42 : 12 + 50] = size.to_bytes(8, "big")
            assert in_air(bytes(lying)) == []
        assert in_air.receiver.stats.errors == {error: 1}
        assert in_air.receiver._partial_bytes == 0


def test_a_peer_that_never_completes_does_not_push_out_others(air: Any) -> None:
    in_air = air(max_size=1_000_000, reassembly_timeout=None)
    image = volume("CT")
    first, *rest = packets(image, ssrc=1)
    in_air(first, source=("10.0.0.2", 1))
    for k in range(20):
        in_air(*packets(volume(f"{k}"), 100 * k)[:-1], source=("10.0.0.1", 1))
    assert in_air(*rest, source=("10.0.0.2", 1)) == [image]


def test_small_packets_are_bounded_too(air: Any) -> None:
    """A message of 8192 bytes can be cut into as many packets."""
    in_air = air(max_size=100_000, reassembly_timeout=None)
    wire = igtl.String("x" * 200).pack(version=2)
    sent = [rtp.split(wire, sequence=0, time=0, ssrc=k, payload_length=71) for k in range(50)]
    tracemalloc.start()
    try:
        for parts in sent:
            in_air(*parts[:-1])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert in_air.receiver._partial_bytes <= 100_000
    assert held < 1_000_000
    empty = rtp.split(wire, sequence=0, time=0, ssrc=200, payload_length=170)[0]
    in_air(empty[:82])
    assert in_air.receiver.stats.errors == {"BodyError": 1}


def test_sources_are_bounded(air: Any) -> None:
    in_air = air(reassembly_timeout=None)
    for k in range(300):
        in_air(*packets(volume("cut"), ssrc=k)[:1])
    assert in_air.receiver.stats.dropped == {"incomplete": 300 - 256}
    in_air.receiver.close()
    assert in_air.receiver.stats.dropped == {"incomplete": 300}


def test_order_by_time_stamps(air: Any) -> None:
    in_air = air()
    wires = [
        igtl.Transform(np.eye(4), device_name="P", timestamp=1000 + k).pack() for k in range(5)
    ]
    got = in_air(wires[0], wires[2], wires[1], wires[3], wires[3], wires[4])
    assert len(got) == 6  # all delivered, as they came
    assert (in_air.receiver.reordered, in_air.receiver.duplicates) == (1, 1)
    unset = igtl.Transform(np.eye(4), device_name="Q", timestamp=None).pack()
    in_air(unset, unset)
    assert in_air.receiver.duplicates == 1  # no time stamp, no verdict


def test_arrival_times() -> None:
    with Receiver(0) as receiver, Sender("127.0.0.1", receiver.port) as out:
        out.send(transform())
        time.sleep(0.02)
        m, _ = receiver.recv(timeout=5)
        assert m.received is not None
        assert m.received_monotonic is not None
        assert m.received_monotonic <= time.monotonic()
        assert (m.received_kernel is not None) == receiver._stamped
        if m.received_kernel is not None:
            assert m.received - m.received_kernel >= 0.015  # the kernel had it long before


@pytest.mark.parametrize(
    ("group", "interface"), [("239.255.43.21", "127.0.0.1"), ("ff11::4321", "lo")]
)
def test_multicast(group: str, interface: str) -> None:
    try:
        receivers = [Receiver(0, group=group, interface=interface)]
        port = receivers[0].port
        receivers.append(Receiver(port, group=group, interface=interface))
        out = Sender(group, port, interface=interface, ttl=0)
    except OSError as error:
        pytest.skip(f"no multicast on this machine's loopback: {error}")
    with receivers[0], receivers[1], out:
        try:
            out.send(transform("to all"))
        except OSError as error:
            pytest.skip(f"no multicast on this machine's loopback: {error}")
        for receiver in receivers:
            assert receiver.recv(timeout=5)[0].device_name == "to all"


def test_broadcast() -> None:
    with Receiver(0, "0.0.0.0") as receiver:
        with Sender("127.255.255.255", receiver.port, broadcast=True) as out:
            out.send(transform("everybody"))
        assert receiver.recv(timeout=5)[0].device_name == "everybody"
        with Sender("127.255.255.255", receiver.port) as out, pytest.raises(OSError):
            out.send(transform())


@BOTH
@pytest.mark.parametrize("timeout", [0, 0.2])
def test_a_time_out_ends_a_wait_while_wrong_datagrams_come(
    kind: type[Receiver], timeout: float
) -> None:
    stop = threading.Event()
    with kind(0) as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:

        def flood() -> None:
            while not stop.is_set():
                out.sendto(b"wrong", ("127.0.0.1", receiver.port))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            with pytest.raises(TimeoutError, match="no message within"):
                receiver.recv(timeout=timeout)
        finally:
            stop.set()
            thread.join()


def test_time_outs() -> None:
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="reassembly_timeout must be 0 seconds or more"):
            Receiver(0, reassembly_timeout=wrong)
    with Receiver(0, reassembly_timeout=None) as receiver:
        with pytest.raises(ValueError, match="timeout must be 0 seconds or more"):
            receiver.recv(timeout=-1)
        with pytest.raises(TimeoutError):
            receiver.recv(timeout=0)
        with Sender("127.0.0.1", receiver.port) as out:
            out.send(transform())
            receiver.recv(timeout=float("inf"))
            out._sock.sendto(packets(volume("cut"))[0], out.address)
        with pytest.raises(TimeoutError):
            receiver.recv(timeout=0)
        assert receiver._partial_bytes > 0
        assert receiver.stats.dropped == {}
    assert receiver.stats.dropped == {"incomplete": 1}


def test_a_host_in_place_of_the_port() -> None:
    with pytest.raises(TypeError, match=r"the port comes first, .* '0\.0\.0\.0' is not a port"):
        Receiver("0.0.0.0")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Sender, PlainSender])
def test_nobody_listens(kind: type[Sender]) -> None:
    with kind("127.0.0.1", free_port(socket.SOCK_DGRAM)) as out:
        for _ in range(5):
            out.send(transform())
        assert out.stats.sent == 5


@pytest.mark.long
def test_udp_at_120_hz_for_a_minute() -> None:
    n = 7200
    with igtl.udp.Receiver(0) as receiver, igtl.udp.Sender("127.0.0.1", receiver.port) as out:
        got: list[int] = []
        times: list[float] = []

        def receive() -> None:
            while len(got) < n:
                m, _ = receiver.recv(timeout=10)
                assert isinstance(m, igtl.Transform)
                got.append(int(m.position[0]))
                times.append(m.received_monotonic or 0.0)

        reader = threading.Thread(target=receive)
        reader.start()
        rate = igtl.Rate(120)
        for k, _ in enumerate(rate):
            out.send(transform("Tool", x=k))
            if k == n - 1:
                break
        reader.join(20)
        assert got == list(range(n))
        assert (receiver.gaps, receiver.reordered, receiver.duplicates) == (0, 0, 0)
        gaps = np.diff(times)  # 1/120 s, unless the machine is busy
        mean = gaps[0]
        for k, gap in enumerate(gaps[1:], 2):
            mean += (gap - mean) / min(k, 32)  # of the last 32 or so
        rate_seen = receiver.stats.streams["TRANSFORM", "Tool"].rate
        assert rate_seen == pytest.approx(1 / mean, rel=0.01)
