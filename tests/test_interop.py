"""The interop suite itself: its verdicts natively, and that it fails when it must."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import igtl
from interop import build, matrix, peers, verdicts
from interop.content import Content, describe, differences, rows
from tests.conftest import missing_peer

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[1]


def check(peer: peers.Peer, count: int) -> dict[str, dict[str, verdicts.Verdict]]:
    found = {
        (peer.name, direction): verdicts.run(peer, direction, rows(), count, seed=2)
        for direction in matrix.DIRECTIONS
    }
    assert matrix.unexpected(found) == []
    return {direction: found[peer.name, direction] for direction in matrix.DIRECTIONS}


def test_every_type_of_the_official_library(programs: Path) -> None:
    found = check(peers.native_cpp(programs / "cmake"), 15)
    assert sum(v.state == "bytes" for v in found["reads"].values()) >= 35
    assert sum(v.messages for v in found["writes"].values()) > 1000  # over TCP and UDP


# What follows from other values of the same description.
DERIVED = {
    "body_sha256", "body_size", "image_header_version", "length", "ncomponents_wire", "pixel_bytes",
    "string_sha256", "table_bytes", "table_sha256", "unit_prefix", "unit_terms", "variant",
    "wire",
}  # fmt: skip


def missing_keys(ours: Any, theirs: Any) -> set[str]:
    if isinstance(ours, dict):
        absent = ours.keys() - theirs.keys()
        if "unit" in ours:  # SENSOR: the library has no getter for its status
            absent -= {"status"}
            theirs = theirs | {"status": None}
        return absent.union(*(missing_keys(ours[k], theirs[k]) for k in ours.keys() - absent))
    if isinstance(ours, list) and ours and isinstance(ours[0], dict):
        return set().union(*map(missing_keys, ours, theirs))
    return set()


def test_the_library_tells_every_value_it_read(programs: Path) -> None:
    """Only what a description holds is compared: so that none is left out."""
    peer = peers.native_cpp(programs / "cmake")
    kinds = [row for row in rows() if peer.cannot(row.partition(",")[0], "unpack") is None]
    sent = [Content(f"7 {row}").message(row) for row in kinds]
    wire = b"".join(m.pack() for m in sent)
    done = subprocess.run(peer.command("unpack"), input=wire, capture_output=True, check=True)
    for m, line in zip(sent, done.stdout.splitlines(), strict=True):
        missing = missing_keys(describe(m)["content"], json.loads(line)["content"])
        assert missing <= DERIVED, m


def test_the_golden_messages_say_the_same() -> None:
    found = matrix.from_vectors(rows())
    assert {v.state for v in found.values()} <= {"bytes", "none"}
    assert [row for row, v in found.items() if v.state == "none"] == ["GET_VIDEO"]


def test_the_recorded_verdicts_are_the_known_ones() -> None:
    """Of a library that CI cannot build: interop/run --openigtlink DIR --write recorded them."""
    _, found = matrix.recorded()
    assert {peer for peer, _ in found} == {"C++ 3.1", "C++ 3.1 v2"}
    assert matrix.unexpected(found) == []
    for verdict in found.values():
        assert list(verdict) == rows()
        assert sum(v.state == "bytes" for v in verdict.values()) >= 25


def test_a_library_is_found_below_a_prefix_or_not_at_all(tmp_path: Path) -> None:
    """CMake alone would take the system's library instead, without a word."""
    with pytest.raises(ValueError, match="found: none"):
        build.library(tmp_path)
    places = [tmp_path / version / "lib" / "cmake" for version in ("a", "b")]
    for place in places:
        place.mkdir(parents=True)
        (place / "OpenIGTLinkConfig.cmake").touch()
    assert build.library(tmp_path / "a") == build.library(places[0]) == places[0].resolve()
    with pytest.raises(ValueError, match="one OpenIGTLinkConfig"):
        build.library(tmp_path)


def test_a_build_that_fails_says_why_and_where_the_rest_is(tmp_path: Path) -> None:
    log, program = tmp_path / "build" / "log", tmp_path / "program"
    program.write_text(
        "#!/bin/sh\nseq 500\necho 'a.cpp:3: error: no such thing'\nseq 900 990\nexit 2\n"
    )
    program.chmod(0o755)
    with pytest.raises(RuntimeError) as failed:
        build.run(log, program)
    head, first, *others = str(failed.value).splitlines()
    assert head == f"program failed (exit code 2); all that it printed is in {log}"
    assert first.strip() == "a.cpp:3: error: no such thing"
    assert [line.strip() for line in others] == [str(k) for k in range(900, 911)]
    assert len(log.read_text().splitlines()) == 592


@pytest.mark.parametrize(
    "fault",
    [
        "CMake Error at CMakeLists.txt:6 (find_package):",
        "a.cpp:(.text+0x9): undefined reference to `f()'",
        "error[E0432]: unresolved import `a`",
        "make: *** No rule to make target 'a'.  Stop.",
        "E: Unable to locate package a",
    ],
)
def test_the_first_line_about_a_fault_is_told(fault: str) -> None:
    usual = ["-- Performing Test HAVE_ERROR", "g++ -Werror -o errors.o errors.cpp"]
    printed = "\n\n".join([*usual * 20, fault, *usual * 20])
    assert build.telling(printed)[0] == fault
    assert build.telling("\n".join(map(str, range(99)))) == [str(k) for k in range(87, 99)]


