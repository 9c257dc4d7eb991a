"""CRC-64 against the published check values, an independent library and a bitwise loop."""

from __future__ import annotations

import random

import fastcrc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from igtl import _core
from tests import reference

FORMS = _core.crc_forms()


def test_published_values() -> None:
    assert igtl.crc64(b"123456789") == 0x6C40DF5F0B497347
    assert igtl.crc64(b"") == 0
    assert igtl.crc64(b"\0") == 0
    assert igtl.crc64(b"\1") == 0x42F0E1EBA9EA3693


def test_portable_is_always_there() -> None:
    assert "portable" in FORMS
    with pytest.raises(ValueError, match="no CRC form"):
        igtl.crc64(b"", form="fast")


@pytest.mark.parametrize("form", FORMS)
def test_every_length_and_alignment(form: str) -> None:
    rng = random.Random(3)
    data = rng.randbytes(3000)
    for n in (*range(700), *rng.sample(range(700, 2900), 100)):
        at = rng.randrange(64)
        part = memoryview(data)[at : at + n]
        start = rng.getrandbits(64)
        expected = fastcrc.crc64.ecma_182(bytes(part))
        assert igtl.crc64(part, form=form) == expected
        split = rng.randrange(n + 1)
        first = igtl.crc64(part[:split], form=form)
        assert igtl.crc64(part[split:], first, form=form) == expected
        assert igtl.crc64(part, start, form=form) == slow(bytes(part), start)


def slow(data: bytes, crc: int) -> int:
    for byte in data:
        crc = reference._CRC[crc >> 56 ^ byte] ^ (crc << 8) & (1 << 64) - 1
    return crc


@pytest.mark.parametrize("form", FORMS)
@given(data=st.binary(max_size=5000))
def test_any_bytes(form: str, data: bytes) -> None:
    assert igtl.crc64(data, form=form) == fastcrc.crc64.ecma_182(data)


def test_large_and_any_buffer() -> None:
    data = random.Random(4).randbytes(3 << 20)
    expected = fastcrc.crc64.ecma_182(data)
    for buffer in (data, bytearray(data), memoryview(data)):
        assert igtl.crc64(buffer) == expected
    with pytest.raises((TypeError, ValueError)):
        igtl.crc64("text")  # type: ignore[arg-type]


def test_fused_copy_of_large_content() -> None:
    """pack() sums large data while copying it, pack_parts() without copying: same CRC."""
    import numpy as np

    for size in (100, 5_000, 16_384, 16_385, 70_000, 1_000_000, (8 << 20) + 77):
        m = igtl.Unknown("BLOB", np.random.default_rng(size).bytes(size))
        wire = m.pack()
        assert wire[50:58] == fastcrc.crc64.ecma_182(wire[58:]).to_bytes(8, "big")
        assert b"".join(m.pack_parts()) == wire
        assert (len(m.pack_parts()) > 1) == (size >= 64 * 1024)
        assert m.pack(crc=False)[50:58] == bytes(8)
    into = bytearray(len(wire) + 64)  # the last is copied past the caches, wherever it begins
    for at in range(0, 64, 5):
        assert m.pack_into(memoryview(into)[at:]) == len(wire)
        assert into[at : at + len(wire)] == wire
