"""What a newcomer sees: the screens of every command, as they are kept in tests/screens.

`IGTL_WRITE_SCREENS=1 pytest -n 0 tests/test_screens.py` writes them anew; read the difference then.
A new command needs its two files (help, wrong arguments), and nothing here. Ports, times and rates
are normalised. The screens depend on the versions of click and rich, which screens/versions.txt
names: with others, and on other systems, whose errors have other words, they are not compared.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl.cli import COMMANDS, main
from igtl.doctor import Diagnosis, examine
from tests.cpp import free_port

SCREENS = Path(__file__).parent / "screens"
WRITE = os.environ.get("IGTL_WRITE_SCREENS") == "1"
VERSIONS = "".join(
    f"{name} {'.'.join(importlib.metadata.version(name).split('.')[:2])}\n"
    for name in ("click", "rich")
)

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="errors have other words elsewhere"),
    pytest.mark.skipif(
        not WRITE and (SCREENS / "versions.txt").read_text() != VERSIONS,
        reason=f"the screens are of other versions than {VERSIONS.split()}",
    ),
]


def same(name: str, shown: str) -> None:
    """Compare a screen with the file of that name, or write it."""
    file = SCREENS / f"{name}.txt"
    if WRITE:
        file.write_text(shown, "utf-8")
        (SCREENS / "versions.txt").write_text(VERSIONS)
    assert file.exists(), f"{file.name} is missing: IGTL_WRITE_SCREENS=1 writes it"
    assert shown == file.read_text("utf-8")


def normal(text: str) -> str:
    """The same whenever and wherever it is run."""
    text = re.sub(r"\b(localhost|127\.0\.0\.1)(:|, port )\d+", r"\1\g<2>18944", text)
    text = re.sub(r"port \d+ of", "port 18944 of", text)
    text = re.sub(
        r"(\d\d:\d\d:\d\d)(\.\d{3})?(?= )", lambda m: "10:20:30" + ".123" * bool(m[2]), text
    )
    text = re.sub(r"(in|are) -?\d+\.\d ms", r"\1 0.5 ms", text)
    text = re.sub(r"\(\d+ times\)", "(7 times)", text)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def run(
    *args: str,
    columns: int = 80,
    charset: str = "utf-8",
    terminal_width: int | None = None,
    **env: str,
) -> str:
    """Both outputs of a command, and its exit code. The width of help is `terminal_width`, default 80."""
    runner = CliRunner(charset=charset, env={"COLUMNS": str(columns), "LINES": "24", **env})
    done = runner.invoke(main, args, prog_name="igtl", terminal_width=terminal_width)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return normal(done.output) + f"exit code {done.exit_code}\n"


# ---- every command ----------------------------------------------------------------------------


def test_help_of_all() -> None:
    same("help", run("--help"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    shown = run(name, "--help")
    same(f"{name}-help", shown)
    assert all(len(line) <= 100 for line in shown.splitlines())  # examples are not wrapped
    wide, narrow = (
        run(name, "--help", columns=columns, terminal_width=width).splitlines()
        for columns, width in ((120, 98), (50, 50))
    )
    assert max(map(len, wide)) <= 100
    assert {line for line in narrow if len(line) > 50} <= set(wide)  # examples and tables are kept
    run(name, "--help", charset="ascii").encode("ascii")
    run(name, "--help", charset="cp1252").encode("cp1252")


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_arguments(name: str) -> None:
    same(f"{name}-wrong", run(name, "--no-such-option"))


def test_no_command_is_forgotten() -> None:
    """Nor is a screen left of one that is gone."""
    commands = {re.split(r"-", file.stem)[0] for file in SCREENS.glob("*-*.txt")}
    assert commands <= set(COMMANDS)


# ---- a server to look at ----------------------------------------------------------------------

STAMP = 1_700_000_000.25


def messages() -> list[igtl.Message]:
    tracker = igtl.simulate.Tracker(seed=1)
    poses: list[igtl.Message] = [tracker.transform(1.25, k) for k in range(3)]
    image = igtl.Image(np.zeros((1, 240, 320), np.uint8), device_name="Image_Reference")
    text = igtl.String("Größe: 37 µm – " + "a long text that no terminal has room for " * 4)
    text.device_name = "Note"
    status = igtl.Status.ok("warm", device_name="Laser")
    force = igtl.Sensor([0.12, -3.4], unit="N", device_name="Force")
    scaled = igtl.Transform(np.diag([0.1, 0.1, 1, 1]), device_name="ImageToProbe")
    found = [*poses, image, text, status, force, scaled]
    for message in found:
        message.timestamp = STAMP
    return found


@contextlib.contextmanager
def serving(behave: Callable[[igtl.Link], None]) -> Iterator[str]:
    """A server that treats each client like this; its address."""
    with igtl.listen(port=0) as listener:

        def run() -> None:
            with contextlib.suppress(igtl.ConnectionClosed, OSError):
                while True:
                    with listener.accept() as link, contextlib.suppress(igtl.ConnectionClosed):
                        behave(link)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield f"localhost:{listener.port}"
        finally:
            listener.close()


def once(link: igtl.Link) -> None:
    for message in messages():
        link.send(message)


def stays(link: igtl.Link) -> None:
    once(link)
    for _ in link:
        pass


def silent(link: igtl.Link) -> None:
    for _ in link:
        pass


WAYS: dict[str, dict[str, Any]] = {
    "80": {}, "120": {"columns": 120}, "50": {"columns": 50}, "ascii": {"charset": "ascii"},
    "cp1252": {"charset": "cp1252"},
}  # fmt: skip


def checked(name: str, way: str, shown: str) -> None:
    """What no screen has: characters that the output lacks, that steer a terminal, or lines that it
    has no room for (but those of `igtl dump` in a pipe, which are whole)."""
    settings = WAYS[way]
    shown.encode(settings.get("charset", "utf-8"))
    assert "Traceback" not in shown
    assert not {c for c in shown if not c.isprintable()} - {"\n"}  # it is piped
    assert max(map(len, shown.splitlines())) <= settings.get("columns", 80) or name == "dump"


@pytest.mark.parametrize("way", ["80", "ascii", "cp1252"])
def test_dump_into_a_pipe(way: str) -> None:
    with serving(once) as address:
        shown = run("dump", address, **WAYS[way])
    checked("dump", way, shown)
    same(f"dump-{way}", shown)


@pytest.mark.parametrize("way", WAYS)
def test_monitor(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from igtl.cli.monitor import Watch

    rows = Watch.rows
    figures = {"rate": 59.94, "jitter": 0.00251, "gap": 0.033, "age": 0.007, "received": 1234}

    def steady(self: Watch) -> list[dict[str, Any]]:
        return [{**row, **figures, "bytes": 10 * row["bytes"]} for row in rows(self)]

    monkeypatch.setattr(Watch, "rows", steady)
    with serving(stays) as address:
        shown = run("monitor", address, "-s", "0.4", **WAYS[way])
    checked("monitor", way, shown)
    same(f"monitor-{way}", shown)


@pytest.mark.parametrize("way", WAYS)
def test_doctor(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def steady(*args: Any, **settings: Any) -> Diagnosis:
        found = examine(*args, **settings)
        for seen in found.streams.values():
            seen.arrivals = [k / 64 for k in range(193)]
            seen.count, seen.bytes, seen.age, seen.offsets = 193, 193 * 106, 0.007, [0.0021]
        found.seconds = 3.0
        return found

    monkeypatch.setattr("igtl.cli.doctor.examine", steady)
    with serving(stays) as address:
        shown = run("doctor", address, "-s", "0.4", "-d", "Prob", **WAYS[way])
    checked("doctor", way, shown)
    assert all(
        len(line) <= WAYS[way].get("columns", 80)
        for line in shown.splitlines()
        if "\x1b" not in line
    )
    same(f"doctor-{way}", shown)


def test_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mcap")
    monkeypatch.chdir(tmp_path)
    with igtl.Recorder("case.mcap", compression="none") as recorder:
        for k in range(3):
            for message in messages():
                frame = igtl.Frame.from_bytes(message.pack(version=1))
                recorder.write(frame, peer=("tracker", 18944), received=STAMP + k / 2)
    for columns in (50, 80, 120):
        same(f"info-{columns}", run("info", "case.mcap", columns=columns))
    colours = run("info", "case.mcap", FORCE_COLOR="1", TERM="xterm")
    plain = run("info", "case.mcap", FORCE_COLOR="1", TERM="xterm", NO_COLOR="1")
    assert re.search(r"\x1b\[[\d;]*3\dm", colours)
    assert not re.search(r"\x1b\[[\d;]*3\dm", plain)


# ---- what goes wrong --------------------------------------------------------------------------

AWAY = {
    "bench": "{}", "calibrate": "pivot {} -s 0.3", "command": "{} Stop", "doctor": "{}", "dump": "{}",
    "monitor": "{} -s 0.3", "query": "{} IMAGE", "receive": "{} --to in",
    "reconstruct": "{} --to volume.nrrd -s 0.3", "record": "case.mcap {}",
    "relay": "{} --at :0 -s 0.3", "replay": "poses.mcap --peer {}", "send": "STATUS {}",
}  # fmt: skip
"""Every command that connects, but `ros` and `bridge`, whose packages few have, and `view`."""


def arguments(name: str, address: str) -> list[str]:
    if name == "replay":
        pytest.importorskip("mcap", reason="mcap is not installed")
        with igtl.Recorder("poses.mcap") as recorder:
            recorder.write(igtl.Status.ok(), received=STAMP)
    return [name, *AWAY[name].format(address).split()]


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No container, in an empty folder."""
    monkeypatch.setattr("igtl.doctor.surroundings._MARKS", ())
    monkeypatch.setattr("igtl.doctor.reaching._OTHERS", ())
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", AWAY)
def test_nothing_listens(name: str) -> None:
    shown = run(*arguments(name, f"localhost:{free_port()}"))
    assert shown.endswith("exit code 3\n")
    same(f"{name}-refused", shown)


