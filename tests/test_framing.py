"""A stream of bytes cut into messages: however it arrives, and whatever it holds."""

from __future__ import annotations

import pickle
import random
import struct
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from igtl.session.packed import Packed
from tests.conftest import VECTORS, manifest
from tests.wire import extended, frame, transform

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


def test_a_body_that_is_passed_over_is_no_boundary() -> None:
    wire = struct.pack(">H", 9) + transform().pack()[2:]
    for step in (1, 20):
        p = igtl.Protocol(on_error="skip")
        for at in range(0, len(wire) - step, step):
            p.receive_data(wire[at : at + step])
            assert p.next_message() is None
            assert not p.at_boundary
        p.receive_data(wire[at + step :])
        assert p.next_message() is None
        assert p.at_boundary


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


@pytest.mark.parametrize("limit", [58, 59, 1 << 30, sys.maxsize // 2])
@pytest.mark.parametrize("over", [1, 2, 57, 58, 59, 1 << 40])
def test_no_size_wraps_around_the_limit(limit: int, over: int) -> None:
    p = igtl.Protocol(max_size=limit)
    p.receive_data(frame("BLOB", b"", size=limit - 58))
    if limit == 58:
        assert p.next_message() is not None
    p = igtl.Protocol(max_size=limit)
    for size in (limit - 58 + over, (1 << 64) - over):
        p = igtl.Protocol(max_size=limit)
        p.receive_data(frame("BLOB", bytes(200), size=size))
        with pytest.raises(igtl.MessageTooLarge):
            p.next_message()


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


@given(st.lists(st.binary(max_size=300)), st.integers(58, 10_000))
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
    for wrong in (
        {"version": 3},
        {"crc": "maybe"},
        {"on_error": "ignore"},
        *({"max_size": n} for n in (-1, 0, 57, sys.maxsize, 2**64 - 1, 2**70)),
    ):
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


def test_a_message_without_content_is_version_1_whatever_was_agreed() -> None:
    """GET_ messages of version 2 without metadata stop a PlusServer for all its clients."""
    for bare in (igtl.GetImage(device_name="x"), igtl.StopTrackingData(), igtl.Points([]),
                 igtl.Unknown("ODD", b""), igtl.NoData("STATUS")):  # fmt: skip
        for protocol in (igtl.Protocol(version=2), igtl.Protocol()):
            protocol.receive_data(igtl.Status.ok().pack(version=2))
            protocol.next_message()
            wire = bare.pack(version=1)
            assert protocol.version == 2
            assert protocol.send(bare) == [wire]
            assert protocol.pack(bare) == wire
            assert Packed(bare.pack(version=1)).wire_for(protocol) == wire
            received = igtl.unpack(bare.pack(version=2))
            assert received.pack()[:2] == b"\0\2"  # the caller's own affair
            assert protocol.pack(received) == wire
            for more in ({"message_id": 5}, {"metadata": {"k": "v"}}):
                tagged = igtl.unpack(bare.pack(version=2))
                for name, value in more.items():
                    setattr(tagged, name, value)
                assert protocol.pack(tagged)[:2] == b"\0\2"
                assert igtl.unpack(protocol.pack(tagged)) == tagged
            long = igtl.unpack(wire)
            long.device_name = "a name that is longer than 20 bytes"
            cutting = igtl.Protocol(version=2, cut_names=True)
            assert igtl.unpack(cutting.pack(long)).device_name == long.device_name
            longer = igtl.unpack(frame(bare.type_name, extended(b"\7\7", ext=14), version=2))
            longer.message_id = 0  # but its extended header would be lost
            assert protocol.pack(longer)[:2] == b"\0\2"
    assert igtl.Protocol(version=2).pack(igtl.Status.ok())[:2] == b"\0\2"

    class Bare(igtl.Message, type_name="X_BARE", prefers_v2=True):
        pass

    assert Bare().pack()[:2] == b"\0\1"
    assert Bare().pack(version=2)[:2] == b"\0\2"


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


# ---- a peer that breaks off and begins again ----------------------------------------------------


def read(p: igtl.Protocol, data: bytes, step: int) -> tuple[list[Any], list[Any]]:
    """The messages and the errors that come of these bytes, so many at a time."""
    got: list[Any] = []
    errors: list[Any] = []
    for at in range(0, len(data), step):
        p.receive_data(data[at : at + step])
        messages = p.messages()
        while True:
            try:
                got.append(next(messages))
            except StopIteration:
                break
            except igtl.ProtocolError as error:
                errors.append(error)
    return got, errors


BROKEN_OFF = [
    igtl.Status.ok("all is well", device_name="Device"),
    igtl.Transform(np.eye(4), device_name="ProbeToTracker"),
    igtl.Transform(np.eye(4), device_name="", timestamp=0),
    igtl.String("x" * 300, device_name="A name of 20 bytes!!", metadata={"a": "b"}),
    igtl.GetImage(device_name="Image"),
    igtl.TrackedFrame(np.zeros((10, 12), np.uint8)),  # a type name without a NUL
    igtl.Points([igtl.Point("T1", position=(1, 2, 3))], device_name="Points"),
]


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize("message", BROKEN_OFF, ids=lambda m: m.type_name)
def test_a_message_that_is_cut_and_sent_again_is_received(message: Any, step: int) -> None:
    """Wherever it is cut; what follows is received as well."""
    wire = message.pack()
    follows = igtl.String("follows", device_name="F")
    for cut in range(1, len(wire)):
        data = follows.pack() + wire[:cut] + wire + follows.pack() + wire
        p = igtl.Protocol(resync=True)
        got, errors = read(p, data, step)
        assert got == [follows, message, follows, message], cut
        assert len(errors) <= 1
        assert p.stats.lost == p.stats.dropped["resync"] + len(errors) > 0
        assert p.at_boundary


@pytest.mark.parametrize("step", [1000, 65_536, 1 << 20])
@pytest.mark.parametrize("cut", [1, 30, 57, 58, 59, 100, 40_000, 89_950, 90_000, 90_071, 90_129])
def test_a_large_message_that_is_cut_and_sent_again(cut: int, step: int) -> None:
    image = igtl.Image(
        np.arange(90_000, dtype="u2").astype("u1").reshape(1, 300, 300), device_name="I"
    )
    wire = image.pack()
    assert len(wire) == 90_130
    p = igtl.Protocol(resync=True)
    got, errors = read(p, transform().pack() + (wire[:cut] + wire) * 2 + wire, step)
    assert got[1:] == [image] * 3
    assert len(errors) <= 2
    assert p.stats.streams["IMAGE", "I"].received == 3 + len(errors)


def test_a_cut_message_followed_by_another() -> None:
    whole = transform().pack()
    for cut in range(1, 106):
        p = igtl.Protocol(resync=True)
        got, _ = read(
            p, whole[:cut] + (other := igtl.Status.ok(device_name="Other")).pack() * 2, 64
        )
        assert got[-1] == other


def test_no_body_with_a_right_crc_is_cut() -> None:
    """It may hold whole messages, headers, and the header of its own message."""
    inner = transform().pack()
    blob = igtl.Unknown("BLOB", inner * 3 + b"\0", device_name="Dev")
    again = igtl.Unknown("BLOB", blob.pack() + blob.pack()[:58] + bytes(7), device_name="Dev")
    large = igtl.Unknown("BLOB", again.pack() * 400, device_name="Dev")
    bind = igtl.Bind([transform(), igtl.Status.ok()])
    messages = [blob, again, large, bind, igtl.GetImage(), igtl.Points([])]
    for step in (1, 13, 64, 1000, 1 << 20):
        if step == 1:
            messages.remove(large)
        p = igtl.Protocol(resync=True)
        got, errors = read(p, b"".join(m.pack() for m in messages), step)
        assert (got, errors) == (messages, [])
        assert p.stats.lost == 0
        messages = [blob, again, large, bind, igtl.GetImage(), igtl.Points([])]


def test_a_header_is_found_in_noise_and_counted_once() -> None:
    rng = random.Random(1)
    noise = bytes(rng.randrange(256) for _ in range(5000))
    wire = transform().pack()
    for step in (1, 50, 10_000):
        p = igtl.Protocol(resync=True, max_size=1 << 20)
        got, errors = read(p, wire + b"\xff" + noise + wire + wire, step)
        assert got == [igtl.unpack(wire)] * 3
        assert errors == []
        assert p.stats.dropped == {"resync": 1}


def test_odd_headers_in_step_are_no_noise() -> None:
    """Of a type with small letters, with bytes behind a name's end; with a wrong CRC or none."""
    odd = bytearray(transform().pack())
    odd[20:34] = b"\0rest of name!"
    plain = transform().pack()
    data = frame("small.type", b"abc") + bytes(odd) + plain[:50] + bytes(8) + plain[58:]
    damaged = plain[:70] + b"?" + plain[71:]
    p = igtl.Protocol(resync=True, crc="warn")
    got, errors = read(p, data + damaged + plain, 1000)
    assert [m.type_name for m in got] == ["small.type", *["TRANSFORM"] * 4]
    assert [m.crc_ok for m in got] == [True, True, False, False, True]
    assert errors == []
    assert p.stats.errors == {"CRCError": 2}
    assert p.stats.dropped == {}


def test_finding_step_is_bounded_work() -> None:
    """A wrong message that is full of headers is tried from some of them, not from each."""
    size = 200_000
    header = frame("BLOB", b"?", size=size)[:58]
    body = (header * (size // 58 + 1))[:size]
    p = igtl.Protocol(resync=True)
    got, errors = read(p, header + body + transform().pack() * 5000, 1 << 20)
    assert len(got) > 1000
    assert len(errors) == 1
    assert p.stats.dropped["resync"] < 50


def test_resync_is_off_by_default() -> None:
    wire = transform().pack()
    p = igtl.Protocol()
    assert not p.resync
    p.receive_data(wire[:80] + wire)
    with pytest.raises(igtl.CRCError):
        p.next_message()
