"""Every example does what its first lines say."""

from __future__ import annotations

import csv
import importlib.util
import json
import pickle
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from tests.cpp import free_port

FOLDER = Path(__file__).parents[1] / "examples"
if not FOLDER.is_dir():
    pytest.skip("installed without the examples", allow_module_level=True)
pytestmark = pytest.mark.processes  # programs of their own, though they run in this process
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - {"common"})
README = (FOLDER / "README.md").read_text()
# those that bring both ends of a connection, or need none
ALONE = set(
    re.findall(r"`(\w+)\.py`", README.partition("Some bring both ends")[2].partition("\n\n")[0])
)
sys.path.append(str(FOLDER))  # as for a program that lies there: it finds common.py


def load(name: str) -> Any:
    # one module name for all: a message type that two pages declare is the same, declared again
    spec = importlib.util.spec_from_file_location("page", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run an example in this process, in an empty folder, where it may leave nothing; gives what
    it printed."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def work(name: str, *args: str) -> str:
        load(name).main(list(args))
        assert not list(here.iterdir())
        return capsys.readouterr().out

    return work


@pytest.mark.parametrize("name", NAMES)
def test_each_has_help_and_says_what_one_sees(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(name)
    assert module.__doc__
    assert "You see " in module.__doc__
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: " in text
    explained = "--address ADDRESS of the server: HOST:PORT, HOST, :PORT, unix:/PATH or ws://"
    assert (explained in text) == (name not in ALONE)


@pytest.mark.parametrize("name", sorted(set(NAMES) - ALONE))
def test_a_wrong_address_gives_one_line(name: str, run: Any) -> None:
    """No port, or no socket there: the address and what is wrong with it, and no traceback."""
    for address, why in {
        "localhost:x": "'localhost:x': 'x' is not a port",
        "unix:/no/such/socket": "unix:/no/such/socket: No such file or directory",
    }.items():
        with pytest.raises(SystemExit) as end:
            run(name, *CHOICES.get(name, []), "--address", address)
        line = str(end.value.code)
        assert line.endswith(why)
        assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("async_client", ["--count", "3"], "3 poses, and the reply"),
        ("client", ["status"], "OK"),
        ("clock", ["--seconds", "0.2"], "the clock of the peer is "),
        ("dataset", ["--count", "60"], " pairs; "),
        ("image_streaming", ["mri", "--count", "2"], "2 images sent, "),
        ("query_streaming", ["--count", "3"], "CT: <Image 'CT'"),
        ("recording", ["--count", "60"], "equal bytes: True"),
        ("robot_loop", ["--seconds", "0.5"], ", 0 missing"),
        ("sensor_logger", ["force", "--seconds", "0.3"], "Force: N, "),
        ("tracked_ultrasound", ["--count", "3"], "mm from the target"),
        ("tracking_server", ["--frames", "10"], "10 frames, "),
    ],
)
def test_a_server_of_yours(run: Any, name: str, words: list[str], said: str) -> None:
    """By --address it is this one that a program talks to."""
    if name in ("dataset", "recording"):
        pytest.importorskip("mcap")
    devices = {
        "dataset": ["ultrasound"], "robot_loop": ["robot"], "sensor_logger": ["force"],
    }.get(name, ["tracker", "ultrasound", "ct"])  # fmt: skip
    with igtl.simulate.serve(*devices, port=0, version=2) as simulator:
        assert said in run(name, *words, "--address", f"localhost:{simulator.port}")
        assert simulator.server.gone.total() or simulator.server.clients


CHOICES = {  # what a program must be told
    "client": ["all"], "image_streaming": ["mri"], "sensor_logger": ["imu"],
    "video_streaming": ["raw"],
}  # fmt: skip


def test_the_map_is_complete() -> None:
    """Each program stands in the list, and each of the 27 has its row and a program that exists."""
    listed, mapped = README.split("## If you know")
    listed = listed.partition("| you want |")[2]
    assert set(re.findall(r"`(\w+)\.py", listed)) == set(NAMES)
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", mapped, re.MULTILINE)[1:]
    assert len(rows) == 27
    for there, here in rows:
        (name,) = set(re.findall(r"`(\w+)\.py", here))
        assert name in NAMES, there


# ---- what each of them does -------------------------------------------------------------------


def test_server_and_client() -> None:
    """The one talks to the other."""
    port = free_port()
    server = threading.Thread(
        target=load("server").main, args=(["--address", f":{port}", "--seconds", "2.5"],)
    )
    server.start()
    for _ in igtl.Rate(20):
        try:
            link = igtl.connect(port=port)
            break
        except OSError:
            continue
    with link:
        assert isinstance(link.query(igtl.GetImage(), timeout=5), igtl.Image)
        assert link.command("Status").text == "<clients>1</clients>"
    load("client").main(["tracking", "--address", f"localhost:{port}", "--count", "2"])
    server.join(20)
    assert not server.is_alive()


