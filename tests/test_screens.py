"""What a newcomer sees of every command: help, and what goes wrong; see tests/kept.py.

A new command needs its screens (help, wrong arguments, work), and nothing here.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import igtl
from igtl.cli import COMMANDS
from tests.cpp import free_port
from tests.kept import MARKS, SCREENS, STAMP, WAYS, kept, normal, same, serving, silent, stays
from tests.terminal import Session, Terminal

pytestmark = MARKS
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in a pipe: both its outputs, and its exit code."""
    return lambda *args, **way: normal(Session(monkeypatch, **way).run(*args))


# ---- every command ----------------------------------------------------------------------------


def test_help_of_all(run: Run) -> None:
    same("igtl", "help", run("--help"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, run: Run) -> None:
    shown = run(name, "--help")
    same(name, "help", shown)
    assert all(len(line) <= 100 for line in shown.splitlines())  # examples are not wrapped
    wide, narrow = (run(name, "--help", columns=columns).splitlines() for columns in (120, 50))
    assert max(map(len, wide)) <= 100
    assert {line for line in narrow if len(line) > 50} <= set(wide)  # examples and tables are kept
    run(name, "--help", charset="ascii").encode("ascii")
    run(name, "--help", charset="cp1252").encode("cp1252")


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_arguments(name: str, run: Run) -> None:
    same(name, "wrong arguments", run(name, "--no-such-option"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_option(name: str, run: Run) -> None:
    command = importlib.import_module(f"igtl.cli.{name}").command
    options = {word for each in command.params for word in getattr(each, "opts", ())}
    for word in {"--help", *(word for word in options if word.startswith("--"))}:
        mistyped = f"{word[:-2]}{word[-1]}{word[-2]}" if len(word) < 6 else f"{word[:-2]}{word[-1]}"
        if mistyped in options or mistyped == word:
            continue
        shown = run(name, mistyped)
        assert re.search(rf"Did you mean.*'{word}'", " ".join(shown.split())), shown
        assert shown.endswith("exit code 2\n")


# ---- what goes wrong --------------------------------------------------------------------------

AWAY = {
    "bench": "{}", "bridge": "put or1 {} --connect tcp/localhost:1 -s 0.3", "calibrate": "pivot {} -s 0.3", "command": "{} Stop", "doctor": "{}", "dump": "{}",
    "monitor": "{} -s 0.3", "query": "{} IMAGE", "receive": "{} --to in",
    "reconstruct": "{} --to volume.nrrd -s 0.3", "record": "case.mcap {}",
    "relay": "{} --at :0 -s 0.3", "replay": "poses.mcap --peer {}", "ros": "{} -s 0.3",
    "send": "STATUS {}", "view": "{} --at localhost:0 --token secret -s 0.3",
}  # fmt: skip
"""Every command that connects."""


NEEDS = {"bridge": "zenoh", "record": "mcap", "replay": "mcap", "ros": "rosbags", "view": "nicegui"}


def record_for_replay(name: str) -> None:
    if name == "replay":
        pytest.importorskip("mcap")
        with igtl.Recorder("poses.mcap") as recorder:
            recorder.write(igtl.Status.ok(), received=STAMP)


def arguments(name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    if name == "ros":
        from tests.rclpy_peer import install

        install(monkeypatch)
    record_for_replay(name)
    return [name, *AWAY[name].format(address).split()]


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No container, in an empty folder."""
    monkeypatch.setattr("igtl.doctor.surroundings._MARKS", ())
    monkeypatch.setattr("igtl.doctor.reaching._OTHERS", ())
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.chdir(tmp_path)


def told_of_the_source(name: str, shown: str) -> str:
    """Without the number of tries, which may be one on a busy machine, and without what a bridge
    tells of its hub meanwhile, from a thread of its own."""
    lines = shown.replace(" (7 times)", "").splitlines(keepends=True)
    return "".join(line for line in lines if name != "bridge" or not line.startswith("tcp/"))


@pytest.mark.parametrize("name", AWAY)
def test_nothing_listens(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run(*arguments(name, f"localhost:{free_port()}", monkeypatch))
    assert shown.endswith("exit code 3\n")
    same(name, "nothing listens", told_of_the_source(name, shown))


@pytest.mark.parametrize("name", AWAY)
def test_a_host_that_does_not_exist(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = arguments(name, "tracker.invalid", monkeypatch)

    def unknown(*args: Any, **kw: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    shown = run(*words)
    assert shown.endswith("exit code 3\n")
    same(name, "no such host", told_of_the_source(name, shown))


QUIET = {
    "command": ["Stop", "--timeout", "0.2"], "doctor": ["-s", "0.3"], "dump": ["-s", "0.3"],
    "monitor": ["-s", "0.3"], "query": ["IMAGE", "--timeout", "0.2"],
    "receive": ["--to", "in", "-s", "0.3"], "record": ["-s", "0.3"],
}  # fmt: skip


@pytest.mark.parametrize("name", QUIET)
def test_a_server_that_says_nothing(name: str, run: Run) -> None:
    first = ["case.mcap"] if name == "record" else []
    with serving(silent) as address:
        shown = run(name, *first, address, *QUIET[name])
    assert shown.endswith("exit code 4\n")
    same(name, "says nothing", re.sub(r"\d\.\d s|\d\.\d\d? s", "0.3 s", shown))


@pytest.mark.parametrize("name", [*QUIET, "record --reconnect"])
def test_a_server_that_closes_at_once(name: str, run: Run) -> None:
    """With a message for each change, not for each try."""
    name, *more = name.split()
    first = ["case.mcap"] if name == "record" else []
    more += ["-s", "0.8"] if more else [w for w in QUIET[name] if w not in ("-s", "0.3")]
    more += ["-s", "0.8"] if name == "monitor" else []
    with serving(lambda link: None) as address:
        shown = run(name, *first, address, *more)
    assert shown.endswith("exit code 3\n"), shown
    assert shown.count("trying again") == (name == "monitor" or "--reconnect" in more)
    assert not ("--reconnect" in more or name == "monitor") or "(7 times)" in shown
    if name in ("command", "query"):
        return  # the words depend on which end is first
    same(name, f"closes at once{' with --reconnect' * ('--reconnect' in more)}", shown)


LISTENS = {
    "bridge": ("router --endpoint tcp/127.0.0.1:{port}", "get or1 --at {at} --connect tcp/127.0.0.1:1"),
    "dump": ("{at} --listen", "{at} --udp"),
    "echo": ("--at {at}",), "monitor": ("{at} --listen",), "receive": ("{at} --listen --to in",),
    "record": ("case.mcap {at} --listen",), "relay": ("localhost:1 --at {at}",),
    "replay": ("poses.mcap --at {at}",), "serve": ("--at {at}",),
    "simulate": ("--at {at}", "--plus --at {at}", "--slicer server --at {at}"),
    "view": ("--at {at}", "--foxglove {port}"),
}  # fmt: skip
"""What listens, and ends then; `demo` takes a free port."""


@pytest.mark.parametrize("name", LISTENS)
def test_a_port_in_use(name: str, run: Run) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    record_for_replay(name)
    screens = ""
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        port = tcp.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", port))
            for words in LISTENS[name]:
                line = words.format(at=f"127.0.0.1:{port}", port=port)
                shown = run(name, *line.split())
                assert "Address already in use: another program listens there. End it, or" in shown
                assert shown.endswith("exit code 1\n")
                screens += f"$ igtl {name} {line}\n{shown}".replace(str(port), "18944")
    same(name, "port in use", screens)


def test_a_gateway_whose_port_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """It logs so, and tries again."""
    pytest.importorskip("prometheus_client")
    session = Session(monkeypatch)
    told, begun = "another program listens there", "the gateway has begun"
    session.on(f"(?s){told}.*{begun}|{begun}.*{told}", session.press)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        Path("hospital.toml").write_text(
            f'[gateway]\nhttp = "127.0.0.1:0"\n[source.or1]\nlisten = "{at}"\n'
            '[sink.clients]\nserve = "localhost:0"\n'
            '[route.poses]\nfrom = ["or1"]\nto = ["clients"]\n'
        )
        shown = session.run("gateway", "hospital.toml")
    errors = re.findall("ERROR (source or1: .*)", normal(shown))
    assert shown.endswith("exit code 0\n")
    same("gateway", "port in use", f"{errors[0]}\n")


# ---- Ctrl-C ------------------------------------------------------------------------------------


def in_terminal(*args: str, until: str) -> tuple[str, int]:
    """What a terminal of 80 x 24 shows at the end of a command, and its exit code: Ctrl-C is pressed
    when `until` is there."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "igtl", *args], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm"}, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    terminal = Terminal(80, 24)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # Ctrl-C may cut a character
    pressed = False
    try:
        with contextlib.suppress(OSError):  # EIO at the end
            while chunk := os.read(ours, 65536):
                terminal.feed(decoder.decode(chunk))
                if not pressed and re.search(until, terminal.text):
                    pressed = True
                    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: children get it too
        code = process.wait(60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert pressed, terminal.text
    return terminal.text, code


LASTING = {
    "bench": ("-s 60", "measuring", "", 0),
    "bridge": (
        "router --endpoint tcp/127.0.0.1:{port}", "Ctrl-C ends", r"hub at .*, Ctrl-C ends", 0
    ),
    "calibrate": (
        "pivot {silent}", "Ctrl-C ends", r"Error: .*\bno pose.*", 1
    ),
    "command": ("{silent} Stop --timeout 60", "waiting", "", 0),
    "demo": ("", "Ctrl-C ends", "every message arrived|some messages did not arrive", 0),
    "devices": ("--test camera:testsrc=size=64x48:rate=30 -s 60", "testing", "", 0),
    "doctor": ("{server} -s 60", "listening", "", 0),
    "dump": ("{server}", "ImageToProbe", ".*ImageToProbe.*", 0),
    "echo": ("--at :0", "Ctrl-C ends", "echo on .*, Ctrl-C ends", 0),
    "gateway": ("hospital.toml", "has begun", ".*", 0),
    "monitor": ("{server}", "ImageToProbe", "jitter, gap, age: ms", 0),
    "query": ("{silent} IMAGE --timeout 60", "waiting", "", 0),
    "receive": ("{server} --to in", "Image_Reference", "in/Image_Reference.nrrd|not saved: .*", 0),
    "reconstruct": (
        "{silent} --to volume.nrrd", "Ctrl-C ends",
        "Error: no picture was pasted: there is nothing in the volume", 1,
    ),
    "record": ("case.mcap {server}", "  8 messages", "case.mcap: 8 messages, .* kB in .* kB", 0),
    "relay": ("{silent} --at :0", "connected", "nothing came", 0),
    "replay": ("poses.mcap --at localhost:0", "for a client", "serving on .*, for a client", 0),
    "ros": ("{server}", "connected", r"\d+ published.*", 0),
    "send": ("STATUS {silent} --rate 20", "Ctrl-C ends", r"\d+ sent, .* (bytes|kB)", 0),
    "serve": ("--at :0", "Ctrl-C ends", "serving on .*, Ctrl-C ends", 0),
    "simulate": ("--at :0", "Ctrl-C ends", "tracker, ultrasound on .*, Ctrl-C ends", 0),
    "view": ("{server} --at localhost:0", "connected", ".* connected", 0),
}  # fmt: skip
"""What runs long, what it shows then, its last words, and its exit code."""

ENDS_BY_ITSELF = {"completion", "export", "info"}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ENDS_BY_ITSELF])
def test_ctrl_c_is_a_normal_end(name: str) -> None:
    words, until, last, expected = LASTING[name]
    pytest.importorskip({**NEEDS, "devices": "av", "ros": "rclpy"}.get(name, "numpy"))
    record_for_replay(name)
    with serving(stays) as server, serving(silent) as nothing:
        if name == "gateway":
            Path("hospital.toml").write_text(
                f'[gateway]\nhttp = "127.0.0.1:0"\n[source.or1]\nconnect = "{nothing}"\n'
                '[sink.clients]\nserve = "localhost:0"\n'
                '[route.poses]\nfrom = ["or1"]\nto = ["clients"]\n'
            )
        args = words.format(server=server, silent=nothing, port=free_port()).split()
        shown, code = in_terminal(name, *args, until=until)
    assert code == expected, shown
    assert "Traceback" not in shown
    lines = shown.splitlines() or [""]
    told = shown.rpartition("Error: ")
    final = " ".join("".join(told[1:]).split()) if told[1] else lines[-1]
    if last:  # at the end: a picture that Ctrl-C has cut may stand before it
        assert re.search(f"(?:{last})$", final), shown


def test_ctrl_c_ends_an_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where it can be held up."""

    def export(*args: Any, progress: Callable[[str, int, int], None], **others: Any) -> None:
        progress("writing", 1, 2)
        threading.Event().wait()

    record_for_replay("replay")
    monkeypatch.setattr(igtl, "export", export)
    session = Session(monkeypatch, tty=True)
    session.on("writing", session.press)
    shown = session.run("export", "poses.mcap", "--to", "poses.csv")
    assert re.fullmatch(r"(reading|writing) .*\n\^C\nexit code 0\n", shown), shown


def test_no_screen_is_forgotten() -> None:
    """Every command has its screens, and there is none of what is gone."""
    assert {file.stem for file in SCREENS.glob("*.txt")} == {"igtl", "versions", *COMMANDS}
    for name in COMMANDS:
        expected = {"help", "wrong arguments", *WAYS}
        expected |= {"nothing listens", "no such host"} if name in AWAY else set()
        expected |= {"says nothing"} if name in QUIET else set()
        if name in QUIET and name not in ("command", "query"):
            expected.add("closes at once")
        expected |= {"closes at once with --reconnect"} if name == "record" else set()
        expected |= {"port in use"} if name in LISTENS or name == "gateway" else set()
        assert kept(name).keys() == expected
