"""Compression of bytes and of messages; who is sent COMPRESSED, and who never is."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from igtl.codec import compression
from igtl.codec.compression import stream_of
from igtl.session.compress import OFFER, TAKES, TAKES_ZSTD
from tests.cpp import link_to, running
from tests.memory import peak

METHODS = ["deflate", "gzip", "zstd"]
CT = igtl.Image(
    np.tile(np.arange(-256, 256, dtype=np.int16), (10, 64, 1)), device_name="CT",
    metadata={"Study": "7"},
)  # fmt: skip
NOISE = igtl.Image(np.random.default_rng(3).integers(0, 256, (4, 512, 512), np.uint8))


def zstd() -> Any:
    return compression._zstd()


@pytest.fixture
def without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_isal", lambda: None)


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        return igtl.extras.need("backports.no_such_zstd", "compression")

    monkeypatch.setattr(compression, "_zstd", missing)


# ---- bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", ["fast", "default", "best", 0, 1, 2, 3, 4, 9])
def test_round_trip_and_standard_readers(method: Any, level: Any) -> None:
    data = CT.pack(version=2)
    packed = igtl.compress(data, method, level)
    assert igtl.decompress(packed) == data
    reader = {"deflate": zlib.decompress, "gzip": gzip.decompress, "zstd": zstd().decompress}
    assert reader[method](packed) == data
    assert igtl.decompress(igtl.compress(b"", method, level)) == b""


@pytest.mark.usefixtures("without_isal")
def test_without_isal() -> None:
    data = CT.pack(version=2)
    for level in ("fast", "best", 2):
        packed = igtl.compress(data, level=level)  # type: ignore[arg-type]
        assert zlib.decompress(packed) == igtl.decompress(packed) == data


@given(st.binary(max_size=300), st.sampled_from([1, 2, 4, 8]))
def test_shuffle_is_undone(data: bytes, itemsize: int) -> None:
    shuffled = bytes(compression._shuffled(memoryview(data), itemsize))
    assert bytes(compression._unshuffled(shuffled, itemsize)) == data
    count = len(data) // itemsize
    assert shuffled[:count] == data[: count * itemsize : itemsize]


def test_arrays_are_taken_as_they_lie() -> None:
    volume = CT.array
    assert igtl.decompress(igtl.compress(volume)) == volume.tobytes()
    assert igtl.decompress(igtl.compress(volume[:, ::2])) == volume[:, ::2].tobytes()


def test_statistics() -> None:
    stats = igtl.CompressionStats()
    assert (stats.ratio, stats.saved, stats.rate) == (1, 0, 0)
    sizes = [len(igtl.compress(bytes(1000), stats=stats)), len(igtl.compress(b"x", stats=stats))]
    assert (stats.count, stats.bytes_in, stats.bytes_out) == (2, 1001, sum(sizes))
    assert stats.ratio == 1001 / sum(sizes)
    assert stats.saved == 1 - sum(sizes) / 1001
    assert stats.seconds > 0
    assert "2 compressed, 1001 to" in repr(stats)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="method must be one of"):
        igtl.compress(b"", "lzma")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level must be one of"):
        igtl.compress(b"", level="better")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="levels from 0 to 9, not 10"):
        igtl.compress(b"", level=10)
    with pytest.raises(ValueError, match="zstd has levels from"):
        igtl.compress(b"", "zstd", 99)
    with pytest.raises(ValueError, match="levels from 0 to 9"):
        igtl.Compression(level=12)
    with pytest.raises(ValueError, match="method must be"):
        igtl.Compression("gzip")  # type: ignore[arg-type]


@pytest.mark.usefixtures("without_zstd")
def test_missing_zstd_names_the_remedy() -> None:
    for work in (lambda: igtl.compress(b"", "zstd"), lambda: igtl.Compression("zstd")):
        with pytest.raises(ModuleNotFoundError, match=r'pip install "igtl\[compression\]"'):
            work()
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        igtl.decompress(b"\x28\xb5\x2f\xfd")
    assert igtl.Compression().wrap(CT.pack(), zstd=True) != CT.pack()  # by deflate
    wire = igtl.Compression().wrap(CT.pack(), zstd=True)
    assert igtl.unpack(wire).method == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", METHODS)
def test_damage_is_an_error(method: Any) -> None:
    data = igtl.Transform(np.eye(4)).pack()
    packed = igtl.compress(data, method)
    for n in range(len(packed)):
        with pytest.raises(igtl.BodyError):
            igtl.decompress(packed[:n])
        bad = bytearray(packed)
        bad[n] ^= 0x10
        with contextlib.suppress(igtl.BodyError):
            igtl.decompress(bad, max_size=10_000)
    with pytest.raises(igtl.BodyError, match="1 bytes follow"):
        igtl.decompress(packed + b"x")
    with pytest.raises(igtl.BodyError, match="more than 163 bytes"):
        igtl.decompress(igtl.compress(bytes(164), method), max_size=163)
    assert igtl.decompress(igtl.compress(bytes(164), method), max_size=164) == bytes(164)


@pytest.mark.parametrize("method", METHODS)
def test_a_bomb_is_never_more_than_its_limit(method: Any) -> None:
    bomb = igtl.compress(np.zeros(256 << 20, np.uint8), method, "best")
    assert len(bomb) < 1 << 20

    def explode() -> None:
        with pytest.raises(igtl.BodyError, match="more than"):
            igtl.decompress(bomb, max_size=1 << 20)

    assert peak(explode) < 8 << 20


def test_a_window_is_no_way_around_the_limit() -> None:
    """A frame of a few bytes that makes the reader take 512 MiB to begin with."""
    parameter = zstd().CompressionParameter
    big = zstd().ZstdCompressor(options={parameter.window_log: 29})
    frame = big.compress(bytes(5000)) + big.flush()
    with pytest.raises(igtl.BodyError, match=r"(?i)memory"):
        igtl.decompress(frame, max_size=10_000)
    usual = zstd().ZstdCompressor(19)  # a stream whose size its writer did not know
    assert igtl.decompress(usual.compress(bytes(5000)) + usual.flush(), max_size=5000) == bytes(
        5000
    )


# ---- COMPRESSED -------------------------------------------------------------------------------


def wrapped(m: igtl.Message = CT, **kw: Any) -> Any:
    return igtl.unpack(igtl.Compression(**kw).wrap(m.pack(), zstd=True))


@pytest.mark.parametrize("method", ["deflate", "zstd"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_message_inside(method: Any, version: Any) -> None:
    image = igtl.Image(CT.array, device_name="CT", timestamp=1.5)
    wire = image.pack(version=version)
    packed = igtl.Compression(method).wrap(wire, zstd=True)
    assert len(packed) < len(wire) / 10
    outer = igtl.unpack(packed)
    assert isinstance(outer, igtl.Compressed)
    assert (outer.device_name, outer.timestamp, outer.header_version) == ("CT", 1.5, version)
    assert (outer.itemsize, outer.inner_type, outer.size) == (2, "IMAGE", len(wire))
    assert bytes(outer.wire()) == wire
    inner = outer.unwrap()
    assert inner == image
    assert inner.header_version == version
    assert stream_of(packed) == stream_of(wire) == wire[2:34]


def test_items_are_sorted_where_it_pays() -> None:
    for values, itemsize in [
        (np.zeros((4, 64, 64), np.uint8), 1),
        (np.zeros((4, 64, 64), np.uint16), 2),
        (np.zeros((4, 64, 64), np.float32), 1),
    ]:
        assert wrapped(igtl.Image(values)).itemsize == itemsize
        assert wrapped(igtl.NDArray(values)).itemsize == itemsize
    assert wrapped(igtl.String("word " * 2000)).itemsize == 1


def test_what_does_not_shrink_goes_as_it_is() -> None:
    how = igtl.Compression(min_size=1000)
    for m in (NOISE, igtl.Transform(np.eye(4)), igtl.String("short")):
        assert how.wrap(m.pack()) == m.pack()
    assert (how.stats.count, how.stats.skipped) == (0, 1)  # only the first was tried
    assert how.wrap(CT.pack()) != CT.pack()
    assert how.wrap(how.wrap(CT.pack())) == how.wrap(CT.pack())  # once is enough
    assert igtl.Compression("zstd").wrap(CT.pack(), zstd=False) == CT.pack()


def test_lies() -> None:
    def lie(**fields: Any) -> igtl.Compressed:
        m: igtl.Compressed = wrapped()
        for name, value in fields.items():
            setattr(m, name, value)
        return m

    size = len(CT.pack())
    for fields, field, reason in [
        ({"method": 3}, "method", "3 does not exist"),
        ({"itemsize": 3}, "itemsize", "must be"),
        ({"itemsize": 0}, "itemsize", "must be"),
        ({"size": size + 1}, "size", "were announced"),
        ({"size": size - 1}, "payload", f"more than {size - 1} bytes"),
        ({"size": 1 << 62}, "size", "the limit is"),
        ({"size": 0}, "payload", "more than 0 bytes"),
        ({"inner_type": "TRANSFORM"}, "inner_type", "holds 'IMAGE'"),
        ({"itemsize": 1}, "payload", "not one whole message"),
        ({"payload": b""}, "payload", "ends early"),
        ({"payload": igtl.compress(b"abc", "zstd"), "size": 3, "itemsize": 1}, "payload", "whole"),
    ]:
        with pytest.raises(igtl.BodyError, match=reason) as caught:
            lie(**fields).unwrap()
        assert caught.value.field == field
    with pytest.raises(igtl.BodyError, match="limit is 1000"):
        wrapped().unwrap(max_size=1000)
    again = igtl.Compressed(
        1, 1, "COMPRESSED", len(wrapped().pack()), igtl.compress(wrapped().pack())
    )
    with pytest.raises(igtl.BodyError, match="holds 'COMPRESSED'"):
        again.unwrap()
    bad = bytearray(CT.pack())
    bad[-1] ^= 1
    with pytest.raises(igtl.CRCError):
        igtl.unpack(igtl.Compression().wrap(bytes(bad))).unwrap()  # type: ignore[attr-defined]


def test_hostile_content() -> None:
    """Cut and flipped, with size and CRC mended: an error of ours, or a message."""
    small = igtl.Compression(min_size=0).wrap(igtl.String("a" * 100).pack(version=1))
    content = small[58:]
    for n in range(len(content)):
        flipped = bytearray(content)
        flipped[n] ^= 1 << (n % 8)
        for changed in (content[:n], bytes(flipped)):
            with contextlib.suppress(igtl.ProtocolError):
                m = igtl.unpack(igtl.Unknown("COMPRESSED", changed).pack(version=1))
                if isinstance(m, igtl.Compressed):
                    m.unwrap(max_size=1 << 20)


# ---- links ------------------------------------------------------------------------------------


@contextlib.contextmanager
def linked(client: Any = True, server: Any = True) -> Iterator[tuple[igtl.Link, igtl.Link]]:
    with igtl.listen(port=0, compression=server) as listener:
        with igtl.connect("127.0.0.1", listener.port, compression=client) as a:
            with listener.accept(timeout=10) as b:
                yield a, b


def sent_types(link: Any) -> set[str]:
    return {kind for (kind, _), stream in link.stats.streams.items() if stream.sent}


def settle(a: igtl.Link, b: igtl.Link) -> None:
    """The offers have been exchanged, and are seen by nobody."""
    a.send(igtl.Status.ok())
    assert isinstance(b.recv(timeout=5), igtl.Status)
    b.send(igtl.Status.ok())
    assert isinstance(a.recv(timeout=5), igtl.Status)


def test_both_ends_asked() -> None:
    with linked() as (a, b):
        settle(a, b)
        for one, other in ((a, b), (b, a)):
            one.send(CT_1)
            assert other.recv(timeout=5) == CT_1
            one.send(NOISE)
            assert other.recv(timeout=5) == NOISE
            assert sent_types(one) == {"CAPABILITY", "STATUS", "COMPRESSED", "IMAGE"}
            assert one.stats.sent == other.stats.received == 4
            assert one.stats.sent_bytes == other.stats.received_bytes
        assert a.stats.sent_bytes < len(CT_1.pack()) / 10 + len(NOISE.pack())


CT_1 = igtl.Image(CT.array, device_name="CT")


@pytest.mark.parametrize(("client", "server"), [(True, False), (False, True), (False, False)])
def test_one_end_did_not_ask(client: bool, server: bool) -> None:
    with linked(client, server) as (a, b):
        if client:  # whoever did not ask sees a CAPABILITY, as from anybody
            offer = b.recv(igtl.Capability, timeout=5)
            assert offer.device_name == OFFER
            assert {TAKES, TAKES_ZSTD} <= set(offer.types)
        settle(a, b)
        for one, other in ((a, b), (b, a)):
            one.send(CT_1)
            assert other.recv(timeout=5) == CT_1
            assert sent_types(one) <= {"STATUS", "IMAGE", "CAPABILITY"}
        assert "CAPABILITY" not in sent_types(b)


def test_a_link_that_only_sends() -> None:
    """It hears the answer by waiting for it; what came before stays queued."""
    with linked() as (a, b):
        b.send(igtl.Status.ok(device_name="first"))
        listening = threading.Thread(target=b.recv)  # for the offer
        listening.start()
        assert a.wait_compressed(5)
        a.send(CT_1)
        listening.join(5)
        assert sent_types(a) == {"CAPABILITY", "COMPRESSED"}
        assert a.recv(timeout=5).device_name == "first"
    with linked(True, False) as (a, b):
        assert not a.wait_compressed(0.1)
    with linked(False, True) as (a, b):
        assert not a.wait_compressed(0.05)

    async def main() -> None:
        async with igtl.aio.serve(port=0, compression=True) as server:
            async with igtl.aio.connect("127.0.0.1", server.port, compression=True) as link:
                assert await link.wait_compressed(5)
                await link.send(CT_1)
            async with igtl.aio.connect("127.0.0.1", server.port) as link:
                assert not await link.wait_compressed(0.05)

    asyncio.run(main())


def test_a_peer_without_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    with linked() as (a, b):
        monkeypatch.setattr("igtl.session.compress.has_zstd", lambda: False)
        b.session.protocol._offered = True  # type: ignore[attr-defined]
        b.send(igtl.Capability([TAKES], device_name=OFFER))
        b.send(igtl.Status.ok())
        a.recv(timeout=5)
        a.send(CT_1)
        frame = next(_raw_frames(b, 2))
        assert igtl.unpack(frame.data).method == 1  # type: ignore[attr-defined]


def _raw_frames(link: igtl.Link, skip: int) -> Iterator[igtl.Frame]:
    """Off the wire, unopened, without the CAPABILITY before."""
    protocol = link.session.protocol
    while True:
        link._transport.receive(5)
        while (frame := igtl.Decoder.next_frame(protocol)) is not None:
            if frame.type_name != "CAPABILITY":
                yield frame


def test_frames_are_opened_too() -> None:
    """So that a relay can hand them to anybody."""
    with linked() as (a, b):
        settle(a, b)
        a.send(CT_1)
        frame = b.recv_frame(timeout=5)
        assert bytes(frame) == CT_1.pack(version=1)
        assert frame.type_name == "IMAGE"
        b.send(frame)  # and a frame is wrapped like a message
        assert a.recv(timeout=5) == CT_1
        assert "COMPRESSED" in sent_types(b)


def test_damaged_wrappers() -> None:
    """An error of ours, counted; the link goes on."""
    with linked() as (a, b):
        settle(a, b)
        good = igtl.Compression().wrap(CT_1.pack(version=1))
        lying = wrapped()
        lying.size -= 1
        flipped = bytearray(good)
        flipped[-1] ^= 1
        huge = wrapped()
        huge.size = 1 << 40
        for bad, error in [(lying.pack(), "BodyError"), (bytes(flipped), "CRCError"),
                           (huge.pack(), "BodyError"),
                           (igtl.NoData("COMPRESSED").pack(), "BodyError")]:  # fmt: skip
            for read in (a.recv, lambda **kw: a.session.protocol.decoded(a.recv_frame(**kw))):
                b.send(igtl.Frame.from_bytes(bad))
                with pytest.raises(igtl.ProtocolError) as caught:
                    read(timeout=5)
                assert type(caught.value).__name__ == error
                b.send(CT_1)
                assert a.recv(timeout=5) == CT_1
        assert a.stats.errors == {"BodyError": 6, "CRCError": 2}
        assert a.stats.streams["COMPRESSED", "CT"].lost == {"BodyError": 4, "CRCError": 2}


def test_bombs_obey_the_links_limit() -> None:
    with igtl.listen(port=0, compression=True, max_size=1 << 20, on_error="raise") as listener:
        with igtl.connect("127.0.0.1", listener.port, compression=True) as a:
            with listener.accept(timeout=10) as b:
                settle(a, b)
                a.send(igtl.Image(np.zeros((8, 512, 512), np.uint8)))
                with pytest.raises(igtl.BodyError, match="the limit is 1048576"):
                    b.recv(timeout=5)
                settle(a, b)


def test_server_and_its_clients() -> None:
    """One that asked, two that did not (header version 1 and 2): each gets what it can read, and
    the compressed form is made once."""
    how = igtl.Compression()
    with igtl.serve(port=0, compression=how, start=False) as server:
        got: list[igtl.Message] = []
        came = threading.Semaphore(0)

        @server.on(igtl.Image)
        def _(m: igtl.Image, peer: igtl.Peer) -> None:
            got.append(m)
            came.release()

        @server.on(igtl.Status)
        def _(m: igtl.Status, peer: igtl.Peer) -> None:
            came.release()

        @server.provides(igtl.StartImage)
        def _(request: Any, peer: igtl.Peer) -> Any:
            return [CT_1, CT_1]

        server.start()
        with (
            igtl.connect("127.0.0.1", server.port, compression=True) as new,
            igtl.connect("127.0.0.1", server.port, compression=True) as other,
            igtl.connect("127.0.0.1", server.port) as old,
            igtl.connect("127.0.0.1", server.port, version=2) as old2,
        ):
            links = (new, other, old, old2)
            for link in links:
                link.send(igtl.Status.ok())
                assert came.acquire(timeout=5)
            server.broadcast(CT_1)
            assert [link.recv(timeout=5) for link in links] == 4 * [CT_1]
            assert how.stats.count == 1
            server.send_to(1, CT_1)
            assert new.recv(timeout=5) == CT_1
            with new.stream(igtl.StartImage()) as frames:
                assert [frames.recv(timeout=5), frames.recv(timeout=5)] == [CT_1, CT_1]
            assert set(old.stats.streams) == {("IMAGE", "CT"), ("STATUS", "")}
            assert set(old2.stats.streams) == {("IMAGE", "CT"), ("STATUS", "")}
            assert new.stats.streams["COMPRESSED", "CT"].received == 4
            new.send(CT_1)
            assert came.acquire(timeout=5)
            assert got == [CT_1]
            assert sent_types(new) >= {"COMPRESSED"}
            capability = old.query(igtl.GetCapability(), timeout=5)
            assert isinstance(capability, igtl.Capability)
            assert TAKES in capability.types


def test_capability_lists_it_only_where_it_was_asked_for() -> None:
    with igtl.serve(port=0) as server, igtl.connect("127.0.0.1", server.port) as link:
        capability = link.query(igtl.GetCapability(), timeout=5)
        assert isinstance(capability, igtl.Capability)
        assert not set(capability.types) & {TAKES, TAKES_ZSTD}
        assert "TRANSFORM" in capability.types


def test_the_wire_of_a_client_that_asked() -> None:
    """To a peer that says nothing: one CAPABILITY, then every message as ever. No GET_CAPABIL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with igtl.connect("127.0.0.1", port, compression=True) as link:
            sock, _ = listening.accept()
            with sock:
                for _ in range(3):
                    link.send(CT_1)
                link.close()
                data = b"".join(iter(lambda: sock.recv(1 << 20), b""))
    decoder = igtl.Decoder()
    decoder.feed(data)
    frames = list(iter(decoder.next_frame, None))
    assert [f.type_name for f in frames] == ["CAPABILITY", "IMAGE", "IMAGE", "IMAGE"]
    assert [f.header_version for f in frames] == [1, 1, 1, 1]
    assert [bytes(f) for f in frames[1:]] == 3 * [CT_1.pack(version=1)]


