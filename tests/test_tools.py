"""The commands for the day something does not work, each run as a user runs it, against servers,
clients and simulated devices."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl import cli, simulate
from igtl.cli import COMMANDS, compose, ended_by_signals, main
from tests.conftest import VECTORS, manifest
from tests.cpp import free_port
from tests.test_cli import run

mcap = pytest.importorskip("mcap")
trustme = pytest.importorskip("trustme")
processes = pytest.mark.processes
CLIENT = r"127\.0\.0\.1:\d+ connected"


class Running:
    """A command at work. Attributes: port it says that it serves on."""

    def __init__(self, *args: str, **settings: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "igtl", *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"}, **settings,
        )  # fmt: skip
        self.told = ""
        self.port = 0

    def wait_for(self, pattern: str) -> re.Match[str]:
        """What it says on standard error."""
        assert self.process.stderr is not None
        while not (found := re.search(pattern, self.told)):
            line = self.process.stderr.readline()
            assert line, f"ended without {pattern!r}: {self.told}"
            self.told += line
        return found

    def stop(self, number: int = signal.SIGINT) -> tuple[str, str]:
        """Ctrl-C, or another signal; returns both outputs, and fails if it did not end well."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == (0 if number == signal.SIGINT else 128 + number), err
        assert "Traceback" not in err
        return out, self.told + err


@contextmanager
def running(*args: str, serves: bool = True, **settings: Any) -> Iterator[Running]:
    command = Running(*args, **settings)
    try:
        if serves:
            command.port = int(command.wait_for(r"(?:on|->) \S+:(\d+)")[1])
        yield command
    finally:
        command.process.kill()
        command.process.communicate()


@pytest.fixture(scope="module")
def devices() -> Iterator[simulate.Simulator]:
    with simulate.serve("tracker", "force", port=0) as simulator:
        yield simulator


@pytest.fixture
def here() -> Iterator[igtl.Listener]:
    with igtl.listen(port=0) as listener:
        yield listener


# ---- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    command = importlib.import_module(f"igtl.cli.{name}").command
    assert command.name == name
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    assert f"Usage: main {name}" in done.output
    for option in command.params:
        if option.param_type_name == "option":
            assert option.help, f"{name} {option.opts} says nothing"
    assert name in CliRunner().invoke(main, ["--help"]).output


