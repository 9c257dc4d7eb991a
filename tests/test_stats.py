"""Counters: per stream, by cause, and bounded."""

from __future__ import annotations

import time

import numpy as np
import pytest

import igtl
from igtl._core import stream_key
from igtl.codec.compression import Compression, stream_of
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


def test_names_that_begin_alike_are_streams_of_their_own() -> None:
    """However the message is seen: as itself, a frame, in one piece, in parts with its data apart."""
    names = [f"ALongNameOfAToolInTracker{k}" for k in range(2)]
    sent = [
        make(name)
        for name in names
        for make in (
            lambda name: igtl.Transform(np.eye(4), device_name=name),
            lambda name: igtl.Image(np.zeros((1, 300, 300), np.uint8), device_name=name),
        )
    ]
    keys = sorted((m.type_name, m.device_name) for m in sent)
    a = igtl.Protocol(version=2, cut_names=True)
    b = igtl.Protocol()
    for m in sent:
        parts = a.send(m)
        wire = b"".join(parts)
        b.receive_data(wire)
        got = b.next_message()
        assert got is not None
        assert got.device_name == m.device_name
        assert stream_key(wire) == stream_key(parts) == stream_key(got)
        assert stream_key(wire) == stream_key(igtl.Frame.from_bytes(wire)) == stream_key(m)
        assert stream_of(Compression().wrap(wire)) == stream_key(wire)
        for what in (wire, got, igtl.Frame.from_bytes(wire), bytearray(wire)):
            b.stats.count_dropped(what, "policy")
    for stats in (a.stats, b.stats):
        assert sorted(stats.streams) == keys
    assert {s.sent for s in a.stats.streams.values()} == {1}
    assert {(s.received, s.lost["policy"]) for s in b.stats.streams.values()} == {(1, 4)}


def test_metadata_that_make_no_sense_name_nothing() -> None:
    """What they say is checked before it is looked at; unpacking says what is wrong."""
    name = b"A name that is longer than 20 bytes"
    good = igtl.Status.ok(device_name=name.decode()).pack(version=2, cut_name=True)
    at = len(good) - 16 - len(name) - 10  # of the metadata's header
    for place, value in (
        (at, b"\0\2"),
        (at, b"\xff\xff"),
        (at + 2, b"\xff\xff"),
        (at + 6, b"\xff\xff\xff\xff"),
        (at + 9, bytes([len(name) - 1])),
        (58, b"\xff\xff"),
        (60, b"\0\0"),
        (60, b"\xff\xff"),
        (62, b"\xff\xff\xff\xff"),
    ):
        wire = good[:place] + value + good[place + len(value) :]
        frame = igtl.Frame.from_bytes(wire)
        assert frame.device_name == "A name that is longe"
        assert stream_key(wire) == wire[2:34]
        with pytest.raises(igtl.BodyError):
            frame.unpack("off")
    assert igtl.Frame.from_bytes(good).device_name == name.decode()
    for n in range(34, len(good)):
        assert stream_key(good[:n]) == good[2:34]
