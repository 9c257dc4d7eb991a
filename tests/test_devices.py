"""Devices: specifications, healing, stalls, and how a server hands on what they send."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl.cli import main
from igtl.devices import ALIVE, UNREADABLE, Device, Item, device_of, option, options_of, registry
from tests.cpp import free_port

QUICK = igtl.Backoff(0.01, 0.05)


def until(ready: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, what
        time.sleep(0.005)


@dataclass(frozen=True, kw_only=True)
class Script(Device):
    """A device that does what a test says.

    Each opening takes the next list: messages are sent, exceptions raised, events waited for.
    """

    name: str = option("Script", "device name")
    count: int | None = option(None, "a number")
    ids: tuple[int, ...] | None = option(None, "numbers")
    size: tuple[int, int] = option((1, 2), "two numbers")
    mode: Literal["one", "two"] = option("one", "a choice")
    text: str = option("", "a text")
    flag: bool = option(False, "a flag")
    steps: list[list[Any]] = field(default_factory=list)
    endless: bool = False
    opened: list[float] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    going: bool = True

    takes: ClassVar = "anything"

    @property
    def live(self) -> bool:
        return self.going

    def messages(self) -> Iterator[Item]:
        self.opened.append(time.monotonic())
        try:
            for step in self.steps.pop(0) if self.steps else []:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, threading.Event):
                    while not step.wait(0.02):
                        yield None
                else:
                    yield step
            while self.endless and not self.steps:
                time.sleep(0.01)
                yield None
        finally:
            self.closed.append(1)


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind "script"."""
    monkeypatch.setitem(registry.BUILT_IN, "script", "device:Script")
    monkeypatch.setattr("igtl.devices.device.Script", Script, raising=False)


def text(value: str, name: str = "Script") -> igtl.String:
    return igtl.String(value, device_name=name)


# ---- specifications ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "argument", "values"),
    [
        ("script", "", {}),
        ("script:", "", {}),
        ("script:/dev/video0", "/dev/video0", {}),
        ("script:a=b:c=d?count=3", "a=b:c=d", {"count": 3}),
        ("script:x?ids=1,2,3,flag=yes", "x", {"ids": (1, 2, 3), "flag": True}),
        ("script:x?size=640x480,mode=TWO", "x", {"size": (640, 480), "mode": "two"}),
        ('script:x?text={"a": 1, "b": 2},count=4', "x", {"text": '{"a": 1, "b": 2}', "count": 4}),
        ("script:rtsp://h/x?channel=1?", "rtsp://h/x?channel=1", {}),
        ("script:x?stall=0.5,name=Two Words", "x", {"stall": 0.5, "name": "Two Words"}),
    ],
)
def test_specifications(spec: str, argument: str, values: dict[str, Any]) -> None:
    device = device_of(spec)
    assert device.argument == argument
    assert {name: getattr(device, name) for name in values} == values


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("skript:x", ["'skript'", "did you mean 'script'?", "camera"]),
        ("", ["no device ''", "camera"]),
        ("script:x?cuont=3", ["no option 'cuont'", "did you mean 'count'?", "mode"]),
        ("script:x?count", ["'count'", "write count=…"]),
        ("script:x?count=many", ["'count'", "an integer", "'many'"]),
        ("script:x?size=640", ["'size'", "NxN"]),
        ("script:x?mode=three", ["one | two"]),
        ("script:x?flag=perhaps", ["yes | no"]),
        ("script:x?name=", ["1 to 20 bytes"]),
        ("script:x?name=TwentyOneLettersLong!", ["1 to 20 bytes"]),
        ("script:x?stall=-1", ["stall", "from 0"]),
        ("script:x?steps=1", ["no option 'steps'"]),
        ("serial", ["serial:/dev/ttyUSB0"]),
        ("serial:COM3?unit=furlong", ["furlong"]),
        ("lsl", ["lsl:MyStream"]),
        ("sks:what", ["MODULE:CLASS"]),
        ("sks:nditracker?tools=AVeryLongToolName", ["11 bytes"]),
        ("natnet?version=2.9", ["3.0 at least"]),
        ("natnet?version=new", ["as 3.1"]),
        ("natnet?data_port=70000", ["65535"]),
        ("camera:0?fps=0", ["fps"]),
    ],
)
def test_wrong_specifications_say_what_is_right(spec: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        device_of(spec)
    for word in words:
        assert word in str(error.value)


def test_values_of_python_take_the_place_of_those_in_the_specification() -> None:
    device = device_of("script:x?count=3", count=5, ids=(7,))
    assert (device.count, device.ids) == (5, (7,))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="did you mean 'count'"):
        device_of("script:x", cuont=3)
    with pytest.raises(TypeError, match="its own"):
        igtl.devices.open(Script(), count=3)


