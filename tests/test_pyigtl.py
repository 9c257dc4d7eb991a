"""`igtl.peers.pyigtl`: the bytes of pyigtl, its behaviour, and scripts that run unchanged."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.peers.pyigtl as ours
from tests.conftest import missing_peer
from tests.cpp import free_port, link_to, running

MATRIX = np.array([[0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]], np.float32)
HEADER = {"timestamp": 1_700_000_000.25, "device_name": "Test"}


def volume(shape: tuple[int, ...], dtype: str = "u1") -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


MADE: dict[str, Any] = {
    "transform": lambda p: p.TransformMessage(MATRIX, **HEADER),
    "string": lambda p: p.StringMessage("some text", **HEADER),
    "volume": lambda p: p.ImageMessage(volume((3, 4, 5), "i2"), MATRIX, **HEADER),
    "colors": lambda p: p.ImageMessage(volume((1, 4, 5, 3)), **HEADER),
    "doubles": lambda p: p.ImageMessage(volume((2, 3, 4), "f8"), MATRIX, "ras", **HEADER),
    "point": lambda p: p.PointMessage([1, 2, 3], **HEADER),
    "points": lambda p: p.PointMessage(
        [[1, 2, 3], [4, 5, 6]], ["a", "b"], [1, 2, 3, 4], [0.5, 1.5], "group", ["x", "y"], **HEADER
    ),
    "mesh": lambda p: p.PolyDataMessage(
        points=np.eye(3), polygons=np.array([3, 0, 1, 2]), lines=np.array([2, 0, 1, 2, 1, 2]), **HEADER
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> Any:
    if importlib.util.find_spec("pyigtl") is None:
        missing_peer("pyigtl")
    return importlib.import_module("pyigtl")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_bytes_are_those_of_pyigtl(theirs: Any, make: Any, version: int) -> None:
    wires = []
    for module in (theirs, ours):
        message = make(module)
        message.header_version = version
        if version == 2:
            message.message_id = 7
            message.metadata = {"key": "value"}
        wires.append(message.pack())
    assert wires[0] == wires[1]


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_bytes_and_back(make: Any) -> None:
    message = make(ours)
    message.header_version, message.metadata, message.message_id = 2, {"key": "värde"}, 9
    wire = message.pack()
    head, body = wire[:58], wire[58:]
    fields = ours.MessageBase.parse_header(head)
    assert fields["body_size"] == len(body)
    again = ours.MessageBase.create_message(fields["message_type"])
    assert again is not None
    again.unpack(fields, body)
    assert again.pack() == wire
    assert (again.device_name, again.timestamp) == ("Test", HEADER["timestamp"])
    assert again.metadata == {"key": "värde"}
    assert again.is_valid
    assert str(again) == str(message).replace("None", "[]")


def test_an_image_with_an_offset_has_the_place_of_the_whole() -> None:
    whole = igtl.Image(volume((2, 4, 6)), ijk_to_world=MATRIX)
    whole.sub_size, whole.offset, whole.size = (6, 4, 2), (1, 2, 3), (8, 8, 8)
    part = ours.ImageMessage().from_igtl(whole)
    first = part.ijk_to_world_matrix @ (0, 0, 0, 1)
    assert first == pytest.approx(whole.ijk_to_world @ (1, 2, 3, 1))


def test_what_cannot_be_sent_says_why() -> None:
    for message, text in (
        (ours.ImageMessage(), "image is None"),
        (ours.ImageMessage(np.zeros((2, 2, 2), np.int64)), "int64"),
        (ours.PointMessage(), "positions are"),
        (ours.PointMessage([[1, 2, 3]], names=["a", "b"]), "names has 2 entries for 1"),
        (ours.PositionMessage([[1, 2, 3], [4, 5, 6]]), "one position"),
        (ours.PositionMessage([1, 2, 3], [1, 2]), "4 numbers"),
    ):
        with pytest.raises(ValueError, match=text):
            message.pack()
    with pytest.raises(ValueError, match="4x4"):
        ours.TransformMessage(np.eye(3))
    with pytest.raises(igtl.ProtocolError, match="58 bytes"):
        ours.MessageBase.parse_header(b"short")
    assert ours.MessageBase.create_message("TDATA") is None


# ---- client and server ---------------------------------------------------------------------------


@contextmanager
def both() -> Iterator[tuple[Any, Any]]:
    server = ours.OpenIGTLinkServer(port=0)
    client = ours.OpenIGTLinkClient(port=server.port)
    try:
        yield server, client
    finally:
        client.stop()
        server.stop()


def until(reached: Any) -> None:
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_messages_both_ways(make: Any) -> None:
    with both() as (server, client):
        for sender, receiver in ((server, client), (client, server)):
            sent = make(ours)
            assert sender.send_message(sent)
            got = receiver.wait_for_message("Test", timeout=20)
            assert got.pack() == sent.pack()
        assert server.is_connected()
        assert client.is_connected()


def test_the_newest_of_each_name() -> None:
    with both() as (server, client):
        for n in range(3):
            for name in ("A", "B"):
                server.send_message(ours.StringMessage(str(n), device_name=name))
        server.send_message(ours.StringMessage("end", device_name="C"))
        assert client.wait_for_message("C").string == "end"
        assert client.wait_for_message("A").string == "2"
        assert [m.string for m in client.get_latest_messages()] == ["2"]
        assert client.get_latest_messages() == []


def test_a_time_out_is_none_and_lists_what_came(caplog: pytest.LogCaptureFixture) -> None:
    with both() as (server, client):
        server.send_message(ours.StringMessage("x", device_name="Other"))
        until(lambda: "Other" in client._newest)
        with caplog.at_level(logging.WARNING):
            assert client.wait_for_message("Image", timeout=0.01) is None
        assert "'Image'" in caplog.text
        assert "Other" in caplog.text


def test_an_array_may_be_reused_at_once() -> None:
    with both() as (server, client):
        pixels = np.zeros((1, 300, 300), np.uint8)
        server.send_message(ours.ImageMessage(pixels, device_name="I"), wait=False)
        until(server.is_connected)
        server.send_message(ours.ImageMessage(pixels, device_name="I"), wait=False)
        pixels[:] = 255
        assert not client.wait_for_message("I", timeout=20).image.any()


def test_types_that_pyigtl_does_not_know_and_wrong_bytes_are_passed_over() -> None:
    with both() as (server, client):
        until(client.is_connected)
        bad = bytearray(ours.StringMessage("bad", device_name="S").pack())
        bad[-1] ^= 1
        for frame in (igtl.TrackingData([], device_name="T").pack(), bytes(bad)):
            server._server.broadcast(igtl.Frame.from_bytes(frame))
        server.send_message(ours.StringMessage("good", device_name="S"))
        assert client.wait_for_message("S", timeout=20).string == "good"
        assert client.get_latest_messages() == []


def test_a_client_outlives_its_server_and_a_server_its_clients() -> None:
    port = free_port()
    client = ours.OpenIGTLinkClient(port=port)
    for n in range(2):
        server = ours.OpenIGTLinkServer(port=port)
        server.send_message(ours.StringMessage(str(n), device_name="S"))  # waits for the client
        assert client.wait_for_message("S", timeout=20).string == str(n)
        server.stop()
        until(lambda: not client.is_connected())
    client.stop()
    client.stop()  # again is nothing
    with pytest.raises(TypeError, match="Transform"):
        client.send_message(igtl.Transform())


def test_with_pyigtl_at_the_other_end(theirs: Any) -> None:
    server = ours.OpenIGTLinkServer(port=0)
    client = theirs.OpenIGTLinkClient(port=server.port)
    try:
        for make in (MADE["transform"], MADE["volume"], MADE["points"]):
            server.send_message(make(ours))
            got = client.wait_for_message("Test", timeout=20)
            assert got.pack() == make(theirs).pack()
            client.send_message(got)
            back = server.wait_for_message("Test", timeout=20)
            assert back.pack() == make(ours).pack()
    finally:
        client.stop()
        server.stop()


# ---- scripts, unchanged --------------------------------------------------------------------------

TRACKED_IMAGES = """
import pyigtl, time
import numpy as np
server = pyigtl.OpenIGTLinkServer(port=PORT, local_server=True)
while True:
    if not server.is_connected():
        time.sleep(0.01)
        continue
    image = pyigtl.ImageMessage(np.ones((1, 20, 30)), device_name="Image")
    server.send_message(image)
    server.send_message(pyigtl.TransformMessage(
        np.eye(4), device_name="ImageToReference", timestamp=image.timestamp))
    server.send_message(pyigtl.StringMessage("text", device_name="Text"))
    server.send_message(pyigtl.PositionMessage([1, 2, 3], [0, 0, 0, 1], device_name="Position"))
    for message in server.get_latest_messages():
        print(message.device_name)
    time.sleep(0.01)
