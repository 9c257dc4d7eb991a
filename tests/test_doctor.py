"""`igtl.doctor` tells what is wrong with simulated peers that each have one thing wrong."""

from __future__ import annotations

import http.server
import itertools
import json
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl.cli import main
from igtl.doctor import Diagnosis, examine
from tests.cpp import free_port
from tests.test_cli import run
from tests.test_links import until
from tests.wire import frame

trustme = pytest.importorskip("trustme")


def pose(name: str = "ProbeToTracker", **header: Any) -> bytes:
    return igtl.Transform(np.eye(4), device_name=name, **header).pack()


@contextmanager
def peer(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that treats each connection like this, then closes it."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the other end has gone
                behave(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def silent(sock: socket.socket) -> None:
    while sock.recv(1000):
        pass


def streaming(make: Callable[[int], bytes], hz: float = 100.0) -> Callable[[socket.socket], None]:
    """What `make` gives for 0, 1, 2 …; what is late on a busy machine is made up for."""

    def behave(sock: socket.socket) -> None:
        begun = time.monotonic()
        for n in itertools.count():
            wire = make(n)
            if not wire:
                silent(sock)
                return
            time.sleep(max(0.0, begun + n / hz - time.monotonic()))
            sock.sendall(wire)

    return behave


def examined(behave: Callable[[socket.socket], None], **settings: Any) -> Diagnosis:
    with peer(behave) as port:
        return examine("127.0.0.1", port, **{"seconds": 0.8, **settings})


def test_all_is_well() -> None:
    found = examined(streaming(lambda n: pose() + pose("StylusToTracker") * (n % 2)))
    assert found.cause == ""
    assert not found.problems
    assert found.versions == {1}
    probe, stylus = (found.streams["TRANSFORM", f"{t}ToTracker"] for t in ("Probe", "Stylus"))
    assert 20 < probe.rate < 200
    assert stylus.count == pytest.approx(probe.count / 2, abs=2)
    assert probe.offset is not None
    assert abs(probe.offset) < 0.5
    assert found.verdict.startswith("All is well: ")
    assert json.loads(json.dumps(found.to_dict()))["streams"][0]["wrong_crc"] == 0


def test_nothing_listens() -> None:
    port = free_port()
    found = examine("127.0.0.1", port)
    assert found.cause == "refused"
    assert f"Nothing listens on port {port}" in found.verdict


def test_something_listens_on_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with peer(silent) as other:
        monkeypatch.setattr("igtl.doctor.reaching._OTHERS", (other,))
        found = examine("127.0.0.1", free_port())
    assert found.cause == "refused"
    assert f"But something listens on port {other}." in found.verdict


def test_no_such_host() -> None:
    found = examine("no-such-host.invalid", 18944)
    assert found.cause == "host"
    assert examine("x" * 70 + ".invalid", 18944).cause == "host"
    assert "'no-such-host.invalid' cannot be found" in found.verdict


def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kw: Any) -> Any:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", never)
    found = examine("127.0.0.1", 18944)
    assert found.cause == "unreachable"
    assert "A firewall" in found.verdict


def test_silent_peer() -> None:
    heard = bytearray()

    def behave(sock: socket.socket) -> None:
        while chunk := sock.recv(1000):
            heard.extend(chunk)

    found = examined(behave)
    assert found.cause == "silent"
    assert "not even after it was sent a STATUS" in found.verdict
    message = igtl.unpack(bytes(heard))  # that, and nothing else
    assert isinstance(message, igtl.Status)
    assert message.header_version == 1
    assert message.device_name


def test_a_peer_that_speaks_is_sent_nothing() -> None:
    heard: SimpleQueue[bytes] = SimpleQueue()

    def behave(sock: socket.socket) -> None:
        sock.sendall(pose())
        heard.put(sock.recv(1000))

    examined(behave, seconds=1.2)
    assert heard.get(timeout=20) == b""


def test_wrong_crc() -> None:
    def make(n: int) -> bytes:
        wire = bytearray(pose())
        wire[57] ^= n % 2
        return bytes(wire)

    found = examined(streaming(make))
    assert found.cause == "crc"
    seen = found.streams["TRANSFORM", "ProbeToTracker"]
    assert 0 < seen.wrong_crc < seen.count
    assert f"{seen.wrong_crc} of {seen.count} messages have a wrong CRC" in found.verdict
    assert "damaged" in found.verdict


def test_crc_that_nobody_computes() -> None:
    wire = igtl.Transform(np.eye(4), device_name="Probe").pack(crc=False)
    found = examined(streaming(lambda n: wire))
    assert found.cause == "crc"
    assert "writes 0 instead" in found.verdict


def test_bodies_that_cannot_be_decoded() -> None:
    found = examined(streaming(lambda n: frame("TRANSFORM", bytes(7))))
    assert found.cause == "body"
    assert "TRANSFORM 'Dev' cannot be decoded" in found.verdict


def test_a_header_version_that_does_not_exist() -> None:
    found = examined(streaming(lambda n: frame("TRANSFORM", bytes(48), version=3)))
    assert found.cause == "version"
    assert "header version 3, which does not exist" in found.verdict


def test_a_library_of_version_1_that_is_sent_version_2() -> None:
    """It loses framing at the hello: it waits for a body that never comes, or hangs up."""

    for hangs_up in (False, True):
        offered = iter([True, False, False])  # it is tried with the hello, then without

        def behave(
            sock: socket.socket, offered: Iterator[bool] = offered, hangs_up: bool = hangs_up
        ) -> None:
            if next(offered):
                assert sock.recv(1000)[:2] == b"\0\x02"
                if not hangs_up:
                    silent(sock)
                return
            streaming(lambda n: pose())(sock)

        found = examined(behave, hello=True, seconds=0.8)
        assert found.cause == "version"
        assert "Leave out --hello" in found.verdict
        assert found.streams
        assert examined(behave, hello=False).cause == ""


def test_a_peer_that_only_speaks_version_1_is_no_problem_but_a_note() -> None:
    found = examined(streaming(lambda n: pose()))
    assert [f.cause for f in found.findings if f.level == "note"] == ["version 1"]
    kept = examined(streaming(lambda n: pose()), hello=True)
    assert "though it was offered version 2" in next(
        f.text for f in kept.findings if f.level == "note"
    )
    wire = igtl.Transform(np.eye(4), device_name="P", message_id=1).pack()
    both = examined(streaming(lambda n: wire), hello=True)
    assert both.versions == {2}
    assert not [f for f in both.findings if f.level == "note"]


def test_a_web_server() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *args: None  # type: ignore[method-assign]
    with server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        found = examine("127.0.0.1", server.server_address[1], seconds=1)
        server.shutdown()
    assert found.cause == "http"
    assert "it is a web server" in found.verdict


@pytest.fixture(scope="module")
def authority() -> Any:
    return trustme.CA()


@contextmanager
def tls_server(authority: Any) -> Iterator[igtl.Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    with igtl.serve(port=0, ssl=context) as server:
        yield server


def test_a_tls_server(authority: Any) -> None:
    with tls_server(authority) as server:
        found = examine("127.0.0.1", server.port, seconds=1)
    assert found.cause == "tls"
    assert "a TLS server: connect by TLS" in found.verdict


def test_by_tls(authority: Any) -> None:
    right = ssl.create_default_context()
    authority.configure_trust(right)
    with tls_server(authority) as server:
        server.broadcast(igtl.Status.ok(device_name="A"), latch=True)
        found = examine("localhost", server.port, seconds=0.5, ssl=right)
        assert ("ok", "tls") in {(f.level, f.cause) for f in found.findings}
        assert ("STATUS", "A") in found.streams
        wrong = examine("localhost", server.port, ssl=ssl.create_default_context())
        assert wrong.cause == "certificate"
        assert "is not accepted" in wrong.verdict
    with peer(lambda sock: sock.sendall(pose())) as port:
        plain = examine("localhost", port, ssl=right, seconds=0.2)
    assert plain.cause == "tls"


@pytest.mark.parametrize(
    ("first", "what"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH server"),
        (b"\x01\x02\x03 garbage, no header " * 9, "something else"),
    ],
)
def test_other_protocols(first: bytes, what: str) -> None:
    def behave(sock: socket.socket) -> None:
        sock.sendall(first)
        silent(sock)

    found = examined(behave)
    assert found.cause == "other"
    assert f"it is {what}" in found.verdict


def test_names_that_differ() -> None:
    feed = streaming(lambda n: pose("ProbeToTracker") + pose("Needle To Reference "[:20]))
    found = examined(feed, device_name="probetotracker")
    assert found.cause == "names"
    assert "There is no 'probetotracker'; there are TRANSFORM 'Needle" in found.verdict
    assert "Did you mean 'ProbeToTracker'? Upper and lower case count." in found.verdict
    found = examined(feed, type_name="IMAGE", device_name="ProbeToTracker")
    assert "The name is right, the type is TRANSFORM." in found.verdict
    assert examined(feed, device_name="Probe*", type_name="TRANS*").cause == ""
    cut = examined(
        streaming(lambda n: pose("StylusTipToReference")), device_name="StylusTipToReferenceFrame"
    )
    assert "Names are cut to 20 bytes" in cut.verdict


def test_a_stream_that_stopped() -> None:
    found = examined(streaming(lambda n: pose() if n < 20 else b""), seconds=1.2)
    assert found.cause == "stopped"
    assert "No more comes of TRANSFORM 'ProbeToTracker' (at " in found.verdict
    assert "the sender has stopped, or hangs" in found.verdict


def test_one_of_two_streams_that_stopped() -> None:
    found = examined(streaming(lambda n: pose("Stylus") + (pose() if n < 20 else b"")), seconds=1.2)
    assert found.cause == "stopped"
    assert "'ProbeToTracker'" in found.verdict
    assert "The others go on" in found.verdict


def test_a_connection_that_ends() -> None:
    def behave(sock: socket.socket) -> None:
        sock.sendall(pose() * 5)

    assert "The peer closed the connection after" in examined(behave).verdict

    def cut(sock: socket.socket) -> None:
        sock.sendall(pose() + pose()[:80])

    assert "within a message" in examined(cut).verdict
    assert examined(lambda sock: None).cause == "closed"
    half = examined(lambda sock: (sock.sendall(pose()[:80]), silent(sock))[1])
    assert half.cause == "cut"


def test_a_size_that_cannot_be() -> None:
    def behave(sock: socket.socket) -> None:
        sock.sendall(frame("IMAGE", b"", size=1 << 60))
        silent(sock)

    found = examined(behave)
    assert found.cause == "large"


def test_clocks() -> None:
    found = examined(streaming(lambda n: pose(timestamp=time.time() - 3600)))
    (note,) = [f for f in found.findings if f.cause == "clock"]
    assert "3600.0 s behind the clock here" in note.text
    none = examined(streaming(lambda n: pose(timestamp=0)))
    assert "It sets no time stamps" in next(f.text for f in none.findings if f.cause == "clock")


@contextmanager
def shifted(offset: float, reply: float | None) -> Iterator[tuple[igtl.Server, list[str]]]:
    """A server whose clock is wrong, and the names of the devices whose status it was asked for.

    Args:
        reply: time stamp of its replies; None: of its clock.
    """
    asked: list[str] = []
    with igtl.serve(port=0, host="127.0.0.1", start=False) as server:

        @server.provides(igtl.GetStatus)
        def _(request: igtl.GetStatus, peer: igtl.Peer) -> igtl.Status:
            asked.append(request.device_name)
            return igtl.Status.ok(timestamp=time.time() + offset if reply is None else reply)

        def make(t: float) -> igtl.Message:
            return igtl.Transform(
                np.eye(4), device_name="P", timestamp=time.time() + offset if offset else 0
            )

        server.start()
        stream = igtl.simulate.Stream(make, server.broadcast, 100)
        yield server, asked
        stream.stop()


def test_the_clock_that_is_asked_for() -> None:
    with shifted(-30.0, None) as (server, asked):
        found = examine("127.0.0.1", server.port, seconds=0.5, ask_clock=True)
        assert abs(found.clock.offset + 30.0) <= found.clock.uncertainty
        (finding,) = [f for f in found.findings if f.cause == "clock"]
        assert finding.level == "ok"
        assert re.match(r"The clock of the peer is (29|30)\.\d+ s ± ", finding.text)
        assert "behind the one here. By it messages arrive" in finding.text
        delay = found.to_dict()["streams"][0]["delay"]
        assert -found.clock.uncertainty <= delay < 10
        assert len(asked) == 8
        assert list(found.streams) == [("TRANSFORM", "P")]  # without the replies
        not_asked = examine("127.0.0.1", server.port, seconds=0.5)
        (finding,) = [f for f in not_asked.findings if f.cause == "clock"]
        assert "is asked for: --clock" in finding.text
        assert len(asked) == 8
        assert not_asked.to_dict()["clock"] == {
            "known": False, "reason": "the peer has not been asked",
        }  # fmt: skip


def test_a_clock_that_cannot_be_known() -> None:
    with shifted(-30.0, 0) as (server, asked):
        found = examine("127.0.0.1", server.port, seconds=0.5, ask_clock=True)
        texts = [f.text for f in found.findings if f.cause == "clock"]
        assert texts[0] == "Its clock cannot be known: it sets no time stamp in its replies."
        assert texts[1].endswith("until the clocks are set by NTP.")
        assert len(asked) == 1
    deaf = examined(streaming(lambda n: pose()), seconds=0.5, ask_clock=True)
    (text,) = [f.text for f in deaf.findings if f.cause == "clock" and f.level == "note"]
    assert text == "Its clock cannot be known: it does not answer GET_STATUS."


def test_a_peer_that_must_not_be_asked_is_not() -> None:
    with shifted(0, None) as (server, asked):
        found = examine("127.0.0.1", server.port, seconds=0.5, ask_clock=True)
        (text,) = [f.text for f in found.findings if f.cause == "clock"]
        assert "so its clock cannot be known, and is not asked for" in text
        assert asked == []
    with igtl.simulate.slicer("server", port=0) as slicer:  # which would be gone
        slicer.transform("N", np.eye(4))
        found = examine("127.0.0.1", slicer.port, seconds=0.5, ask_clock=True)
        assert ("TRANSFORM", "N") in found.streams
        assert slicer.crashed == ""
        with igtl.connect("127.0.0.1", slicer.port) as link:
            link.send(igtl.GetStatus())
            until(lambda: slicer.crashed != "")


def test_websockets(authority: Any) -> None:
    pytest.importorskip("websockets", reason="websockets is not installed")
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    for host, settings, context in (
        ("ws://127.0.0.1/igtl", {}, None),
        ("wss://127.0.0.1/igtl", {"ssl": server_context}, client),
    ):
        with igtl.serve(host, 0, **settings) as server:
            at = f"{host.partition('//')[0]}//127.0.0.1:{server.port}"
            stream = igtl.simulate.Stream(
                lambda t: igtl.Transform(np.eye(4), device_name="P"), server.broadcast, 100
            )
            found = examine(f"{at}/igtl", seconds=0.5, ssl=context, ask_clock=True)
            assert found.address == f"{at}/igtl"
            assert found.problems == []
            assert found.streams["TRANSFORM", "P"].count > 5
            assert found.clock.known
            elsewhere = examine(f"{at}/other", seconds=0.5, ssl=context)
            stream.stop()
            assert elsewhere.cause == "websocket"
            assert "HTTP 404" in elsewhere.verdict
    with peer(streaming(lambda n: pose())) as port:
        plain = examine(f"ws://127.0.0.1:{port}", seconds=0.5)
    assert plain.cause == "websocket"
    assert "without ws://" in plain.verdict
    gone = examine(f"ws://127.0.0.1:{free_port()}")
    assert gone.cause == "refused"
    with pytest.raises(ValueError, match="as its client, not as its server"):
        examine("ws://127.0.0.1", 0, listen=True)
    with pytest.raises(ValueError, match="ssl= is for wss://"):
        examine("ws://127.0.0.1", 0, ssl=client)


@pytest.mark.parametrize("stamps", ["stand still", "seconds", "new"])
def test_time_stamps_that_do_not_change(stamps: str) -> None:
    def stamp(n: int) -> float:
        return {"stand still": 1e9, "seconds": 1e9 + (n >= 2), "new": 1e9 + n / 100}[stamps]

    found = examined(streaming(lambda n: pose(timestamp=stamp(n))), seconds=0.6)
    told = [
        f for f in found.findings if f.cause == "clock" and "do not count from 1970" not in f.text
    ]
    match stamps:
        case "stand still":
            assert found.cause == "clock"
            assert "The time stamp of TRANSFORM 'ProbeToTracker' stands still" in found.verdict
        case "seconds":
            assert found.cause == ""
            assert [f.level for f in told] == ["note"]
            assert "are whole seconds" in told[0].text
        case _:
            assert told == []


def transform_of(*numbers: float, form: str = ">") -> bytes:
    return frame("TRANSFORM", struct.pack(f"{form}{len(numbers)}f", *numbers))


EYE = (1, 0, 0, 0, 1, 0, 0, 0, 1, 10, 20, 30)
NAN = float("nan")


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (transform_of(*EYE, form="<"), "near 0 or huge, as little-endian"),
        (transform_of(0.6, 0.8, 0, -0.8, 0.6, 0, 0, 0, 1, 5, 6, 7, form="<"), "near 0 or huge"),
        (transform_of(*EYE[:11], NAN), "not finite"),
        (transform_of(1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0), "in one plane"),
        (igtl.TrackingData([igtl.Tool("A", matrix=np.diag([0, 0, 0, 1]))], device_name="Dev").pack(), "near 0"),
        (igtl.Position([1, 2, NAN], device_name="Dev").pack(), "not finite"),
        (igtl.Position([1, 2, 3], [0, 0, 0, 0], device_name="Dev").pack(), "near 0"),
        (
            igtl.QuaternionTrackingData(
                [igtl.QuaternionTool("A", quaternion=[0, 0, 0, NAN])], device_name="Dev"
            ).pack(),
            "not finite",
        ),
    ],
    ids=["little-endian", "turned", "NaN", "plane", "tools", "position", "quaternion", "tool"],
)  # fmt: skip
def test_poses_that_cannot_be(wire: bytes, text: str) -> None:
    found = examined(lambda sock: (sock.sendall(wire), silent(sock))[1])
    assert found.cause == "pose"
    assert f"1 of 1 {igtl.Frame.from_bytes(wire).type_name} 'Dev' hold no pose: " in found.verdict
    assert text in found.verdict