@processes
def test_starting_is_cheap() -> None:
    """Neither help nor completion loads a command, nor what commands need."""
    code = (
        "import sys\n"
        "from igtl.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "bad = [m for m in sys.modules if m.startswith('igtl.cli.') or m.split('.')[0] in"
        " {'rich', 'asyncio', 'ssl', 'multiprocessing', 'mcap'}]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


@processes
@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_completion_of_the_shell() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_IGTL_COMPLETE" in run("completion", shell).stdout
    script = run("completion").stdout if os.environ.get("SHELL", "").endswith("bash") else ""
    script = script or run("completion", "bash").stdout
    told = subprocess.run(
        ["bash", "-c", script + "\ncomplete -p igtl"], capture_output=True, text=True
    )
    assert "igtl" in told.stdout, told.stderr


def completions(*words: str) -> list[str]:
    from click.shell_completion import ShellComplete

    *before, last = words
    return [
        item.value for item in ShellComplete(main, {}, "igtl", "_X").get_completions(before, last)
    ]


def test_what_is_completed() -> None:
    assert completions("do") == ["doctor"]
    assert completions("re") == ["receive", "reconstruct", "record", "relay", "replay"]
    assert "--hello" in completions("monitor", "--h")
    assert completions("simulate", "ul") == ["ultrasound"]
    assert "IMAGE" in completions("query", "localhost", "IM")


# ---- signals and broken outputs ---------------------------------------------------------------


def test_signals_end_as_ctrl_c_does() -> None:
    before = [signal.getsignal(number) for number in cli._ENDING]
    with ended_by_signals() as came:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # does not interrupt what the first has begun
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert came == [signal.SIGTERM, signal.SIGINT]
    assert [signal.getsignal(number) for number in cli._ENDING] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_is_dropped_comes_again(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when it comes at the end of an import, where CPython calls such a callback."""

    def callback(reference: object) -> None:
        signal.raise_signal(number)

    with ended_by_signals() as came:
        target = threading.Event()
        reference = weakref.ref(target, callback)
        del target
        assert reference() is None
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait(30)
    assert came == [number]
    assert capsys.readouterr().err == ""  # no "Exception ignored in"


def test_what_else_is_dropped_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: shown.append(what.exc_type))

    class Careless:
        def __del__(self) -> None:
            raise ValueError

    with ended_by_signals() as came:
        Careless()
    assert came == []
    assert shown == [ValueError]


def test_a_signal_that_is_turned_off_stays_off() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ended_by_signals() as came:
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == []


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Programs that a test starts end at SIGHUP, though the tests themselves may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@processes
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.usefixtures("hang_up")
def test_a_signal_leaves_a_whole_recording(name: str, here: igtl.Listener, tmp_path: Path) -> None:
    file = tmp_path / "a.mcap"
    with running("record", str(file), f":{here.port}", serves=False) as command:
        with here.accept(timeout=20) as link:
            link.send(igtl.Status.ok(device_name="A"))
            end = time.monotonic() + 20
            while not len(recorded := recording_at(file)) and time.monotonic() < end:
                time.sleep(0.02)
            assert recorded == ["A"]
            command.stop(getattr(signal, name))
            assert list(link) == []  # an ordered end
    with igtl.Recording(file) as recording:
        assert not recording.truncated
        assert len(recording) == 1


def recording_at(file: Path) -> list[str]:
    """Device names of what is in a file that is being written."""
    if not file.exists() or file.stat().st_size < 8:
        return []
    with igtl.Recording(file) as recording:
        return [r.frame.device_name for r in recording]


@processes
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("command", ["echo", "serve", "simulate", "replay"])
def test_a_signal_lets_a_server_end_in_order(command: str, tmp_path: Path) -> None:
    args = {
        "echo": ("--at", ":0"), "serve": ("--at", ":0"), "simulate": ("tracker", "--at", ":0"),
        "replay": (str(tmp_path / "a.mcap"), "--at", ":0", "--loop", "--speed", "100"),
    }[command]  # fmt: skip
    with igtl.Recorder(tmp_path / "a.mcap") as recorder:
        recorder.write(igtl.Status.ok())
    with running(command, *args) as server, igtl.connect(port=server.port) as link:
        server.wait_for(CLIENT)
        server.stop(signal.SIGTERM)
        for _ in link.frames():  # raises nothing at the end
            pass


@processes
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_signal_to_the_demo_and_its_devices() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "igtl", "demo", "--seconds", "60"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert "simulated" in process.stdout.readline()
        os.killpg(process.pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert "Traceback" not in out


@processes
@pytest.mark.parametrize("command", [("dump",), ("dump", "--json"), ("monitor", "--json")])
def test_output_that_nobody_reads_any_more(
    command: tuple[str, ...], devices: simulate.Simulator
) -> None:
    """`igtl dump | head -1`"""
    with running(*command, f":{devices.port}", serves=False) as process:
        assert process.process.stdout is not None
        process.process.stdout.readline()
        process.process.stdout.close()
        process.process.stdout = None
        _, err = process.process.communicate(timeout=60)
    told = f"localhost:{devices.port} connected\n" if command[0] == "monitor" else ""
    assert (process.process.returncode, err) == (1, told)


@processes
def test_a_server_whose_output_nobody_reads_any_more() -> None:
    with running("serve", "--at", ":0") as server, igtl.connect(port=server.port) as link:
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.process.stdout = None
        link.send(igtl.Status.ok())
        _, err = server.process.communicate(timeout=60)
    assert server.process.returncode == 1
    assert "Traceback" not in err


@processes
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_to_a_full_disk(devices: simulate.Simulator) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "igtl", "dump", f":{devices.port}"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "Error: standard output: No space left on device\n"


@processes
def test_exit_codes_of_what_sends(here: igtl.Listener, tmp_path: Path) -> None:
    file = tmp_path / "a.mcap"
    with igtl.Recorder(file) as recorder:
        for k in range(10_000):
            recorder.write(igtl.Status.ok(), received=1000 + k / 100)
    sending = ("send", "STATUS", "--rate", "100"), ("replay", str(file), "--peer")
    for args in sending:
        away = run(*args, f":{free_port()}")
        assert (away.returncode, "refused" in away.stderr) == (3, True), args
        with running(*args, f":{here.port}", serves=False) as command:
            with here.accept(timeout=20) as link:
                link.recv(timeout=20)
            command.process.communicate(timeout=60)
        assert command.process.returncode == 3, args
    taken = run("echo", "--at", f":{here.port}")
    assert (taken.returncode, "in use" in taken.stderr) == (1, True)


# ---- send -------------------------------------------------------------------------------------


def test_json_of_every_golden_message_makes_it_again() -> None:
    """`igtl dump --json --arrays | igtl send -`. JSON does not say which numbers an array holds, so
    that is left open for NDARRAY, nor has it a form for an array without voxels."""
    for v in manifest():
        message = igtl.unpack((VECTORS / v["file"]).read_bytes())
        if "empty" in v["name"] or message.timestamp_raw > (1 << 64) - (1 << 32):
            continue  # … nor a time stamp that rounds to a nanosecond of 2106
        told = json.loads(json.dumps(message.to_dict(arrays=True)))
        if isinstance(message, igtl.NDArray):
            told["dtype"] = message.array.dtype.name
            if message.array.dtype.kind == "c":
                continue
        again = compose.from_dict(told)
        assert abs(again.timestamp_raw - message.timestamp_raw) <= 3  # it is in ns
        again.timestamp_raw = message.timestamp_raw
        assert again.to_dict(arrays=True) == message.to_dict(arrays=True), v["name"]


@processes
def test_send_messages(here: igtl.Listener) -> None:
    command = [
        "send",
        "STATUS", "code=NOT_READY", "message=warming up = slow", "device_name=Laser",
        "Transform", "device_name=Probe", "metadata.TransformStatus=OK", "timestamp=5",
        "matrix=[[1,0,0,5],[0,1,0,6],[0,0,1,7],[0,0,0,1]]",
        '{"type": "TDATA", "tools": [{"name": "A", "type": "INSTRUMENT_5D"}, {"name": "B"}]}',
        '{"type": "VENDOR", "content": "00ff"}',
        "STRING", "string=7",
        "POINT", 'points=[{"name": "Nasion", "position": [1, 2, 3]}]',
        "SENSOR", "values=[1, 2.5]", "unit=N",
        "NDARRAY", "array=[[1, 2], [3, 4]]",
        "IMAGE", "array=[[[1, 2, 300]]]", "spacing=[1, 2, 3]",
        "GET_STATUS",
        f":{here.port}", "--header-version", "2",
    ]  # fmt: skip
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "10 sent" in done.stderr
    with here.accept(timeout=10) as link:
        status, transform, tools, vendor, string, points, sensor, array, image, get = link
    assert isinstance(status, igtl.Status)
    assert (status.code, status.message, status.device_name) == (13, "warming up = slow", "Laser")
    assert time.time() - (status.timestamp or 0) < 60
    assert isinstance(transform, igtl.Transform)
    assert transform.position.tolist() == [5, 6, 7]
    assert transform.metadata == {"TransformStatus": "OK"}
    assert transform.timestamp == 5
    assert isinstance(tools, igtl.TrackingData)
    assert tools.tools.names == ["A", "B"]
    assert [t.type for t in tools.tools] == [4, 1]
    assert isinstance(vendor, igtl.Unknown)
    assert (vendor.type_name, vendor.content) == ("VENDOR", b"\0\xff")
    assert isinstance(string, igtl.String)
    assert string.string == "7"
    assert isinstance(points, igtl.Points)
    assert points.points["Nasion"].position.tolist() == [1, 2, 3]
    assert isinstance(sensor, igtl.Sensor)
    assert str(sensor.unit) == "N"
    assert isinstance(array, igtl.NDArray)
    assert (array.array.dtype, array.array.tolist()) == (np.int32, [[1, 2], [3, 4]])
    assert isinstance(image, igtl.Image)
    assert (image.array.dtype, image.array.tolist()) == (np.int16, [[[1, 2, 300]]])
    assert isinstance(get, igtl.GetStatus)


@processes
def test_what_dump_prints_can_be_sent(here: igtl.Listener) -> None:
    sent = [igtl.unpack((VECTORS / v["file"]).read_bytes()) for v in manifest()[::20]]
    sent = [m for m in sent if not isinstance(m, igtl.NDArray)]
    lines = "\n".join(json.dumps(m.to_dict(arrays=True)) for m in sent)
    done = subprocess.run(
        [sys.executable, "-m", "igtl", "send", "-", f":{here.port}", "--header-version", "2", "-q"],
        input=lines + "\n\n", text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with here.accept(timeout=10) as link:
        got = list(link)
    for a, b in zip(sent, got, strict=True):
        b.timestamp_raw = a.timestamp_raw
        assert a.to_dict(arrays=True) == b.to_dict(arrays=True)
    bad = subprocess.run(
        [sys.executable, "-m", "igtl", "send", "-", f":{here.port}"],
        input=lines.split("\n")[0] + "\n{}\n", text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert bad.returncode == 1
    assert "line 2: the object has no" in bad.stderr


@processes
def test_send_again_and_again(here: igtl.Listener) -> None:
    done = run("send", "STATUS", f":{here.port}", "--rate", "100", "-n", "20", "--name", "S")
    assert done.returncode == 0, done.stderr
    with here.accept(timeout=10) as link:
        got = list(link)
    assert len(got) == 20
    stamps = [m.timestamp or 0 for m in got]
    assert 0.1 < stamps[-1] - stamps[0] < 10
    assert {m.device_name for m in got} == {"S"}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["no-such-thing"], "'no-such-thing' is no file, no message type, and no JSON object"),
        (["TRANSFORM"], "TRANSFORM: Transform() needs 'matrix'; it takes matrix"),
        (["STATUS", "kode=1"], "it takes code, subcode, error_name, message, device_name"),
        (["STATUS", "code=FINE"], "code 'FINE' is none of INVALID, OK"),
        (["{]"], "Expecting property name"),
        (['{"a": 1}'], 'the object has no "type"'),
        (["STATUS", "--count", "3"], "--count goes with --rate"),
    ],
)
def test_what_cannot_be_sent(args: list[str], text: str, here: igtl.Listener) -> None:
    done = CliRunner().invoke(main, ["send", *args, f":{here.port}"])
    assert done.exit_code == 2, done.output
    assert text in " ".join(done.output.split())


def test_metadata_needs_version_2(here: igtl.Listener) -> None:
    done = CliRunner().invoke(main, ["send", "STATUS", "metadata.a=b", f":{here.port}"])
    assert done.exit_code == 1
    assert "version" in done.output


# ---- watching ---------------------------------------------------------------------------------


@processes
def test_monitor(devices: simulate.Simulator) -> None:
    done = run("monitor", f":{devices.port}", "-s", "1", "--hello")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "ProbeToTracker" in line)
    assert 15 < float(row.split()[2]) < 120
    told = run("monitor", f":{devices.port}", "-s", "2.2", "--json", "-d", "Force", "--hello")
    states = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(states) >= 2
    (stream,) = states[-1]["streams"]
    assert (stream["device_name"], stream["type"]) == ("Force", "SENSOR")
    assert 25 < stream["rate"] < 200
    assert (stream["missing"], stream["wrong_crc"], stream["bad"]) == (0, 0, 0)


@processes
def test_monitor_asks_for_the_clock(devices: simulate.Simulator) -> None:
    told = run("monitor", f":{devices.port}", "-s", "2.5", "--json", "--clock", "-d", "Probe*")
    assert re.search("the clock of the peer is .* the one here", told.stderr)
    state = json.loads(told.stdout.splitlines()[-1])
    assert state["clock"]["known"]
    assert abs(state["clock"]["offset"]) <= state["clock"]["uncertainty"]
    (delay,) = {s["delay"] for s in state["streams"] if s["device_name"] == "ProbeToTracker"}
    assert -state["clock"]["uncertainty"] <= delay < 5
    shown = run("monitor", f":{devices.port}", "-s", "1.5", "--clock", "-d", "Probe*")
    assert "delay" in shown.stdout
    assert "the clock of the peer is" in shown.stdout


@processes
def test_monitor_counts_gaps_and_wrong_crcs(here: igtl.Listener) -> None:
    with running("monitor", f":{here.port}", "--json", "-s", "2.2", serves=False) as command:
        with here.accept(timeout=20) as link:
            for n in (1, 2, 5, 6, 10):
                link.send(
                    igtl.Frame.from_bytes(igtl.Status.ok(device_name="A", message_id=n).pack())
                )
            wrong = bytearray(igtl.Status.ok(device_name="A", message_id=11).pack())
            wrong[57] ^= 1
            link.send(igtl.Frame.from_bytes(bytes(wrong)))
            out, _ = command.process.communicate(timeout=60)
    last = json.loads(out.splitlines()[-1])
    (stream,) = last["streams"]
    assert (stream["received"], stream["missing"], stream["wrong_crc"]) == (6, 5, 1)


@processes
def test_monitor_when_nothing_comes(here: igtl.Listener) -> None:
    done = run("monitor", f":{here.port}", "-s", "0.5")
    assert done.returncode == 4
    assert f"see igtl doctor localhost:{here.port}" in done.stderr


# ---- asking -----------------------------------------------------------------------------------


@processes
def test_query(devices: simulate.Simulator, here: igtl.Listener, tmp_path: Path) -> None:
    at = f":{devices.port}"
    done = run("query", at, "TRANSFORM", "StylusToTracker")
    assert "TRANSFORM" in done.stdout, done.stderr
    assert "StylusToTracker" in done.stdout
    told = json.loads(run("query", at, "TDATA", "--json").stdout)
    assert [tool["name"] for tool in told["tools"]] == list(simulate.Tracker().names)
    assert "TRANSFORM" in run("query", at, "CAPABILITY").stdout
    none = run("query", at, "IMAGE", "CT")
    assert (none.returncode, none.stderr) == (1, "Error: the server has no IMAGE 'CT'\n")
    unknown = run("query", at, "FORCE")
    assert unknown.returncode == 2
    assert "cannot be asked for" in unknown.stderr
    silent = run("query", f":{here.port}", "IMAGE", "--timeout", "0.2")
    assert silent.returncode == 4
    away = run("query", f":{free_port()}", "IMAGE")
    assert away.returncode == 3


@processes
def test_command(devices: simulate.Simulator) -> None:
    done = run("command", f":{devices.port}", "SetDepth", "<depth>37</depth>")
    assert (done.returncode, done.stdout) == (0, "<depth>37</depth>\n")
    told = run("command", f":{devices.port}", "SetDepth", "x", "--json")
    assert json.loads(told.stdout)["name"] == "SetDepth"
    with igtl.serve(port=0, start=False) as server:

        @server.command()
        def _(command: igtl.Command, peer: Any) -> str:
            raise ValueError("out of range")

        server.start()
        failed = run("command", f":{server.port}", "SetDepth", "9000")
    assert failed.returncode == 1
    assert "SetDepth failed: ValueError: out of range" in failed.stderr


# ---- serving ----------------------------------------------------------------------------------


@processes
def test_echo_and_bench() -> None:
    with running("echo", "--at", ":0") as echo:
        with igtl.connect(port=echo.port, version=2) as link:
            message = igtl.Status.ok("hello", message_id=4, metadata={"a": "b"})
            link.send(message)
            assert link.recv(timeout=5) == message
        told = run("bench", f":{echo.port}", "-s", "0.1", "--json")
        _, err = echo.stop()
    trips = json.loads(told.stdout)["round_trips"]
    assert [row["what"] for row in trips] == ["TRANSFORM", "TDATA, 5 tools", "IMAGE 640 × 480"]
    assert all(0 < row["p50_us"] <= row["p99_us"] for row in trips)
    gone = r"127.0.0.1:\d+ is gone: closed by the peer; 1 received, 1 sent\n"
    assert re.search(rf"{CLIENT}\n{gone}", err)


@processes
def test_bench() -> None:
    done = run("bench", "-s", "0.02")
    assert done.returncode == 0, done.stderr
    for word in ("TRANSFORM", "CRC, portable", "round trip"):
        assert word in done.stdout


@processes
def test_serve(tmp_path: Path) -> None:
    points = igtl.Points([igtl.Point("Nasion", position=(1, 2, 3))])
    igtl.files.save(points, tmp_path / "F.mrk.json")
    file = str(tmp_path / "F.mrk.json")
    with running("serve", file, "--at", ":0", "-t", "STATUS", "--json") as server:
        with igtl.connect(port=server.port) as link:
            shown = link.recv(igtl.Points, timeout=5)
            assert shown.device_name == "F"
            assert isinstance(link.query(igtl.GetPoints(device_name="F"), timeout=5), igtl.Points)
            assert isinstance(link.query(igtl.GetPoints(), timeout=5), igtl.Points)
            assert isinstance(link.query(igtl.GetPoints(device_name="X"), timeout=5), igtl.NoData)
            link.send(igtl.String("not shown"))
            link.send(igtl.Status.ok("shown", device_name="A"))
            assert server.process.stdout is not None
            assert json.loads(server.process.stdout.readline())["message"] == "shown"
        out, _ = server.stop()
    assert out == ""


@processes
def test_simulate(tmp_path: Path) -> None:
    with running("simulate", "robot", "force", "--at", ":0") as command:
        with igtl.connect(port=command.port) as link:
            link.recv(igtl.Transform, "arm/measured_cp", timeout=5)
            link.recv(igtl.Sensor, "Force", timeout=5)
        command.stop()
    with igtl.udp.Receiver(0) as receiver:
        to = ("--peer", f":{receiver.port}", "--udp")
        with running("simulate", "tracker", *to, "-s", "1", serves=False):
            message, _ = receiver.recv(timeout=10)
            assert message.device_name.endswith("ToTracker")
    wrong = run("simulate", "toaster")
    assert wrong.returncode == 2
    assert "'toaster' is not one of 'tracker', 'ultrasound'" in wrong.stderr


# ---- recordings -------------------------------------------------------------------------------


@processes
def test_record_info_replay(devices: simulate.Simulator, tmp_path: Path) -> None:
    file = tmp_path / "a.mcap"
    done = run("record", str(file), f":{devices.port}", "-n", "200", "--hello")
    assert done.returncode == 0, done.stderr
    assert "200 messages" in done.stderr
    with igtl.Recording(file) as recording:
        wires = [bytes(r.frame) for r in recording]
        assert len(wires) == 200
        assert {e["event"] for e in recording.events} >= {"connected"}
    told = json.loads(run("info", str(file), "--json", "--check").stdout)
    assert (told["count"], told["truncated"], told["damaged"]) == (200, False, 0)
    assert {s["device_name"] for s in told["streams"]} >= {"ProbeToTracker", "Force"}
    assert sum(s["bytes"] for s in told["streams"]) == sum(map(len, wires))
    assert "ProbeToTracker" in run("info", str(file)).stdout
    away = run("record", str(tmp_path / "b.mcap"), f":{free_port()}")
    assert away.returncode == 3
    assert "refused" in away.stderr
    assert not (tmp_path / "b.mcap").exists()
    again = run("record", str(file), f":{devices.port}")
    assert (again.returncode, again.stderr) == (
        1,
        f"Error: {file}: File exists; --force writes over it\n",
    )
    with running("replay", str(file), "--at", ":0", "--speed", "4") as command:
        with igtl.connect(port=command.port) as link:
            assert [bytes(link.recv_frame(timeout=10)) for _ in wires] == wires
        command.wait_for(r"200 sent; late by [\d.]+ ms \(median\)")
    with igtl.listen(port=0) as listener:
        to = ("--peer", f":{listener.port}")
        run("replay", str(file), *to, "--speed", "max", "-d", "Force", "-q")
        with listener.accept(timeout=10) as link:
            got = [bytes(frame) for frame in link.frames()]
    assert got == [wire for wire in wires if igtl.Frame.from_bytes(wire).device_name == "Force"]
    wrong = run("replay", str(file), "-d", "Needle")
    assert wrong.returncode == 1
    assert "'Needle' is not recorded; there are" in wrong.stderr


@processes
def test_record_two_servers_and_a_damaged_message(tmp_path: Path) -> None:
    file = tmp_path / "a.mcap"
    wrong = bytearray(igtl.Status.ok(device_name="B").pack())
    wrong[57] ^= 1
    with igtl.listen(port=0) as one, igtl.listen(port=0) as two:
        args = ("record", str(file), f":{one.port}", f":{two.port}")
        with running(*args, serves=False) as command:
            with one.accept(timeout=20) as a, two.accept(timeout=20) as b:
                a.send(igtl.Status.ok(device_name="A"))
                b.send(igtl.Frame.from_bytes(bytes(wrong)))
            _, err = command.process.communicate(timeout=60)  # both have ended
    assert command.process.returncode == 0, err
    with igtl.Recording(file) as recording:
        assert {s[1]: r.peers for s, r in recording.streams.items()} == {
            "A": [f"127.0.0.1:{one.port}"], "B": [f"127.0.0.1:{two.port}"],
        }  # fmt: skip
        assert {r.connection for r in recording} == {1, 2}
        assert bytes(next(iter(recording["B"])).frame) == wrong
    checked = run("info", str(file), "--check", "--events")
    assert checked.returncode == 1
    assert "disconnected" in checked.stdout


@processes
def test_record_datagrams(tmp_path: Path) -> None:
    file, port = tmp_path / "a.mcap", free_port()
    wire = igtl.Transform(np.eye(4), device_name="P").pack()
    with running(
        "record", str(file), f"127.0.0.1:{port}", "--udp", "-n", "5", serves=False
    ) as command:
        with igtl.udp.Sender("127.0.0.1", port) as out:
            while command.process.poll() is None:
                out.send(igtl.Frame.from_bytes(wire))
                time.sleep(0.02)
    with igtl.Recording(file) as recording:
        assert [bytes(r.frame) for r in recording] == [wire] * 5


@processes
def test_info_of_what_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    done = run("info", str(tmp_path / "x"))
    assert done.returncode == 1
    assert "is not an MCAP file" in done.stderr


def limited_files(size: int) -> dict[str, Any]:
    """For Popen: no file of the process grows beyond `size` bytes, as on a full disk."""
    import resource

    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}


@processes
@pytest.mark.skipif(sys.platform == "win32", reason="no limit for the size of files")
def test_a_full_disk_ends_a_recording(here: igtl.Listener, tmp_path: Path) -> None:
    file = tmp_path / "a.mcap"
    noise = igtl.NDArray(np.random.default_rng(1).integers(0, 255, (4, 60_000), np.uint8))
    with running(
        "record", str(file), f":{here.port}", "-q", serves=False, **limited_files(500_000)
    ) as command:
        with here.accept(timeout=20) as link, pytest.raises(igtl.ConnectionClosed):
            while True:
                link.send(noise)
        _, err = command.process.communicate(timeout=60)
    assert (command.process.returncode, err) == (1, f"Error: {file}: File too large\n")
    with igtl.Recording(file) as recording:
        assert recording.truncated


@processes
@pytest.mark.skipif(sys.platform == "win32", reason="no limit for the size of files")
@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha"])
def test_a_full_disk_ends_receiving(suffix: str, here: igtl.Listener, tmp_path: Path) -> None:
    for package in ("nibabel", "SimpleITK"):
        pytest.importorskip(package)
    noise = np.random.default_rng(1).integers(0, 255, (1, 200, 200), np.uint8)
    args = ("receive", f":{here.port}", "--to", str(tmp_path), "--images", suffix)
    with running(*args, serves=False, **limited_files(10_000)) as command:
        with here.accept(timeout=20) as link:
            link.send(igtl.Image(noise, device_name="US"))
        out, err = command.process.communicate(timeout=60)
    assert (command.process.returncode, out) == (1, "")
    assert f"{tmp_path}/US{suffix}: " in err
    assert "File too large" in err
    assert list(tmp_path.iterdir()) == []  # no part of it


@processes
def test_a_source_that_ends_early_is_lost(here: igtl.Listener, tmp_path: Path) -> None:
    file = tmp_path / "a.mcap"
    for args in (
        ("record", str(file), f":{here.port}", "-n", "5"),
        ("record", str(tmp_path / "b.mcap"), f":{here.port}", "-s", "60"),
        ("dump", f":{here.port}", "-s", "60"),
        ("dump", f":{here.port}", "-n", "5"),
        ("receive", f":{here.port}", "--to", str(tmp_path), "-s", "60"),
    ):
        with running(*args, serves=False) as command:
            with here.accept(timeout=20) as link:
                link.send(igtl.Status.ok(device_name="A"))
            _, err = command.process.communicate(timeout=60)
        assert command.process.returncode == 3, args
        assert f"localhost:{here.port} closed the connection early" in err
    with igtl.Recording(file) as recording:
        assert len(recording) == 1
        assert [e["event"] for e in recording.events] == ["connected", "lost"]
    with running("record", str(tmp_path / "c.mcap"), f":{here.port}", serves=False) as command:
        with here.accept(timeout=20) as link:
            link.send(igtl.Status.ok(device_name="A"))
        _, err = command.process.communicate(timeout=60)
    assert command.process.returncode == 0  # nobody said how long
    assert f"localhost:{here.port} has ended" in err


@processes
@pytest.mark.parametrize("command", ["monitor", "record"])
def test_a_source_that_is_away_at_the_end_is_lost(command: str, tmp_path: Path) -> None:
    port = free_port()
    args = {"monitor": [], "record": [str(tmp_path / "a.mcap"), "--reconnect"]}[command]
    with (
        igtl.listen(port=port) as listener,
        running(command, *args, f":{port}", "-s", "2", serves=False) as watching,
    ):
        with listener.accept(timeout=20) as link:
            link.send(igtl.Status.ok(device_name="A"))
            listener.close()
        _, err = watching.process.communicate(timeout=60)
    assert watching.process.returncode == 3
    assert "refused" in err.splitlines()[-1]


# ---- relays -----------------------------------------------------------------------------------


@processes
def test_relay(here: igtl.Listener) -> None:
    args = ("relay", f":{here.port}", "--at", ":0", "-t", "TRANSFORM", "--rename", "Probe=ProbeToTracker",
            "--to-version", "1")  # fmt: skip
    with running(*args) as relay:
        with here.accept(timeout=20) as source:
            relay.wait_for("connected")
            with igtl.connect(port=relay.port) as a, igtl.connect(port=relay.port) as b:
                relay.wait_for(rf"(?s){CLIENT}.*{CLIENT}")
                message = igtl.Transform(np.eye(4), device_name="Probe", metadata={"a": "b"})
                for sent in (message, igtl.Status.ok()):
                    source.send(igtl.Frame.from_bytes(sent.pack()))
                for link in (a, b):
                    got = link.recv(timeout=10)
                    assert (got.device_name, got.header_version) == ("ProbeToTracker", 1)
        with here.accept(timeout=20) as source, igtl.connect(port=relay.port) as c:  # it comes back
            relay.wait_for(rf"(?s){CLIENT}.*{CLIENT}.*{CLIENT}")
            source.send(igtl.Frame.from_bytes(message.pack()))
            assert c.recv(timeout=10).device_name == "ProbeToTracker"
        _, err = relay.stop()
    assert "2 passed on, 1 not wanted" in err
    assert "left out for header version 1: metadata of 2 messages" in err


@processes
def test_relay_warns_of_version_2_for_those_who_did_not_ask(here: igtl.Listener) -> None:
    with (
        running("relay", f":{here.port}", "--at", ":0") as relay,
        here.accept(timeout=20) as source,
    ):
        with igtl.connect(port=relay.port) as link:
            relay.wait_for(CLIENT)
            source.send(igtl.Frame.from_bytes(igtl.Status.ok(message_id=1).pack()))
            link.recv(timeout=10)
            relay.wait_for("gets header version 2, though it has not sent it")


@processes
def test_relay_both_ways_and_tls(here: igtl.Listener, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "cert.pem")
    )
    first = ("relay", f":{here.port}", "--at", "localhost:0", "--both-ways",
             "--serve-cert", str(tmp_path / "cert.pem"))  # fmt: skip
    with running(*first) as one, here.accept(timeout=20) as source:
        second = ("relay", f"localhost:{one.port}", "--at", ":0", "--both-ways",
                  "--ca", str(tmp_path / "ca.pem"))  # fmt: skip
        with running(*second) as two, igtl.connect(port=two.port) as link:
            one.wait_for(CLIENT)
            two.wait_for(CLIENT)
            source.send(igtl.Status.ok(device_name="down"))
            assert link.recv(timeout=10).device_name == "down"
            link.send(igtl.String("up"))
            assert isinstance(source.recv(timeout=10), igtl.String)


@processes
def test_receiving_options_share_their_limits(here: igtl.Listener) -> None:
    both = run("dump", "--udp", "--listen")
    assert both.returncode == 2
    assert "--listen is for TCP" in both.stderr
    listening = run("dump", ":0", "--listen", "-s", "0.2")
    assert listening.returncode == 4
    assert "waiting for a client on 127.0.0.1:" in listening.stderr
