"""Devices that send numbers: serial ports, LSL streams, scikit-surgery trackers, NatNet."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl.cli import main
from igtl.devices import device_class, device_of
from igtl.devices import natnet_packets as packets
from igtl.devices.device import ALIVE
from igtl.devices.natnet_packets import Body
from tests import natnet_sender as sender
from tests.test_devices import QUICK, until

# ---- serial ports --------------------------------------------------------------------------------


class Port:
    """A pseudo terminal: what is written to it comes out of the serial port `path`."""

    def __init__(self) -> None:
        self._near, self._far = os.openpty()  # type: ignore[attr-defined,unused-ignore]
        self.path = os.ttyname(self._far)  # type: ignore[attr-defined,unused-ignore]

    def write(self, text: str) -> None:
        os.write(self._near, text.encode())

    def close(self) -> None:
        os.close(self._near)
        os.close(self._far)


@pytest.fixture
def port() -> Iterator[Port]:
    pytest.importorskip("serial", reason="pyserial is not installed")
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no pseudo terminals")
    made = Port()
    yield made
    made.close()


def feed_until(port: Port, lines: str, source: igtl.devices.Source) -> igtl.Message:
    """The first message: a line that comes while the port is being opened may be lost."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        port.write(lines)
        try:
            return source.recv(0.2)
        except TimeoutError:
            pass
    raise AssertionError("nothing came")


def test_lines_of_numbers(port: Port) -> None:
    with igtl.devices.open(f"serial:{port.path}?unit=N,name=Force,stall=0") as source:
        first = feed_until(port, "x\n1.5, -2;3e1\t4\r\n", source)
        assert isinstance(first, igtl.Sensor)
        assert list(first.values) == [1.5, -2, 30, 4]
        assert first.unit == igtl.Unit("N")
        assert first.device_name == "Force"
        before = time.time()
        assert first.timestamp is not None
        assert abs(before - first.timestamp) < 60
        unreadable = source.unreadable
        port.write("7\nnot a number\n\n" + "9" * 5000 + "\n8\n")
        values = []
        while 8.0 not in values:
            message = source.recv(10)
            assert isinstance(message, igtl.Sensor)
            values.append(message.values[0])
        assert 7.0 in values
        assert source.unreadable > unreadable


def test_ports_that_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = pytest.importorskip("serial.tools.list_ports", reason="pyserial is not installed")
    ports = [SimpleNamespace(device="/dev/ttyUSB0", description="a force sensor")]
    monkeypatch.setattr(tools, "comports", lambda: ports)
    done = CliRunner().invoke(main, ["devices", "serial"])
    assert done.exit_code == 0, done.output
    assert "found here: /dev/ttyUSB0 (a force sensor)" in done.output


def test_lines_of_text(port: Port) -> None:
    with igtl.devices.open(f"serial:{port.path}?format=string,stall=0") as source:
        message = feed_until(port, "x\nGröße 5\n", source)
        assert isinstance(message, igtl.String)
        assert message.string == "Größe 5"


@pytest.mark.parametrize(
    ("line", "name", "place"),
    [
        ("1 0 0 10 0 1 0 20 0 0 1 30", "Serial", (10, 20, 30)),
        ("Probe,10,20,30,0,0,0,1", "Probe", (10, 20, 30)),
        ("Arm 1 0 0 10 0 1 0 20 0 0 1 30 0 0 0 1", "Arm", (10, 20, 30)),
    ],
)
def test_lines_of_poses(port: Port, line: str, name: str, place: tuple[float, ...]) -> None:
    with igtl.devices.open(f"serial:{port.path}?format=transform,stall=0") as source:
        message = feed_until(port, f"x\n1 2 3\n{line}\n", source)
        assert isinstance(message, igtl.Transform)
        assert message.device_name == name
        assert tuple(message.matrix[:3, 3]) == place
        until(lambda: source.unreadable > 0, "the line of three numbers was taken")


def test_a_port_that_is_pulled_out_is_opened_again(tmp_path: Path) -> None:
    pytest.importorskip("serial", reason="pyserial is not installed")
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no pseudo terminals")
    link = tmp_path / "tty"
    first, second = Port(), Port()
    link.symlink_to(first.path)
    try:
        with igtl.devices.open(f"serial:{link}?stall=0", backoff=QUICK) as source:
            assert isinstance(feed_until(first, "x\n1\n", source), igtl.Sensor)
            link.unlink()
            first.close()
            while not isinstance(lost := source.recv(10), igtl.Status):
                pass
            assert lost.code == igtl.StatusCode.HARDWARE_FAILURE
            link.symlink_to(second.path)
            end = time.monotonic() + 20
            values: list[float] = []
            while 5.0 not in values:
                assert time.monotonic() < end
                second.write("x\n5\n")
                try:
                    message = source.recv(0.2)
                except TimeoutError:
                    continue
                if isinstance(message, igtl.Sensor):
                    values.append(message.values[0])
            assert source.error is None
    finally:
        second.close()