def test_client(run: Any) -> None:
    assert "Transform 'ProbeToTracker'" in run("client", "all", "--count", "9")
    assert run("client", "transform").count("ProbeToTracker at [") == 5
    assert "OK" in run("client", "status")
    assert {"TRANSFORM", "IMAGE", "STT_TDATA"} <= set(run("client", "capability").split())
    assert run("client", "tracking", "--count", "4").count("3 tools: ProbeToTracker Stylus") == 4


def test_async_client(run: Any) -> None:
    out = run("async_client", "--count", "6")
    assert out.count("pose ") == 6
    assert "image  [320 240   1] voxels" in out
    assert "6 poses, and the reply '<depth>37</depth>'" in out


def test_async_server(run: Any) -> None:
    out = run("async_server", "--clients", "5", "--seconds", "1")
    slow, *others = (
        int(n) for n in re.findall(r"\d+", out.partition("received:")[2].split("\n")[0])
    )
    (sent,) = (int(n) for n in re.findall(r"sent: (\d+)", out))
    lost = [int(n) for n in re.findall(r"'latest': (\d+)", out)]
    assert slow + sum(others) + sum(lost) == 5 * sent
    assert slow < min(others)  # which lose one here and there on a busy machine
    assert max(lost) == sent - slow


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ct", "512×512×100 uint16 spacing=(0.6667, 0.6667, 2) mm RAS"),
        ("mri", "256×256×60 float32 spacing=(0.9, 0.9, 3) mm RAS"),
        ("ultrasound", "640×480×1 uint8 spacing=(0.2, 0.2, 1) mm RAS"),
    ],
)
def test_image_streaming(run: Any, kind: str, text: str) -> None:
    out = run("image_streaming", kind, "--count", "2")
    assert text in out
    assert "2 images sent, " in out
    assert "2 images arrived; " in out
    if kind == "mri":
        assert "first voxel at [-115. -115.  -90.] mm RAS; dtype float32" in out


@pytest.mark.parametrize("codec", ["raw", "mjpeg", "h264", "vp9"])
def test_video_streaming(run: Any, codec: str) -> None:
    pytest.importorskip("simplejpeg" if codec == "mjpeg" else "av")
    out = run("video_streaming", codec, "--frames", "8")
    assert "8 frames of 640 x 480" in out
    sent, raw = (float(n) for n in re.findall(r"([\d.]+) MB for ([\d.]+) MB of pixels", out)[0])
    if codec == "raw":
        assert "every pixel is exact" in out
        assert sent == pytest.approx(1.5 * raw, rel=0.01)
    else:
        assert float(re.findall(r"([\d.]+) dB", out)[0]) > 30
        assert sent < raw / 3


def test_tracking_server(run: Any) -> None:
    out = run("tracking_server", "--frames", "90")
    assert "StylusToTracker: out of sight" in out
    assert "StylusToTracker: at " in out
    frames, rate, seen = re.findall(r"(\d+) frames, (\d+) Hz, \S+ in (\d+) of them", out)[0]
    assert frames == "90"
    assert 0 < int(rate) < 70
    assert 0 < int(seen) < 90


def test_udp_tracking(run: Any) -> None:
    out = run("udp_tracking", "--rate", "200", "--seconds", "0.5", "--compare-tcp")
    for name in ("UDP", "TCP"):
        assert f"{name}: 100 of 100 received" in out
    assert out.count("pace 200 Hz") == 2


def test_tracked_ultrasound(run: Any) -> None:
    out = run("tracked_ultrasound", "--count", "8")
    lines = re.findall(
        r"tip at pixel ([\d.]+), ([\d.]+) \(grey (\d+)\), ([\d.]+) mm from the target, ([\d.]+) ms apart",
        out,
    )
    assert len(lines) == 8
    assert all(int(grey) > 150 for _, _, grey, *_ in lines)  # the needle is bright
    assert all(0 < float(away) < 200 for *_, away, _ in lines)
    assert all(float(apart) <= 20 for *_, apart in lines)


def test_slicer_ai(run: Any) -> None:
    out = run("slicer_ai", "--seconds", "1.5", "--work", "0.05")
    results, age, oldest = map(int, re.findall(r"(\d+) results, age (\d+) ms .*, (\d+) ms", out)[0])
    assert results >= 3
    assert age <= oldest < 1500
    assert int(re.findall(r"shows (\d+) pixels", out)[0]) > 0
    assert int(re.findall(r"(\d+) poses a second", out)[0]) >= 5