def test_messages_of_version_1_are_compared_in_it() -> None:
    """COMMAND prefers version 2; a peer may answer in either, but not drop metadata."""
    command = igtl.Command(1, "a", "b")
    for version in (1, 2):
        assert verdicts.same_bytes(igtl.unpack(command.pack(version=version)), command)  # type: ignore[arg-type]
    named = igtl.Command(1, "a", "b", message_id=7)
    assert not verdicts.same_bytes(igtl.unpack(command.pack(version=1)), named)


def test_the_suite_in_header_version_2() -> None:
    """With igtl as its own peer, since the official library 3.x is not packaged."""
    start = [sys.executable, "-m", "tests.igtl_peer"]
    peer = peers.Peer("igtl", lambda program: [*start, program])
    assert peer.header_versions == (1, 2)
    for direction in matrix.DIRECTIONS:
        found = verdicts.run(peer, direction, rows(), 12, 4, 2)
        compared = {row: v for row, v in found.items() if v.state != "none"}
        assert "COMMAND" in compared
        assert {v.state for v in compared.values()} == {"bytes"}, compared
        assert {v.messages for v in compared.values()} == {24}  # over TCP and UDP
    message = Content("2").message("COMMAND", 2)
    assert message.pack()[:2] == b"\0\2"
    broken = describe(message) | {"message_id": 0}
    assert "message_id" in differences(broken, message)[0]
    broken = describe(message) | {"metadata": [{"key": "a", "encoding": 3, "value_hex": ""}]}
    assert "metadata" in differences(broken, message)[0]


@pytest.mark.long
def test_verdicts_on_pyigtl() -> None:
    if importlib.util.find_spec("pyigtl") is None:
        missing_peer("pyigtl")
    check(peers.pyigtl(), 12)


@pytest.fixture(scope="module", params=["current", "first"])
def crate(request: pytest.FixtureRequest) -> peers.Peer:
    if not shutil.which("cargo"):
        missing_peer("cargo")
    build.rust()
    return peers.rust(request.param)


@pytest.mark.long
def test_verdicts_on_the_crate(crate: peers.Peer) -> None:
    check(crate, 60)


@pytest.mark.long
def test_nobody_can_read_the_crates_header_as_it_comes(crate: peers.Peer) -> None:
    """Version 2 without the extended header that version 2 has."""
    with peers.Session(crate, "pack", "tcp") as session:
        message = Content("1").message("POSITION")
        session.say(describe(message) | {"header": "as it comes"})
        assert "sent" in session.line()
        with pytest.raises(igtl.BodyError, match="ext"):
            session.recv()
        session.say(describe(message))  # and the link goes on
        assert session.line() == {"sent": 86}
        assert session.recv() == message


SABOTAGE = {
    "a field": ("messages/tracking.py", "    type: int = u8(default=ToolType.TRACKER)\n    _reserved: int = reserved(u8)\n",
                "    _reserved: int = reserved(u8)\n    type: int = u8(default=ToolType.TRACKER)\n", "TDATA"),
    "the CRC": ("blocking/link.py", "    def send_hello(self)",
                "    def send(self, message, *, crc=False): super().send(message, crc=crc)\n\n    def send_hello(self)",
                "refused: wrong CRC"),
    "a matrix": ("messages/tracking.py", "    matrix: Array = matrix()\n\n    @classmethod",
                 "    matrix: Array = matrix()\n\n    def _check(self) -> None: self.matrix[:3, :3] = self.matrix[:3, :3].T.copy()\n\n    @classmethod",
                 "TRANSFORM"),
}  # fmt: skip


@pytest.mark.parametrize("what", [None, *SABOTAGE])
def test_the_suite_fails_when_a_byte_is_wrong(
    programs: Path, tmp_path: Path, what: str | None
) -> None:
    """In a scratch copy of the library and the suite."""
    if Path(igtl.__file__).parent != ROOT / "igtl":
        pytest.skip("not the igtl of this tree")
    for folder in ("igtl", "tests", "interop"):
        ignore = shutil.ignore_patterns("build", "cpp", "rust", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    for built in ("build", "cpp"):
        (tmp_path / "interop" / built).symlink_to(ROOT / "interop" / built)
    if what is not None:
        file, right, wrong, named = SABOTAGE[what]
        source = (tmp_path / "igtl" / file).read_text()
        assert source.count(right) >= 1
        (tmp_path / "igtl" / file).write_text(source.replace(right, wrong, 1))
    done = subprocess.run(
        [sys.executable, "-m", "interop", "--native", "--peer", "cpp", "--count", "3"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env=os.environ,
    )  # fmt: skip
    if what is None:
        assert done.returncode == 0, done.stderr
        assert "every verdict as expected" in done.stdout
    else:
        assert done.returncode == 1
        assert "not as expected" in done.stderr
        assert named in done.stderr


def test_descriptions_are_json() -> None:
    for row in rows():
        message = Content("3").message(row)
        assert json.loads(json.dumps(describe(message)))["type"] == message.type_name
        assert igtl.unpack(message.pack()) == message


CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")


@pytest.mark.skipif(not CHILDREN.exists(), reason="counts in /proc")
def test_a_program_that_says_nothing_useful_is_ended() -> None:
    """A session that cannot begin leaves no process behind."""
    quiet = [sys.executable, "-c", "import sys; print('{}', flush=True); sys.stdin.read()"]
    peer = peers.Peer.__new__(peers.Peer)
    peer.command = lambda program: quiet
    before = children()
    with pytest.raises(KeyError, match="port"):
        peers.Session(peer, "reflect", "tcp")
    assert children() == before


def children() -> int:
    """Processes this one has started and not yet ended."""
    return len(CHILDREN.read_text().split())