# ---- LSL -----------------------------------------------------------------------------------------


@pytest.fixture
def lsl() -> Any:
    try:
        import pylsl
    except Exception as error:  # the package is there, its C library is not
        pytest.skip(f"pylsl cannot be loaded: {error}")
    return pylsl


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine finds its own streams late."""
    monkeypatch.setattr("igtl.devices.lsl._LOOK", 40.0)


@pytest.mark.usefixtures("patient")
def test_samples_of_lsl(lsl: Any) -> None:
    name = f"igtl {uuid.uuid4().hex[:8]}"
    info = lsl.StreamInfo(name, "Force", 2, 50, "float32", name)
    channels = info.desc().append_child("channels")
    for label in ("left", "right"):
        channel = channels.append_child("channel")
        channel.append_child_value("label", label)
        channel.append_child_value("unit", "N")
    outlet = lsl.StreamOutlet(info)
    if not lsl.resolve_byprop("name", name, timeout=10):
        pytest.skip("LSL finds no stream of this machine: no multicast")
    assert f"{name} (Force, 2 channels)" in (device_class("lsl").found() or ())
    with igtl.devices.open(f"lsl:{name}?stall=0", name="Feet") as source:
        assert outlet.wait_for_consumers(20), source
        found: list[igtl.Sensor] = []
        sent = 0
        end = time.monotonic() + 20
        while len(found) < 5 and time.monotonic() < end:
            sent += 1
            at = lsl.local_clock() - 0.5  # measured half a second ago
            outlet.push_sample([sent, -sent], at)
            try:
                message = source.recv(0.1)
            except TimeoutError:
                continue
            assert isinstance(message, igtl.Sensor), message
            found.append(message)
    assert [tuple(m.values) for m in found] == [(n, -n) for n in range(1, len(found) + 1)]
    assert found
    assert found[0].unit == igtl.Unit("N")
    assert dict(found[0].metadata) == {"Channel1": "left", "Channel2": "right"}
    stamp = found[-1].timestamp
    assert stamp is not None
    assert 0.4 < time.time() - stamp < 25


@pytest.mark.usefixtures("patient")
def test_a_stream_of_events_is_alive_while_it_is_silent(lsl: Any) -> None:
    name = f"igtl {uuid.uuid4().hex[:8]}"
    outlet = lsl.StreamOutlet(lsl.StreamInfo(name, "Markers", 1, 0, "string", name))
    if not lsl.resolve_byprop("name", name, timeout=10):
        pytest.skip("LSL finds no stream of this machine: no multicast")
    with contextlib.closing(device_of(f"lsl:{name}").messages()) as items:
        silent = itertools.islice((item for item in items if item is not None), 5)
        assert list(silent) == [ALIVE] * 5  # else a Source would take it for stalled
        outlet.push_sample(["begun"])
        event = next(item for item in items if isinstance(item, igtl.Message))
    assert isinstance(event, igtl.String)
    assert event.string == "begun"


def test_a_stream_that_is_not_there_is_looked_for(lsl: Any) -> None:
    with igtl.devices.open(f"lsl:{uuid.uuid4().hex}", stall=0) as source:
        status = source.recv(40)
    assert isinstance(status, igtl.Status)
    assert "no stream" in status.message


# ---- trackers of scikit-surgery ------------------------------------------------------------------

FAKE = '''
import numpy as np
class Tracker:
    """What SKSBaseTracker has."""
    log = []
    def __init__(self, configuration):
        self.n = 0
        self.quaternions = configuration.get("use quaternions", False)
        self.log.append("made")
    def start_tracking(self):
        self.log.append("start")
    def stop_tracking(self):
        self.log.append("stop")
        raise ValueError("which must not keep close from being called")
    def close(self):
        self.log.append("close")
    def get_frame(self):
        self.n += 1
        seen = np.eye(4); seen[:3, 3] = 1, 2, self.n
        pose = [[1.0, 0, 0, 0, 1, 2, self.n]] if self.quaternions else seen
        away = np.full_like(pose, np.nan, dtype=float)
        return [10, 11], [1e9, 1e9], [self.n, self.n], [pose, away], [0.25, np.nan]
'''


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "fake_tracker.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("fake_tracker")
    sys.modules.pop("fake_tracker")


@pytest.mark.parametrize("quaternions", [False, True])
def test_poses_of_a_tracker(tracker: Any, quaternions: bool) -> None:
    config = json.dumps({"use quaternions": quaternions, "other": 1})
    spec = f"sks:fake_tracker:Tracker?config={config},tools=Probe+Stylus,hz=200"
    with igtl.devices.open(spec) as source:
        found = [source.recv(10) for _ in range(3)]
    for message in found:
        assert isinstance(message, igtl.Transform)  # of the tool that is seen alone
        assert message.device_name == "ProbeToTracker"
        assert tuple(message.matrix[:2, 3]) == (1, 2)
        assert message.timestamp == 1e9
        assert message.metadata["Quality"] == "0.25"
        assert message.metadata["Port"] == "10"
        assert message.metadata["FrameNumber"] == str(int(message.matrix[2, 3]))
    assert tracker.Tracker.log == ["made", "start", "stop", "close"]


def test_names_that_the_tracker_gives_are_kept(
    tracker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def frame(self: Any) -> Any:
        ports = ["DICT_4X4_50:7", "Pointer", "A very long name"]
        return ports, [1e9] * 3, [1] * 3, [np.eye(4)] * 3, [1.0] * 3

    monkeypatch.setattr(tracker.Tracker, "get_frame", frame)
    with igtl.devices.open("sks:fake_tracker:Tracker?tools=Other") as source:
        names = [source.recv(10).device_name for _ in range(3)]
    assert names == ["Tool7ToTracker", "PointerToTracker", "A very longToTracker"]


def test_a_tracker_as_tdata(tracker: Any, tmp_path: Path) -> None:
    config = tmp_path / "tracker.json"
    config.write_text("{}")
    with igtl.devices.open("sks:fake_tracker:Tracker", config=str(config), send="tdata") as source:
        message = source.recv(10)
    assert isinstance(message, igtl.TrackingData)
    assert [tool.name for tool in message.tools] == ["Tool1"]


def test_the_dummy_of_nditracker(tmp_path: Path) -> None:
    """The real package, without hardware: no tool of its dummy is ever seen."""
    pytest.importorskip("sksurgerynditracker", reason="scikit-surgerynditracker is not installed")
    rom = tmp_path / "probe.rom"
    rom.touch()
    config = json.dumps({"tracker type": "dummy", "romfiles": [str(rom)]})
    with igtl.devices.open("sks:nditracker", config=config, send="tdata", stall=0) as source:
        message = source.recv(20)
        assert isinstance(message, igtl.TrackingData), message
        assert len(message.tools) == 0
        assert source.failures == 0


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-surgerynothing"):
        igtl.devices.open("sks:sksurgerynothing.there:Tracker")


# ---- NatNet --------------------------------------------------------------------------------------

VERSIONS = [(3, 0), (3, 1), (4, 0), (4, 1)]
HALF = float(np.sqrt(0.5))
BODIES = [
    Body(1, (0.1, 0.2, 0.3), (0.0, 0.0, HALF, HALF), 0.0005, True),
    Body(2, (-1.0, 1.5, 2.25), (0.0, 0.0, 0.0, 1.0), 0.0, False),
    Body(70_000, (0.0, 0.0, -0.5), (1.0, 0.0, 0.0, 0.0), 0.25, True),
]
NAMES = {1: "Probe", 2: "Stylus", 70_000: "A body with a long name"}


def close_to(a: Body, b: Body) -> bool:
    same = (a.number, a.tracked) == (b.number, b.tracked)
    values = [(*x.position, *x.quaternion, x.error) for x in (a, b)]
    return same and bool(np.allclose(*values, atol=1e-6))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("full", [True, False])
def test_frames_of_natnet(version: tuple[int, int], full: bool) -> None:
    read = packets.read_frame(sender.frame(5, BODIES, version, full=full), version)
    assert read.number == 5
    assert read.latency == sender.LATENCY
    assert len(read.bodies) == 3
    assert all(map(close_to, read.bodies, BODIES))


@pytest.mark.parametrize("version", VERSIONS)
def test_names_of_natnet(version: tuple[int, int]) -> None:
    assert packets.read_names(sender.models(NAMES, version), version) == NAMES
    # a kind that is not known: skipped where sizes are told, else the end of what can be read
    cameras = packets.read_names(sender.models(NAMES, version, camera_first=True), version)
    assert cameras == (NAMES if version >= (4, 1) else {})
    info = packets.read_server_info(sender.server_info(version))
    assert info == ("Motive", version, sender.FREQUENCY)


@pytest.mark.parametrize("version", [(3, 0), (4, 1)])
def test_a_packet_that_is_cut_or_lies_is_refused(version: tuple[int, int]) -> None:
    content = sender.frame(5, BODIES, version)
    needed = len(content) - 6 - (8 if version >= (4, 1) else 0)  # what follows is not read
    for size in range(needed):
        with pytest.raises(ValueError, match="NatNet packet"):
            packets.read_frame(content[:size], version)
    rng = np.random.default_rng(1)
    for _ in range(2000):  # a value, or a ValueError, and soon
        wrong = bytearray(content)
        for at in rng.integers(0, len(wrong), 3):
            wrong[at] = rng.integers(256)
        with contextlib.suppress(ValueError):
            packets.read_frame(bytes(wrong), version)
    for cut in (b"", b"\x07", b"\x07\x00\xff\x00abc"):
        with pytest.raises(ValueError, match="NatNet packet"):
            packets.split(cut)


def natnet(port: int, **options: Any) -> igtl.devices.Source:
    return igtl.devices.open(
        "natnet:127.0.0.1?group=,data_port=0,local=127.0.0.1", command_port=port, backoff=QUICK,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_bodies_of_motive(version: tuple[int, int]) -> None:
    with sender.Motive(list(BODIES), NAMES, version) as motive, natnet(motive.port) as source:
        found: dict[str, igtl.Transform] = {}
        while not {"Probe", "A body with a long n"} <= set(found):
            message = source.recv(20)
            assert isinstance(message, igtl.Transform), message
            found[message.device_name] = message
        age = time.time() - (message.timestamp or 0)
    assert "Stylus" not in found  # it is not seen
    probe = found["Probe"].matrix
    assert probe[:3, 3] == pytest.approx([100, 200, 300])  # mm
    assert probe[:3, :3] == pytest.approx(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), abs=1e-6)
    assert 0.005 <= age < 60  # the time within Motive is taken off


def test_motive_as_tdata_with_what_comes_and_goes() -> None:
    with sender.Motive(BODIES[:1], dict(NAMES), (4, 1)) as motive:
        with natnet(motive.port, send="tdata") as source:

            def names() -> list[str]:
                message = source.recv(20)
                assert isinstance(message, igtl.TrackingData), message
                return [tool.name for tool in message.tools]

            until(lambda: names() == ["Probe"], "no Probe")
            motive.names[3] = "New"
            motive.bodies = [Body(3, (0, 0, 0), (0, 0, 0, 1), 0, True)]
            until(lambda: names() == ["New"], "its name was not asked for")
            motive.bodies = []
            until(lambda: names() == [], "no empty frame")
            motive.raw = packets.packet(packets.FRAME, b"nonsense")
            until(lambda: names() == [] and source.unreadable > 0, "nonsense was not counted")
            assert source.stalls == source.failures == 0


def stalled(source: igtl.devices.Source) -> bool:
    message = source.recv(20)
    return isinstance(message, igtl.Status) and message.error_name == "DeviceStalled"


def test_motive_that_is_started_again_is_asked_again() -> None:
    with sender.Motive(BODIES[:1], NAMES, (3, 1)) as motive:
        port = motive.port
        source = natnet(port, stall=0.5)
        while not isinstance(source.recv(20), igtl.Transform):
            pass
    with source:
        until(lambda: stalled(source), "it did not stall")
        with sender.Motive(BODIES[:1], NAMES, (3, 1), port):
            until(lambda: isinstance(source.recv(20), igtl.Transform), "it did not come back")
            assert source.error is None


def test_motive_by_multicast() -> None:
    group = "239.255.42.99"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        try:
            member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        except OSError as error:
            pytest.skip(f"no multicast on the loopback interface: {error}")
    with sender.Motive(BODIES[:1], NAMES, (4, 1)) as motive:
        motive.group = group, port
        spec = f"natnet:127.0.0.1?group={group},local=127.0.0.1,data_port={port}"
        with igtl.devices.open(spec, command_port=motive.port, stall=0) as source:
            message = source.recv(20)
    assert isinstance(message, igtl.Transform)
    assert message.matrix[:3, 3] == pytest.approx([100, 200, 300])


def test_an_old_motive_is_refused() -> None:
    with sender.Motive(BODIES, NAMES, (2, 10)) as motive, natnet(motive.port) as source:
        status = source.recv(20)
    assert isinstance(status, igtl.Status)
    assert "NatNet 2.10" in status.message
