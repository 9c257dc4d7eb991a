"""A connection without a socket: the session, driven by hand."""

from __future__ import annotations

import ssl
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import igtl
import igtl.aio
from igtl.options import ConnectOptions, ReconnectOptions, ServerOptions
from igtl.session.facade import new_outbox, new_protocol
from igtl.session.inbox import Inbox
from igtl.session.layers import Stack
from igtl.session.packed import Packed
from igtl.session.requests import Exchange, Selection
from igtl.session.session import UNDECIDED, Session
from igtl.session.tls import TLSLayer
from tests.links import WEBSOCKETS, pair
from tests.wire import transform


class Clock:
    """Time that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def session(clock: Clock | None = None, **given: Any) -> Session:
    options = ReconnectOptions.of(given.pop("options", {}))
    protocol = new_protocol(options)
    outbox = new_outbox(options, protocol.stats)
    return Session(protocol, outbox=outbox, clock=clock or Clock(), **given)


def feed(one: Session, data: bytes) -> None:
    while data:
        buffer = one.get_buffer()
        n = min(len(buffer), len(data))
        buffer[:n] = data[:n]
        one.received(n)
        data = data[n:]


def drained(one: Session) -> bytes:
    out = bytearray()
    while (piece := one.to_send()) is not None:
        out += piece
        one.sent(len(piece))
    return bytes(out)


def carry(source: Session, target: Session) -> None:
    feed(target, drained(source))


def test_messages_pass_without_a_socket() -> None:
    a, b = session(), session()
    sent = [transform("T", k) for k in range(3)]
    for message in sent:
        a.put(a.pack(message))
    assert a.wants_write
    carry(a, b)
    assert not a.wants_write
    assert [b.take() for _ in range(4)] == [*sent, None]
    assert a.protocol.stats.sent == b.protocol.stats.received == 3
    assert b.end() is None
    b.received_eof()
    assert getattr(b.end(), "clean", None) is True


def test_feeding_never_raises_and_taking_does() -> None:
    one = session()
    right = transform()
    wrong = bytearray(right.pack())
    wrong[-1] ^= 1
    feed(one, bytes(wrong) + right.pack())
    with pytest.raises(igtl.CRCError):
        one.take()
    assert one.take() == right
    feed(one, right.pack()[:42] + b"\xff" * 16)
    with pytest.raises(igtl.MessageTooLarge):
        one.take()
    assert isinstance(one.end(), igtl.ConnectionClosed)


@pytest.mark.parametrize(
    ("limit", "cause"),
    [("message_timeout", "unfinished"), ("idle_timeout", "idle"), ("stall_timeout", "stalled")],
)
def test_limits_in_time(limit: str, cause: str) -> None:
    clock = Clock()
    one = session(clock, **{limit: 5.0})
    feed(one, transform().pack()[: 30 if cause == "unfinished" else None])
    one.put(one.pack(transform()))
    assert one.next_deadline() == 105.0
    assert one.expired(104.9) is None
    clock.now = 104.0
    if cause == "stalled":  # each byte that leaves counts
        assert one.to_send() is not None
        one.sent(1)
    else:
        feed(one, transform().pack()[30:31])
    assert one.expired(105.1) is None
    assert one.expired(109.0) == cause
    assert isinstance(one.end(), igtl.ConnectionClosed)


def test_an_answer_goes_to_who_asked_and_no_other() -> None:
    one = session()
    got: list[Any] = []
    one.ask(Exchange(igtl.GetTransform(device_name="A")), got.append)
    answer, other = transform("A"), transform("B")
    feed(one, other.pack() + answer.pack())
    one.sort()
    assert got == [answer]
    assert one.take() == other
    assert one.take() is None
    one.ask(Exchange(igtl.GetTransform(device_name="A")), got.append)
    one.lost(ConnectionResetError("gone"))
    assert isinstance(got[1], igtl.ConnectionClosed)


class Delivery(RuleBasedStateMachine):
    """Whatever happens in whatever order, each message that was sent is received, waits, or is
    counted under the cause of its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        options = {"max_queued": 5, "max_queued_bytes": 2000}
        self.a = session(self.clock, options=options)
        self.b = session(self.clock)
        self.b.inbox = Inbox(self.b.protocol.stats, max_messages=4, clock=self.clock)
        self.sent: list[int] = []
        self.got: dict[str, list[float]] = {}
        self.on_the_way = b""

    @rule(name=st.sampled_from("ABC"), big=st.booleans())
    def send(self, name: str, big: bool) -> None:
        k = len(self.sent)
        self.sent.append(k)
        message: igtl.Message = transform(name, k)
        if big:
            message = igtl.String(f"{k} " + "x" * 500, device_name=name)
        self.a.put(self.a.pack(message))

    @rule(n=st.integers(1, 700))
    def move(self, n: int) -> None:
        if (piece := self.a.to_send()) is not None:
            self.on_the_way += piece[:n]
            self.a.sent(min(n, len(piece)))
        feed(self.b, self.on_the_way[: n // 2])
        self.on_the_way = self.on_the_way[n // 2 :]

    @rule()
    def sort(self) -> None:
        self.b.sort()

    @rule(seconds=st.floats(0, 1))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(wanted=st.sampled_from([None, "A", "B"]), fresh=st.booleans())
    def take(self, wanted: str | None, fresh: bool) -> None:
        selection = None if wanted is None else Selection(igtl.Transform, wanted)
        self.took(self.b.take(selection, fresh=fresh))

    @rule(name=st.sampled_from("AB"))
    def latest(self, name: str) -> None:
        self.took(self.b.latest(Selection(igtl.Transform, name)))

    def took(self, message: Any) -> None:
        if message is None:
            return
        text = isinstance(message, igtl.String)
        k = int(message.string.split()[0]) if text else float(message.matrix[0, 3])
        numbers = self.got.setdefault(f"{message.type_name} {message.device_name}", [])
        assert not numbers or numbers[-1] < k  # a stream stays in order
        numbers.append(k)

    @invariant()
    def all_is_accounted(self) -> None:
        a, b = self.a.protocol.stats, self.b.protocol.stats
        leaving = int(self.a.wants_write) - int(bool(self.a.outbox))  # begun, with none behind it
        assert self.a.outbox is not None
        begun = len(self.sent) - a.sent - a.lost - len(self.a.outbox)
        assert leaving <= begun <= 1
        assert b.received == sum(map(len, self.got.values())) + len(self.b.inbox) + b.lost

    def teardown(self) -> None:
        feed(self.b, self.on_the_way + drained(self.a))
        while (message := self.b.take()) is not None:
            self.took(message)
        a, b = self.a.protocol.stats, self.b.protocol.stats
        assert len(self.sent) == sum(map(len, self.got.values())) + a.lost + b.lost
        assert set(a.dropped) <= {"drop_oldest", "superseded"}
        assert set(b.dropped) <= {"unread", "superseded"}


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_layer_on_a_layer() -> None:
    """TLS in TLS, both ends in memory."""
    authority = pytest.importorskip("trustme", reason="trustme is not installed").CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    def stack(context: ssl.SSLContext, **settings: Any) -> Stack:
        return Stack(TLSLayer(context, **settings), TLSLayer(context, **settings))

    here = stack(trusting, server_side=False, server_hostname="localhost")
    there = stack(context, server_side=True)
    here.begin()
    there.begin()
    got = {id(here): b"", id(there): b""}
    room = memoryview(bytearray(1000))
    for turn in range(40):
        if turn == 20:
            assert (here.ready, there.ready) == (True, True)
            here.wrap(b"ping")
            there.wrap(b"pong")
        for source, target in ((here, there), (there, here)):
            if data := source.outgoing():
                target.feed(memoryview(data))
            while (n := target.read_into(room)) is not None:
                got[id(target)] += bytes(room[:n])
    assert got == {id(here): b"pong", id(there): b"ping"}


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [ConnectOptions, ReconnectOptions, ServerOptions])
def test_an_option_is_checked_where_it_is_given(options: Any) -> None:
    with pytest.raises(TypeError, match=r"no option 'max_sise'.*mean 'max_size'"):
        options.of({"max_sise": 1})
    for name, value in (
        ("max_size", 0), ("version", 3), ("crc", "maybe"), ("keepalive", 1), ("message_timeout", -1),
        ("inbox_policy", "block"), ("inbox_messages", 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            options.of({name: value})
    for name, value in (("max_size", 1.5), ("cut_names", 1), ("max_size", True)):
        with pytest.raises(TypeError, match=name):
            options.of({name: value})


def test_a_wrong_option_is_told_at_the_call() -> None:
    for opened in (igtl.connect, igtl.serve, igtl.listen, igtl.aio.connect, igtl.aio.serve):
        wrong: Any = opened
        with pytest.raises(TypeError, match=r"the options are .*keepalive"):
            wrong(port=1, keepalife=3)


# ---- what a program that is slow meets -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "tcp", "tls", "aio", *WEBSOCKETS])
def test_latest_of_a_link(kind: str) -> None:
    with pair(kind) as (a, b):
        for k in range(50):
            a.send(transform("T", k))
        a.send(igtl.String("end"))
        assert b.recv(igtl.String, timeout=20).string == "end"
        newest = b.latest(igtl.Transform, "T", timeout=20)
        assert newest.matrix[0, 3] == 49
        assert b.stats.dropped["superseded"] == 49
        with pytest.raises(TimeoutError):
            b.latest(igtl.Transform, timeout=0.01)


def test_a_draining_link_takes_what_comes_while_its_program_is_busy() -> None:
    """The sender never waits for it, and all is delivered or counted."""
    with (
        igtl.listen("127.0.0.1", 0) as listener,
        igtl.connect(port=listener.port, drain=True, inbox_messages=10) as link,
    ):
        picture = igtl.String("x" * 60_000, device_name="S")
        with next(iter(listener)) as peer:
            for _ in range(500):  # 30 MB: no socket buffer holds that
                peer.send(picture)
            peer.send(igtl.Status.ok())
        assert link.recv(igtl.Status, timeout=20)
        assert link.stats.received == 501
        assert link.stats.dropped == {"unread": 490}
        assert link.recv(igtl.String, timeout=20) == picture


def opened(clock: Clock, version: Any = "auto") -> Session:
    one = session(clock, options={"version": version})
    one.opened()
    return one


def sent_by(session: Session) -> list[igtl.Message]:
    out = []
    while (piece := session.to_send()) is not None:
        out.append(igtl.unpack(bytes(piece)))
        session.sent(len(piece))
    return out


def with_status(name: str) -> igtl.Transform:
    return igtl.Transform(np.eye(4), device_name=name, metadata={"TransformStatus": "MISSING"})


def test_how_long_a_peer_is_new() -> None:
    clock = Clock()
    assert session(clock).undecided == 0  # there is no connection yet
    one = opened(clock)
    assert one.undecided == pytest.approx(0.25)
    clock.now += 0.2
    assert one.undecided == pytest.approx(0.05)
    clock.now += 0.2
    assert one.undecided == 0
    assert opened(clock, version=1).undecided == opened(clock, version=2).undecided == 0


def test_metadata_wait_for_the_version_of_a_new_peer() -> None:
    clock = Clock()
    session = opened(clock)
    for name in ("A", "B"):
        session.put(session.pack_for_later(with_status(name)))
    assert session.has_more
    assert not session.wants_write
    assert sent_by(session) == []
    assert session.next_deadline() == clock.now + UNDECIDED
    feed(session, igtl.Status.ok().pack(version=2))
    session.sort()
    assert [m.metadata for m in sent_by(session)] == [{"TransformStatus": "MISSING"}] * 2
    assert session.protocol.stripped == 0
    assert not session.has_more


def test_a_peer_that_shows_no_version_gets_them_without_and_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    session = opened(clock)
    for name in ("A", "B"):
        session.put(session.pack_for_later(with_status(name)))
    clock.now += UNDECIDED
    assert [dict(m.metadata) for m in sent_by(session)] == [{}, {}]
    assert session.protocol.stripped == 2
    assert sum("version=2" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_a_fixed_version_waits_for_nothing(version: Any) -> None:
    session = opened(Clock(), version)
    session.put(Packed(with_status("A").pack(version=2)))
    assert len(sent_by(session)) == 1


def test_what_loses_nothing_waits_for_nothing() -> None:
    session = opened(Clock())
    session.put(session.pack_for_later(igtl.Transform(np.eye(4), device_name="A")))
    assert len(sent_by(session)) == 1