def test_a_name_longer_than_a_header_holds() -> None:
    named = igtl.Transform(np.eye(4), device_name="LongStylusToolNameToTracker")
    wire = named.pack(version=2, cut_name=True)
    found = examined(lambda sock: (sock.sendall(wire), silent(sock))[1], device_name="Long*Tracker")
    assert list(found.streams) == [("TRANSFORM", "LongStylusToolNameToTracker")]
    assert found.problems == []


def test_poses_that_can_be() -> None:
    turned = igtl.Position([1, 2, 3], [0, 0, 2, 0], device_name="Dev").pack()
    tools = igtl.TrackingData([igtl.Tool("A", matrix=np.eye(4))]).pack()
    more = igtl.QuaternionTrackingData([igtl.QuaternionTool("A")]).pack()
    none = igtl.TrackingData([]).pack() + igtl.Position([1, 2, 3], []).pack()
    wires = pose() + turned + tools + more + none
    assert examined(lambda sock: (sock.sendall(wires), silent(sock))[1]).problems == []


def test_matrices_that_do_more_than_turn_and_move() -> None:
    pixels = igtl.Transform(np.diag([0.1, 0.1, 1, 1]), device_name="Dev").pack()
    by_rows = transform_of(1, 0, 0, 10, 0, 1, 0, 20, 0, 0, 1, 30)
    sheared = transform_of(1, 0, 0, 0.2, 1, 0, 0, 0, 1, 10, 20, 30)
    mirrored = igtl.Transform(np.diag([1, 1, -1, 1]), device_name="Dev").pack()
    for wire, how in ((pixels, "scaled"), (sheared, "sheared"), (mirrored, "mirrored")):
        found = examined(lambda sock, wire=wire: (sock.sendall(wire), silent(sock))[1])
        assert found.problems == []
        (note,) = [f for f in found.findings if f.cause == "pose"]
        assert (
            f"1 of 1 TRANSFORM 'Dev' does more than turn and move: the axes are {how}" in note.text
        )
    found = examined(lambda sock: (sock.sendall(by_rows), silent(sock))[1])
    assert found.cause == "pose"
    assert "if their 12 numbers are read row by row" in found.verdict


