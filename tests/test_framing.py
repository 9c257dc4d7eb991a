"""A stream of bytes cut into messages: however it arrives, and whatever it holds."""

from __future__ import annotations

import pickle
import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from tests.conftest import VECTORS, manifest
from tests.wire import frame, transform

STREAM = [(VECTORS / v["file"]).read_bytes() for v in manifest()]


def decoded(protocol: igtl.Protocol) -> list[igtl.Message]:
    return list(protocol.messages())


def test_whole_stream_at_once() -> None:
    p = igtl.Protocol()
    p.receive_data(b"".join(STREAM))
    assert [bytes(f) for f in p.frames()] == STREAM
    assert p.at_boundary
    assert p.stats.received == len(STREAM)
    assert p.stats.received_bytes == sum(map(len, STREAM))


def test_byte_by_byte() -> None:
    p = igtl.Protocol()
    got = []
    for byte in b"".join(w for w in STREAM if len(w) < 3000):
        p.receive_data(bytes([byte]))
        got += [bytes(f) for f in p.frames()]
    assert got == [w for w in STREAM if len(w) < 3000]
    assert p.at_boundary


@pytest.mark.parametrize("seed", range(20))
def test_split_anywhere_by_both_ways_of_feeding(seed: int) -> None:
    rng = random.Random(seed)
    messages = rng.sample(STREAM, 40)
    data = memoryview(b"".join(messages))
    p = igtl.Protocol()
    got = []
    while data:
        n = min(len(data), rng.choice([1, 57, 58, 59, 100, 5000, 70000, 200000]))
        if rng.random() < 0.5:
            buffer = p.get_buffer()
            n = min(n, len(buffer))
            buffer[:n] = data[:n]
            p.received(n)
        else:
            p.receive_data(data[:n])
        data = data[n:]
        got += [bytes(f) for f in p.frames()]
    assert got == messages
    assert p.at_boundary


def test_trailing_data_waits() -> None:
    a, b = igtl.Status.ok(device_name="A").pack(), igtl.Status.ok(device_name="B").pack()
    p = igtl.Protocol()
    p.receive_data(a + b[:60])
    assert [m.device_name for m in decoded(p)] == ["A"]
    assert not p.at_boundary
    p.receive_data(b[60:])
    assert [m.device_name for m in decoded(p)] == ["B"]


def test_bad_messages_do_not_lose_step() -> None:
    good = igtl.Status.ok(device_name="D").pack()
    bad_crc = good[:57] + bytes([good[57] ^ 1]) + good[58:]
    strange = struct.pack(">H", 7) + good[2:]
    short = frame("TRANSFORM", bytes(47))
    for size in (1, 7, 1000):
        p = igtl.Protocol()
        seen: list[Any] = []
        data = good + bad_crc + good + strange + good + short + good
        for at in range(0, len(data), size):
            p.receive_data(data[at : at + size])
            messages = p.messages()
            while True:
                try:
                    seen.append(type(next(messages)).__name__)
                except StopIteration:
                    break
                except igtl.ProtocolError as error:
                    seen.append(type(error).__name__)
        assert seen == [
            "Status",
            "CRCError",
            "Status",
            "VersionError",
            "Status",
            "BodyError",
            "Status",
        ]
        assert p.stats.errors == {"CRCError": 1, "VersionError": 1, "BodyError": 1}
        assert p.stats.received == 7


def test_skipping_counts() -> None:
    good = igtl.Status.ok(device_name="D").pack()
    p = igtl.Protocol(on_error="skip")
    p.receive_data(good + frame("TRANSFORM", bytes(47)) + good)
    assert [type(m) for m in p.messages()] == [igtl.Status, igtl.Status]
    assert p.stats.errors == {"BodyError": 1}


def test_a_frame_keeps_what_cannot_be_decoded() -> None:
    wire = frame("TRANSFORM", bytes(47))
    p = igtl.Protocol()
    p.receive_data(wire)
    (f,) = p.frames()
    assert bytes(f) == wire
    assert (f.type_name, f.device_name, f.body_size, f.header_version) == (
        "TRANSFORM",
        "Dev",
        47,
        1,
    )
    with pytest.raises(igtl.BodyError, match=r"TRANSFORM.matrix: needs 48 bytes, 47 are left"):
        f.unpack()


@pytest.mark.parametrize("size", [1 << 40, (1 << 64) - 1, (1 << 63) - 1, (1 << 64) - 58])
def test_too_large_is_refused_before_any_memory(size: int) -> None:
    p = igtl.Protocol()
    p.receive_data(frame("IMAGE", b"", size=size))
    for _ in range(3):
        with pytest.raises(igtl.MessageTooLarge) as caught:
            p.next_message()
        assert caught.value.limit == 1 << 30
        assert caught.value.size == size + 58
    small = igtl.Protocol(max_size=100)
    small.receive_data(frame("STRING", b"\0\3\0\0" + bytes(39)))
    with pytest.raises(igtl.MessageTooLarge):
        small.next_message()


def test_memory_follows_the_bytes_not_the_header() -> None:
    def resident() -> int:
        try:
            with open("/proc/self/statm") as f:
                return int(f.read().split()[1]) * 4096
        except OSError:
            pytest.skip("no /proc here")

    before = resident()
    protocols = []
    for _ in range(10):  # ten gigabytes announced, 100 KB arrived
        p = igtl.Protocol()
        p.receive_data(frame("IMAGE", bytes(100_000), size=(1 << 30) - 58))
        assert p.next_message() is None
        protocols.append(p)
    assert resident() - before < 64 << 20


