"""Log records: what is worth one, at which level, with which fields."""

from __future__ import annotations

import logging
import socket
from typing import Any

import igtl
from igtl.log import BURST, WINDOW, Bounded, log
from tests.test_links import until
from tests.wire import frame, transform


def records(caplog: Any, level: int) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.name == "igtl" and r.levelno >= level]


def test_fields(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "igtl")
    with igtl.serve(port=0, max_size=1000) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            peer = raw.getsockname()
            raw.sendall(frame("TRANSFORM", bytes(47)))
            raw.sendall(frame("IMAGE", b"", size=1 << 40))
            until(lambda: server.gone.total() == 1)
    seen = {r.getMessage().partition(": ")[2].partition(":")[0]: r for r in caplog.records}
    bad = next(r for r in caplog.records if r.levelno == logging.DEBUG and r.name == "igtl")
    assert (bad.peer, bad.size, type(bad.cause)) == (peer, 105, igtl.BodyError)  # type: ignore[attr-defined]
    large = next(r for r in records(caplog, logging.WARNING))
    assert isinstance(large.cause, igtl.MessageTooLarge)  # type: ignore[attr-defined]
    assert large.size == (1 << 40) + 58  # type: ignore[attr-defined]
    texts = [r.getMessage() for r in records(caplog, logging.INFO)]
    assert f"127.0.0.1:{peer[1]} connected" in texts
    assert any("is gone" in text for text in texts)
    assert seen


def test_nothing_above_debug_per_message(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "igtl")
    wrong = bytearray(transform().pack())
    wrong[70] ^= 1
    with igtl.listen(port=0, crc="warn") as listener:
        with socket.create_connection(("127.0.0.1", listener.port)) as raw:
            with listener.accept(timeout=5) as link:
                for _ in range(50):
                    raw.sendall(transform().pack() + frame("STATUS", b"\0") + bytes(wrong))
                got = [link.recv(timeout=5) for _ in range(100)]
    assert sum(m.crc_ok is False for m in got) == 50
    warned = records(caplog, logging.INFO)
    assert len(warned) == 1  # one a peer
    assert (warned[0].type, warned[0].device) == ("TRANSFORM", "Probe")  # type: ignore[attr-defined]
    assert link.stats.errors == {"BodyError": 50, "CRCError": 50}


def test_a_broken_handler_is_reported_with_its_traceback(caplog: Any) -> None:
    with igtl.serve(port=0, start=False) as server:

        @server.on(igtl.Transform)
        def _(message: Any, peer: Any) -> None:
            raise ZeroDivisionError

        server.start()
        with igtl.connect(port=server.port) as link:
            link.send(transform())
            until(lambda: bool(records(caplog, logging.ERROR)))
    (record,) = records(caplog, logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_records_of_one_kind_are_bounded_and_summed_up(caplog: Any, monkeypatch: Any) -> None:
    clock = Clock()
    monkeypatch.setattr("igtl.log.bounded", Bounded(clock))
    for k in range(1000):
        log(logging.WARNING, "client %d was refused", k)
    log(logging.WARNING, "another kind")
    texts = [r.getMessage() for r in records(caplog, logging.WARNING)]
    assert texts == [f"client {k} was refused" for k in range(BURST)] + ["another kind"]
    caplog.clear()
    clock.now = WINDOW
    log(logging.WARNING, "client %d was refused", 1000)
    texts = [r.getMessage() for r in records(caplog, logging.WARNING)]
    summed = "980 more like this within 10 s, the last one: client 999 was refused"
    assert texts == [summed, "client 1000 was refused"]


def test_invented_kinds_of_records_are_bounded_too(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("igtl.log.bounded", Bounded(Clock()))
    for k in range(1000):
        log(logging.WARNING, "a failure", cause=f"cause {k}")
    assert len(records(caplog, logging.WARNING)) < 300


def test_refused_clients_do_not_flood_the_log(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("igtl.log.bounded", Bounded())
    with igtl.serve(port=0, max_clients=1) as server:
        with socket.create_connection(("127.0.0.1", server.port)):
            until(lambda: len(server.clients) == 1)
            for k in range(200):
                socket.create_connection(("127.0.0.1", server.port)).close()
                until(lambda n=k + 1: server.refused["max_clients"] == n)
