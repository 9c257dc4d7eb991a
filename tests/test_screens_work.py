"""What each command shows at its work: in terminals of several sizes, without colours, in ASCII, in
the characters of Windows, and in a pipe. tests/screens keeps it."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import calibration
from igtl.cli import COMMANDS
from igtl.doctor import Diagnosis, examine
from tests.cpp import free_port
from tests.kept import MARKS, STAMP, WAYS, messages, normal, once, same, serving, silent, stays
from tests.terminal import Session

pytestmark = MARKS

SWEEP = 1.0  # seconds: 20 pictures


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No container, in an empty folder."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr("igtl.doctor.surroundings._MARKS", ())
    monkeypatch.setattr("igtl.doctor.reaching._OTHERS", ())
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.chdir(tmp_path)


# ---- what is there to work on -------------------------------------------------------------------


class Places(dict[str, str]):
    """What the lines of commands name in braces: files of the current folder, addresses of servers.

    Each is made when it is asked for. Servers run until the end of the stack.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.go = threading.Event()

    def __missing__(self, name: str) -> str:
        self[name] = made = str(getattr(self, f"_{name}")())
        return str(made)

    def _server(self, behave: Callable[[igtl.Link], None]) -> str:
        return self._stack.enter_context(serving(behave))

    def _once(self) -> str:
        return self._server(once)

    def _stays(self) -> str:
        return self._server(stays)

    def _silent(self) -> str:
        return self._server(silent)

    def _when_ready(self) -> str:
        def behave(link: igtl.Link) -> None:
            assert self.go.wait(60)
            stays(link)

        return self._server(behave)

    def _swings(self) -> str:
        """A stylus that swings, until there is enough."""

        def behave(link: igtl.Link) -> None:
            for pose in igtl.simulate.Freehand().pivot():
                link.send(pose)
            silent(link)

        return self._server(behave)

    def _begins(self) -> str:
        """A stylus that has swung too little yet."""

        def behave(link: igtl.Link) -> None:
            for pose in igtl.simulate.Freehand().pivot(1.0):
                link.send(pose)
            silent(link)

        return self._server(behave)

    def _sweeps(self) -> str:
        def behave(link: igtl.Link) -> None:
            for message in igtl.simulate.Freehand().sweep(SWEEP):
                link.send(message)
            silent(link)

        return self._server(behave)

    def _answers(self) -> str:
        server = self._stack.enter_context(igtl.serve(port=0, start=False))
        server.provides(igtl.GetTransform)(lambda request, peer: messages()[0])
        server.on(igtl.Command)(
            lambda command, peer: peer.send(
                igtl.CommandReply(
                    command.command_id,
                    "RequestDeviceIds",
                    text='<CommandReply Name="RequestDeviceIds" Status="SUCCESS" Message="TrackerDevice, VideoDevice"/>',
                )
            )
        )
        server.start()
        return f"localhost:{server.port}"

    def _echo(self) -> str:
        server = self._stack.enter_context(igtl.serve(port=0, start=False))
        server.on()(lambda message, peer: peer.send(message))
        server.start()
        return f"localhost:{server.port}"

    def _case(self) -> str:
        record("case.mcap", messages() * 3)
        return "case.mcap"

    def _pivot(self) -> str:
        record("pivot.mcap", igtl.simulate.Freehand().pivot())
        return "pivot.mcap"

    def _scan(self) -> str:
        record("scan.mcap", igtl.simulate.Freehand().sweep(SWEEP))
        return "scan.mcap"

    def _config(self) -> str:
        Path("plus.xml").write_text(
            '<PlusConfiguration version="2.9"><CoordinateDefinitions/></PlusConfiguration>'
        )
        hand = igtl.simulate.Freehand()
        calibration.update_config(
            Path("plus.xml"),
            [calibration.NamedTransform("Image", "Probe", hand.image_to_probe)],
        )
        return "plus.xml"

    def _gateway(self) -> str:
        Path("hospital.toml").write_text(
            f'[gateway]\nhttp = "127.0.0.1:0"\n[source.or1]\nconnect = "{self["stays"]}"\n'
            '[sink.clients]\nserve = "localhost:0"\n'
            '[route.poses]\nfrom = ["or1"]\nto = ["clients"]\n'
        )
        return "hospital.toml"

    def _volume(self) -> str:
        igtl.files.save(
            igtl.Image(np.zeros((4, 8, 8), np.uint8), device_name="CT"), Path("ct.nrrd")
        )
        return "ct.nrrd"

    def _hub(self) -> str:
        hub = f"tcp/127.0.0.1:{free_port()}"
        self._stack.enter_context(igtl.bridge.Router(listen=hub))
        return hub

    def _site(self) -> str:
        """A hub, to which a site hands messages."""
        hub = self._hub()
        publisher = igtl.bridge.Publisher("or1", connect=hub)
        self._stack.enter_context(publisher)
        for message in messages():
            publisher.put(message)
        return hub

    def _free(self) -> str:
        return str(free_port())


