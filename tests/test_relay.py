"""Relays: what is passed on is what came, unless it was asked to be something else."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Frame
from igtl.session import packed
from igtl.tools.relay import Relay
from igtl.tools.routing import Renaming, Thinner, renamed
from tests.conftest import VECTORS, manifest
from tests.cpp import running
from tests.test_interop_cpp import check_printed, sample_messages
from tests.wire import frame as wire_frame

GOLDEN = {v["name"]: (VECTORS / v["file"]).read_bytes() for v in manifest()}


def pose(device_name: str = "Probe", **header: Any) -> igtl.Transform:
    return igtl.Transform(np.eye(4), device_name=device_name, **header)


def as_frame(message: igtl.Message, version: Any = None) -> Frame:
    return Frame.from_bytes(message.pack(version=version))


def in_version(frame: Frame, version: int) -> tuple[Frame, tuple[str, ...]]:
    form = packed.in_version(bytes(frame), version)
    return Frame.from_bytes(form.wire), form.lost


# ---- frames -----------------------------------------------------------------------------------


def test_another_header_version_is_the_same_message() -> None:
    """Every golden message: there and back is what it was, less metadata and id."""
    left_out = set()
    for name, wire in GOLDEN.items():
        frame = Frame.from_bytes(wire)
        old, lost = in_version(frame, 1)
        new, none = in_version(frame, 2)
        assert none == ()
        empty = len(new) == 58  # is version 1 always
        assert (old.header_version, new.header_version) == (1, 1 if empty else 2)
        assert bytes(frame) in (bytes(old), bytes(new)) or empty, name
        message = frame.unpack()
        assert new.unpack() == message, name
        plain = old.unpack()
        expected = (("metadata",) if message.metadata else ()) + (
            ("message id",) if message.message_id else ()
        )
        assert lost == expected, name
        left_out.add(lost)
        message.metadata, message.message_id = None, 0
        assert plain == message, name
        again, _ = in_version(old, 2)
        assert in_version(again, 1)[0].data == old.data
    assert len(left_out) == 3  # nothing, the id, both


def test_version_1_of_a_message_is_what_pack_makes() -> None:
    message = pose(metadata={"TransformStatus": "OK"}, message_id=7, timestamp=12)
    old, lost = in_version(as_frame(message), 1)
    assert lost == ("metadata", "message id")
    assert bytes(old) == pose(timestamp=12).pack(version=1)
    bare = pose(timestamp=12)
    assert bytes(in_version(as_frame(bare, 1), 2)[0]) == bare.pack(version=2)
    assert bytes(in_version(as_frame(bare, 2), 1)[0]) == bare.pack(version=1)


def test_a_wrong_crc_stays_wrong() -> None:
    for version in (1, 2):
        wire = bytearray(pose().pack(version=version))
        wire[80] ^= 4
        changed, _ = in_version(Frame.from_bytes(bytes(wire)), 3 - version)
        with pytest.raises(igtl.CRCError):
            changed.unpack()
        assert changed.unpack("off") == Frame.from_bytes(bytes(wire)).unpack("off")


def test_what_makes_no_sense_stays_as_it_is() -> None:
    for body in (b"", b"\0", b"\0\x0c\xff\xff" + bytes(8), b"\0\x05" + bytes(30)):
        frame = Frame.from_bytes(wire_frame("TRANSFORM", body, version=2))
        form = packed.in_version(bytes(frame), 1)
        assert form == (bytes(frame), ()) or (body == b"" and form.wire[1] == 1)
    later = wire_frame("TRANSFORM", bytes(48), version=3)
    assert packed.in_version(later, 1) == (later, ())


def test_renaming_changes_the_name_alone() -> None:
    frame = as_frame(pose(metadata={"a": "b"}))
    other = renamed(frame, "ProbeToTracker")
    message = other.unpack()  # its CRC is right
    assert message.device_name == "ProbeToTracker"
    message.device_name = "Probe"
    assert message == frame.unpack()
    with pytest.raises(igtl.EncodeError):
        renamed(frame, "x" * 21)


def test_names_by_pattern() -> None:
    names = Renaming({"Probe": "P", "Probe*": "Q*", "*To*": "*_in_*", "?": "mark", "x*": "fixed"})
    found = {old: names(old) for old in ("Probe", "Probe2", "AToB", "?", "x9", "other", "[a]ToB")}
    assert found == {
        "Probe": "P", "Probe2": "Q2", "AToB": "A_in_B", "?": "mark", "x9": "fixed",
        "other": None, "[a]ToB": "[a]_in_B",
    }  # fmt: skip
    with pytest.raises(ValueError, match="more"):
        Renaming({"a*": "*b*"})
    with pytest.raises(igtl.EncodeError):
        Renaming({"a*": "x" * 21 + "*"})


# ---- relays -----------------------------------------------------------------------------------


def received(link: igtl.Link, number: int) -> list[Frame]:
    return [link.recv_frame(timeout=10) for _ in range(number)]


def of_stream(wires: list[bytes], stream: bytes) -> list[bytes]:
    return [wire for wire in wires if wire[2:34] == stream]


def test_frames_are_passed_on_byte_for_byte() -> None:
    wrong = bytearray(pose().pack())
    wrong[70] ^= 1
    wires = [*GOLDEN.values(), bytes(wrong), wire_frame("TRANSFORM", bytes(7))]
    with igtl.serve(port=0, policy="block") as server, Relay(server) as relay:
        with igtl.connect(port=server.port) as a, igtl.connect(port=server.port) as b:
            while len(server.clients) < 2:
                time.sleep(0.01)
            for wire in wires:
                relay.forward(Frame.from_bytes(wire))
            for link in (a, b):
                got = [bytes(f) for f in received(link, len(wires))]
                assert sorted(got) == sorted(wires)  # small live ones before large ones that wait
                for stream in {wire[2:34] for wire in wires}:  # each in order
                    assert of_stream(got, stream) == of_stream(wires, stream)
    assert relay.passed.total() == len(wires)


def test_choosing_and_renaming() -> None:
    with igtl.serve(port=0) as server:
        relay = Relay(
            server, takes=lambda kind, name: kind == "TRANSFORM" and name != "Noise",
            rename={"Probe": "ProbeToTracker"},
        )  # fmt: skip
        with relay, igtl.connect(port=server.port) as link:
            while not server.clients:
                time.sleep(0.01)
            for name in ("Probe", "Noise", "Stylus"):
                relay.forward(as_frame(pose(name)))
            relay.forward(as_frame(igtl.Status.ok(device_name="Probe")))
            relay.forward(as_frame(pose("Probe")))
            names = [f.device_name for f in received(link, 3)]
    assert names == ["ProbeToTracker", "Stylus", "ProbeToTracker"]
    assert relay.passed == {("TRANSFORM", "Probe"): 2, ("TRANSFORM", "Stylus"): 1}
    assert relay.filtered == {("TRANSFORM", "Noise"): 1, ("STATUS", "Probe"): 1}


@pytest.mark.parametrize("version", ["auto", 1, 2])
def test_header_version_for_each_client(version: Any) -> None:
    """Three messages of which version 1 can hold one whole."""
    sent = [
        pose(metadata={"TransformStatus": "OK"}), pose(message_id=9), pose(),
    ]  # fmt: skip
    with igtl.serve(port=0) as server, Relay(server, version=version) as relay:
        with (
            igtl.connect(port=server.port) as old,
            igtl.connect(port=server.port, hello=True) as new,
        ):
            while sorted(p.header_version for p in server.clients) != [1, 2]:
                time.sleep(0.01)
            for message in sent:
                relay.forward(as_frame(message, 2))
            by_old, by_new = received(old, 3), received(new, 3)
    assert {f.header_version for f in by_old} == {1 if version in ("auto", 1) else 2}
    assert {f.header_version for f in by_new} == {1 if version == 1 else 2}
    if version != 1:
        assert [f.unpack() for f in by_new] == sent
    assert relay.lost == ({} if version == 2 else {"metadata": 1, "message id": 1})


def test_rate_limit_keeps_the_newest() -> None:
    """Of a burst the first comes at once, then one each interval, and the last of all in the end."""
    with igtl.serve(port=0) as server, Relay(server, max_rate=20) as relay:
        with igtl.connect(port=server.port) as link:
            while not server.clients:
                time.sleep(0.01)
            begun = time.monotonic()
            for n in range(100):
                relay.forward(as_frame(pose(message_id=n + 1)))
                relay.forward(as_frame(igtl.Status.ok(device_name="S", message_id=n + 1)))
                time.sleep(0.002)
            ids: dict[str, list[int]] = {"TRANSFORM": [], "STATUS": []}
            while any(not i or i[-1] < 100 for i in ids.values()):
                message = link.recv(timeout=10)
                ids[message.type_name].append(message.message_id)
            took = time.monotonic() - begun
    for found in ids.values():
        assert found[0] == 1
        assert found == sorted(set(found))
        assert len(found) <= took * 20 + 2
    assert relay.passed.total() + relay.thinned.total() == 200


def test_what_was_kept_goes_out_at_the_end() -> None:
    with igtl.serve(port=0) as server, igtl.connect(port=server.port) as link:
        while not server.clients:
            time.sleep(0.01)
        with Relay(server, max_rate=0.01) as relay:
            for n in range(5):
                relay.forward(as_frame(pose(message_id=n + 1)))
        assert [f.unpack().message_id for f in received(link, 2)] == [1, 5]
        assert relay.thinned == {("TRANSFORM", "Probe"): 3}


@pytest.mark.parametrize("max_rate", [None, 1e-3])
def test_invented_names_fill_no_memory(max_rate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igtl.tools.routing.MAX_STREAMS", 10)
    with igtl.serve(port=0) as server:
        with Relay(server, takes=lambda kind, name: name != "no", max_rate=max_rate) as relay:
            for k in range(100):
                relay.forward(as_frame(pose(f"N{k}")))
                relay.forward(as_frame(pose("no")))
            assert relay.filtered == {("TRANSFORM", "no"): 100}
            assert len(relay.passed) + len(relay.thinned) <= 2 * 10
            if thinner := relay._thinner:
                assert len(thinner._kept) + len(thinner._due) <= 2 * 10
        others = relay.passed["*", "*"] + relay.thinned["*", "*"]
        assert others == 91
        assert relay.passed.total() + relay.thinned.total() == 100
        assert not {"N50", "N99"} & {name for _, name in relay.passed}


def test_wrong_settings() -> None:
    with igtl.serve(port=0) as server:
        with pytest.raises(ValueError, match="version"):
            Relay(server, version=3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_rate"):
            Relay(server, max_rate=0)
        with pytest.raises(igtl.EncodeError):
            Relay(server, rename={"a": "b" * 21})


# ---- with others ------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_version_2_source_and_the_official_library_of_version_1(programs: Path) -> None:
    """The C++ program prints each message right, so it never lost framing."""
    with igtl.serve(port=0) as server, Relay(server, version="auto") as relay:
        with running(programs / "ReceiveClient", "127.0.0.1", server.port) as text:
            while not server.clients:
                time.sleep(0.01)
            for message in sample_messages():
                message.metadata["Status"] = "OK"
                message.message_id = 5
                relay.forward(as_frame(message, 2))
            check_printed(text("0, 0, 0, 1\n", 2))
    assert relay.lost == {"metadata": 9, "message id": 9}


def test_a_stalled_client_delays_nobody() -> None:
    """One reads nothing while 60 MB pass; the other gets all of it in time."""
    image = igtl.Image(np.zeros((1, 480, 640), np.uint8), device_name="Image")
    with igtl.serve(port=0, max_queued=20, stall_timeout=60) as server, Relay(server) as relay:
        with socket.create_connection(("127.0.0.1", server.port)) as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with igtl.connect(port=server.port) as fast:
                while len(server.clients) < 2:
                    time.sleep(0.01)
                ages = []
                for n in range(200):
                    image.timestamp = time.time()
                    image.message_id = n + 1
                    relay.forward(as_frame(image))
                    got = fast.recv(igtl.Image, timeout=10)
                    assert got.message_id == n + 1
                    ages.append(time.time() - (got.timestamp or 0))
                slow, quick = sorted(server.clients, key=lambda peer: peer.stats.sent)
                assert quick.stats.lost == 0
                assert slow.stats.dropped["drop_oldest"] > 100
                assert slow.queued <= 20
    assert np.median(ages) < 0.5


def test_a_late_thread_of_a_thinner_breaks_no_order() -> None:
    """What it has kept gives way to a newer frame whose time has come, and what it is sending is
    not overtaken."""
    sent: list[int] = []
    sending, go_on = threading.Event(), threading.Event()

    def send(frame: igtl.Frame, stream: tuple[str, str]) -> None:
        number = frame.unpack().message_id
        if threading.current_thread().name == "igtl thinner":
            sending.set()
            assert go_on.wait(10)
        sent.append(number)

    thinner = Thinner(100, send)
    stream = "TRANSFORM", "Probe"
    for number in (1, 2):
        thinner.offer(as_frame(pose(message_id=number)), stream)
    assert sending.wait(10)  # the thread has taken 2, and is held up for longer than an interval
    time.sleep(0.05)
    thinner.offer(as_frame(pose(message_id=3)), stream)
    assert sent == [1]
    go_on.set()
    thinner.close()
    assert sent == [1, 2, 3]
