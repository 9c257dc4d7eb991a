"""Blocking links over sockets and in memory: one behaviour."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import igtl
from tests.wire import frame

Pair = tuple[igtl.Link, igtl.Link]


@pytest.fixture(params=["tcp", "pipe"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    if request.param == "pipe":
        a, b = igtl.pipe()
        with a, b:
            yield a, b
        return
    with igtl.listen(port=0) as server, igtl.connect(port=server.port) as a, server.accept() as b:
        yield a, b


def transform(name: str = "Probe", x: float = 1.0) -> igtl.Transform:
    m = np.eye(4)
    m[0, 3] = x
    return igtl.Transform(m, device_name=name)


def run(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_there_and_back(pair: Pair) -> None:
    a, b = pair
    t = transform()
    a.send(t)
    got = b.recv(timeout=5)
    assert got == t
    assert got.received == pytest.approx(time.time(), abs=60)
    assert got.peer == b.peer
    b.send(igtl.Status.ok("thanks", device_name="B"))
    assert a.recv(igtl.Status, timeout=5).message == "thanks"
    assert (a.stats.sent, a.stats.received) == (1, 1)


def test_large_both_ways_at_once(pair: Pair) -> None:
    a, b = pair
    im = igtl.Image(
        np.random.default_rng(1).integers(0, 255, (20, 300, 400), np.uint8), device_name="CT"
    )
    got: list[igtl.Message] = []
    threads = [run(lambda: a.send(im)), run(lambda: b.send(im))]
    threads.append(run(lambda: got.append(a.recv(timeout=10))))
    got.append(b.recv(timeout=10))
    for thread in threads:
        thread.join(10)
    assert got == [im, im]


def test_selective_recv_keeps_the_rest_in_order(pair: Pair) -> None:
    a, b = pair
    for k in range(3):
        a.send(transform("Stylus", k))
        a.send(igtl.String(f"note {k}", device_name="Log"))
    a.send(transform("ProbeToTracker"))
    assert b.recv(igtl.Transform, "Probe*", timeout=5).device_name == "ProbeToTracker"
    assert [b.recv(igtl.String, timeout=5).string for _ in range(3)] == [
        "note 0",
        "note 1",
        "note 2",
    ]
    assert [float(b.recv(igtl.Transform, timeout=5).position[0]) for _ in range(3)] == [0, 1, 2]


def test_time_out_says_what_was_seen(pair: Pair) -> None:
    a, b = pair
    a.send(transform("Image_Reference"))
    with pytest.raises(TimeoutError, match=r"Image 'Image'.*TRANSFORM 'Image_Reference'"):
        b.recv(igtl.Image, "Image", timeout=0.05)
    assert b.recv(timeout=5).device_name == "Image_Reference"


def test_time_out_in_mid_message_loses_nothing() -> None:
    with igtl.listen(port=0) as server, socket.create_connection(("127.0.0.1", server.port)) as raw:
        with server.accept(timeout=5) as link:
            wire = transform().pack()
            for part in (wire[:30], wire[30:70]):
                raw.sendall(part)
                with pytest.raises(TimeoutError):
                    link.recv(timeout=0.05)
            raw.sendall(wire[70:])
            assert link.recv(timeout=5) == igtl.unpack(wire)


def test_iteration_ends_when_the_peer_closes(pair: Pair) -> None:
    a, b = pair
    for k in range(5):
        a.send(transform(x=k))
    a.close()
    assert [float(m.position[0]) for m in b if isinstance(m, igtl.Transform)] == [0, 1, 2, 3, 4]
    with pytest.raises(igtl.ConnectionClosed) as caught:
        b.recv()
    assert caught.value.clean


def test_cut_in_mid_message_is_not_clean() -> None:
    with igtl.listen(port=0) as server:
        raw = socket.create_connection(("127.0.0.1", server.port))
        with server.accept(timeout=5) as link:
            raw.sendall(transform().pack()[:60])
            raw.close()
            with pytest.raises(igtl.ConnectionClosed) as caught:
                list(link)
            assert not caught.value.clean


def test_close_wakes_recv(pair: Pair) -> None:
    a, _ = pair
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            a.recv()
        except igtl.ConnectionClosed as closed:
            caught.append(closed)

    thread = run(wait)
    while not a._receiving.locked():
        time.sleep(0.001)
    a.close()
    thread.join(5)
    assert len(caught) == 1
    with pytest.raises(igtl.ConnectionClosed):
        a.send(transform())


def test_a_closed_link_says_so(pair: Pair) -> None:
    a, b = pair
    b.send(transform("kept"))
    with pytest.raises(TimeoutError):
        a.recv(igtl.Status, timeout=0.05)
    a.close()
    a.close()
    assert a.recv(timeout=1).device_name == "kept"  # what had come is not lost
    for timeout in (None, 0, 0.1):
        with pytest.raises(igtl.ConnectionClosed):
            a.recv(timeout=timeout)
    assert list(a) == []


def test_interrupted_send_ends_the_link(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair
    send = a._transport.send

    def cut(parts: Any) -> None:
        send([bytes(parts[0])[:70]])
        raise KeyboardInterrupt

    monkeypatch.setattr(a._transport, "send", cut)
    with pytest.raises(KeyboardInterrupt):
        a.send(transform())
    monkeypatch.undo()
    with pytest.raises(igtl.ConnectionClosed):
        a.send(transform())  # it would have been out of step
    with pytest.raises(igtl.ConnectionClosed) as caught:
        b.recv(timeout=5)
    assert not caught.value.clean


def test_second_receiver_is_refused(pair: Pair) -> None:
    a, b = pair
    thread = run(lambda: a.recv())
    while not a._receiving.locked():
        time.sleep(0.001)
    with pytest.raises(RuntimeError, match="another thread"):
        a.recv(timeout=1)
    b.send(transform())
    thread.join(5)


def test_bad_message_raises_and_the_next_is_read() -> None:
    with (
        igtl.listen(port=0, on_error="raise") as server,
        socket.create_connection(("127.0.0.1", server.port)) as raw,
        server.accept(timeout=5) as link,
    ):
        raw.sendall(frame("TRANSFORM", bytes(47)) + transform().pack())
        with pytest.raises(igtl.BodyError):
            next(link)
        assert next(link).device_name == "Probe"


def test_too_large_closes_the_link() -> None:
    with (
        igtl.listen(port=0, max_size=1000) as server,
        socket.create_connection(("127.0.0.1", server.port)) as raw,
        server.accept(timeout=5) as link,
    ):
        raw.sendall(frame("IMAGE", b"", size=1 << 40))
        with pytest.raises(igtl.MessageTooLarge):
            link.recv(timeout=5)
        assert raw.recv(10) == b""
        with pytest.raises(igtl.ProtocolError):
            link.recv(timeout=1)


def test_query(pair: Pair) -> None:
    a, b = pair

    def answer() -> None:
        for _ in range(3):
            asked = b.recv(igtl.GetImage, timeout=5)
            b.send(transform("noise"))
            if asked.device_name == "CT":
                b.send(igtl.Image(np.zeros((1, 2, 3), np.uint8), device_name="MR"))
                b.send(igtl.Image(np.ones((1, 2, 3), np.uint8), device_name="CT"))
            elif asked.device_name == "US":
                b.send(igtl.NoData("IMAGE", device_name="US"))
            else:
                b.send(igtl.Status(igtl.StatusCode.NOT_FOUND, device_name=asked.device_name))

    thread = run(answer)
    image = a.query(igtl.GetImage(device_name="CT"), timeout=5)
    assert isinstance(image, igtl.Image)
    assert image.array[0, 0, 0] == 1
    assert isinstance(a.query(igtl.GetImage(device_name="US"), timeout=5), igtl.NoData)
    assert isinstance(a.query(igtl.GetImage(device_name="PET"), timeout=5), igtl.NoData)
    thread.join(5)
    with pytest.raises(TimeoutError, match="GET_IMAGE"):
        a.query(igtl.GetImage(device_name="SPECT"), timeout=0.05)


def test_hello_raises_both_ends_to_version_2() -> None:
    with (
        igtl.listen(port=0) as server,
        igtl.connect(port=server.port, hello=True) as a,
        server.accept() as b,
    ):
        assert (a.header_version, b.header_version) == (1, 1)
        status = b.recv(igtl.Status, timeout=5)
        assert (status.header_version, status.code, status.device_name) == (2, 1, "igtl")
        b.send(igtl.Transform(np.eye(4), metadata={"TransformStatus": "OK"}))
        assert a.recv(timeout=5).metadata == {"TransformStatus": "OK"}
        a.send(igtl.String("x", message_id=5))
        assert b.recv(timeout=5).message_id == 5


def test_never_version_2_to_a_version_1_peer() -> None:
    with igtl.listen(port=0) as server, socket.create_connection(("127.0.0.1", server.port)) as raw:
        with server.accept(timeout=5) as link:
            raw.sendall(igtl.Status.ok().pack(version=1))
            link.recv(timeout=5)
            for m in (transform(), igtl.Command(1, "Go"), igtl.String("é"), igtl.Status.ok()):
                link.send(m)
            with pytest.raises(igtl.EncodeError):
                link.send(igtl.Transform(np.eye(4), message_id=1))
            link.close()
            data = b""
            while chunk := raw.recv(65536):
                data += chunk
    versions = []
    while data:
        versions.append(struct.unpack_from(">H", data)[0])
        data = data[58 + struct.unpack_from(">Q", data, 42)[0] :]
    assert versions == [1, 1, 1, 1]


def test_array_may_be_reused_right_after_send(pair: Pair) -> None:
    a, b = pair
    pixels = np.zeros((4, 200, 200), np.uint8)
    im = igtl.Image(pixels)
    got: list[igtl.Image] = []
    thread = run(lambda: got.extend(b.recv(igtl.Image, timeout=5) for _ in range(5)))
    for k in range(5):
        pixels[:] = k
        a.send(im)
    thread.join(10)
    assert [int(m.array.min()) for m in got] == [int(m.array.max()) for m in got] == [0, 1, 2, 3, 4]


def test_server_time_out_and_close() -> None:
    server = igtl.listen(port=0)
    with pytest.raises(TimeoutError, match="no client"):
        server.accept(timeout=0.01)
    server.close()
    with pytest.raises(igtl.ConnectionClosed):
        server.accept(timeout=1)
    assert list(server) == []
    with pytest.raises(OSError):
        igtl.connect(port=server.port, open_timeout=1)