@pytest.mark.parametrize("name", AWAY)
def test_a_host_that_does_not_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **kw: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    shown = run(*arguments(name, "tracker.invalid"))
    assert shown.endswith("exit code 3\n")
    same(f"{name}-host", shown)


QUIET = {
    "command": ["Stop", "--timeout", "0.2"], "doctor": ["-s", "0.3"], "dump": ["-s", "0.3"],
    "monitor": ["-s", "0.3"], "query": ["IMAGE", "--timeout", "0.2"],
    "receive": ["--to", "in", "-s", "0.3"], "record": ["-s", "0.3"],
}  # fmt: skip


@pytest.mark.parametrize("name", QUIET)
def test_a_server_that_says_nothing(name: str) -> None:
    first = ["case.mcap"] if name == "record" else []
    with serving(silent) as address:
        shown = run(name, *first, address, *QUIET[name])
    assert shown.endswith("exit code 4\n")
    same(f"{name}-silent", re.sub(r"\d\.\d s|\d\.\d\d? s", "0.3 s", shown))


@pytest.mark.parametrize("name", [*QUIET, "record --reconnect"])
def test_a_server_that_closes_at_once(name: str) -> None:
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
    same(f"{name}-closes{'-reconnect' if '--reconnect' in more else ''}", shown)