@pytest.mark.parametrize("kind", sorted(registry.BUILT_IN))
def test_every_kind_tells_what_it_is(kind: str) -> None:
    cls = igtl.devices.device_class(kind)
    assert cls.__doc__
    assert cls.sends
    assert cls.stamp
    named = {o.name: o for o in options_of(cls)}
    assert {"name", "stall"} <= set(named)
    assert all(o.text and o.values for o in named.values())


def test_what_is_not_installed_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Script, "needs", {"no_such_module": "video"})
    with pytest.raises(ModuleNotFoundError, match=r'pip install "igtl\[video\]"'):
        igtl.devices.open("script:x")


def test_a_library_that_cannot_be_loaded_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "half_installed.py").write_text("raise RuntimeError('its C library is missing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(Script, "needs", {"half_installed": "video"})
    with pytest.raises(ModuleNotFoundError, match="its C library is missing"):
        igtl.devices.open("script:x")
    done = CliRunner().invoke(main, ["devices"])
    assert done.exit_code == 0
    assert re.search(r"script +✗ +half_installed cannot be loaded", done.output)


# ---- sources -------------------------------------------------------------------------------------


def test_a_device_that_ends_ends_the_iteration() -> None:
    device = Script(steps=[[text("a"), ALIVE, None, UNREADABLE, text("b")]])
    with igtl.devices.open(device) as source:
        assert [m.string for m in source if isinstance(m, igtl.String)] == ["a", "b"]
        with pytest.raises(igtl.ConnectionClosed):
            source.recv(1)
        assert (source.received, source.unreadable, source.failures) == (2, 1, 0)
    assert device.closed == [1]


def test_a_lost_device_is_reported_and_opened_again() -> None:
    lost = OSError("it was unplugged")
    away = OSError("no such device")
    device = Script(
        steps=[[text("a"), lost], [away], [away], [OSError("permission denied")], [text("b")]]
    )
    with igtl.devices.open(device, backoff=QUICK) as source:
        found = list(source)
    told = [
        (m.code, m.error_name, m.message) if isinstance(m, igtl.Status) else m.string
        for m in found
        if isinstance(m, igtl.Status | igtl.String)
    ]
    code = igtl.StatusCode
    assert told == [
        "a",
        (code.HARDWARE_FAILURE, "DeviceLost", "OSError: it was unplugged"),
        (code.NOT_READY, "DeviceNotReady", "OSError: no such device"),  # once
        (code.NOT_READY, "DeviceNotReady", "OSError: permission denied"),
        (code.OK, "OK", "Script works again"),
        "b",
    ]
    assert all(m.device_name == "Script" for m in found)
    assert source.failures == 4
    assert source.error is None
    assert len(device.opened) == len(device.closed) == 5


def test_a_driver_that_ends_the_program_ends_itself_alone() -> None:
    with igtl.devices.open(Script(steps=[[SystemExit(3)], [text("b")]]), backoff=QUICK) as source:
        told = [m for m in source if isinstance(m, igtl.Status)]
    assert [m.error_name for m in told] == ["DeviceNotReady", "OK"]
    assert "SystemExit: 3" in told[0].message


def test_backoff_grows() -> None:
    device = Script(steps=[[OSError(str(n))] for n in range(4)])
    with igtl.devices.open(device, backoff=igtl.Backoff(0.05, 1.0)) as source:
        list(source)
    gaps = np.diff(device.opened)
    assert (gaps >= [0.05, 0.1, 0.2, 0.4]).all()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of a Source's clock, which stands still unless the test moves it."""
    now = [1000.0]
    monkeypatch.setattr("igtl.devices.source.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_stall_is_reported_once(clock: list[float]) -> None:
    go = threading.Event()
    device = Script(stall=0.5, steps=[[text("a"), go, text("b")]])
    with igtl.devices.open(device) as source:
        assert isinstance(source.recv(10), igtl.String)
        clock[0] += 0.5
        stalled = source.recv(10)
        assert isinstance(stalled, igtl.Status)
        assert (stalled.code, stalled.error_name) == (igtl.StatusCode.NOT_READY, "DeviceStalled")
        assert isinstance(source.error, TimeoutError)
        clock[0] += 1.5
        with pytest.raises(TimeoutError):
            source.recv(0)
        go.set()
        again, message = source.recv(10), source.recv(10)
        assert isinstance(again, igtl.Status)
        assert again.is_ok
        assert isinstance(message, igtl.String)
        assert message.string == "b"
        assert (source.stalls, source.failures) == (1, 0)


def test_alive_without_messages_is_no_stall(clock: list[float]) -> None:
    *alive, end = (threading.Event() for _ in range(5))
    steps = [step for go in alive for step in (go, ALIVE)]
    with igtl.devices.open(Script(stall=1.0, steps=[[*steps, end, text("end")]])) as source:
        for go in alive:
            clock[0] += 0.7
            go.set()
            until(lambda: source._last == clock[0], "it was not seen")
            with pytest.raises(TimeoutError):
                source.recv(0)
        end.set()
        assert [type(m) for m in source] == [igtl.String]
        assert source.stalls == 0


def test_a_live_device_drops_the_oldest_and_a_film_waits() -> None:
    many: list[Any] = [text(str(n)) for n in range(500)]
    done = threading.Event()
    live = Script(steps=[[*many, OSError("gone")]], endless=True)
    with igtl.devices.open(live, backoff=QUICK) as source:
        until(lambda: source.failures > 0, "the device did not fail")
        found = []
        while len(found) < 64:
            found.append(source.recv(10))
        assert source.dropped == 500 - 64 + 1  # the report of the failure has its place
        texts = [m.string for m in found if isinstance(m, igtl.String)]
        assert texts == [str(n) for n in range(500 - len(texts), 500)]
        assert isinstance(found[-1], igtl.Status)
    film = Script(steps=[list(many)], going=False)
    with igtl.devices.open(film) as source:
        done.wait(0.05)
        assert [m.string for m in source if isinstance(m, igtl.String)] == [
            str(n) for n in range(500)
        ]
        assert source.dropped == 0


@pytest.mark.parametrize("going", [True, False])
def test_close_ends_whatever_the_device_does(going: bool) -> None:
    device = Script(steps=[[text("a")] * 200], endless=True, going=going)
    source = igtl.devices.open(device)
    source.recv(10)
    closer = threading.Timer(0.05, source.close)
    closer.start()
    for _ in source:
        pass
    closer.join()
    assert device.closed == [1]
    source.close()  # again
    with pytest.raises(igtl.ConnectionClosed):
        source.recv(0)


def test_close_interrupts_the_wait_after_a_failure() -> None:
    device = Script(steps=[[OSError("away")]])
    source = igtl.devices.open(device, backoff=igtl.Backoff(1000, 1000))
    assert isinstance(source.recv(10), igtl.Status)
    begun = time.monotonic()
    source.close()
    assert time.monotonic() - begun < 100
    assert not source._thread.is_alive()


# ---- behind a server -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ticking(Device):
    """Sends what `make` gives, 50 times a second, until it is told to fail."""

    make: Callable[[int], igtl.Message]
    fail: threading.Event = field(default_factory=threading.Event)

    def messages(self) -> Iterator[Item]:
        for n in igtl.Rate(50):
            if self.fail.is_set():
                raise OSError("pulled out")
            yield self.make(n)


def pose(n: int, name: str = "Probe") -> igtl.Transform:
    matrix = np.eye(4)
    matrix[0, 3] = n
    return igtl.Transform(matrix, device_name=name)


def tracked(n: int) -> igtl.TrackingData:
    return igtl.TrackingData([igtl.Tool("Probe", 3, pose(n).matrix)], device_name="Tracker")


def frame(n: int) -> igtl.Image:
    pixels = np.full((48, 64), n % 256, np.uint8)
    return igtl.Image.from_frame(pixels, device_name="Camera")


@pytest.fixture
def serve() -> Iterator[Callable[..., igtl.Link]]:
    """Serve devices, and give a link to them; called again without devices it gives another."""
    server = igtl.serve(port=0, policy="latest")
    feeds: list[igtl.devices.Feed] = []
    links: list[igtl.Link] = []

    def work(*devices: Device, on_request: bool = False) -> igtl.Link:
        if devices:
            sources = [igtl.devices.open(device, backoff=QUICK) for device in devices]
            feeds.append(igtl.devices.feed(server, *sources, on_request=on_request))
        links.append(igtl.connect(port=server.port, hello=True, read_timeout=20))
        return links[-1]

    yield work
    for link in links:
        link.close()
    for feed in feeds:
        feed.close()
        assert feed.wait(0)
    server.close()


def test_what_devices_send_goes_to_all_clients(serve: Any) -> None:
    link = serve(Ticking(name="Arm", make=pose), Ticking(name="Camera", make=frame))
    first, second = link.recv(igtl.Transform), link.recv(igtl.Transform)
    assert second.matrix[0, 3] > first.matrix[0, 3]
    assert link.recv(igtl.Image, "Camera").array.shape == (1, 48, 64)


def test_get_is_answered_with_the_newest(serve: Any) -> None:
    link = serve(Ticking(name="Camera", make=frame), on_request=True)
    until(lambda: isinstance(link.query(igtl.GetImage()), igtl.Image), "no image")
    image = link.query(igtl.GetImage(device_name="Camera"))
    assert isinstance(image, igtl.Image)
    with pytest.raises(TimeoutError):
        link.recv(igtl.Image, timeout=0.3)  # on request alone


def test_tracking_data_are_streamed_to_those_who_ask(serve: Any) -> None:
    link = serve(Ticking(name="Tracker", make=tracked))
    with pytest.raises(TimeoutError):
        link.recv(igtl.TrackingData, timeout=0.3)
    with link.stream(igtl.StartTrackingData(resolution_ms=20)) as frames:
        seen = [next(frames).tools[0].matrix[0, 3] for _ in range(5)]
    assert seen == sorted(seen)
    assert len(set(seen)) == 5


def test_a_stream_of_a_device_that_is_silent_can_be_stopped(serve: Any) -> None:
    quiet = Script(name="Tracker", stall=0, steps=[[tracked(1)]], endless=True)
    link = serve(quiet)
    until(lambda: isinstance(link.query(igtl.GetTrackingData()), igtl.TrackingData), "no data")
    with link.stream(igtl.StartTrackingData(resolution_ms=20)) as frames:
        assert next(frames).tools[0].matrix[0, 3] == 1
    assert isinstance(link.query(igtl.GetTrackingData(), timeout=10), igtl.TrackingData)


def test_frames_are_encoded_for_those_who_ask(serve: Any) -> None:
    pytest.importorskip("av", reason="av is not installed")
    link = serve(Ticking(name="Camera", make=frame), on_request=True)
    until(lambda: isinstance(link.query(igtl.GetImage()), igtl.Image), "no image")
    decoder = igtl.VideoDecoder()
    with link.stream(igtl.StartVideo(codec="VP90", device_name="Camera")) as video:
        shown = [decoder.decode(next(video)) for _ in range(5)]
    assert all(f is not None and f.shape == (48, 64) for f in shown)


def test_a_device_of_endless_names_does_not_fill_the_server() -> None:
    names = [pose(n, f"N{n}") for n in range(1000)]
    device = Script(name="Many", steps=[list(names)], going=False)
    with igtl.serve(port=0) as server:
        with igtl.devices.feed(server, igtl.devices.open(device)) as feed:
            assert feed.wait(20)
            with igtl.connect(port=server.port, read_timeout=20) as link:
                first = link.query(igtl.GetTransform(device_name="N255"))
                assert isinstance(first, igtl.Transform)
                beyond = link.query(igtl.GetTransform(device_name="N256"))
                assert isinstance(beyond, igtl.NoData)


def test_pictures_of_an_odd_size_are_sent_and_not_encoded(serve: Any) -> None:
    def odd(n: int) -> igtl.Image:
        return igtl.Image.from_frame(np.zeros((47, 63), np.uint8), device_name="Camera")

    link = serve(Ticking(name="Camera", make=odd))
    assert [link.recv(igtl.Image).array.shape for _ in range(3)] == [(1, 47, 63)] * 3
    assert link.query(igtl.GetStatus(device_name="Camera")).is_ok


def test_clients_are_told_of_failures_also_those_that_come_later(serve: Any) -> None:
    broken, whole = Ticking(name="Arm", make=pose), Ticking(name="Camera", make=frame)
    link = serve(broken, whole)
    link.recv(igtl.Transform)
    broken.fail.set()
    lost = link.recv(igtl.Status, "Arm")
    assert lost.code == igtl.StatusCode.HARDWARE_FAILURE
    assert "pulled out" in lost.message
    late = serve().recv(igtl.Status, "Arm")
    assert not late.is_ok
    asked = link.query(igtl.GetStatus(device_name="Arm"))
    assert isinstance(asked, igtl.Status)
    assert not asked.is_ok
    assert link.query(igtl.GetStatus(device_name="Camera")).is_ok
    assert link.latest(igtl.Image, max_age=1, timeout=10) is not None  # the other one goes on
    broken.fail.clear()
    until(lambda: link.query(igtl.GetStatus(device_name="Arm")).is_ok, "it did not come back")


def test_3d_slicer_shows_them_and_survives_failures() -> None:
    broken = Script(name="Broken", steps=[[OSError("away")]], endless=True)
    with igtl.serve(port=0, policy="latest") as server:
        devices = Ticking(name="Arm", make=pose), Ticking(name="Camera", make=frame), broken
        sources = [igtl.devices.open(device, backoff=QUICK) for device in devices]
        with (
            igtl.devices.feed(server, *sources),
            igtl.simulate.slicer("client", port=server.port) as node,
        ):
            moved = node.wait("LinearTransform", "Probe", lambda n: n.updates > 2, timeout=20)
            assert moved.value[0, 3] > 0
            shown = node.wait("Volume", "Camera", lambda n: n.updates > 2, timeout=20)
            assert shown.value.shape == (1, 48, 64)
            assert node.wait("STATUS", "Broken", timeout=20)
            assert not node.crashed


def test_two_devices_of_one_name_are_refused() -> None:
    with igtl.serve(port=0) as server:
        sources = [igtl.devices.open(Script(endless=True)) for _ in range(2)]
        with pytest.raises(ValueError, match=r"'Script'.*name=…"):
            igtl.devices.feed(server, *sources)
        for source in sources:
            source.close()


def test_a_message_that_cannot_be_sent_stops_nothing(serve: Any) -> None:
    def make(n: int) -> igtl.Message:
        message = pose(n)
        if n % 2:
            message.device_name = "Probe" * 10
        return message

    link = serve(Ticking(name="Arm", make=make))
    seen = [link.recv(igtl.Transform).matrix[0, 3] for _ in range(3)]
    assert all(n % 2 == 0 for n in seen)
    assert seen[0] < seen[1] < seen[2]
    assert link.query(igtl.GetStatus(device_name="Arm")).is_ok


@dataclass(frozen=True, kw_only=True)
class Moody(Device):
    """Sends poses at 200 Hz, and every now and then stalls, ends in an error, or does not open."""

    seed: int
    made: list[int] = field(default_factory=lambda: [0])
    calm: threading.Event = field(default_factory=threading.Event)

    def messages(self) -> Iterator[Item]:
        rng = np.random.default_rng((self.seed, self.made[0]))
        for n in igtl.Rate(200):
            self.made[0] += 1
            if not self.calm.is_set():
                mood = rng.random()
                if mood < 0.02 or (n == 0 and mood < 0.3):
                    raise OSError(f"error {self.made[0]}")
                if mood > 0.99:
                    time.sleep(0.1)
            yield pose(self.made[0], f"Arm{self.seed}")


@pytest.mark.long
def test_devices_that_fail_all_the_time() -> None:
    """Eight of them for 15 s, before clients that read, that do not, and that come and go."""
    fds = Path("/proc/self/fd")
    before = threading.active_count(), len(list(fds.iterdir())) if fds.is_dir() else 0
    devices = [Moody(name=f"Device{n}", seed=n, stall=0.05) for n in range(8)]
    with igtl.serve(port=0, policy="latest") as server:
        sources = [igtl.devices.open(device, backoff=QUICK) for device in devices]
        with igtl.devices.feed(server, *sources), igtl.connect(port=server.port) as silent:
            moved: set[str] = set()
            states: dict[str, bool] = {}
            with igtl.connect(port=server.port, read_timeout=20) as link:

                def take() -> None:
                    message = link.recv()
                    if isinstance(message, igtl.Transform):
                        moved.add(message.device_name)
                    elif isinstance(message, igtl.Status):
                        states[message.device_name] = message.is_ok

                end = time.monotonic() + 15
                while time.monotonic() < end:
                    for _ in range(500):
                        take()
                    igtl.connect(port=server.port).close()
                moved.clear()
                for device in devices:
                    device.calm.set()
                while len(moved) < 8 or len(states) < 8 or not all(states.values()):
                    assert time.monotonic() < end + 30, (moved, states)
                    take()
                late = igtl.connect(port=server.port, read_timeout=20)
                with late:
                    told = {late.recv(igtl.Status).device_name for _ in range(8)}
                    assert told == set(states)
            assert all(source.failures > 10 for source in sources)
            assert sum(source.stalls for source in sources) > 10
            assert silent.connected
    until(lambda: threading.active_count() <= before[0], "threads are left")
    if fds.is_dir():
        until(lambda: len(list(fds.iterdir())) <= before[1], "descriptors are left")


# ---- the commands --------------------------------------------------------------------------------


def test_the_command_lists_kinds_and_options() -> None:
    done = CliRunner().invoke(main, ["devices"])
    assert done.exit_code == 0, done.output
    for kind in ("aruco", "camera", "lsl", "natnet", "screen", "serial", "sks"):
        assert f"\n {kind}" in done.output
    done = CliRunner().invoke(main, ["devices", "natnet"])
    assert done.exit_code == 0, done.output
    assert "data_port" in done.output
    assert "default 1511" in done.output
    done = CliRunner().invoke(main, ["devices", "natnett"])
    assert done.exit_code == 2
    assert "did you mean 'natnet'" in done.output


def test_the_command_tests_devices(tmp_path: Path) -> None:
    missing = f"serial:{tmp_path / 'tty'}"
    done = CliRunner().invoke(main, ["devices", "--test", missing, "-s", "0.2"])
    assert done.exit_code == 1
    assert f"✗ {missing}: " in done.output
    assert "tty" in done.output


def test_serve_refuses_what_it_cannot_open() -> None:
    done = CliRunner().invoke(main, ["serve", "--feed", "camra:0"])
    assert done.exit_code == 2
    assert "did you mean 'camera'" in done.output
    same = ["--feed", "natnet?data_port=0,group="]
    done = CliRunner().invoke(main, ["serve", "--at", "localhost:0", *same, *same])
    assert done.exit_code == 2
    assert "two devices are named 'OptiTrack'" in done.output


# ---- kinds of other packages ---------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "devices.md"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The device of docs/devices.md as an installed distribution: the environment that has it."""
    if not PAGE.is_file():
        pytest.skip("installed without the documents")
    blocks = PAGE.read_text().split("```")
    (code,) = [b.removeprefix("python\n") for b in blocks if "class Thermometer" in b]
    (toml,) = [b for b in blocks if b.startswith("toml\n")]
    ((group, points),) = tomllib.loads(toml.removeprefix("toml\n"))["project"][
        "entry-points"
    ].items()
    site = tmp_path / "site"
    info = site / "thermometer-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "thermometer.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thermometer\nVersion: 1.0\n")
    broken = "broken = no_such_module:Device\nnone = thermometer:Path\ncamera = thermometer:Mine\n"
    (info / "entry_points.txt").write_text(
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) + broken
    )
    (tmp_path / "temp").write_text("21500\n")
    path = os.pathsep.join([str(site), str(Path(igtl.__file__).parents[1])])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}