def record(path: str, found: Any) -> None:
    with igtl.Recorder(path, compression="none") as recorder:
        for k, message in enumerate(found):
            frame = igtl.Frame.from_bytes(message.pack(version=1))
            at = message.timestamp if "case" not in path else STAMP + k / 16
            recorder.write(frame, peer=("tracker", 18944), received=at)


def visit(found: re.Match[str]) -> None:
    """Be the client of a server that says where it is: send, and go."""
    with igtl.connect(found[1], int(found[2])) as link:
        for message in messages():
            link.send(message)


def talk(found: re.Match[str]) -> None:
    with igtl.connect(found[1], int(found[2])) as link:
        for message in messages():
            link.send(message)
            link.recv(timeout=60)


def look(found: re.Match[str]) -> None:
    with igtl.connect(found[1], int(found[2])) as link:
        link.recv(timeout=60)


def take(found: re.Match[str]) -> None:
    with igtl.connect(found[1], int(found[2])) as link:
        for _ in messages():
            link.recv(timeout=60)


def stay(found: re.Match[str]) -> None:
    with igtl.connect(found[1], int(found[2])) as link:
        silent(link)


# ---- figures that do not depend on the time ------------------------------------------------------


def steady_bench(patch: pytest.MonkeyPatch) -> None:
    times = iter([2.345e-7, 6.54e-7, 1.2345e-5, 4.5678e-3] * 9)
    patch.setattr("igtl.cli.bench._best", lambda work, seconds: next(times))
    patch.setattr("igtl._core.crc_forms", lambda: ("bytes", "tables", "folded"))
    trips = np.linspace(2e-5, 5e-4, 1000)
    patch.setattr("igtl.cli.bench._trips", lambda link, message, seconds: trips)

    @contextlib.contextmanager
    def here() -> Iterator[Any]:
        yield None

    from igtl.cli import bench

    patch.setattr("igtl.cli.bench._here", lambda seconds: bench._round_trips(None, seconds))


def steady_monitor(patch: pytest.MonkeyPatch) -> None:
    from igtl.cli.monitor import Watch

    rows = Watch.rows
    figures = {"rate": 59.94, "jitter": 0.00251, "gap": 0.033, "age": 0.007, "received": 1234}
    patch.setattr(
        Watch,
        "rows",
        lambda self: [{**row, **figures, "bytes": 10 * row["bytes"]} for row in rows(self)],
    )


def steady_doctor(patch: pytest.MonkeyPatch) -> None:
    def steady(*args: Any, **settings: Any) -> Diagnosis:
        found = examine(*args, **settings)
        for seen in found.streams.values():
            seen.arrivals = [k / 64 for k in range(193)]
            seen.count, seen.bytes, seen.age, seen.offsets = 193, 193 * 106, 0.007, [0.0021]
        found.seconds = 3.0
        return found

    patch.setattr("igtl.cli.doctor.examine", steady)


def steady_demo(patch: pytest.MonkeyPatch) -> None:
    import multiprocessing.dummy

    from igtl.cli import demo

    class Process(multiprocessing.dummy.Process):
        def __init__(self, target: Any, args: Any, daemon: bool) -> None:
            super().__init__(target=target, args=args)

    patch.setattr(demo, "leave_signals_to_parent", lambda: None)
    patch.setattr(
        "multiprocessing.get_context",
        lambda kind: SimpleNamespace(Pipe=multiprocessing.dummy.Pipe, Process=Process),
    )
    for kind, name in (
        (demo.Tracker, "transform"),
        (demo.Tracker, "tracking_data"),
        (demo.Ultrasound, "image"),
    ):
        made = getattr(kind, name)
        patch.setattr(kind, name, lambda self, t, made=made: made(self, 1.25))
    patch.setattr(demo.Source, "rate", lambda self: 59.94)
    patch.setattr(demo.Source, "jitter", lambda self: 0.00251)
    patch.setattr(demo.Source, "age", lambda self: 0.007)
    patch.setattr(demo.Source, "lost", lambda self: 0)
    add = demo.Source.add
    came: set[str] = set()
    all_came = threading.Event()
    own = {**vars(time), "sleep": lambda seconds: all_came.wait(60)}  # in a pipe it sleeps only
    patch.setattr(demo, "time", SimpleNamespace(**own))

    def adding(self: Any, message: Any) -> None:
        add(self, message)
        came.add(message.type_name)
        if len(came) == 3:
            all_came.set()
        self.latency.clear()
        self.latency.append(0.00012)

    patch.setattr(demo.Source, "add", adding)