def test_content_that_never_changes() -> None:
    found = examined(streaming(lambda n: pose()), seconds=1.5)
    (note,) = [f for f in found.findings if f.cause == "frozen"]
    assert "TRANSFORM 'ProbeToTracker' have the same content, to the last bit" in note.text

    def moving(n: int) -> bytes:
        wire = igtl.Transform(np.eye(4), device_name="P")
        wire.position[0] = n
        return wire.pack()

    assert "frozen" not in {f.cause for f in examined(streaming(moving), seconds=1.5).findings}


def test_names_padded_with_spaces() -> None:
    found = examined(streaming(lambda n: pose("Needle ")))
    (note,) = [f for f in found.findings if f.cause == "names"]
    assert "The name 'Needle ' begins or ends with spaces" in note.text


@pytest.mark.parametrize("fraction", [0, 1e9, 1e6])
def test_fractions_of_time_stamps(fraction: float) -> None:
    def make(n: int) -> bytes:
        message = igtl.Transform(np.eye(4), device_name="P")
        message.timestamp_raw = (int(time.time()) + n << 32) + int(fraction * (n * 0.377 % 1))
        return message.pack()

    found = examined(streaming(make))
    text = next(f.text for f in found.findings if f.cause == "clock")
    word = {0: "are whole seconds", 1e9: "nanoseconds", 1e6: "microseconds"}[fraction]
    assert word in text