def igtl_command(environment: dict[str, str], *args: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "igtl", *args], capture_output=True, encoding="utf-8", timeout=60,
        env=environment,
    )  # fmt: skip


@pytest.mark.processes
def test_the_device_of_the_documents_is_found_by_its_entry_point(
    installed: dict[str, str], tmp_path: Path
) -> None:
    listed = igtl_command(installed, "devices")
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"thermometer +✓ +SENSOR, K", listed.stdout), listed.stdout
    assert re.search(r"broken +✗ +no_such_module:Device cannot be loaded: No module", listed.stdout)
    assert re.search(
        r"none +✗ +thermometer:Path is not a class of igtl.devices.Device", listed.stdout
    )
    assert re.search(r"camera +. +IMAGE", listed.stdout)  # that of igtl, whatever others name so
    assert "'camera' of thermometer:Mine is ignored" in listed.stderr
    for args in (["devices", "none"], ["serve", "--feed", "none:x"]):
        refused = igtl_command(installed, *args)
        assert refused.returncode == 2
        assert "thermometer:Path is not a class" in refused.stderr
    spec = f"thermometer:{tmp_path / 'temp'}?hz=20"
    tested = igtl_command(installed, "devices", "--test", spec, "-s", "0.5")
    assert tested.returncode == 0, tested.stdout
    assert "SENSOR Thermometer: " in tested.stdout
    assert "294.65" in tested.stdout


