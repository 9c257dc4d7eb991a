"""Volumes in slabs: any receiver pastes them, an igtl end confirms them and resumes."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from igtl.tools.transfer import KEY, Assembler, Upload
from tests.cpp import free_port
from tests.links import WEBSOCKETS, Aio, pair

RNG = np.random.default_rng(9)
MATRIX = np.array([[0, -0.5, 0, 10], [0.5, 0, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1.0]])


def volume(k: int = 20, name: str = "CT", **header: Any) -> igtl.Image:
    pixels = RNG.integers(-1000, 1000, (k, 30, 40)).astype(np.int16)
    return igtl.Image(pixels, ijk_to_world=MATRIX, device_name=name, **header)


def same(a: Any, b: igtl.Image) -> None:
    assert isinstance(a, igtl.Image)
    np.testing.assert_array_equal(a.array, b.array)
    np.testing.assert_array_equal(a.matrix, b.matrix)
    assert (a.device_name, a.timestamp_raw) == (b.device_name, b.timestamp_raw)


def upload(image: igtl.Image) -> Upload:
    return Upload(image, slab_bytes=3 * 30 * 40 * 2)  # three slices each


def confirming(link: Any, assembler: Assembler, out: list[Any], limit: int = 10**9) -> Any:
    """The receiving side in a thread: confirms `limit` slabs, then hangs up."""

    def receive() -> None:
        with contextlib.suppress(igtl.ConnectionClosed):
            for n, image in enumerate(link):
                if not isinstance(image, igtl.Image):
                    continue
                if n >= limit:
                    link.close()
                    return
                whole, reply = assembler.add(image)
                if reply is not None:
                    link.send(reply)
                if whole is not None:
                    out.append(whole)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    return thread


def send(link: Any, what: Upload, **options: Any) -> None:
    if isinstance(link, Aio):
        link.loop(what.send_async(link.link, **options))
    else:
        what.send(link, **options)


def send_hello(link: Any) -> None:
    if isinstance(link, Aio):
        link.loop(link.link.send_hello())
    else:
        link.send_hello()


def raise_version(a: Any, b: Any) -> None:
    """Both ends at header version 2."""
    if a.header_version == 2:
        return
    for link, other in ((a, b), (b, a)):
        send_hello(link)
        other.recv(igtl.Status, timeout=5)


@pytest.mark.parametrize("kind", ["pipe", "tcp", "tls", "aio", *WEBSOCKETS[:1]])
def test_confirmed_transfer(kind: str) -> None:
    image = volume(metadata={"Modality": "CT"})
    with pair(kind) as (a, b):
        raise_version(a, b)
        got: list[Any] = []
        thread = confirming(b, Assembler(), got)
        steps: list[tuple[int, int]] = []
        up = upload(image)
        send(a, up, progress=lambda done, all_: steps.append((done, all_)))
        assert (up.slabs, up.confirmed, up.confirms) == (7, 7, True)
        assert steps[-1] == (image.array.nbytes, image.array.nbytes)
        assert [d for d, _ in steps] == sorted(d for d, _ in steps)
        a.close()
        thread.join(10)
        same(got[0], image)
        assert got[0].metadata == {"Modality": "CT"}
        assert len(got) == 1


@pytest.mark.parametrize("kind", ["pipe", "tcp", "aio"])
def test_resumes_at_the_first_slab_not_confirmed(kind: str) -> None:
    image = volume(60)
    assembler = Assembler()
    got: list[Any] = []
    up = upload(image)
    received = turns = 0
    while up.confirmed < up.slabs:
        turns += 1
        with pair(kind) as (a, b):
            raise_version(a, b)
            thread = confirming(b, assembler, got, limit=4)
            before = up.confirmed
            with contextlib.suppress(igtl.ConnectionClosed):
                send(a, up)
            a.close()
            thread.join(10)
            received += b.stats.streams["IMAGE", "CT"].received
            assert up.confirmed >= min(before + 3, up.slabs)
    assert up.slabs == up.confirmed == 20
    assert received <= 20 + 6 * turns  # what was on its way is sent again, nothing else
    same(got[0], image)
    assert len(got) == 1


def test_a_restarted_receiver_gets_it_all() -> None:
    image = volume(60)
    up = upload(image)
    got: list[Any] = []
    with pair("pipe") as (a, b):
        thread = confirming(b, Assembler(), got, limit=5)
        with pytest.raises(igtl.ConnectionClosed):
            send(a, up)
        thread.join(5)
    assert up.confirmed == 5
    with pair("pipe") as (a, b):
        thread = confirming(b, Assembler(), got)  # which knows nothing
        send(a, up)
        a.close()
        thread.join(5)
    same(got[0], image)


@pytest.mark.parametrize("version", [1, 2])
def test_a_standard_receiver_gets_plain_sub_volumes(version: int) -> None:
    """Every time from the first on, and nothing that it has to know."""
    image = volume()
    up = upload(image)
    for _ in range(2):
        with igtl.listen(port=0) as listener:
            with igtl.connect(port=listener.port, version=version) as a:  # type: ignore[arg-type]
                with listener.accept(timeout=5) as b:
                    send(a, up, timeout=0.05)
                    parts = [b.recv(igtl.Image, timeout=5) for _ in range(up.slabs)]
        assert up.confirms is False
        canvas = np.zeros_like(image.array)
        for n, part in enumerate(parts):
            (_, _, k), (i, j, nk) = part.offset, part.sub_size
            assert (int(i), int(j), int(k)) == (40, 30, 3 * n)
            assert tuple(part.size) == (40, 30, 20)
            np.testing.assert_array_equal(part.matrix, image.matrix)
            canvas[k : k + nk] = part.array
            assert part.header_version == version
            assert (KEY in part.metadata, part.message_id) == (
                (True, n + 1) if version == 2 else (False, 0)
            )
        np.testing.assert_array_equal(canvas, image.array)


def test_assembler_pastes_any_sub_volumes() -> None:
    image = igtl.Image(RNG.integers(0, 255, (4, 6, 8, 3), np.uint8), ijk_to_world=MATRIX)
    assembler = Assembler()
    blocks = [(k, j, i) for k in (0, 2) for j in (0, 3) for i in (0, 4)]
    for n, (k, j, i) in enumerate(blocks):
        part = igtl.Image(image.array[k : k + 2, j : j + 3, i : i + 4])
        part.size, part.matrix, part.offset = image.size, image.matrix, (i, j, k)
        part.timestamp_raw = image.timestamp_raw
        whole, reply = assembler.add(igtl.unpack(part.pack()))  # type: ignore[arg-type]
        assert reply is None
        assert (whole is None) == (n < 7)
    same(whole, image)
    part.array[...] = 7
    again, _ = assembler.add(part)  # a later part changes the picture, not the one handed out
    assert again is not None
    assert again.array[2:, 3:, 4:].min() == again.array[2:, 3:, 4:].max() == 7
    same(whole, image)
    assert assembler.add(image) == (image, None)


def test_assembler_is_bounded() -> None:
    assembler = Assembler(max_bytes=100_000)
    huge = volume(1)
    huge.size = (65535, 65535, 65535)
    with pytest.raises(igtl.BodyError, match="limit"):
        assembler.add(huge)
    for n in range(10):
        part = volume(2, f"V{n}")
        part.size = (40, 30, 20)
        assembler.add(part)
    assert assembler._held() <= 100_000
    assert assembler.dropped == 8


def test_assembler_against_strange_slabs() -> None:
    up = upload(volume())
    up._tagged = True
    assembler = Assembler()
    slabs = [up._slab(k) for k in range(up.slabs)]
    _, reply = assembler.add(slabs[3])
    assert reply is not None
    assert reply.status == 1  # never heard of it
    assembler.add(slabs[0])
    assert assembler.add(slabs[2]) == (None, None)  # a gap: wait for the one before
    _, reply = assembler.add(slabs[0])
    assert reply is not None
    assert (reply.status, reply.message_id) == (0, 1)  # sent again
    other = volume()
    other.metadata = slabs[1].metadata
    other.size = (40, 30, 99)
    with pytest.raises(igtl.BodyError, match="another volume"):
        assembler.add(other)
    for k in range(1, up.slabs):
        whole, reply = assembler.add(slabs[k])
    assert whole is not None
    _, reply = assembler.add(slabs[-1])  # its confirmation was lost
    assert reply is not None
    assert reply.status == 0
    for text in ("", "x", "a b c", "a 1 0", "a 3 2", "a 1 99999999", "a -1 3"):
        odd = volume(metadata={KEY: text})
        assert assembler.add(odd) == (odd, None)


def test_over_a_link_that_heals_itself() -> None:
    port = free_port()
    image = volume(60)
    up = upload(image)
    assembler = Assembler()
    got: list[Any] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with igtl.listen(port=port) as listener:
                link = listener.accept(timeout=10)
            with link:
                link.send_hello()
                confirming(link, assembler, got, limit=6).join(10)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with igtl.connect(port=port, reconnect=igtl.Backoff(0.001, 0.02), hello=True) as link:
        for _ in range(100):
            link.wait_connected(5)
            with contextlib.suppress(TimeoutError):  # the connection is the one before
                link.recv(igtl.Status, timeout=0.5)
            try:
                up.send(link, timeout=0.2)
            except (TimeoutError, igtl.EncodeError):
                continue  # what was on its way is lost, or the new peer has not said hello yet
            if up.confirms:
                break  # else the new peer was late to say hello, and was taken for a standard one
        stop.set()
    thread.join(15)
    same(got[0], image)


@pytest.mark.parametrize("kind", ["pipe", "tcp", "tls", "aio"])
def test_a_peer_that_says_hello_meanwhile_confirms(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the natural program has it: the upload begins when the connection does."""
    monkeypatch.setattr("igtl.session.session.UNDECIDED", 30)
    image = volume()
    up = upload(image)
    got: list[Any] = []
    with pair(kind) as (a, b):
        thread = confirming(b, Assembler(), got)
        hello = threading.Timer(0.05, lambda: send_hello(b))
        hello.start()
        send(a, up)
        hello.join()
        assert (up.confirmed, up.confirms) == (up.slabs, True)
        a.close()
        thread.join(10)
    same(got[0], image)


def test_part_of_a_volume_is_refused() -> None:
    part = volume(2)
    part.size = (40, 30, 20)
    with pytest.raises(ValueError, match="part"):
        Upload(part)
