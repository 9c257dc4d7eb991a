"""Random hostile inputs: `unpack`, a stream and the oracle say the same of each, and none takes much
memory. `ci/long` draws new ones for a minute; IGTL_FUZZ_SEED repeats a run."""

from __future__ import annotations

import os
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import igtl
from tests import reference, strategies
from tests.draw import Draw
from tests.memory import peak
from tests.wire import attributes, bind, entries, extended, frame, mended, wanted

NEXT = igtl.Status.ok("still in step", device_name="Next", timestamp=0)
LARGE = 20_000  # bytes from which memory is always measured
ROOM = 256 * 1024  # bytes that do not depend on the message


class Fuzz:
    """Hostile inputs of one seed."""

    def __init__(self, seed: int) -> None:
        self.draw = Draw(seed)
        self.makers: list[Callable[[], bytes]] = [
            self.damaged, self.damaged, self.damaged, self.noise, self.nested, self.shape,
            self.small_parts, self.version_2, self.header,
        ]  # fmt: skip

    def next(self) -> bytes:
        return self.draw.choice(self.makers)()

    # -- one way each

    def good(self) -> bytes:
        d = self.draw
        m = d.message(d.choice(strategies.TYPES))
        return m.pack(version=2 if m.message_id or m.metadata else d.choice((1, 2)))

    def damaged(self) -> bytes:
        """A good message, changed in a few places; its CRC is mostly made right again."""
        wire = bytearray(self.good())
        for _ in range(self.draw.choice((0, 1, 1, 1, 2, 5))):
            self.damage(wire)
        return mended(bytes(wire)) if self.draw.random() < 0.95 else bytes(wire)

    def damage(self, wire: bytearray, start: int = 58) -> None:
        d = self.draw
        if len(wire) <= start:
            wire += d.randbytes(d.randrange(20))
            return
        # what is announced stands in front
        at = start + int((len(wire) - start) * d.random() ** d.choice((1, 4)))
        match d.randrange(6):
            case 0:
                wire[at] ^= 1 << d.randrange(8)
            case 1:
                del wire[at:]
            case 2:
                del wire[at : at + d.choice((1, 2, 4, 12))]
            case 3:
                wire[at:at] = wire[at : at + d.choice((1, 4, 100))]
            case 4:
                width = d.choice((1, 2, 4, 8))
                wire[at : at + width] = d.bits(8 * width).to_bytes(width, "big")
            case 5:
                wire[at : at + 4] = d.choice(
                    (b"\x7f\xc0\0\0", b"\xff\x80\0\0", b"\0" * 4, b"\xff" * 4)
                )

    def noise(self) -> bytes:
        d = self.draw
        return frame(
            d.choice(strategies.TYPES).type_name, d.randbytes(d.choice((0, 1, 4, 17, 80, 400)))
        )

    def content(self, depth: int) -> tuple[bytes, bytes]:
        """Type and content of a child; BIND in BIND."""
        d = self.draw
        if depth and d.random() < 0.9:
            count = d.choice((0, 1, 1, 1, 2))
            names = d.randbytes(d.randrange(4)) + bytes(d.choice((count, count + count % 2, 0)))
            raw = bytearray(bind([self.content(depth - 1) for _ in range(count)], names))
            if d.random() < 0.1:
                self.damage(raw, 0)
            return d.choice((b"BIND", b"BIND", b"BIND\0junk")), bytes(raw)
        cls = d.choice([cls for cls in strategies.TYPES if cls not in (igtl.Bind, igtl.ColorTable)])
        kind = cls.type_name.encode()
        if len(kind) < 11 and d.random() < 0.1:
            kind += b"\0x"
        return kind, d.choice((b"", reference.content(d.content(cls))))

    def nested(self) -> bytes:
        d = self.draw
        kind, raw = self.content(d.choice((1, 3, 7, 9, 12)))
        return frame("", raw)[:2] + kind.ljust(12, b"\0") + frame("", raw)[14:]

    def shape(self) -> bytes:
        """Arrays and images, often without numbers, often of other sizes than they say."""
        d = self.draw
        extents = [
            d.choice((0, 0, 1, 1, 2, 3, 1000, 65535)) for _ in range(d.choice((0, 1, 2, 3, 3, 4)))
        ]
        code = d.choice((2, 3, 4, 5, 6, 7, 10, 11, 13, 1))
        count = 1
        for n in extents:
            count *= n
        width = {4: 2, 5: 2, 6: 4, 7: 4, 10: 4, 11: 8, 13: 16}.get(code, 1)
        values = bytes(min(4096, max(0, count * width + d.choice((0, 0, 0, -1, 1)))))
        if len(extents) != 3 or d.random() < 0.5:
            return frame(
                "NDARRAY", struct.pack(f">BB{len(extents)}H", code, len(extents), *extents) + values
            )
        size = struct.pack(">3H", *(max(n, d.choice((0, 1, 7))) for n in extents))
        head = bytes((0, 1, d.choice((1, 1, 3, 0)), code, d.choice((1, 2)), 1)) + size + bytes(54)
        return frame("IMAGE", head + struct.pack(">3H", *extents) + values)

    def small_parts(self) -> bytes:
        d = self.draw
        n = d.choice((1, 5, 10, 10, 30, 30, 300, 3000))
        kind, raw = d.choice([
            ("POLYDATA", lambda: attributes(n)),
            ("POLYDATA", lambda: struct.pack(">10I", 0, 0, 0, n, 4 * n, *[0] * 5) + bytes(4 * n)),
            ("BIND", lambda: bind([(b"STRING", b"")] * n, bytes(n))),
            ("BIND", lambda: bind([(b"TDATA", b"")] * n, b"")),
            ("BIND", lambda: bind([(b"BIND", bind([(b"ODD", b"")] * (n // 10), b""))] * 10, b"")),
            ("BIND", lambda: bind([(b"POLYDATA", attributes(n // 10))] * 10, b"")),
            ("GET_BIND", lambda: wanted(n)),
            ("STT_BIND", lambda: bytes(8) + wanted(n)),
            ("CAPABILITY", lambda: d.choice((b"T%011d" % n, b"\xff" * 12)) * n),
            ("POINT", lambda: bytes(136 * (n // 10))),
            ("TDATA", lambda: bytes(70 * (n // 10))),
            ("STATUS", lambda: bytes(30) + d.choice(("é", "a", "🩺", "日")).encode() * n + b"a" * n),
        ])  # fmt: skip
        made = bytearray(raw())
        if d.random() < 0.3:
            self.damage(made, 0)
        return frame(kind, bytes(made))

    def version_2(self) -> bytes:
        d = self.draw
        raw = d.randbytes(31)
        match d.randrange(3):
            case 0:
                return frame("STATUS", entries(d.choice((0, 1, 5, 1000))), version=2)
            case 1:
                sizes = [d.randrange(4) for _ in range(2 * d.randrange(4))]
                head = struct.pack(">H", len(sizes) // 2 + d.choice((0, 0, 0, 1)))
                for key, value in zip(sizes[::2], sizes[1::2], strict=True):
                    head += struct.pack(">HHI", key, d.bits(16), value)
                data = d.randbytes(sum(sizes) + d.choice((0, 0, 0, 1)))
                return frame("STATUS", extended(raw, head + d.choice((b"", b"x")), data), version=2)
            case _:
                body = extended(
                    raw, ext=d.choice((12, 12, 13, 43, 44, d.bits(16))), mh=d.choice((2, 2, 10, d.bits(16))),
                    ms=d.choice((0, 0, 5, d.bits(32))),
                )  # fmt: skip
                return frame("STATUS", body, version=2)

    def header(self) -> bytes:
        d = self.draw
        wire = bytearray(self.good())
        at = d.choice((1, 1, d.randrange(58)))
        wire[at : at + 1] = d.randbytes(1)
        if d.random() < 0.3:
            wire[2:14] = d.choice((b"STATUS\0x", b"TRANSFORM\0x", b"\0")).ljust(12, b"\0")
        return bytes(wire)


def outcome(take: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "accepted", take()
    except igtl.ProtocolError as error:
        return type(error).__name__, error


def examine(wire: bytes, measure: bool) -> str:
    """What becomes of it; AssertionError if anything is not as it should be."""
    try:
        expected = reference.verdict(wire)
    except reference.BeyondNumpy:
        expected = ""
    got, m = outcome(lambda: igtl.unpack(wire))
    assert got == (expected or got), m
    if measure:
        assert peak(lambda: outcome(lambda: igtl.unpack(wire))) <= 4 * len(wire) + ROOM
    if got == "accepted":
        assert m.pack()[2:] == wire[2:]
        repr(m)
        m.to_dict()
        assert m.pack()[2:] == wire[2:]
        assert igtl.unpack(m.pack()) == m
    if got != "ProtocolError":
        protocol = igtl.Protocol(on_error="raise")
        protocol.receive_data(wire + NEXT.pack())
        kind, streamed = outcome(protocol.next_message)
        assert kind == got
        assert got != "accepted" or streamed == m
        assert protocol.next_message() == NEXT
    return got


def run(seed: int, inputs: int, seconds: float) -> Counter[str]:
    fuzz, choice = Fuzz(seed), random.Random(seed)
    end = time.monotonic() + seconds
    seen: Counter[str] = Counter()
    while seen.total() < inputs and time.monotonic() < end:
        wire = fuzz.next()
        try:
            seen[examine(wire, len(wire) >= LARGE or choice.random() < 0.02)] += 1
        except BaseException as error:
            error.add_note(f"IGTL_FUZZ_SEED={seed}, input {seen.total()}: {wire[:4000].hex()}")
            raise
    return seen


def test_some_inputs() -> None:
    seen = run(seed=7, inputs=1000, seconds=600)
    assert seen.total() == 1000
    assert seen["accepted"] > 300
    assert seen["BodyError"] > 100
    assert min(seen[kind] for kind in ("CRCError", "VersionError", "ProtocolError")) > 0


@pytest.mark.long
def test_inputs_of_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("IGTL_FUZZ_SEED") or random.SystemRandom().getrandbits(32))
    with capsys.disabled():
        print(f"\nIGTL_FUZZ_SEED={seed}")
    seen = run(seed, inputs=10**9, seconds=60)
    with capsys.disabled():
        print(f"{seen.total()} inputs: {dict(seen)}")
    assert seen["accepted"] > 100