# ---- in a terminal ----------------------------------------------------------------------------


def in_terminal(*args: str, until: str, columns: int = 80, **env: str) -> tuple[str, int]:
    """What a command writes to a terminal of 24 lines until this is there and Ctrl-C is pressed, and
    its exit code."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "igtl", *args], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", **env}, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    pressed = False
    try:
        with contextlib.suppress(OSError):  # EIO at the end
            while chunk := os.read(ours, 65536):
                shown += chunk
                if not pressed and until.encode() in shown:
                    pressed = True
                    process.send_signal(signal.SIGINT)
        code = process.wait(60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert pressed, shown
    return shown.decode(), code


LASTING = {
    "bench": ("-s 60", "measuring"),
    "command": ("{silent} Stop --timeout 60", "waiting"),
    "doctor": ("{server} -s 60", "listening"),
    "echo": ("--at :0", "Ctrl-C ends"),
    "query": ("{silent} IMAGE --timeout 60", "waiting"),
    "receive": ("{server} --to in", "Image_Reference"),
    "record": ("case.mcap {server}", "messages"),
    "relay": ("{server} --at :0", "Ctrl-C ends"),
    "send": ("STATUS {silent} --rate 20", "Ctrl-C ends"),
    "serve": ("--at :0", "Ctrl-C ends"),
    "simulate": ("--at :0", "Ctrl-C ends"),
}
"""What runs long, and what it shows then. `dump`, `monitor` and `demo` have tests of their own."""


@pytest.mark.parametrize("name", LASTING)
def test_ctrl_c_is_a_normal_end(name: str) -> None:
    text, until = LASTING[name]
    with serving(stays) as server, serving(silent) as nothing:
        args = text.format(server=server, silent=nothing).split()
        shown, code = in_terminal(name, *args, until=until)
    assert code == 0, shown
    assert "Traceback" not in shown
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", shown)
    assert all(len(line) <= 80 for part in plain.splitlines() for line in part.split("\r"))


def test_ctrl_c_in_a_terminal() -> None:
    with serving(stays) as address:
        shown, code = in_terminal("dump", address, until="ImageToProbe")
        assert code == 0
        lines = [line for line in normal(shown).splitlines() if line != "^C"]
        assert all(len(line) <= 80 for line in lines)
        same("dump-terminal", "".join(f"{line}\n" for line in lines))


def test_colours_in_a_terminal() -> None:
    with serving(stays) as address:
        for no_color in ("", "1"):
            env = {"NO_COLOR": no_color} if no_color else {}
            shown, code = in_terminal("monitor", address, until="ImageToProbe", **env)
            assert code == 0
            assert bool(re.search(r"\x1b\[[\d;]*3\dm", shown)) is not bool(no_color)
            assert "ImageToProbe" in shown.rpartition("\x1b[?1049l")[2]  # the last table stays
