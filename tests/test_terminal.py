"""What the commands print of a peer's names and texts: nothing that steers a terminal, looks like a
line of ours, or is taken for markup; and JSON that holds them as they are."""

from __future__ import annotations

import json
import re
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl.cli import COMMANDS, main
from igtl.cli.terminal import console, styled
from igtl.codec.formatting import printable
from tests.test_cli import play, run
from tests.test_tools import running
from tests.wire import mended

pytest.importorskip("mcap")

NAME = "\x1b[2J[red]\x9b\u202e\x7f"  # clears the screen, colours, turns the direction of writing
SHOWN = "\\x1b[2J[red]\\x9b\\u202e\\x7f"
TYPE = "\x1b[1m[b]\n\x07"
TYPE_SHOWN = "\\x1b[1m[b]\\n\\x07"

MESSAGES: list[igtl.Message] = [
    igtl.Transform(np.eye(4), device_name=NAME, metadata={"TransformStatus": NAME}),
    igtl.Unknown(TYPE, b"x", device_name="odd"),
    igtl.NoData("TRANSFORM", device_name=NAME),
    igtl.Status(13, 0, NAME, NAME, device_name=NAME),
    igtl.String(NAME, device_name=NAME),
    igtl.TrackingData([igtl.Tool(NAME)], device_name=NAME),
    igtl.Image(np.zeros((1, 2, 2), np.uint8), device_name=NAME),
    igtl.Capability([NAME[:8]], device_name=NAME),
]
WIRE = b"".join(m.pack() for m in MESSAGES)
BAD = mended(igtl.Status.ok(device_name=NAME).pack()[:80]).replace(b"STATUS", b"IMAGE\0")
WRONG_CRC = igtl.Unknown(TYPE, b"x", device_name=NAME).pack()[:-1] + b"y"


def clean(text: str, *names: str) -> None:
    """No line of it steers anything, and these names can be read."""
    strange = {c for c in text if not c.isprintable()} - {"\n"}
    assert not strange, text
    for name in names:
        assert name in text


@pytest.fixture
def server() -> Iterator[igtl.Server]:
    with igtl.listen(port=0) as s:
        yield s


def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "200"})  # wide: no name is cut


def invoke(*args: str, exit_code: int = 0) -> str:
    """Both outputs of a command that ends by itself."""
    done = runner().invoke(main, args)
    assert done.exit_code == exit_code, (done.output, done.exception)
    return done.output


def test_printable() -> None:
    assert printable("Größe 日本 a\tb [red]\\x") == "Größe 日本 a\tb [red]\\x"
    assert printable(NAME) == SHOWN
    assert printable("a\r\nb\u2028\x00\udcff\u2066") == "a\\r\\nb\\u2028\\x00\\udcff\\u2066"
    assert all(printable(chr(c)) != chr(c) for c in (*range(9), *range(10, 32), *range(127, 161)))


def test_styles_are_ours_and_markup_is_text() -> None:
    out = console()
    with out.capture() as got:
        out.print(styled(("[red]x[/]", "bold"), ":smile: ", NAME))
        out.print("[red]plain[/] :smile:")
    assert got.get() == f"[red]x[/]:smile: {SHOWN}\n[red]plain[/] :smile:\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_every_command_prints_by_way_of_the_terminal_module(name: str) -> None:
    """completion prints a program for a shell, which holds nothing of a peer's."""
    source = (Path(igtl.__file__).parent / "cli" / f"{name}.py").read_text()
    assert not re.search(r"click\.echo|click\.secho|(?<![\w.])print\(|\bConsole\(|markup=True|rich\.markup", source)  # fmt: skip


@pytest.mark.parametrize(
    "args",
    [
        ["dump"],
        ["monitor", "-s", "2"],
        ["doctor", "-s", "0.5"],
    ],
    ids=lambda args: args[0],
)
def test_commands_that_receive(server: igtl.Server, args: list[str]) -> None:
    play(server, [], WIRE + BAD + WRONG_CRC)
    done = runner().invoke(main, [args[0], f"127.0.0.1:{server.port}", *args[1:]])
    clean(done.output, SHOWN, TYPE_SHOWN)