def test_the_offer_waits_for_a_sender() -> None:
    """A server that is sending answers the offer with its next message, not in between."""
    with linked() as (a, b):
        with b._sending:
            assert b._sending.locked()
            a.send(igtl.Status.ok())
            b.recv(timeout=5)
        b.send(igtl.Status.ok())
        b.send(igtl.Status.ok())
        a.recv(timeout=5)
        a.recv(timeout=5)
        assert a.session.protocol.peer_takes
        assert (b.stats.sent, a.stats.received) == (3, 3)


def test_asyncio_keeps_the_order() -> None:
    """Large messages are compressed in a thread; what is sent meanwhile stays behind them."""
    big = igtl.Image(np.tile(np.arange(512, dtype=np.int16), (20, 512, 1)), device_name="Big")

    async def main() -> None:
        async with igtl.aio.serve(port=0, compression=True) as server:
            seen = asyncio.Event()
            server.on(igtl.Status)(lambda m, peer: seen.set())

            @server.on(igtl.String)
            async def _(m: igtl.String, peer: Any) -> None:
                await peer.send(m)

            async with igtl.aio.connect("127.0.0.1", server.port, compression=True) as link:
                await link.send(igtl.Status.ok())
                await seen.wait()
                small = [igtl.String(str(k)) for k in range(20)]
                tasks = []
                for m in small:
                    tasks.append(asyncio.create_task(server.broadcast(big)))
                    tasks.append(asyncio.create_task(server.broadcast(m)))
                got = [await link.recv(timeout=10) for _ in range(40)]
                await asyncio.gather(*tasks)
                assert got[1::2] == small
                assert got[::2] == 20 * [big]
                assert link.stats.streams["COMPRESSED", "Big"].received == 20
                tasks = []
                for m in small:
                    tasks += [
                        asyncio.create_task(link.send(big)),
                        asyncio.create_task(link.send(m)),
                    ]
                echoes = [await link.recv(timeout=10) for _ in range(20)]
                await asyncio.gather(*tasks)
                assert echoes == small
                peer = server.clients[0]
                assert peer.stats.streams["COMPRESSED", "Big"].received == 20
                large = big.array.copy()
                image = igtl.Image(large)
                sending = asyncio.create_task(link.send(image))
                await asyncio.sleep(0)  # it is packed; the array may be used again
                large[:] = 0
                await sending

    asyncio.run(main())


