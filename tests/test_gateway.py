"""The gateway: what passes on the way, what a reload leaves alone, and what it says of itself."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Frame
from igtl.gateway import Gateway, Service, load
from igtl.gateway.conversions import Expressing, Film, Together
from igtl.gateway.systemd import Notifier
from igtl.log import JSONFormatter
from tests.conftest import VECTORS, manifest
from tests.cpp import free_port
from tests.test_links import until

pytest.importorskip("prometheus_client")

GOLDEN = [(VECTORS / v["file"]).read_bytes() for v in manifest()]


def pose(device_name: str = "ProbeToTracker", x: float = 0.0, **header: Any) -> igtl.Transform:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return igtl.Transform(matrix, device_name=device_name, **{"timestamp": 1.0, **header})


def as_frame(message: igtl.Message) -> Frame:
    return Frame.from_bytes(message.pack())


class Rig:
    """A gateway of one source and one sink, a client of each."""

    def __init__(self, folder: Path, route: str, more: str = "") -> None:
        self.path = folder / "g.toml"
        self.write(
            f"""{more}
            [source.in]
            listen = "127.0.0.1:0"
            [sink.out]
            serve = "127.0.0.1:0"
            [route.way]
            from = ["in"]
            to = ["out"]
            {route}
            """
        )
        self.gateway = Gateway(load(self.path))
        assert self.gateway.wait_open(10)
        self.sender = igtl.connect(port=self.gateway.sources["in"].port, version=2)
        self.receiver = igtl.connect(port=self.gateway.sinks["out"].port)
        until(lambda: self.gateway.sinks["out"].clients)

    @property
    def way(self) -> Any:
        return self.gateway.routes["way"]

    def write(self, text: str) -> None:
        self.path.write_text("[gateway]\nhttp = ''\n" + text)

    def pass_on(self, *messages: igtl.Message | Frame) -> list[igtl.Message]:
        """What comes of these, by the time that the gateway is done with them."""
        before, made = self.way.received, self.gateway.sinks["out"].delivered
        for message in messages:
            self.sender.send(message)
        until(lambda: self.way.received == before + len(messages))
        sink = self.gateway.sinks["out"]
        until(lambda: sink.delivered == sink.taken)
        return [self.receiver.recv(timeout=10) for _ in range(sink.delivered - made)]

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()
        self.gateway.close()


@contextmanager
def rig(folder: Path, route: str = "", more: str = "") -> Iterator[Rig]:
    it = Rig(folder, route, more)
    try:
        yield it
        way = it.way  # whatever was done: everything that came is accounted for
        assert way.received == (
            way.passed.total() + way.filtered + way.failed.total() + way.thinned + way.kept
            + way.converted - way.made
        )  # fmt: skip
    finally:
        it.close()


# ---- routes -----------------------------------------------------------------------------------


def test_frames_pass_as_they_came(tmp_path: Path) -> None:
    wrong = bytearray(pose().pack())
    wrong[70] ^= 1
    wires = [*GOLDEN, bytes(wrong)]
    with rig(tmp_path) as it:
        for wire in wires:
            it.sender.send(Frame.from_bytes(wire))
        got = [bytes(it.receiver.recv_frame(timeout=10).data) for _ in wires]
        assert sorted(got) == sorted(wires)
        assert it.way.passed.total() == it.way.received == len(wires)
        assert it.gateway.faults == {}


def test_choosing_renaming(tmp_path: Path) -> None:
    route = 'types = ["TRANS*"]\nnames = ["Probe*", "Stylus"]\nrename = { "Probe*" = "OR1_*" }'
    with rig(tmp_path, route) as it:
        messages = [
            pose("ProbeX"),
            pose("Stylus"),
            pose("Other"),
            igtl.String("a", device_name="Probe"),
        ]
        assert [m.device_name for m in it.pass_on(*messages)] == ["OR1_X", "Stylus"]
        assert it.way.filtered == 2
        assert it.pass_on(pose("Probe" + "y" * 15, x=1)) == [pose("OR1_" + "y" * 15, x=1)]


def test_wrong_crcs_are_refused_if_asked(tmp_path: Path) -> None:
    wrong = bytearray(pose().pack())
    wrong[70] ^= 1
    with rig(tmp_path, 'crc = "verify"') as it:
        assert it.pass_on(Frame.from_bytes(bytes(wrong)), pose(x=2)) == [pose(x=2)]
        assert it.way.failed == {"CRCError": 1}


def test_at_most_so_often(tmp_path: Path) -> None:
    with rig(tmp_path, "max_rate = 0.001") as it:
        got = it.pass_on(*(pose(x=k) for k in range(5)), pose("Other"))
        assert [(m.device_name, m.matrix[0, 3]) for m in got] == [
            ("ProbeToTracker", 0),
            ("Other", 0),
        ]
        assert (it.way.thinned, it.way.kept) == (3, 1)


def test_header_version_of_each_client(tmp_path: Path) -> None:
    more = '[sink.old]\nserve = "127.0.0.1:0"\nversion = 1\n[sink.auto]\nserve = "127.0.0.1:0"\nversion = "auto"\n'
    with rig(tmp_path, "", more.replace("[sink", "[sink")) as it:
        it.write(it.path.read_text().split("\n", 2)[2].replace('["out"]', '["out", "old", "auto"]'))
        it.gateway.apply(load(it.path))
        old = igtl.connect(port=it.gateway.sinks["old"].port)
        auto = igtl.connect(port=it.gateway.sinks["auto"].port, hello=True)
        with old, auto:
            until(lambda: it.gateway.sinks["old"].clients)
            until(lambda: [p.header_version for p in it.gateway.sinks["auto"].clients] == [2])
            message = pose(metadata={"a": "b"})
            assert it.pass_on(message)[0].metadata == {"a": "b"}
            assert not old.recv(timeout=10).metadata
            assert auto.recv(igtl.Transform, timeout=10).metadata == {"a": "b"}
            assert it.gateway.sinks["old"].versions.lost == {"metadata": 1}


TRANSFORMS = """[transforms]
TrackerToRoom = [[0, -1, 0, 100], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
"""
ROOM = np.array([[0, -1, 0, 100], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)


def test_in_another_frame(tmp_path: Path) -> None:
    with rig(tmp_path, 'to_frame = "Room"\nfrom_frame = "Tracker"', TRANSFORMS) as it:
        moved, reference = pose(x=7), pose("ReferenceToTracker", x=20)
        (got,) = it.pass_on(moved)
        assert got.device_name == "ProbeToRoom"
        np.testing.assert_allclose(got.matrix, ROOM @ moved.matrix)
        it.pass_on(reference)  # from here on the graph knows where Reference is
        tools = igtl.TrackingData(
            [igtl.Tool("NeedleToReference", matrix=pose(x=1).matrix)], device_name="T"
        )
        (got,) = it.pass_on(tools)
        assert got.tools[0].name == "NeedleToRoom"
        np.testing.assert_allclose(got.tools[0].matrix, ROOM @ pose(x=21).matrix)
        image = igtl.Image(np.zeros((1, 4, 6), np.uint8), device_name="Image_Reference")
        (got,) = it.pass_on(image)
        assert got.device_name == "Image_Room"
        np.testing.assert_allclose(got.ijk_to_world, ROOM @ pose(x=20).matrix @ image.ijk_to_world)
        points = igtl.Points.from_arrays([[1.0, 2, 3], [4, 5, 6]], device_name="Targets")
        (got,) = it.pass_on(points)
        np.testing.assert_allclose(got.points.positions, [[98, 1, 3], [95, 4, 6]])
        text = igtl.String("as it is")
        assert it.pass_on(text) == [text]
        # no way to that frame: not passed on, and counted
        assert it.pass_on(pose("ProbeToElsewhere")) == []
        assert it.way.failed == {"NoTransform": 1}


def test_a_fixed_transform_stays_what_the_file_says(tmp_path: Path) -> None:
    with rig(tmp_path, 'to_frame = "Room"', TRANSFORMS) as it:
        it.pass_on(pose("TrackerToRoom", x=5), pose("RoomToTracker", x=5))
        (got,) = it.pass_on(pose(x=7))
        np.testing.assert_allclose(got.matrix, ROOM @ pose(x=7).matrix)
        assert it.pass_on(pose("Nameless")) == []
        assert it.way.failed == {"CannotExpress": 1, "NoTransform": 1}


def test_an_old_pose_is_not_used(tmp_path: Path) -> None:
    with rig(tmp_path, 'to_frame = "Room"\nmax_age = 0.001', TRANSFORMS) as it:
        it.pass_on(pose("ReferenceToTracker"))
        time.sleep(0.01)
        assert it.pass_on(pose("NeedleToReference")) == []
        assert it.way.failed == {"NoTransform": 1}
        assert it.pass_on(pose())[0].device_name == "ProbeToRoom"  # over what is fixed


def test_tools_apart_and_together(tmp_path: Path) -> None:
    names = ["A", "B", "C"]
    tools = igtl.TrackingData(
        [igtl.Tool(name, matrix=pose(x=k).matrix) for k, name in enumerate(names)],
        device_name="Tracker", timestamp=5.0, message_id=9, metadata={"BStatus": "MISSING"},
    )  # fmt: skip
    with rig(tmp_path, 'convert = ["TDATA to TRANSFORM"]') as it:
        apart = it.pass_on(tools)
        assert [(m.device_name, m.matrix[0, 3], m.timestamp, m.message_id) for m in apart] == [
            ("A", 0, 5.0, 9), ("B", 1, 5.0, 9), ("C", 2, 5.0, 9),
        ]  # fmt: skip
        assert [m.metadata.get("TransformStatus") for m in apart] == [None, "MISSING", None]
    with rig(tmp_path, 'convert = ["TRANSFORM to TDATA"]') as it:
        assert it.pass_on(*apart) == []  # the tools of a source are not known yet
        first, second, third = it.pass_on(*apart, *apart[:2], pose("A"))
        for whole in (first, second):
            assert [t.name for t in whole.tools] == names
            assert whole.timestamp == 5.0
        assert first.metadata["BStatus"] == "MISSING"
        assert [t.name for t in third.tools] == ["A", "B"]  # C has not come again


@pytest.mark.skipif(not find_spec("av"), reason="av is not installed")
def test_images_to_video(tmp_path: Path) -> None:
    pixels = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)[None]
    image = igtl.Image(pixels, device_name="Probe_Image", timestamp=3.0)
    volume = igtl.Image(np.zeros((2, 4, 4), np.uint8), device_name="CT")
    with rig(tmp_path, 'convert = ["IMAGE to VIDEO"]\ncodec = "VP90"') as it:
        got = it.pass_on(image, image, volume)
        assert [type(m) for m in got] == [igtl.Video, igtl.Video]
        assert it.way.failed == {"EncodeError": 1}
    decoder = igtl.VideoDecoder()
    picture = decoder.decode(got[0])
    assert picture is not None
    grey = np.asarray(picture).astype(int)
    assert np.abs(grey - pixels[0]).mean() < 10


# ---- sources and sinks ------------------------------------------------------------------------


def one_way(
    folder: Path, source: str, sink: str = 'serve = "127.0.0.1:0"', more: str = ""
) -> Gateway:
    path = folder / "one.toml"
    path.write_text(
        f"""{more}
        [source.in]
        {source}
        [sink.out]
        {sink}
        [route.way]
        from = ["in"]
        to = ["out"]
        """
    )
    return Gateway(load(path))


def received(gateway: Gateway, number: int, kind: type[igtl.Message] = igtl.Message) -> list[Any]:
    gateway.wait_open(10)
    with igtl.connect(port=gateway.sinks["out"].port) as link:
        return [link.recv(kind, timeout=10) for _ in range(number)]


def test_a_client_that_comes_late_gets_what_is_latched(tmp_path: Path) -> None:
    sink = 'serve = "127.0.0.1:0"\nlatch = ["STR*", "POINT"]'
    with one_way(tmp_path, 'listen = "127.0.0.1:0"', sink) as gateway:
        gateway.wait_open(10)
        with igtl.connect(port=gateway.sources["in"].port) as sender:
            for text in ("old", "new"):
                sender.send(igtl.String(text, device_name="Case"))
            sender.send(igtl.Points([igtl.Point("A", position=[1, 2, 3])], device_name="Plan"))
            sender.send(pose())
            until(lambda: gateway.routes["way"].passed.total() == 4)
            for _ in range(2):
                with igtl.connect(port=gateway.sinks["out"].port) as link:
                    got = {m.device_name: m for m in (link.recv(timeout=10), link.recv(timeout=10))}
                    assert got["Case"].string == "new"
                    assert {*got} == {"Case", "Plan"}


def test_connecting_heals(tmp_path: Path) -> None:
    port = free_port()
    with one_way(tmp_path, f'connect = "127.0.0.1:{port}"') as gateway:
        until(
            lambda: "Connection refused" in gateway.faults.get("source in", "") or os.name == "nt"
        )
        assert not gateway.healthy
        for x in (1.0, 2.0):
            with igtl.serve(port=port) as server:
                until(lambda: server.clients)
                until(lambda: gateway.healthy)
                gateway.wait_open(10)
                with igtl.connect(port=gateway.sinks["out"].port) as link:
                    until(lambda: gateway.sinks["out"].clients)
                    server.broadcast(pose(x=x))
                    assert link.recv(timeout=10).matrix[0, 3] == x
            until(lambda: gateway.faults)
        assert gateway.sources["in"].connections == 2


def test_streams_that_must_be_asked_for(tmp_path: Path) -> None:
    with igtl.simulate.serve("tracker", port=0) as simulator:
        with one_way(
            tmp_path, f'connect = "127.0.0.1:{simulator.port}"\nstart = "TDATA"'
        ) as gateway:
            (got,) = received(gateway, 1, igtl.TrackingData)
            assert len(got.tools) == 3


def test_what_plus_is_asked_for(tmp_path: Path) -> None:
    with igtl.simulate.plus(port=0) as plus:
        source = f'connect = "127.0.0.1:{plus.port}"\nhello = true\nselect = ["StylusToTracker"]'
        with one_way(tmp_path, source) as gateway:
            names = {m.device_name for m in received(gateway, 10, igtl.Transform)}
    assert len(names) == 1


def test_tls_both_ways(tmp_path: Path) -> None:
    from tests.links import authority

    certificate = authority().issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    authority().cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = 'cert = "own.pem"\nclient_ca = "ca.pem"'
    (tmp_path / "b").mkdir()
    with one_way(tmp_path, f'listen = "localhost:0"\n{tls}', f'serve = "127.0.0.1:0"\n{tls}') as a:
        assert a.wait_open(10)
        place = f'connect = "localhost:{a.sinks["out"].port}"\nca = "{tmp_path}/ca.pem"\ncert = "{tmp_path}/own.pem"'
        with one_way(tmp_path / "b", place) as b:
            until(lambda: b.healthy and a.sinks["out"].clients)
            context = igtl.tls.client(tmp_path / "ca.pem", cert=tmp_path / "own.pem")
            with igtl.connect("localhost", a.sources["in"].port, ssl=context) as link:
                with igtl.connect(port=b.sinks["out"].port) as out:
                    until(lambda: b.sinks["out"].clients)
                    link.send(pose(x=3))
                    assert out.recv(timeout=10).matrix[0, 3] == 3


@pytest.mark.skipif(not find_spec("websockets"), reason="websockets is not installed")
def test_websockets_and_a_server_as_sink(tmp_path: Path) -> None:
    with igtl.listen("ws://127.0.0.1:0") as listener:
        with one_way(
            tmp_path, 'listen = "ws://127.0.0.1:0"', f'connect = "ws://127.0.0.1:{listener.port}"'
        ) as gateway:
            with listener.accept(timeout=10) as out:
                gateway.sources["in"].tried.wait(10)
                with igtl.connect(f"ws://127.0.0.1:{gateway.sources['in'].port}") as link:
                    link.send(pose(x=4))
                    assert out.recv(timeout=10).matrix[0, 3] == 4
                    until(lambda: gateway.sinks["out"].delivered == 1)


def test_datagrams(tmp_path: Path) -> None:
    with one_way(tmp_path, 'udp = "127.0.0.1:0"') as gateway:
        gateway.wait_open(10)
        with igtl.connect(port=gateway.sinks["out"].port) as link:
            until(lambda: gateway.sinks["out"].clients)
            with igtl.udp.Sender("127.0.0.1", gateway.sources["in"].port) as out:
                out.send(pose(x=5))
                assert link.recv(timeout=10).matrix[0, 3] == 5
                out._sock.sendto(b"no message", out.address)
                until(lambda: gateway.sources["in"].lost.total() == 1)


def test_simulated_devices_and_recordings(tmp_path: Path) -> None:
    with one_way(tmp_path, 'simulate = ["tracker"]\nseed = 3') as gateway:
        names = {m.device_name for m in received(gateway, 12)}
        assert names == {"ProbeToTracker", "StylusToTracker", "ReferenceToTracker"}
    with igtl.Recorder(tmp_path / "r.mcap") as recorder:
        for k in range(3):
            recorder.write(pose(x=k), received=1e9 + k)
    with one_way(tmp_path, 'replay = "r.mcap"\nspeed = 1000\nloop = true') as gateway:
        assert {m.matrix[0, 3] for m in received(gateway, 6)} == {0, 1, 2}
    with one_way(tmp_path, 'replay = "r.mcap"\nspeed = 1000') as gateway:
        until(lambda: gateway.faults.get("source in") == "the recording has ended")


def test_who_may_send(tmp_path: Path) -> None:
    with one_way(tmp_path, 'listen = "127.0.0.1:0"\nallow = ["10.0.0.0/8"]') as gateway:
        gateway.wait_open(10)
        with igtl.connect(port=gateway.sources["in"].port) as link:
            with pytest.raises(ConnectionError):
                link.recv(timeout=10)
        assert gateway.sources["in"].connections == 0
    with one_way(tmp_path, 'listen = "127.0.0.1:0"\nmax_clients = 1') as gateway:
        gateway.wait_open(10)
        port = gateway.sources["in"].port
        with igtl.connect(port=port):
            until(lambda: gateway.sources["in"].connections == 1)
            with igtl.connect(port=port) as second, pytest.raises(ConnectionError):
                second.recv(timeout=10)


def test_a_stalled_client_holds_nothing_up(tmp_path: Path) -> None:
    with rig(tmp_path) as it:
        with socket.create_connection(("127.0.0.1", it.gateway.sinks["out"].port)) as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            until(lambda: len(it.gateway.sinks["out"].clients) == 2)
            image = igtl.Image(np.zeros((1, 500, 500), np.uint8))
            for _ in range(50):
                it.sender.send(image)
                it.receiver.recv(timeout=10)
        assert it.way.passed.total() == 50


def test_a_part_that_does_not_open_leaves_the_others_alone(tmp_path: Path, caplog: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        more = f'[sink.other]\nserve = "127.0.0.1:{port}"\n'
        with rig(tmp_path, "", more) as it:
            assert it.pass_on(pose(x=1))[0].matrix[0, 3] == 1
            assert "sink other" in it.gateway.faults
            assert str(port) in it.gateway.faults["sink other"] or "in use" in str(
                it.gateway.faults
            )
            taken.close()
            until(lambda: not it.gateway.faults)


def test_clients_ask_a_source(tmp_path: Path) -> None:
    """Commands, requests and messages reach it; an answer goes to the one that has asked."""
    with igtl.serve(port=0, start=False) as device:
        heard: list[igtl.Message] = []
        device.on(igtl.String)(lambda message, peer: heard.append(message))
        device.command()(lambda command, peer: f"{command.text}!")
        ct = igtl.Image(np.ones((2, 3, 4), np.uint8), device_name="CT")
        device.provides(igtl.GetImage, "CT")(lambda request, peer: ct)
        device.start()
        with one_way(
            tmp_path, f'connect = "127.0.0.1:{device.port}"', 'serve = "127.0.0.1:0"\nasks = "in"'
        ) as gateway:
            until(lambda: gateway.healthy and device.clients)
            port = gateway.sinks["out"].port
            with igtl.connect(port=port) as one, igtl.connect(port=port) as other:
                until(lambda: len(gateway.sinks["out"].clients) == 2)
                assert one.command("Name", "text").text == "text!"
                got = other.query(igtl.GetImage(device_name="CT"))
                assert isinstance(got, igtl.Image)
                assert (got.array == ct.array).all()
                one.send(igtl.String("news"))
                until(lambda: [m.string for m in heard] == ["news"])  # type: ignore[attr-defined]
                device.broadcast(pose())
                assert {type(link.recv(timeout=10)) for link in (one, other)} == {igtl.Transform}
            assert gateway.sinks["out"].answered == 2
            assert gateway.routes["way"].received == 1


# ---- reload -----------------------------------------------------------------------------------


def test_a_reload_leaves_alone_what_has_not_changed(tmp_path: Path) -> None:
    with rig(tmp_path) as it:
        text = it.path.read_text().split("\n", 2)[2]
        sender, receiver = it.gateway.sources["in"], it.gateway.sinks["out"]
        assert it.gateway.apply(load(it.path)) == []
        it.write(text + '\n[source.new]\nsimulate = ["tracker"]\nseed = 1')
        assert it.gateway.apply(load(it.path)) == ["source new"]
        it.write(text.replace('to = ["out"]', 'to = ["out"]\nrename = { "*" = "New" }'))
        assert it.gateway.apply(load(it.path)) == ["route way", "source new"]
        # the same connections, whose peers have seen nothing of it
        assert it.pass_on(pose())[0].device_name == "New"
        assert (it.gateway.sources["in"], it.gateway.sinks["out"]) == (sender, receiver)
        assert sender.connections == receiver.came == 1
        assert it.sender.connected
        assert it.receiver.connected
        it.write(text.replace('serve = "127.0.0.1:0"', 'serve = "127.0.0.1:0"\nmax_clients = 2'))
        assert it.gateway.apply(load(it.path)) == ["route way", "sink out"]
        assert it.gateway.sources["in"] is sender
        with pytest.raises(ConnectionError):
            it.receiver.recv(timeout=10)
        until(lambda: not it.gateway.faults)
        with igtl.connect(port=it.gateway.sinks["out"].port) as link:
            until(lambda: it.gateway.sinks["out"].clients)
            it.sender.send(pose(x=8))
            assert link.recv(timeout=10).matrix[0, 3] == 8


def test_reloads_lose_and_double_nothing(tmp_path: Path) -> None:
    """The route and a transform change under a stream."""
    more = TRANSFORMS + '[sink.slow]\nserve = "127.0.0.1:0"\nmax_age = 5\nmax_queued = 100000\n'
    with rig(tmp_path, 'to_frame = "Room"', more) as it:
        text = it.path.read_text().split("\n", 2)[2].replace('to = ["out"]', 'to = ["slow"]')
        it.write(text)
        it.gateway.apply(load(it.path))
        total, taken = 2000, 0
        with igtl.connect(port=it.gateway.sinks["slow"].port) as link:
            until(lambda: it.gateway.sinks["slow"].clients)

            def send() -> None:
                for k in range(total):
                    it.sender.send(pose(x=k))
                    if k % 50 == 0:
                        time.sleep(0.002)

            thread = threading.Thread(target=send)
            thread.start()
            reloads = 0
            while thread.is_alive() or reloads < 5:
                reloads += 1
                it.write(text.replace("-1, 0, 100]", f"-1, 0, {100 + reloads % 2}]"))
                assert it.gateway.apply(load(it.path)) in (["route way"], [])
            thread.join()
            numbers = []
            while len(numbers) < total:
                numbers.append(round(link.recv(timeout=10).matrix[1, 3]))
            assert numbers == list(range(total))
            taken = it.gateway.sinks["slow"].taken
        assert taken == total
        assert reloads > 5


# ---- the service ------------------------------------------------------------------------------


def get(port: int, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


SERVICE = """[gateway]
http = "127.0.0.1:0"
[source.in]
listen = "127.0.0.1:0"
[source.far]
connect = "127.0.0.1:{far}"
required = {required}
[sink.out]
serve = "127.0.0.1:0"
[route.way]
from = ["*"]
to = ["out"]
"""


@contextmanager
def service(path: Path, notifier: Notifier | None = None) -> Iterator[Service]:
    it = Service(path, notifier)
    thread = threading.Thread(target=it.run)
    thread.start()
    try:
        until(lambda: it.web is not None and it.web.tried.is_set())
        assert it.gateway.wait_open(10)
        yield it
    finally:
        it.stop()
        thread.join(30)
        it.close()


def samples(text: bytes) -> dict[tuple[str, frozenset[Any]], float]:
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_metrics_and_health(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(SERVICE.format(far=free_port(), required="true"))
    with service(path) as it:
        assert it.web is not None
        port = it.web.port
        with igtl.connect(port=it.gateway.sources["in"].port) as link:
            evil = 'a"b\\c\nd'
            for _ in range(3):
                link.send(pose(evil))
            until(lambda: it.gateway.routes["way"].received == 3)
        status, kind, body = get(port, "/metrics")
        assert status == 200
        assert kind.startswith("text/plain")
        found = samples(body)
        labels = {"source": "in", "type": "TRANSFORM", "device": evil}.items()
        assert found["igtl_source_messages_total", frozenset(labels)] == 3
        labels = {"route": "way", "type": "TRANSFORM", "device": evil}.items()
        assert found["igtl_route_passed_total", frozenset(labels)] == 3
        assert found["igtl_source_up", frozenset({("source", "far")})] == 0
        assert found["igtl_source_up", frozenset({("source", "in")})] == 1
        assert found["igtl_gateway_healthy", frozenset()] == 0
        assert found["igtl_sink_taken_total", frozenset({("sink", "out")})] == 3
        status, kind, body = get(port, "/healthz")
        told = json.loads(body)
        assert (status, kind, told["healthy"]) == (503, "application/json", False)
        assert told["sources"]["far"]["reason"]
        assert told["sources"]["in"] == {"up": True, "reason": "", "required": True}
        path.write_text(SERVICE.format(far=free_port(), required="false"))
        it.reload()
        until(lambda: get(port, "/healthz")[0] == 200)  # it is down, and not required
        assert not json.loads(get(port, "/healthz")[2])["sources"]["far"]["up"]
        assert (
            samples(get(port, "/metrics")[2])[
                "igtl_gateway_reloads_total", frozenset({("result", "changed")})
            ]
            == 1
        )
        assert get(port, "/")[0] == 404


def test_silence_is_no_health(tmp_path: Path) -> None:
    with one_way(tmp_path, 'listen = "127.0.0.1:0"\nsilent_after = 0.05') as gateway:
        until(lambda: "no message for" in gateway.faults.get("source in", ""))
        stop = threading.Event()
        with igtl.connect(port=gateway.sources["in"].port) as link:

            def send() -> None:
                while not stop.wait(0.001):
                    link.send(pose())

            thread = threading.Thread(target=send)
            thread.start()
            until(lambda: gateway.healthy)
            stop.set()
            thread.join()
        until(lambda: not gateway.healthy)


def test_a_wrong_file_changes_nothing(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "igtl")
    path = tmp_path / "g.toml"
    path.write_text(SERVICE.format(far=free_port(), required="false"))
    with service(path) as it:
        before = it.gateway.config
        path.write_text("[gatway]\n")
        it.reload()
        until(lambda: any("old configuration is kept" in r.message for r in caplog.records))
        assert any(f"{path}:1: there is no table" in r.getMessage() for r in caplog.records)
        assert it.gateway.config is before
        path.unlink()
        it.reload()
        until(lambda: sum("old configuration is kept" in r.message for r in caplog.records) > 1)
        assert it.gateway.healthy


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_what_systemd_is_told(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(SERVICE.format(far=free_port(), required="false"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        told: list[str] = []

        def heard(what: str) -> None:
            while not any(what in text for text in told):
                told.append(systemd.recv(4096).decode())

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with service(path, Notifier(environment)) as it:
            heard("READY=1")
            heard("WATCHDOG=1")
            heard("STATUS=source far: ")
            told.clear()
            it.reload()
            heard("RELOADING=1\nMONOTONIC_USEC=")
            heard("READY=1")
            # a frame that does not come to an end: the watchdog is not told any more
            source = it.gateway.sources["in"]
            source._busy[0] = time.monotonic()
            until(lambda: it.gateway.stuck() > 0.3)
            systemd.setblocking(False)
            with pytest.raises(BlockingIOError):  # what was told until now
                while True:
                    systemd.recv(4096)
            stuck = it.gateway.stuck()
            until(lambda: it.gateway.stuck() > stuck + 0.3)  # three times as long as between two
            with pytest.raises(BlockingIOError):
                while True:
                    assert b"WATCHDOG=1" not in systemd.recv(4096)
            del source._busy[0]
            systemd.settimeout(10)
            told.clear()
            heard("WATCHDOG=1")
        told.clear()
        heard("STOPPING=1")


def test_log_as_json() -> None:
    record = logging.LogRecord("igtl", logging.WARNING, "", 0, "%s is \n gone", ("x",), None)
    record.__dict__.update(peer=("h", 1), type="IMAGE", device=None, size=3, cause=OSError("no"))
    told = json.loads(JSONFormatter().format(record))
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "warning", "logger": "igtl", "message": "x is \n gone", "peer": "h:1",
        "type": "IMAGE", "size": 3, "cause": "OSError: no",
    }  # fmt: skip


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_the_command_obeys_signals(tmp_path: Path) -> None:
    path, port = tmp_path / "g.toml", free_port()
    text = SERVICE.format(far=free_port(), required="false").replace(
        "127.0.0.1:0", f"127.0.0.1:{port}", 1
    )
    out = free_port()
    path.write_text(text.replace('serve = "127.0.0.1:0"', f'serve = "127.0.0.1:{out}"'))
    process = subprocess.Popen(
        [sys.executable, "-m", "igtl", "gateway", str(path), "--log-format", "json"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines: list[dict[str, Any]] = []

    def read() -> None:
        assert process.stderr is not None
        lines.extend(json.loads(line) for line in process.stderr)

    thread = threading.Thread(target=read)
    thread.start()

    def said(text: str) -> Callable[[], bool]:
        return lambda: any(text in line["message"] for line in lines)

    try:
        until(said("the gateway has begun"), 30)
        with igtl.connect(port=out) as link:
            path.write_text(path.read_text().replace("required = false", "required = true"))
            process.send_signal(signal.SIGHUP)
            until(said("read again: source far"), 30)
            assert get(port, "/healthz")[0] == 503
            process.terminate()
            assert process.wait(60) == 143
            with pytest.raises(ConnectionError):
                link.recv(timeout=10)
    finally:
        process.kill()
        process.wait()
        thread.join()
        process.stderr.close()


# ---- limits -----------------------------------------------------------------------------------


def test_invented_names_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igtl.gateway.conversions._MOST", 10)
    together = Together()
    made = [t for k in range(25) for t in together(pose(f"N{k}"), "in")]
    assert [len(t.tools) for t in made] == [10, 10]  # type: ignore[attr-defined]
    expressing = Expressing("Room", None, {"TrackerToRoom": ROOM}, 10.0)
    for k in range(25):
        expressing.learn(pose(f"N{k}ToTracker"))
    assert expressing(pose("ToolToN9")).device_name == "ToolToRoom"
    with pytest.raises(igtl.NoTransform):
        expressing(pose("ToolToN10"))


@pytest.mark.skipif(not find_spec("av"), reason="av is not installed")
def test_so_many_encoders(tmp_path: Path) -> None:
    image = igtl.Image(np.zeros((1, 16, 16), np.uint8))
    film = Film("I420")
    for k in range(16):
        assert list(film(image, str(k)))
    with pytest.raises(igtl.IgtlError, match="more than 16"):
        list(film(image, "one more"))
    assert list(film(image, "3"))
    film.close()