"""
SIMPLE_CLIENT = """
import pyigtl
client = pyigtl.OpenIGTLinkClient(host="127.0.0.1", port=PORT)
print(client.wait_for_message(NAME, timeout=20))
"""
FLATTENED_POINTS = """
from pyigtl.comm import OpenIGTLinkClient
from pyigtl.messages import PointMessage
import numpy as np
client = OpenIGTLinkClient(host="127.0.0.1", port=PORT)
got = client.wait_for_message("F")
flat = np.array(got.positions)
flat[:, 2] = 0.0
client.send_message(PointMessage(
    device_name="F-modified", positions=flat, names=got.names, rgba_colors=[255, 0, 0, 255]))
"""
MESH = """
import pyigtl, sys
import numpy as np
client = pyigtl.OpenIGTLinkClient(host="127.0.0.1", port=PORT)
client.send_message(pyigtl.PolyDataMessage(
    points=np.eye(3), polygons=np.array([3, 0, 1, 2]), device_name="Mesh"))
"""


def script(tmp_path: Path, text: str, **names: Any) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text("".join(f"{k} = {v!r}\n" for k, v in names.items()) + text)
    return [sys.executable, "-u", "-m", "igtl.peers.pyigtl", str(path)]


@pytest.mark.processes
def test_a_script_serves_the_official_client(tmp_path: Path, programs: Path) -> None:
    port = free_port()
    process = subprocess.Popen(script(tmp_path, TRACKED_IMAGES, PORT=port))
    try:
        with igtl.connect("127.0.0.1", port, reconnect=igtl.Backoff(0.05, 0.1)) as link:
            assert link.wait_connected(20)  # it is listening
        with running(programs / "ReceiveClient", "127.0.0.1", port) as text:
            for word in ("Dimensions            : (30, 20, 1)", "TRANSFORM", "POSITION", "STRING"):
                text(word)
    finally:
        process.terminate()
        assert process.wait(60) == -15  # SIGTERM is the program's own


@pytest.mark.processes
def test_a_script_listens_to_the_official_server(tmp_path: Path, programs: Path) -> None:
    with link_to(programs / "TrackerServer", 100) as (link, _):
        name = link.recv(igtl.Transform, timeout=20).device_name
    port = free_port()
    with running(programs / "TrackerServer", port, 100):
        out = subprocess.run(
            script(tmp_path, SIMPLE_CLIENT, PORT=port, NAME=name),
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
    assert out.startswith(f"TRANSFORM message:\n  Device name: {name}\n")


@pytest.mark.processes
@pytest.mark.parametrize(("text", "name"), [(FLATTENED_POINTS, "F-modified"), (MESH, "Mesh")])
def test_what_a_script_sends_last_still_leaves(tmp_path: Path, text: str, name: str) -> None:
    got: list[Any] = []
    with igtl.serve(port=0) as server:
        server.on()(lambda message, peer: got.append(message))
        place = [[1, 2, 3], [4, 5, 6]]
        points = igtl.Points.from_arrays(place, names=["a", "b"], device_name="F")
        server.broadcast(points, latch=True)
        subprocess.run(script(tmp_path, text, PORT=server.port), timeout=60, check=True)
        until(lambda: got)
    assert got[0].device_name == name
    if name == "Mesh":
        assert got[0].polygons[0].tolist() == [0, 1, 2]
    else:
        assert got[0].points.positions.tolist() == [[1, 2, 0], [4, 5, 0]]
        assert got[0].points.names == ["a", "b"]


@pytest.mark.processes
def test_the_module_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "igtl.peers.pyigtl"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "python -m igtl.peers.pyigtl script.py" in done.stderr