def test_latest_is_per_stream_inside() -> None:
    """Two types of one device, both compressed, do not take each other's place."""
    image, array = CT_1, igtl.NDArray(np.zeros(5000), device_name="CT")
    packed = [igtl.Compression().wrap(m.pack()) for m in (image, array)]
    assert [igtl.unpack(p).type_name for p in packed] == 2 * ["COMPRESSED"]
    assert [stream_of(p)[:8] for p in packed] == [b"IMAGE\0\0\0", b"NDARRAY\0"]


def test_a_healing_link() -> None:
    with igtl.serve(port=0, compression=True) as server:
        came = threading.Semaphore(0)
        server.on(igtl.Message)(lambda m, peer: came.release())
        backoff = igtl.Backoff(0.05)
        with igtl.connect(
            "127.0.0.1", server.port, reconnect=backoff, compression=True
        ) as link:  # fmt: skip
            assert link.wait_connected(5)
            link.send(igtl.Status.ok())
            assert came.acquire(timeout=5)
            server.broadcast(CT_1)
            assert link.recv(timeout=5) == CT_1
            link.send(CT_1)
            assert came.acquire(timeout=5)
            assert sent_types(link) == {"CAPABILITY", "STATUS", "COMPRESSED"}
            assert link.stats.sent == server.clients[0].stats.received == 3


# ---- the official library ---------------------------------------------------------------------


@pytest.mark.processes
def test_official_programs_never_see_it(programs: Path) -> None:
    image = igtl.Image(np.zeros((1, 300, 400), np.uint8), device_name="Plain")
    with igtl.serve(port=0, compression=True) as server:
        with running(programs / "ReceiveClient", "127.0.0.1", server.port) as text:
            for _ in igtl.Rate(100):
                if server.clients:
                    break
            server.broadcast(image)
            server.broadcast(igtl.Status(1, 0, "OK", "The end", device_name="Last"))
            printed = text("The end")
            assert "Receiving IMAGE" in printed
            assert sent_types(server.clients[0]) == {"IMAGE", "STATUS"}
    with link_to(programs / "ReceiveServer") as (plain, text):
        with igtl.connect("127.0.0.1", plain.peer[1], compression=True) as link:
            plain.close()  # it serves one after the other
            link.send(image)
            link.send(igtl.Status(1, 0, "OK", "The end", device_name="Last"))
            printed = text("The end")
            assert "Receiving IMAGE" in printed
            assert sent_types(link) == {"CAPABILITY", "IMAGE", "STATUS"}
