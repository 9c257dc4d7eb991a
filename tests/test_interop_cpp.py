"""Live, against programs of the official C++ library 1.11 (interop/Makefile builds them): the
examples that Debian ships, and our own reflector. The examples loop for ever; each is ended here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from interop.content import defined
from interop.peers import Session, native_cpp
from tests.conftest import VECTORS, manifest
from tests.cpp import EXAMPLES, free_port, link_to, running

pytestmark = pytest.mark.processes


def printed_matrices(text: str) -> list[Any]:
    rows = [[float(n) for n in line.split(", ")] for line in text.splitlines()
            if re.fullmatch(r"(-?[\d.e+-]+, ){3}-?[\d.e+-]+", line)]  # fmt: skip
    return [np.array(rows[k : k + 4]) for k in range(0, len(rows) - len(rows) % 4, 4)]


# ---- reading what C++ sends -------------------------------------------------------------------


def test_tracker_server(programs: Path) -> None:
    with link_to(programs / "TrackerServer", 100) as (link, text):
        got = [link.recv(igtl.Transform, timeout=5) for _ in range(20)]
        printed = printed_matrices(text("0, 0, 0, 1\n", 20))
    assert link.stats.errors == {}
    for m, matrix in zip(got, printed, strict=False):
        assert (m.device_name, m.header_version, m.crc_ok) == ("Tracker", 1, True)
        np.testing.assert_allclose(m.matrix, matrix, rtol=1e-5, atol=1e-5)
    for k, m in enumerate(got):  # and the path is the one its source describes
        np.testing.assert_allclose(
            m.position,
            [50 * np.cos(0.2 * k), 50 * np.sin(0.2 * k), 50 * np.cos(0.2 * k)],
            atol=1e-3,
        )


def test_tracker_server_2(programs: Path) -> None:
    with link_to(programs / "TrackerServer2", 100) as (link, _):
        got = [link.recv(igtl.Position, timeout=5) for _ in range(20)]
    for k, m in enumerate(got):
        phi, theta = 0.2 * k, 0.1 * k
        q = [0, 2 / 3 * np.cos(theta), 0.577350269189626, 2 / 3 * np.sin(theta)]
        np.testing.assert_allclose(
            m.position, [50 * np.cos(phi), 50 * np.sin(phi), 50 * np.cos(phi)], atol=1e-3
        )
        np.testing.assert_allclose(m.quaternion, q, atol=1e-5)
        np.testing.assert_allclose(m.orientation, q / np.linalg.norm(q), atol=1e-5)


@pytest.mark.parametrize("kind", ["TDATA", "QTDATA"])
def test_tracking_data_servers(programs: Path, kind: str) -> None:
    name = "TrackingDataServer" if kind == "TDATA" else "QuaternionTrackingDataServer"
    start, data, stop = (
        (igtl.StartTrackingData, igtl.TrackingData, igtl.StopTrackingData)
        if kind == "TDATA"
        else (igtl.StartQuaternionTrackingData, igtl.QuaternionTrackingData, igtl.StopQuaternionTrackingData)
    )  # fmt: skip
    with link_to(programs / name) as (link, text):
        with pytest.raises(TimeoutError):  # nothing unasked
            link.recv(timeout=0.1)
        link.send(start(resolution_ms=20, coordinate_name="Patient"))
        frames: list[Any] = [link.recv(data, timeout=5) for _ in range(10)]
        link.send(stop())
        printed = text(f"STP_{kind}")
    assert "Interval = 20 (ms)" in printed
    for m in frames:
        assert m.device_name == "Tracker"
        assert m.tools.names == ["Channel 0", "Channel 1", "Channel 2"]
        assert [t.type for t in m.tools] == [1, 2, 4]
        assert np.isfinite(m.tools[0].matrix).all()
    if kind == "TDATA":
        assert frames[0].tools.matrices.shape == (3, 4, 4)
        positions = np.array([m.tools["Channel 0"].matrix[:3, 3] for m in frames])
    else:
        assert frames[0].tools.quaternions.shape == (3, 4)
        positions = np.array([m.tools["Channel 0"].position for m in frames])
    np.testing.assert_allclose(np.linalg.norm(positions[:, :2], axis=1), 50, atol=0.01)


def test_imager_server(programs: Path) -> None:
    folder = EXAMPLES / "Imager" / "img"
    with link_to(programs / "ImagerServer", 50, folder) as (link, _):
        got = [link.recv(igtl.Image, timeout=5) for _ in range(5)]
    for k, m in enumerate(got):
        raw = (folder / f"igtlTestImage{k + 1}.raw").read_bytes()
        assert m.array.shape == (1, 256, 256)
        assert m.array.tobytes() == raw[: 256 * 256]
        np.testing.assert_allclose(m.spacing, (1, 1, 5), rtol=1e-5)


def test_point_server(programs: Path) -> None:
    with link_to(programs / "PointServer") as (link, _):
        m = link.recv(igtl.Points, timeout=5)
    assert m.points.names == ["POINT_0", "POINT_1", "POINT_2"]
    assert m.points.positions.tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    assert m.points.diameters.tolist() == [15, 45, 75]
    assert m.points[1].color.tolist() == [0, 255, 0, 255]
    assert {p.owner for p in m.points} == {"IMAGE_0"}


def test_string_server(programs: Path) -> None:
    words = ["OpenIGTLink", "Network", "Communication", "Protocol", "Image Guided Therapy"]
    with link_to(programs / "StringServer", 200) as (link, _):
        assert [link.recv(igtl.String, timeout=5).string for _ in range(7)] == [*words, *words[:2]]


def test_status_server(programs: Path) -> None:
    with link_to(programs / "StatusServer") as (link, _):
        m = link.recv(igtl.Status, timeout=5)
    assert (m.code, m.subcode, m.error_name) == (igtl.StatusCode.OK, 128, "OK!")
    assert m.message == "This is a test to send status message."


@pytest.mark.parametrize(
    ("program", "arguments", "options", "line"),
    [
        ("TrackerServer", [50], [], r"TRANSFORM +Tracker +-?[\d.]+ +-?[\d.]+ +-?[\d.]+ mm"),
        ("TrackingDataServer", [], ["--start", "TDATA"], r"TDATA +Tracker +3 tools: Channel 0"),
        (
            "QuaternionTrackingDataServer",
            [],
            ["--start", "QTDATA"],
            r"QTDATA +Tracker +3 tools: Channel 0",
        ),
    ],
)
def test_dump_of_cpp_servers(
    programs: Path, program: str, arguments: Any, options: Any, line: str
) -> None:
    port = free_port()
    with running(programs / program, port, *arguments):
        for _ in igtl.Rate(20):  # until it listens
            dump = subprocess.run(
                [sys.executable, "-m", "igtl", "dump", f"127.0.0.1:{port}", "-n", "3", *options],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            if "refused" not in dump.stderr:
                break
    assert (dump.returncode, dump.stderr) == (0, "")
    assert len(re.findall(line, dump.stdout)) == 3, dump.stdout


# ---- C++ reads what Python sends --------------------------------------------------------------


def sample_messages() -> list[igtl.Message]:
    matrix = np.array([[0, -1, 0, 10.5], [1, 0, 0, -2.25], [0, 0, 1, 300]])
    image = igtl.Image(
        np.arange(24, dtype=np.uint16).reshape(2, 3, 4), spacing=(0.5, 0.75, 2), device_name="CT"
    )
    return [
        igtl.Transform(matrix, device_name="Probe", timestamp=1700000000.5),
        igtl.Position((1.5, -2.5, 3.25), (0, 0, 0.6, 0.8), device_name="Tip"),
        image,
        igtl.Status(igtl.StatusCode.NOT_READY, 42, "Warming", "not yet", device_name="Laser"),
        igtl.Points(
            [igtl.Point("Nasion", color=(1, 2, 3, 4), position=(1, 2, 3), diameter=5, owner="CT")]
        ),
        igtl.String("hello", device_name="Note"),
        igtl.Capability(["IMAGE", "GET_POSITION"]),
        igtl.Command(7, "skipped cleanly"),  # version 1 on this link: unknown to the library
        igtl.Transform(np.eye(4), device_name="Last"),
    ]


def check_printed(printed: str) -> None:
    first, last = printed_matrices(printed)
    np.testing.assert_allclose(first[:3], [[0, -1, 0, 10.5], [1, 0, 0, -2.25], [0, 0, 1, 300]])
    np.testing.assert_allclose(last, np.eye(4))
    for line in (
        "Time stamp: 1700000000.500000000",
        "position   = (1.5, -2.5, 3.25)", "quaternion = (0, 0, 0.6, 0.8)",
        "Device Name           : CT", "Scalar Type           : 5",
        "Dimensions            : (4, 3, 2)", "Spacing               : (0.5, 0.75, 2)",
        "Sub-Volume dimensions : (4, 3, 2)", "Sub-Volume offset     : (0, 0, 0)",
        "Code      : 13", "SubCode   : 42", "Error Name: Warming", "Status    : not yet",
        "Name      : Nasion", "RGBA      : ( 1, 2, 3, 4 )", "Position  : ( 1.000000, 2.000000, 3.000000 )",
        "Radius    : 5.000000", "Owner     : CT", "Encoding: 3; String: hello",
        "Typename #0: IMAGE", "Typename #1: GET_POSITION", "Receiving : COMMAND",
    ):  # fmt: skip
        assert line in printed


def test_receive_server(programs: Path) -> None:
    with link_to(programs / "ReceiveServer") as (link, text):
        for message in sample_messages():
            link.send(message)
        check_printed(text("0, 0, 0, 1\n", 2))


def test_receive_client(programs: Path) -> None:
    with igtl.listen(port=0) as server:
        with running(programs / "ReceiveClient", "127.0.0.1", server.port) as text:
            with server.accept(timeout=10) as link:
                for message in sample_messages():
                    link.send(message)
                check_printed(text("0, 0, 0, 1\n", 2))


# ---- there and back ---------------------------------------------------------------------------

REFLECTED = {
    "TRANSFORM", "POSITION", "IMAGE", "STATUS", "CAPABILITY", "STRING", "POINT", "TRAJ", "TDATA",
    "QTDATA", "STT_TDATA", "IMGMETA", "LBMETA", "SENSOR", "NDARRAY", "POLYDATA", "COLORT",
}  # fmt: skip


def reflectable() -> list[dict[str, Any]]:
    """Golden version 1 messages whose bytes library 1.11 must reproduce. Short forms of POSITION
    are left out: packing one after unpacking it, 1.11 writes 28 bytes beyond its buffer's end."""
    return [
        v for v in manifest()
        if v["type"] in REFLECTED and v["header_version"] == 1 and v["byte_exact"]
        and v["official_repack_identical"] and v["body_size"]
        and v["content"].get("variant", "full") == "full"
    ]  # fmt: skip


def test_the_library_unpacks_and_packs_golden_messages_to_the_same_bytes(programs: Path) -> None:
    vectors = reflectable()
    assert {v["type"] for v in vectors} == REFLECTED
    with Session(native_cpp(programs / "cmake"), "reflect", "tcp") as session:
        for v in vectors:
            sent = igtl.unpack((VECTORS / v["file"]).read_bytes())
            session.send(sent)
            back = session.recv()
            if isinstance(sent, igtl.ImageMeta):
                # 1.11 turns the scan time into nanoseconds and back: off by a unit of 2**-32 s
                assert isinstance(back, igtl.ImageMeta), back
                for ours, theirs in zip(sent.images, back.images, strict=True):
                    assert abs(ours.timestamp_raw - theirs.timestamp_raw) <= 64
                back.images.timestamp_raws = sent.images.timestamp_raws
            assert defined(back) == sent.pack(), v["name"]