def test_point_navigation(run: Any) -> None:
    out = run("point_navigation", "--noise", "0.3", "--steps", "4")
    assert "4 points: Nasion Tragus_L Tragus_R Vertex" in out
    fre, tre = (
        float(n) for n in re.findall(r"FRE ([\d.]+) mm, TRE at the target ([\d.]+)", out)[0]
    )
    assert 0 < fre < 1.5
    assert 0 < tre < 1.5
    left = [float(n) for n in re.findall(r"Tracker: ([\d.]+) mm to go", out)]
    assert left == sorted(left, reverse=True)
    assert left[0] > 100
    assert left[-1] < 2
    exact = run("point_navigation", "--noise", "0")
    assert "FRE 0.00 mm, TRE at the target 0.00 mm" in exact


def test_robot_loop(run: Any) -> None:
    out = run("robot_loop", "--seconds", "1")
    poses, missing = (int(n) for n in re.findall(r"(\d+) poses at \d+ Hz, (\d+) missing", out)[0])
    assert missing == 0
    assert poses > 100
    assert int(re.findall(r"(\d+) commands", out)[0]) > 50


@pytest.mark.parametrize(
    ("kind", "devices"),
    [
        ("force", {"Force"}),
        ("imu", {"Acceleration", "Rate"}),
        ("combined", {"Force", "Acceleration", "Rate"}),
    ],
)
def test_sensor_logger(run: Any, tmp_path: Path, kind: str, devices: set[str]) -> None:
    file = tmp_path / "log.csv"
    out = run("sensor_logger", kind, "--to", str(file), "--seconds", "0.5")
    with file.open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert f"{len(rows)} rows in " in out
    assert {row["device"] for row in rows} == devices
    units = {row["device"]: row["unit"] for row in rows}
    assert units.items() <= {"Force": "N", "Acceleration": "m/s^2", "Rate": "rad/s"}.items()
    for device in devices:
        times = [float(row["time_s"]) for row in rows if row["device"] == device]
        assert times == sorted(times)


def test_ndarray_transfer(run: Any) -> None:
    out = run("ndarray_transfer")
    assert out.count("equal: True") == 9
    assert "the wire has no int64" in out


def test_commands(run: Any) -> None:
    out = run("commands", "--slow", "1")
    assert "SetDepth 37: <depth>37</depth>" in out
    assert "SetDepth failed: ValueError: depth 9000 mm is not within 10 … 200" in out
    assert "Fly failed: there is no command 'Fly' here" in out
    assert "STRING: HELLO" in out
    assert "the slow one is still at work" in out


def test_status_monitor(run: Any) -> None:
    out = run("status_monitor", "--interval", "0.2")
    assert re.findall(r"^(?:ok|!!) (\w+)", out, re.MULTILINE) == [
        "NOT_READY", "OK", "OVERFLOW", "OK", "HARDWARE_FAILURE",
    ]  # fmt: skip
    assert re.search(r"ALARM: nothing for [\d.]+ s", out)


def test_clock(run: Any) -> None:
    out = run("clock", "--seconds", "0.5")
    assert re.search(
        r"^the clock of the peer is 2\.[45]\d\d s ± .* behind the one here$", out, re.M
    )
    ages = re.findall(r"^age ([\d.]+) ms; without its clock ([\d.]+) ms$", out, re.MULTILINE)
    assert ages
    assert all(40 < float(age) < 1500 < float(naive) for age, naive in ages)
    assert re.search(r"^drift [+-]\d+ ± \d+ ppm, of \d+ exchanges$", out, re.MULTILINE)
    assert "cannot be known: it sets no time stamp in its replies" in out


def test_query_streaming(run: Any) -> None:
    out = run("query_streaming", "--count", "10", "--rate", "40")
    assert "CT: <Image 'CT'" in out
    assert "MRI: <NoData 'MRI'" in out
    assert "meshes: STT_POLYDATA was refused" in out
    assert "TDATA: 10 frames at " in out


def test_tls(run: Any) -> None:
    pytest.importorskip("trustme")
    out = run("tls")
    assert "let in: Probe" in out
    assert "a client without a certificate: refused, TLSV13_ALERT_CERTIFICATE_REQUIRED" in out
    assert "does not know the authority: refused, CERTIFICATE_VERIFY_FAILED" in out