@pytest.mark.parametrize("version", [1, 2])
def test_received_pixels_are_aligned_views(version: Any) -> None:
    im = igtl.Image(np.arange(40_000, dtype=np.float64).reshape(1, 200, 200))
    p = igtl.Protocol()
    wire = im.pack(version=version)
    while wire:
        buffer = p.get_buffer()
        n = min(len(buffer), len(wire))
        buffer[:n] = wire[:n]
        p.received(n)
        wire = wire[n:]
        message = p.next_message()
    assert isinstance(message, igtl.Image)
    assert message.array.ctypes.data % 64 == 0
    assert not message.array.flags.owndata
    message.array[0, 0, 0] = 7  # and edits count
    again = igtl.unpack(message.pack())
    assert isinstance(again, igtl.Image)
    assert again.array[0, 0, 0] == 7


@given(st.lists(st.binary(max_size=300)), st.integers(0, 10_000))
def test_random_bytes(chunks: list[bytes], limit: int) -> None:
    p = igtl.Protocol(max_size=limit)
    lost = False
    for chunk in chunks:
        p.receive_data(chunk)
        try:
            while (m := p.next_message()) is not None:
                repr(m)
        except igtl.MessageTooLarge:
            lost = True
        except igtl.ProtocolError:
            assert not lost


def test_wrong_use() -> None:
    p = igtl.Protocol()
    with pytest.raises(ValueError):
        p.received(-1)
    with pytest.raises(ValueError):
        p.received(len(p.get_buffer()) + 1)
    for wrong in ({"version": 3}, {"crc": "maybe"}, {"on_error": "ignore"}):
        with pytest.raises(ValueError):
            igtl.Protocol(**wrong)  # type: ignore[arg-type]


def test_version_policy() -> None:
    v2 = igtl.Status.ok().pack(version=2)
    p = igtl.Protocol()
    t = igtl.Transform(np.eye(4))
    command = igtl.Command(1, "Go")
    assert p.send(t)[0][:2] == b"\0\1"
    assert p.send(command)[0][:2] == b"\0\1"  # a version 1 library skips it cleanly
    tagged = igtl.Transform(np.eye(4), metadata={"a": 1})
    with pytest.raises(igtl.EncodeError, match=r"version=2.*hello=True"):
        p.send(tagged)
    p.receive_data(v2)
    assert p.next_message() is not None
    assert p.send(t)[0][:2] == b"\0\2"
    assert p.send(tagged)[0][:2] == b"\0\2"
    forced = igtl.Protocol(version=1)
    forced.receive_data(v2)
    forced.next_message()
    assert forced.send(t)[0][:2] == b"\0\1"
    assert igtl.Protocol(version=2).send(t)[0][:2] == b"\0\2"


def test_warn_policy(caplog: pytest.LogCaptureFixture) -> None:
    good = igtl.Status.ok().pack()
    p = igtl.Protocol(crc="warn")
    p.receive_data((good[:57] + bytes([good[57] ^ 1]) + good[58:]) * 3)
    assert [m.crc_ok for m in p.messages()] == [False] * 3
    assert p.stats.errors == {"CRCError": 3}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("at", [130, 131, 40_000, 99_000])
@pytest.mark.parametrize("step", [1000, 65_536, 1 << 20])
def test_the_crc_of_a_large_message_is_computed_as_it_comes(at: int, step: int) -> None:
    """Whatever pieces it comes in, and whether frames or messages are taken meanwhile."""
    good = igtl.Image(np.arange(100_000, dtype=np.uint8).reshape(1, 100, 1000)).pack()
    bad = bytearray(good)
    bad[at] ^= 1
    for wire, right in ((good, True), (bytes(bad), False)):
        for policy in ("verify", "warn", "off"):
            for begins in ("next_frame", "next_message"):
                p = igtl.Protocol(crc=policy)  # type: ignore[arg-type]
                for k in range(0, len(wire), step):
                    piece = wire[k : k + step]
                    buffer = p.get_buffer()
                    if k % (2 * step) or len(buffer) < len(piece):
                        p.receive_data(piece)
                    else:
                        buffer[: len(piece)] = piece
                        p.received(len(piece))
                    if k + step < len(wire):
                        assert getattr(p, begins)() is None
                if policy == "verify" and not right:
                    with pytest.raises(igtl.CRCError):
                        p.next_message()
                else:
                    m = p.next_message()
                    assert m is not None
                    assert m.crc_ok is (None if policy == "off" else right)
                assert p.stats.errors == ({} if right or policy == "off" else {"CRCError": 1})
                assert p.at_boundary


@pytest.mark.parametrize("record", ["15030100020246", "1603010200010001fc0303", "1503030002022f"])
def test_tls_is_told_from_a_header(record: str) -> None:
    """As soon as it shows, and only as the first bytes of a connection."""
    data = bytes.fromhex(record)
    for cut in range(len(data)):
        p = igtl.Protocol()
        p.receive_data(data[:cut])
        if cut < 5:
            assert p.next_message() is None
        p.receive_data(data[cut:])
        for _ in range(2):
            with pytest.raises(igtl.MessageTooLarge, match="the peer speaks TLS") as caught:
                p.next_message()
        assert "TLS" in caught.value.reason
        assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason
    p = igtl.Protocol()
    first = transform()
    p.receive_data(first.pack() + data)
    assert p.next_message() == first
    assert p.next_message() is None