def steady_devices(patch: pytest.MonkeyPatch) -> None:
    from igtl.cli import devices
    from igtl.devices.check import Check, Stream

    patch.setattr(
        devices, "_missing",
        lambda cls: 'pylsl is not installed: pip install "igtl[lsl]"' if cls.__name__ == "Lsl" else "",
    )  # fmt: skip
    streams = {("IMAGE", "Camera"): Stream(90, 29.97, 0.034, "640x480x1 uint8, 3 components")}
    patch.setattr(devices, "check", lambda spec, seconds: Check(0.21, streams))
    from igtl.devices.camera import Camera

    patch.setattr(Camera, "found", classmethod(lambda cls: ["/dev/video0: UVC Camera"]))


def steady_view(patch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nicegui")


def steady_ros(patch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rosbags")
    from tests.rclpy_peer import install

    install(patch)


COLOURED = {
    "bench", "calibrate", "command", "demo", "devices", "doctor", "export", "info", "monitor", "query", "reconstruct", "record",
    "replay", "send",
}  # fmt: skip

# ---- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of a shell.

    Attributes:
        words: after `igtl`.
        until: what is shown when Ctrl-C is pressed; "": the command ends without it.
        piped: in a pipe, which shows no progress, and where there is no `until`, Ctrl-C is pressed
            after the command has dealt with so many messages.
        told: by another thread before that.
        on: called with what is shown first that fits.
        is_data: what it prints is whole, or for another program: its lines may be long.
    """

    words: str
    until: str = ""
    piped: int = 0
    told: str = " connected"
    on: tuple[tuple[str, Callable[[re.Match[str]], None]], ...] = ()
    is_data: bool = False


def lasting(words: str, client: Callable[[re.Match[str]], None], until: str = "is gone") -> Line:
    return Line(words, until, on=((r"(\S+):(\d+), Ctrl-C ends", client),))


@dataclass(frozen=True)
class Work:
    """How a command is run.

    Attributes:
        lines: of a shell, one after the other.
        steady: makes its figures the same each time.
        needs: modules.
        changes: patterns of numbers that depend on the time, and what stands for them.
        unordered: several threads tell what happens: the lines are sorted.
    """

    lines: tuple[Line, ...]
    steady: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    needs: tuple[str, ...] = ()
    changes: tuple[tuple[str, str], ...] = ()
    unordered: bool = False


WORK = {
    "bench": Work((Line("bench"), Line("bench {echo}")), steady_bench),
    "bridge": Work(
        (
            Line("bridge router --endpoint tcp/127.0.0.1:{free}", "Ctrl-C ends"),
            Line("bridge put or1 {stays} --connect {hub}", "(?s)(?=.*Ctrl-C ends).*connected"),
            lasting(
                "bridge get or1 --at localhost:0 --connect {site}",
                look,
                "(?s)(?=.*is gone).*is there",
            ),
        ),
        needs=("zenoh",),
        changes=(
            (r"connected to\s+tcp/\S+\n", ""),  # told if it was not so at the start
            (r"never arrived: .*\n", ""),  # one that left before this end was known to the hub
            (r"\d+ sent", "8 sent"),
            (r"\d+ messages handed out.*", "8 messages handed out"),
            (r"\d+ messages put.*", "8 messages put; lost: 8 no receiver"),
        ),
        unordered=True,
    ),
    "calibrate": Work(
        (
            Line("calibrate pivot {pivot}"),
            Line("calibrate pivot {begins}", "(?s)20 messages.*20 of 100", 20),
            Line(
                "calibrate pivot {swings} -s 60", "(?s)200 messages.*200 of 100.*200 samples", 200
            ),
        ),
        needs=("mcap",),
    ),
    "command": Work((Line("command {answers} RequestDeviceIds"),)),
    "completion": Work(
        (Line("completion bash", is_data=True), Line("completion fish", is_data=True))
    ),
    "demo": Work(
        (Line("demo", "(?s)Image_Ref.*TDATA.*●"),),
        steady_demo,
        changes=(
            (r"TCP \d+, UDP(\s)\d+", r"TCP 18944, UDP\g<1>18945"),
            (r"\d+ s left", "9 s left"),
            (r"sent +\d+, received(\s) *\d+", r"sent    600, received\g<1>   600"),
        ),
    ),
    "devices": Work(
        (Line("devices"), Line("devices camera"), Line("devices --test camera:/dev/video0?fps=30")),
        steady_devices,
    ),
    "doctor": Work((Line("doctor {stays} -s 0.4 -d Prob"),), steady_doctor),
    "dump": Work((Line("dump {once}"), Line("dump {once} -v -t TRANSFORM -n 1", is_data=True))),
    "echo": Work((lasting("echo --at localhost:0", talk),)),
    "export": Work(
        (
            Line("export {case} --to case.npz"),
            Line("export {case} --to case.csv"),
            Line("export {case} --to case.mp4 -t STATUS"),
        ),
        needs=("mcap",),
    ),
    "gateway": Work(
        (Line("gateway --check {gateway}"), Line("gateway {gateway}", "has begun", is_data=True)),
        needs=("mcap", "prometheus_client"),
        unordered=True,
    ),
    "info": Work(
        (Line("info {case}"), Line("info {case} --check"), Line("info {case} --events")),
        needs=("mcap",),
    ),
    "monitor": Work(
        (Line("monitor {stays}", "(?s)8 messages.*connected.*StylusToTracker", 8),),
        steady_monitor,
        # told before the first picture, or in it
        changes=((r"\^C\nlocalhost:18944 connected\n", "^C\n"),),
    ),
    "query": Work(
        (Line("query {answers} TRANSFORM", is_data=True), Line("query {answers} IMAGE CT"))
    ),
    "receive": Work((Line("receive {once} --to in"),)),
    "reconstruct": Work(
        (
            Line(
                "reconstruct {scan} --to scan.nrrd --tool ProbeToReference --config {config} --spacing 1"
            ),
            Line(
                "reconstruct {sweeps} --to live.nrrd --tool ProbeToReference --config {config} --spacing 1",
                "20 pictures",
                40,
            ),
        ),
        needs=("mcap", "nrrd"),
    ),
    "record": Work(
        (Line("record case.mcap {stays}", "  8 messages", 8, ""),),
        needs=("mcap",),
        changes=((r"in \d\.\d kB", "in 3.8 kB"),),  # times are compressed too
    ),
    "relay": Work(
        (
            Line(
                "relay {when_ready} --at localhost:0",
                piped=8,
                told="is gone",
                on=((r"-> (\S+):(\d+), Ctrl-C ends\nlocalhost:\d+ connected", take),),
            ),
        ),
        changes=((r"\d+ sent", "8 sent"),),  # the client may be gone before the last
    ),
    "replay": Work(
        (
            Line("replay {case} --peer {silent} --speed max"),
            Line(
                "replay {case} --at localhost:0 --speed max",
                on=((r"(\S+):(\d+), for a client", stay),),
            ),
        ),
        needs=("mcap",),
    ),
    "ros": Work(
        (Line("ros {case}"), Line("ros {stays}", piped=8)),
        steady_ros,
        needs=("mcap",),
        changes=(
            (
                r"Ctrl-C ends((?s:.*))\d published.*",
                r"Ctrl-C ends\g<1>9 published, 1 TRANSFORM left out",
            ),
        ),
    ),
    "send": Work(
        (
            Line("send STATUS code=OK {silent}"),
            Line("send {volume} {silent}"),
            Line("send STATUS {silent} --rate 20 -n 2"),
        ),
        needs=("nrrd",),
    ),
    "serve": Work((lasting("serve --at localhost:0", visit),)),
    "simulate": Work(
        (lasting("simulate --at localhost:0", look),), changes=((r"\d+ sent.*", "7 sent"),)
    ),
    "view": Work(
        (Line("view {stays} --at localhost:{free} --token secret", "connected"),),
        steady_view,
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", COMMANDS)
def test_work(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = WORK[name]
    for module in work.needs:
        pytest.importorskip(module)
    work.steady(monkeypatch)
    shown = ""
    coloured = False
    wrapped: list[str] = []
    with contextlib.ExitStack() as stack:
        places = Places(stack)
        for line in work.lines:
            session = Session(monkeypatch, **WAYS[way])
            words = line.words.format_map(places)
            if line.piped and not (line.until and WAYS[way].get("tty")):
                session.after(line.piped, line.told)
            elif line.until:
                session.on(line.until, session.press)
            for pattern, act in line.on:
                session.on(pattern, act)
            if "when_ready" in line.words:
                session.on(r"127.0.0.1:\d+ connected\n", lambda found: places.go.set())
            told = normal(session.run(*words.split()))
            for pattern, instead in work.changes:
                told = re.sub(pattern, instead, told)
            if work.unordered:
                before, ctrl_c, after = told.rpartition("^C\n")
                told = "".join(sorted(before.splitlines(True))) + ctrl_c + after
            shown += f"$ igtl {normal(words)}{told}"
            coloured |= session.terminal.coloured
            wrapped += [] if line.is_data else session.terminal.wrapped
    same(name, way, shown)
    assert "Traceback" not in shown
    assert not wrapped
    assert coloured == (name in COLOURED and WAYS[way].get("tty", False) and way != "NO_COLOR")