def test_bridge(run: Any) -> None:
    pytest.importorskip("zenoh", reason="eclipse-zenoh is not installed")
    lines = run("bridge", "--seconds", "0.5").splitlines()
    assert {*lines[:2]} == {"or1 is there", "or2 is there"}
    assert lines[-3].startswith("or1 ProbeToTracker [")
    assert lines[-2].startswith("or2 ProbeToTracker [1")
    assert lines[-1] == "gaps: 0"


def test_reconnect(run: Any) -> None:
    out = run("reconnect", "--away", "0.3")
    assert out.count("connected") >= 3
    assert "disconnected (next try within" in out
    assert "arrived: 1 2 3" in out


def test_session_manager(run: Any) -> None:
    out = run("session_manager", "--clients", "3")
    assert (
        len(
            re.findall(
                r"^client \d from 127.0.0.1, 1 received, header version 1", out, re.MULTILINE
            )
        )
        == 3
    )
    assert out.count("to all") == 3
    assert out.count("to the second") == 1
    assert "refused: {'max_clients': 1}" in out
    assert "client 2 is gone" in out
    assert "2 left" in out


def test_message_queue(run: Any) -> None:
    out = run("message_queue", "--count", "100", "--pause", "0.02")
    found = {
        policy: (int(received), int(lost or 0), int(newest))
        for policy, received, lost, newest in re.findall(
            r"^(\w+) +(\d+) received, lost: (?:nothing|\{'\w+': (\d+)\}); the newest is number (\d+)",
            out, re.MULTILINE,
        )
    }  # fmt: skip
    assert list(found) == ["block", "drop_oldest", "drop_newest", "latest"]
    assert all(received + lost == 100 for received, lost, _ in found.values())
    assert found["block"] == (100, 0, 100)
    assert found["drop_oldest"][2] == found["latest"][2] == 100
    assert found["drop_newest"][1] > 0


def test_partial_transfer(run: Any) -> None:
    out = run("partial_transfer", "--slices", "40")
    assert "broken: " in out
    first, second = (float(n) for n in re.findall(r"attempt \d sent ([\d.]+) MB", out))
    assert first + second < 2 * 5.2  # not all of it again
    assert second < 5
    assert "whole and equal: True" in out


def test_compression(run: Any) -> None:
    out = run("compression", "--slices", "6")
    saved = {k: float(v) for k, v in re.findall(r"^(.+): ([\d.]+) % saved", out, re.MULTILINE)}
    assert len(saved) == 6
    assert saved["without noise, deflate best"] > 95
    assert 50 < saved["noise of 10 HU, deflate best"] < 95
    assert "compresses: True" in out
    assert out.rstrip().endswith("equal: True")


def test_crc_options(run: Any) -> None:
    out = run("crc_options")
    assert "verify: refused, CRC is " in out
    assert "warn: Damaged came, crc_ok=False" in out
    assert "off: Damaged came, crc_ok=None" in out
    assert out.count("Next came") == 3
    assert "sent with crc=False: 0000000000000000" in out


def test_header_version_2(run: Any) -> None:
    extended, metadata = (run("header_version_2", what) for what in ("extended", "metadata"))
    assert "120 bytes, header version 2, extended header of 12 bytes\nid 42 metadata {}" in extended
    assert "id 42 metadata {'Frame': '7', 'Größe': '12 µm', 'TransformStatus': 'OK'}" in metadata
    for out in (extended, metadata):
        assert "to a peer of version 1: this link still writes header version 1" in out


def test_error_handling(run: Any) -> None:
    assert run("error_handling", "reconnect") == "given up: Connection refused\n"
    late = run("error_handling", "timeout")
    assert "timed out: no Transform 'Probe*' within 0.2 s; seen: STATUS 'Tracker'" in late
    assert "still there: <Status 'Tracker'" in late
    damaged = run("error_handling", "crc")
    assert "damaged: expected b5a225f8f462b3d7, got " in damaged
    assert "the next: <Status" in damaged
    wrong = run("error_handling", "wrong-type")
    for text in (
        "an undeclared type: MY_TYPE, 4 bytes",
        "no pose in it: <NoData",
        "not sent: Transform.matrix",
    ):
        assert text in wrong


def test_logs(run: Any) -> None:
    lines = [json.loads(line) for line in run("logs", "--json").splitlines()]
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "INFO"]
    assert lines[1]["cause"] == "CRCError"
    assert (lines[1]["type"], lines[1]["device"]) == ("TRANSFORM", "Probe")
    assert run("logs").startswith("INFO    127.0.0.1:")


