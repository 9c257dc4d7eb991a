"""The published hostile inputs (`tests/corpus`): `unpack`, a stream and the oracle say the same of each."""

from __future__ import annotations

import tracemalloc

import pytest

import igtl
from tests import reference
from tests.corpus import make
from tests.corpus.make import ACCEPTED, Entry

ENTRIES = make.read()
each = pytest.mark.parametrize("entry", ENTRIES, ids=[e.name for e in ENTRIES])
NEXT = igtl.Status.ok("still in step", device_name="Next", timestamp=0)


def test_the_file_is_what_make_writes() -> None:
    assert make.FILE.read_text(encoding="utf-8") == make.text(), "run python -m tests.corpus.make"
    assert len({e.name for e in ENTRIES}) == len(ENTRIES) > 800
    assert {e.expected for e in ENTRIES} == {
        ACCEPTED, "BodyError", "CRCError", "VersionError", "ProtocolError",
    }  # fmt: skip
    clauses = {line.split()[1].rstrip(".") for line in _headings()}
    assert {e.clause for e in ENTRIES} <= clauses


def _headings() -> list[str]:
    page = make.FILE.parents[2] / "docs" / "protocol.md"
    return [line for line in page.read_text(encoding="utf-8").splitlines() if line[:2] == "##"]


@each
def test_unpack(entry: Entry) -> None:
    if entry.expected == ACCEPTED:
        m = igtl.unpack(entry.wire)
        wire = b"\0\1" + entry.wire[2:] if entry.wire[:2] == b"\0\0" else entry.wire
        assert m.pack() == wire
        repr(m)
        m.to_dict()
        assert m.pack() == wire  # what was decoded meanwhile was not edited
        assert igtl.unpack(m.pack()) == m
        return
    tracemalloc.start()
    try:
        with pytest.raises(igtl.ProtocolError) as caught:
            igtl.unpack(entry.wire)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 + 4 * len(entry.wire)
    error = caught.value
    assert type(error).__name__ == entry.expected
    if isinstance(error, igtl.BodyError):
        assert error.type_name == entry.wire[2:14].partition(b"\0")[0].decode()
        assert error.reason
        assert error.field == entry.field or not entry.field


@each
def test_stream(entry: Entry) -> None:
    """The same in a stream of messages, which goes on with the next one."""
    protocol = igtl.Protocol(on_error="raise")
    if entry.stream == "incomplete":
        protocol.receive_data(entry.wire)
        assert protocol.next_message() is None
        return
    protocol.receive_data(entry.wire + NEXT.pack())
    expected = entry.stream or entry.expected
    if expected == ACCEPTED:
        assert protocol.next_message() == igtl.unpack(entry.wire)
    else:
        with pytest.raises(igtl.ProtocolError) as caught:
            protocol.next_message()
        assert type(caught.value).__name__ == expected
    if expected != "MessageTooLarge":
        assert protocol.next_message() == NEXT
        assert protocol.next_message() is None


@each
def test_oracle(entry: Entry) -> None:
    assert reference.verdict(entry.wire) == entry.expected