def test_time_stamps_that_count_from_another_beginning() -> None:
    found = examined(streaming(lambda n: pose(timestamp=5000 + n / 100)))
    text = next(f.text for f in found.findings if f.cause == "clock")
    assert "are of 1970-01-01: they do not count from 1970" in text


@pytest.mark.parametrize("inside", [True, False])
def test_hints_for_containers(inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igtl.doctor.surroundings._MARKS", (__file__,) if inside else ())
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    away = examine("127.0.0.1", free_port())
    assert ("host.docker.internal" in away.verdict) is inside
    alone = examine("127.0.0.1", free_port(), listen=True, seconds=0.1)
    assert ("publish the port" in alone.verdict) is inside
    assert ("Only this machine can connect to it." in alone.verdict) is not inside

    def unknown(*args: Any, **kw: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    host = examine("host.docker.internal")
    assert host.cause == "host"
    assert ("--add-host host.docker.internal:host-gateway" in host.verdict) is inside


@pytest.mark.parametrize("version", [1, 2])
def test_a_body_longer_than_its_type(version: int) -> None:
    body = struct.pack(">16f", *np.eye(4).ravel())
    if version == 2:  # a longer extended header is no surplus
        body = struct.pack(">HHII2x", 14, 2, 0, 7) + body + b"\0\0"
    found = examined(
        lambda sock: (sock.sendall(frame("TRANSFORM", body, version=version)), silent(sock))[1]
    )
    assert found.cause == "body"
    assert "TRANSFORM 'Dev' is 16 bytes longer than its type" in found.verdict
    assert "12 numbers, column by column" in found.verdict


def test_a_port_that_resets() -> None:
    def behave(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    found = examined(behave)
    assert found.cause == "closed"
    assert "the published port of a container" in found.verdict


def test_a_port_that_resets_while_it_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(*args: Any, **kw: Any) -> Any:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(socket, "create_connection", reset)
    found = examine("127.0.0.1", 18944)
    assert found.cause == "closed"
    assert "the published port of a container" in found.verdict


def test_as_a_server() -> None:
    port = free_port()

    def client() -> None:
        for _ in igtl.Rate(20):
            try:
                link = igtl.connect("127.0.0.1", port)
            except OSError:
                continue
            with link:
                for _ in range(10):
                    link.send(igtl.Status.ok(device_name="C"))
                    time.sleep(0.02)
                return

    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    found = examine("127.0.0.1", port, listen=True, seconds=5)
    thread.join(5)
    assert ("STATUS", "C") in found.streams
    alone = examine("127.0.0.1", port, listen=True, seconds=0.2)
    assert alone.cause == "no client"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = examine("127.0.0.1", taken.getsockname()[1], listen=True)
    assert busy.cause == "address"


# ---- the command ------------------------------------------------------------------------------


@pytest.mark.processes
def test_the_command(tmp_path: Path) -> None:
    with peer(streaming(lambda n: pose())) as port:
        well = run("doctor", f":{port}", "-s", "3")
        assert well.returncode == 0, well.stdout + well.stderr
        assert "All is well" in well.stdout
        assert "ProbeToTracker" in well.stdout
        names = run("doctor", f":{port}", "-s", "3", "-d", "Probe", "--json")
        assert names.returncode == 1
        assert json.loads(names.stdout)["cause"] == "names"
    away = run("doctor", f":{free_port()}")
    assert away.returncode == 3
    assert "Nothing listens" in " ".join(away.stdout.split())


@pytest.mark.parametrize(
    ("behave", "code"), [(silent, 4), (lambda sock: None, 3)], ids=["silent", "closes"]
)
def test_exit_codes_of_the_command(behave: Callable[[socket.socket], None], code: int) -> None:
    with peer(behave) as port:
        assert CliRunner().invoke(main, ["doctor", f":{port}", "-s", "0.3"]).exit_code == code


def test_each_finding_is_shown_once_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "found.md"
    with peer(streaming(lambda n: pose("Needle "))) as port:
        args = ["doctor", f":{port}", "-s", "0.5", "-d", "Probe", "--report", str(file)]
        done = CliRunner(env={"COLUMNS": "300"}).invoke(main, args)
        again = CliRunner().invoke(main, args)
    assert done.exit_code == 1
    shown = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    assert "Needle" in shown[2]  # the table comes first
    findings = [line[2:] for line in shown if line[0] in "✓!✗"]
    assert len(findings) == len(set(findings)) >= 5
    assert shown[-1] == "1 problem: names"
    report = file.read_text("utf-8")
    assert all(text in report for text in findings)
    assert "| `Needle ` | `TRANSFORM` |" in report
    assert f"igtl {igtl.__version__}" in report
    assert socket.gethostname() not in report
    assert (again.exit_code, "--force writes over it" in again.stderr) == (1, True)


def test_it_tells_how_far_it_is() -> None:
    seen: list[tuple[float, int]] = []
    examined(
        streaming(lambda n: pose()), seconds=0.5,
        watch=lambda found: seen.append((found.seconds, len(found.streams))),
    )  # fmt: skip
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert seen[-1][1] == 1