@pytest.mark.processes
def test_serve_a_device(installed: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    temperature = tmp_path / "temp"
    server = subprocess.Popen(
        [sys.executable, "-m", "igtl", "serve", "--at", f"localhost:{port}",
         "--feed", f"thermometer:{temperature}?hz=50,name=Room"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=installed,
    )  # fmt: skip
    try:
        assert server.stderr is not None
        while "serving on" not in (line := server.stderr.readline()):
            assert line, "the server has ended"
        with igtl.connect(port=port, hello=True, read_timeout=20) as link:
            first = link.recv(igtl.Sensor, "Room")
            assert list(first.values) == pytest.approx([294.65])
            assert first.unit == igtl.Unit("K")
            temperature.unlink()
            status = link.recv(igtl.Status, "Room")
            assert status.code == igtl.StatusCode.HARDWARE_FAILURE
            assert "No such file" in status.message
            temperature.write_text("37000\n")
            assert link.recv(igtl.Status, "Room").is_ok
            until(
                lambda: link.query(igtl.GetSensor(device_name="Room")).values[0] > 300,
                "the new temperature has not come",
            )
        assert "device Room does not work: FileNotFoundError" in server.stderr.readline() + (
            server.stderr.readline()
        )
    finally:
        server.terminate()
        server.wait(60)
        server.communicate()
