"""The commands, run as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl.cli import main
from igtl.cli.arguments import Address
from tests.cpp import free_port

pytestmark = pytest.mark.processes


@pytest.fixture
def server() -> Iterator[igtl.Server]:
    with igtl.listen(port=0) as s:
        yield s


def play(server: igtl.Server, messages: list[igtl.Message], raw: bytes = b"") -> threading.Thread:
    def run() -> None:
        with server.accept(timeout=20) as link:
            for message in messages:
                link.send(message)
            if raw:
                link._transport.send([raw])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "igtl", *args], capture_output=True, text=True, timeout=60
    )


def dump(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "igtl", "dump", *args], capture_output=True, text=True, timeout=60
    )


MESSAGES: list[igtl.Message] = [
    igtl.Transform(np.eye(4), device_name="Probe"),
    igtl.Status.ok("up", device_name="Tracker"),
    igtl.Image(np.zeros((2, 30, 40), np.int16), device_name="CT"),
    igtl.String("Größe", device_name="Note"),
]


def test_dump_as_text(server: igtl.Server) -> None:
    play(server, MESSAGES)
    done = dump(f"127.0.0.1:{server.port}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    begin = r"\d\d:\d\d:\d\d\.\d{3}  TRANSFORM "
    assert re.match(rf"{begin} Probe +0\.00 +0\.00 +0\.00 mm +0\.0 +0\.0 +0\.0°", lines[0])
    assert "OK" in lines[1]
    assert "40×30×2 int16" in lines[2]
    assert "Größe" in lines[3]
    play(server, MESSAGES)
    done = dump(f"127.0.0.1:{server.port}", "-v")
    assert re.match(rf"{begin}    'Probe' .*matrix=", done.stdout.splitlines()[0])


def test_dump_as_json(server: igtl.Server) -> None:
    play(server, MESSAGES)
    done = dump(f"127.0.0.1:{server.port}", "--json", "--type", "TRANS*", "--type", "IMAGE")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["type"], first["device_name"], first["matrix"][0]) == (
        "TRANSFORM",
        "Probe",
        [1, 0, 0, 0],
    )
    assert second["array"]["shape"] == [2, 30, 40]


def test_dump_count_and_device(server: igtl.Server) -> None:
    play(server, MESSAGES * 3)
    done = dump(f"127.0.0.1:{server.port}", "-n", "2", "-d", "C*")
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["IMAGE", "IMAGE"]


def test_dump_reports_bad_messages_and_goes_on(server: igtl.Server) -> None:
    good = igtl.Status.ok(device_name="G").pack()
    bad = good[:57] + bytes([good[57] ^ 1]) + good[58:]
    play(server, [], bad + good)
    done = dump(f"127.0.0.1:{server.port}")
    assert done.returncode == 0
    assert "CRC is" in done.stderr
    assert len(done.stdout.splitlines()) == 1
    play(server, [], good[:70])
    cut = dump(f"127.0.0.1:{server.port}")
    assert cut.returncode == 3
    assert "in the middle of a message" in cut.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_dump_ends_on_ctrl_c_while_it_waits(server: igtl.Server) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "igtl", "dump", f"127.0.0.1:{server.port}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with process, server.accept(timeout=20) as link:
        assert process.stdout is not None
        link.send(MESSAGES[0])
        assert "TRANSFORM" in process.stdout.readline()
        process.send_signal(signal.SIGINT)  # it waits in recv now, or will at once
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")


def test_dump_without_a_server() -> None:
    done = dump(f"127.0.0.1:{free_port()}")
    assert done.returncode == 3
    assert "refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_dump_udp() -> None:
    port = free_port(socket.SOCK_DGRAM)
    process = subprocess.Popen(
        [sys.executable, "-m", "igtl", "dump", f"127.0.0.1:{port}", "--udp", "-n", "1"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process, igtl.udp.Sender("127.0.0.1", port) as out:
        for _ in igtl.Rate(20):
            out.send(igtl.Status.ok("up"))
            if process.poll() is not None:
                break
        assert process.stdout is not None
        assert "STATUS" in process.stdout.read()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tracker:123", ("tracker", 123)),
        ("tracker", ("tracker", 18944)),
        (":123", ("localhost", 123)),
        ("[::1]:5", ("::1", 5)),
        ("[::1]", ("::1", 18944)),
        ("18945", ("localhost", 18945)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert Address().convert(text, None, None) == address


def test_help_and_wrong_use() -> None:
    runner = CliRunner()
    assert "demo" in runner.invoke(main, ["--help"]).output
    for wrong in (
        ["dump", "host:port"],
        ["dump", "h:70000"],
        ["dump", "-n", "0"],
        ["demo", "-s", "0"],
        ["x"],
    ):
        assert runner.invoke(main, wrong).exit_code == 2


def test_demo() -> None:
    env = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "igtl", "demo", "--seconds", "2"],
        capture_output=True, text=True, timeout=100, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "every message arrived" in done.stdout, done.stdout
    sent = {
        m[1]: (int(m[2]), int(m[3]))
        for m in re.finditer(r"(\w+) +\w+ +sent +(\d+), received +(\d+)", done.stdout)
    }
    assert sent.keys() == {"TRANSFORM", "TDATA", "IMAGE"}
    for type_name, expected in (("TRANSFORM", 240), ("TDATA", 120), ("IMAGE", 40)):
        assert sent[type_name][0] == sent[type_name][1] > expected / 10  # slow machines skip ticks


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups to interrupt")
def test_demo_ends_on_ctrl_c_with_its_summary() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "igtl", "demo", "--seconds", "60"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert "simulated" in process.stdout.readline()
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes get it
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "every message arrived" in out
    assert "Traceback" not in out


# ---- files ------------------------------------------------------------------------------------


def volume(seed: int = 1) -> igtl.Image:
    place = np.array([[0, -0.5, 0, 10], [0.5, 0, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1.0]])
    array = np.random.default_rng(seed).integers(-1000, 1000, (3, 5, 7), np.int16)
    return igtl.Image(array, ijk_to_world=place, device_name="CT")


def test_send_and_receive_files(tmp_path: Path) -> None:
    """From a file through two processes into another format."""
    pytest.importorskip("nibabel", reason="nibabel is not installed")
    pytest.importorskip("trimesh", reason="trimesh is not installed")
    mesh = igtl.PolyData(np.eye(3), polygons=[[0, 1, 2]])
    points = igtl.Points([igtl.Point("Nasion", position=(1, 2, 3))])
    igtl.files.save(volume(), tmp_path / "ct.nii.gz")
    igtl.files.save(mesh, tmp_path / "skin.stl")
    igtl.files.save(points, tmp_path / "F.mrk.json")
    port = free_port()
    receiving = subprocess.Popen(
        [sys.executable, "-m", "igtl", "receive", f":{port}", "--listen", "--to", str(tmp_path / "out"),
         "--images", ".mha", "-n", "5", "-s", "100"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    big = igtl.Image(np.tile(volume().array, (10, 20, 20)), device_name="Big")
    igtl.files.save(big, tmp_path / "big.nii.gz")
    files = [
        str(tmp_path / name)
        for name in ("ct.nii.gz", "skin.stl", "F.mrk.json", "ct.nii.gz", "big.nii.gz")
    ]
    try:
        for _ in igtl.Rate(5):  # until it listens
            sent = run("send", "--compress", *files, f":{port}")
            if "refused" not in sent.stderr or receiving.poll() is not None:
                break
        out, errors = receiving.communicate(timeout=110)
    finally:
        receiving.kill()
        receiving.wait()
    assert sent.returncode == 0, sent.stderr
    assert re.search(r"5 sent, [\d.]+ kB", sent.stderr)  # of 0.8 MB, compressed
    assert receiving.returncode == 0, errors
    assert [Path(line).name for line in out.splitlines()] == [
        "ct.mha", "skin.vtu", "F.mrk.json", "ct_2.mha", "big.mha"
    ]  # fmt: skip
    image = igtl.files.load(tmp_path / "out" / "ct_2.mha")
    assert isinstance(image, igtl.Image)
    np.testing.assert_array_equal(image.array, volume().array)
    np.testing.assert_allclose(image.ijk_to_world, volume().ijk_to_world, atol=1e-4)
    loaded = igtl.files.load(tmp_path / "out" / "F.mrk.json")
    assert isinstance(loaded, igtl.Points)
    assert loaded.points.positions.tolist() == [[1, 2, 3]]


def test_receive_goes_on(server: igtl.Server, tmp_path: Path) -> None:
    """Over messages that are no files, bad ones, what a format cannot hold, and names that lead
    elsewhere."""
    pytest.importorskip("nrrd", reason="pynrrd is not installed")
    pytest.importorskip("trimesh", reason="trimesh is not installed")
    away = volume()
    away.device_name = "../../etc/x"
    bad = bytearray(volume().pack())
    bad[-1] ^= 1
    lines = igtl.PolyData(np.eye(3), lines=[[0, 1, 2]], device_name="Path")
    play(server, [igtl.Status.ok(), away, lines, igtl.Frame.from_bytes(bytes(bad)), volume()])  # type: ignore[list-item]
    done = run("receive", f":{server.port}", "--to", str(tmp_path / "in"), "--meshes", ".stl")
    assert [Path(line).name for line in done.stdout.splitlines()] == ["etc_x.nrrd", "CT.nrrd"]
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["CT.nrrd", "etc_x.nrrd"]
    assert "bad message: CRC" in done.stderr
    assert "without vertices and lines" in done.stderr
    assert "not saved: 1 STATUS" in done.stderr
    assert done.returncode == 1


def test_errors_of_send_and_receive(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("?")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = run("send", str(tmp_path / "a.xyz"), f":{listening.getsockname()[1]}")
    assert done.returncode == 1
    assert "no known suffix" in done.stderr
    port = free_port()
    for args in (["send", str(tmp_path / "a.xyz"), f":{port}"],
                 ["receive", f":{port}", "--to", str(tmp_path)]):  # fmt: skip
        done = run(*args)
        assert done.returncode == 3
        assert "refused" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_port_in_use_and_a_mistyped_command_are_told_with_the_way_out() -> None:
    with igtl.listen(port=0) as taken:
        for command in (["simulate", "tracker", "--at"], ["serve", "--at"], ["echo", "--at"]):
            out = CliRunner().invoke(main, [*command, f"localhost:{taken.port}"])
            assert out.exit_code == 1
            assert f":{taken.port}: Address already in use: another program listens" in out.stderr
            assert "choose another port" in out.stderr
    out = CliRunner().invoke(main, ["monitro"])
    assert out.exit_code == 2
    assert "Did you mean monitor?" in out.stderr
