"""Counters: per stream, by cause, and bounded."""

from __future__ import annotations

import time

import pytest

import igtl
from tests.wire import transform


def frames(*messages: igtl.Message) -> list[igtl.Frame]:
    p = igtl.Protocol()
    for m in messages:
        p.receive_data(m.pack())
    return list(p.frames())


def test_rate_jitter_and_age() -> None:
    stats = igtl.Stats()
    (f,) = frames(transform())
    now = time.monotonic() - 10
    stats.count_received(f, now)
    stream = stats.streams["TRANSFORM", "Probe"]
    assert (stream.rate, stream.jitter) == (0, 0)
    for k in range(200):  # 100 Hz, every other one 2 ms late
        now += 0.01 + (0.002 if k % 2 else -0.002)
        stats.count_received(f, now)
    assert stream.rate == pytest.approx(100, rel=0.1)
    assert stream.jitter == pytest.approx(0.002, rel=0.2)
    assert stream.age == pytest.approx(8, abs=1)
    assert (stream.received, stream.received_bytes) == (201, 201 * 106)


def test_causes() -> None:
    stats = igtl.Stats()
    (f,) = frames(transform("A"))
    wire = transform("B").pack()
    stats.count_sent(wire, len(wire), 3)
    stats.count_dropped(wire, "drop_oldest", 2)
    stats.count_dropped(wire, "stalled")
    stats.count_error("CRCError", f)
    stats.count_error("VersionError")
    assert (stats.sent, stats.sent_bytes, stats.received) == (3, 318, 1)
    assert stats.dropped == {"drop_oldest": 2, "stalled": 1}
    assert stats.errors == {"CRCError": 1, "VersionError": 1}
    assert stats.lost == 5
    assert stats.streams["TRANSFORM", "B"].lost == {"drop_oldest": 2, "stalled": 1}
    assert stats.streams["TRANSFORM", "A"].crc_errors == 1
    assert "drop_oldest" in repr(stats)
    assert "stalled" in repr(stats.streams["TRANSFORM", "B"])
    for short in (b"", bytes(33)):
        with pytest.raises(ValueError):
            stats.count_sent(short, 0)
    with pytest.raises(ValueError):
        stats.count_received(bytes(57), 0.0)


def test_a_peer_that_invents_names_does_not_fill_the_memory() -> None:
    p = igtl.Protocol()
    for k in range(6000):
        p.receive_data(transform(f"T{k}").pack())
        list(p.frames())
    streams = p.stats.streams
    assert len(streams) == 4097
    assert streams["*", "*"].received == 6000 - 4096
    assert p.stats.received == 6000