def test_receive(server: igtl.Server, tmp_path: Path) -> None:
    pytest.importorskip("nrrd")
    play(server, [], WIRE + BAD)
    out = invoke("receive", f"127.0.0.1:{server.port}", "--to", str(tmp_path), exit_code=1)
    clean(out, TYPE_SHOWN, "2J_red")


def test_record_and_info(server: igtl.Server, tmp_path: Path) -> None:
    file = tmp_path / "case.mcap"
    play(server, [], WIRE + BAD + WRONG_CRC)
    clean(invoke("record", str(file), f"127.0.0.1:{server.port}"))
    clean(invoke("info", str(file), "--events"), SHOWN, TYPE_SHOWN)
    clean(invoke("info", str(file), "--check", exit_code=1), SHOWN)
    streams = json.loads(invoke("info", str(file), "--json"))["streams"]
    assert {"TRANSFORM", TYPE} <= {stream["type"] for stream in streams}
    assert NAME in {stream["device_name"] for stream in streams}


def test_json_holds_the_names_as_they_are(server: igtl.Server) -> None:
    play(server, [], WIRE)
    lines = invoke("dump", f"127.0.0.1:{server.port}", "--json").splitlines()
    assert [json.loads(line)["device_name"] for line in lines] == [m.device_name for m in MESSAGES]
    assert json.loads(lines[1])["type"] == TYPE
    assert json.loads(lines[4])["string"] == NAME


def test_query_and_command() -> None:
    with igtl.serve(port=0, start=False) as server:
        server.provides(igtl.GetCapability)(lambda request, peer: MESSAGES[-1])
        server.provides(igtl.GetString)(lambda request, peer: MESSAGES[4])

        @server.on(igtl.GetImage)
        def _(request: igtl.Message, peer: igtl.aio.Peer) -> None:
            peer.send(igtl.Status(5, 0, "GET_IMAGE", NAME, device_name=request.device_name))

        server.command("Text")(lambda command, peer: f"<a>\n\t{NAME}\r\n</a>")

        @server.command("Fail")
        def _(command: igtl.Command, peer: igtl.aio.Peer) -> str:
            raise ValueError(NAME)

        server.start()
        at = f"127.0.0.1:{server.port}"
        clean(invoke("query", at, "CAPABILITY"), printable(NAME[:8]))
        clean(invoke("query", at, "STRING"), SHOWN)
        clean(invoke("query", at, "IMAGE", exit_code=1), SHOWN)
        assert invoke("command", at, "Text") == f"<a>\n\t{SHOWN}\n</a>\n"
        clean(invoke("command", at, "Fail", exit_code=1), SHOWN)


@pytest.mark.processes
@pytest.mark.parametrize("command", ["serve", "echo", "relay"])
def test_commands_that_serve(command: str, server: igtl.Server) -> None:
    args = ["--at", "127.0.0.1:0"]
    if command == "relay":
        play(server, [], WIRE + BAD)
        args = [f"127.0.0.1:{server.port}", "--at", "127.0.0.1:0", "-n", str(len(MESSAGES))]
    with running(command, *args) as process:
        if command == "relay":
            process.process.wait(60)
            out, err = process.process.communicate()
            err += process.told
        else:
            with igtl.connect("127.0.0.1", process.port, version=2) as link:
                link._transport.send(
                    [WIRE, BAD, struct.pack(">H12s", 3, TYPE.encode()) + bytes(44)]
                )
            process.wait_for("is gone")
            out, err = process.stop()
    clean(out + err, *([SHOWN, TYPE_SHOWN] if command == "serve" else []))


def test_warnings_of_the_log_go_to_a_terminal_too(caplog: pytest.LogCaptureFixture) -> None:
    with igtl.serve(port=0, crc="warn", start=False) as server:
        arrived = threading.Event()
        server.on()(lambda message, peer: arrived.set())
        server.start()
        with igtl.connect("127.0.0.1", server.port) as link:
            link._transport.send([WRONG_CRC])
            assert arrived.wait(10)
    texts = [r.getMessage() for r in caplog.records if r.name == "igtl"]
    assert any("wrong CRCs" in text for text in texts)
    clean("\n".join(texts))
    assert any(getattr(r, "type", None) == TYPE for r in caplog.records)  # the field is exact


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = run("query", "127.0.0.1:1", "IMAGE", "[red]\x1b[2J")
    clean(done.stderr)
