"""What the commands say of a connection, the exit codes of those that receive, and outputs that
lack characters."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.live import Live

import igtl
from igtl.cli import main
from igtl.cli.brief import angles, values
from igtl.cli.news import News, reason
from igtl.cli.tables import explain, table
from igtl.cli.terminal import console, say
from tests.cpp import free_port
from tests.kept import once, serving, silent

trustme = pytest.importorskip("trustme")

PEER = "tracker", 18944
REFUSED = ConnectionRefusedError(111, "Connection refused")


def event(kind: str, error: Exception | None = None) -> igtl.LinkEvent:
    return igtl.LinkEvent(kind, PEER, error)  # type: ignore[arg-type]


def test_each_change_is_told_once() -> None:
    told: list[str] = []
    news = News(told.append)
    closed = igtl.ConnectionClosed("tracker:18944 closed", clean=True)
    for _ in range(5):
        news.happened(event("failed", REFUSED), came=False)
    assert news.away == "tracker:18944: Connection refused (5 times)"
    news.happened(event("connected"), came=False)
    assert news.away == ""
    for _ in range(4):
        news.happened(event("disconnected", closed), came=False)
        news.happened(event("connected"), came=False)
    news.message("tracker:18944")
    news.message("tracker:18944")
    news.happened(event("disconnected", closed), came=True)
    assert news.away == "tracker:18944 disconnected: closed by the peer"
    assert told == [
        "tracker:18944: Connection refused; trying again",
        "tracker:18944 connected after 5 tries",
        "tracker:18944 gives no message: closed by the peer; trying again",
        "tracker:18944 connected after 4 tries",
        "tracker:18944 disconnected: closed by the peer",
    ]


def test_reasons() -> None:
    assert reason(REFUSED) == "Connection refused"
    assert reason(igtl.ConnectionClosed("this link was closed")) == "closed here"
    assert reason(igtl.ConnectionClosed("a:1 closed")) == "closed by the peer"
    assert reason(igtl.ConnectionClosed("a:1: cut", clean=False)) == "a:1: cut"
    assert reason(None) == "closed"


def test_relay_and_view_when_nothing_comes() -> None:
    with serving(silent) as address:
        done = CliRunner().invoke(main, ["relay", address, "--at", ":0", "-s", "2"])
        assert (done.exit_code, "nothing came; see igtl doctor" in done.stderr) == (4, True)
    pytest.importorskip("aiohttp")
    for where, code in ((address, 3), ("", 4)):
        with serving(silent) as quiet:
            args = ["view", where or quiet, "--at", "localhost:0", "-s", "2"]
            done = CliRunner().invoke(main, args)
        assert done.exit_code == code, done.output


def test_what_was_asked_for_does_not_come() -> None:
    def others(link: igtl.Link) -> None:
        once(link)
        silent(link)

    with serving(others) as address:
        done = CliRunner().invoke(main, ["dump", address, "-d", "Needle", "-s", "2"])
    assert done.exit_code == 4
    assert f"{address}: nothing of what was asked for among 8 messages" in done.stderr


def test_a_file_is_kept_without_force(tmp_path: Path) -> None:
    pytest.importorskip("mcap")
    file = tmp_path / "case.mcap"
    file.write_text("mine")
    with serving(once) as address:
        kept = CliRunner().invoke(main, ["record", str(file), address])
        assert (kept.exit_code, file.read_text()) == (1, "mine")
        assert "File exists; --force writes over it" in kept.stderr
        done = CliRunner().invoke(main, ["record", str(file), address, "--force"])
        assert done.exit_code == 0, done.output
    table_of = tmp_path / "case.csv"
    for force, code in (([], 0), ([], 1), (["--force"], 0)):
        args = ["export", str(file), "--to", str(table_of), *force]
        assert CliRunner().invoke(main, args).exit_code == code
    assert table_of.stat().st_size > 100


def test_the_name_of_a_server(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cert = authority.issue_cert("tracker.clinic")
    cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    came = threading.Event()
    with igtl.serve(port=0, ssl=igtl.tls.server(tmp_path / "cert.pem"), start=False) as server:
        server.on()(lambda message, peer: came.set())
        server.start()
        args = ["send", "STATUS", f"127.0.0.1:{server.port}", "--ca", str(tmp_path / "ca.pem")]
        done = CliRunner().invoke(main, [*args, "--server-name", "tracker.clinic"])
        assert done.exit_code == 0, done.output
        assert came.wait(20)
        wrong = CliRunner().invoke(main, args)
        assert wrong.exit_code == 3
        assert "certificate verify failed" in wrong.stderr
        examined = CliRunner().invoke(
            main, ["doctor", *args[2:], "--server-name", "tracker.clinic", "-s", "0.2"]
        )
        assert "Encrypted: TLS" in examined.stdout


# ---- outputs ----------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_outputs_that_lack_characters(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "igtl", "doctor", f":{free_port()}"], capture_output=True, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "300"},
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout.decode(encoding).startswith("x Nothing listens on port ")
    assert done.stderr == b""
    wrong = subprocess.run(
        [sys.executable, "-m", "igtl", "dump", "größe日:x"], capture_output=True, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (wrong.returncode, b"Traceback" in wrong.stderr) == (2, False)
    assert "\\u65e5:x" in wrong.stderr.decode(encoding)


def test_lines_go_through_what_draws() -> None:
    """rich puts itself in the place of standard error, so that lines stand above what it draws."""
    out = Console(file=io.StringIO(), force_terminal=True, width=40)
    with Live("drawn", console=out, auto_refresh=False) as live:
        live.refresh()
        say("said")
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"drawn.*\x1b\[2K.*said\n.*drawn", shown, re.DOTALL)


def drawn(width: int, **settings: object) -> list[str]:
    titles = "device", "Hz", "gap", "last value"
    rows = [["A name that is rather long", "59.94", "1234", "1.5 2.5 3.5 mm and more"]]
    out = console()
    with out.capture() as got:
        made = table(titles, rows, left=1, width=width, trim=True, **settings)  # type: ignore[arg-type]
        out.print(made, width=width)
    return [line.rstrip() for line in got.get().splitlines() if line.strip()]


@pytest.mark.parametrize("width", range(24, 100, 5))
def test_columns_give_way_and_numbers_are_never_cut(width: int) -> None:
    head, _, row = drawn(width, drop=["gap", "last value", "of another table"])
    assert len(row) <= width
    assert "59.94" in row
    assert ("1234" in row) is ("gap" in head)
    assert ("gap" in head) <= ("last value" in head) or width < 56
    if width >= 72:
        assert ("1234" in row, "and more" in row) == (True, True)


def test_what_titles_mean() -> None:
    made = table(("device", "Hz", "age"), [], left=1, width=80)
    assert explain(made, age="ms", Hz="a second", jitter="ms") == "age: ms; Hz: a second"


@pytest.mark.parametrize("about_y", [0.0, 30.0, 90.0, -90.0])
def test_angles_turn_as_the_matrix_does(about_y: float) -> None:
    def turn(axis: int, degrees: float) -> np.ndarray:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        m = np.eye(3)
        a, b = [k for k in range(3) if k != axis]
        m[a, a] = m[b, b] = c
        m[b, a], m[a, b] = (s, -s) if axis != 1 else (-s, s)
        return m

    matrix = turn(2, -70) @ turn(1, about_y) @ turn(0, 20)
    x, y, z = angles(matrix)
    np.testing.assert_allclose(turn(2, z) @ turn(1, y) @ turn(0, x), matrix, atol=5e-3)
    if abs(about_y) < 90:
        assert (x, y, z) == pytest.approx((20, about_y, -70), abs=0.06)


def test_a_matrix_that_is_no_pose_has_no_angles() -> None:
    scaled = igtl.Transform(np.diag([2, 2, 2, 1]))
    assert all("not rigid" in text for text in values(scaled))