def test_recording(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("mcap")
    out = run("recording", "--to", str(tmp_path / "a.mcap"), "--count", "120")
    assert "120 messages" in out
    assert "TRANSFORM 'NeedleToReference'" in out
    assert float(re.findall(r"the needle moved ([\d.]+) mm", out)[0]) > 0
    assert "equal bytes: True" in out
    assert (tmp_path / "a.mcap").exists()


def test_dataset(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("mcap")
    out = run("dataset", "--count", "120")
    pairs = int(re.findall(r"^(\d+) pairs; ", out, re.MULTILINE)[0])
    assert pairs > 8  # more than one batch, on a busy machine too
    assert f"{pairs} served in batches of 8" in out
    assert "a table of time, x, y, z with " in out
    assert "arrays: IMAGE/Image_Reference/frames, TRANSFORM/NeedleToReference/matrix" in out


def test_the_data_set_travels_to_worker_processes(tmp_path: Path) -> None:
    pytest.importorskip("mcap")
    module = load("dataset")
    module.record(tmp_path / "a.mcap", 40)
    data = module.Pairs(tmp_path / "a.mcap", "IMAGE", "NeedleToReference")
    twin = module.Pairs.__new__(module.Pairs)
    twin.__setstate__(pickle.loads(pickle.dumps(data.__getstate__())))
    for k in (3, 0, len(data) - 1):
        for ours, theirs in zip(data[k], twin[k], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    data.close()
    twin.close()


def test_devices(run: Any) -> None:
    pytest.importorskip("av", reason="av is not installed")
    out = run("devices", "camera", "--frames", "5")
    assert "IMAGE Endoscope: (1, 240, 320, 3)" in out
    assert "VIDEO Endoscope: 5 frames decoded" in out
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    out = run("devices", "marker", "--frames", "10")
    found = re.search(r"Marker7ToCamera: 10 of 10 frames, error ([\d.]+) mm, ([\d.]+) mm", out)
    assert found, out
    assert float(found[2]) <= 2


def test_ros_bag(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    out = run("ros_bag", "--to", str(tmp_path / "bag"))
    assert "  120 /arm/measured_cp  geometry_msgs/msg/PoseStamped" in out
    assert "  260 /tf  tf2_msgs/msg/TFMessage" in out  # two tools, and where the image lies
    assert re.search(r"Stylus in Tracker: -?0\.\d{3} ", out)
    assert "500 messages came back, every byte the same: True" in out
    assert len(list(igtl.ros.read(tmp_path / "bag"))) == 500


def test_foxglove_view(run: Any) -> None:
    pytest.importorskip("foxglove")
    out = run("foxglove_view", "--port", "0", "--seconds", "0.5")
    assert "open ws://localhost:" in out
    assert "30 messages shown" in out
    assert "case.foxglove.mcap: " in out


def test_own_message_type(run: Any) -> None:
    out = run("own_message_type")
    assert "<Force 'Robot'" in out
    assert "to JSON: [[0.0, 0.0, 1.5], [0.0, 0.0, 1.75]]" in out
    assert "equal again: True" in out


def test_performance(run: Any) -> None:
    out = run("performance", "--seconds", "0.02", "--count", "2000")
    times = re.findall(r"^(.+): pack ([\d.]+) us, read ([\d.]+) us", out, re.MULTILINE)
    assert [name for name, *_ in times] == ["TRANSFORM", "STATUS", "IMAGE 1024 x 1024"]
    assert re.search(r"2000 poses received, [\d,]+ a second", out)


def test_calibrate_stylus(run: Any) -> None:
    out = run("calibrate_stylus")
    assert re.search(r"20 poses: ", out)
    (tip,) = re.findall(r"^off by ([\d.]+) mm", out, re.MULTILINE)
    assert float(tip) < 0.3
    (axis,) = re.findall(r"axis off by ([\d.]+)", out)
    assert float(axis) < 0.1
    assert "refused: the poses turn too little" in out


def test_calibrate_probe(run: Any, tmp_path: Path) -> None:
    config = tmp_path / "plus.xml"
    out = run("calibrate_probe", "--to", str(config))
    (lag,) = re.findall(r"lag off by ([\d.]+) ms", out)
    assert float(lag) < 0.8
    corners = [float(mm) for mm in re.findall(r"corners off by ([\d.]+) mm", out)]
    assert len(corners) == 2
    assert max(corners) < 0.2
    assert config.read_text().count('<Transform From="Image" To="Probe"') == 1


def test_reconstruct(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "ball.mha"
    out = run("reconstruct", "--spacing", "0.8", "--to", str(path))
    (size,) = re.findall(r"off by ([\d.]+) %", out)
    assert float(size) < 2
    (centre,) = re.findall(r"centre off by ([\d.]+) mm", out)
    assert float(centre) < 0.15
    assert isinstance(igtl.files.load(path), igtl.Image)
