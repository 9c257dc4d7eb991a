"""Video: frames to messages and back, with FFmpeg alone as the judge of what we encode."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import FrameType, VideoDecoder, VideoEncoder
from igtl.video import Publisher, codecs_here
from tests.conftest import VECTORS

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("simplejpeg", reason="simplejpeg is not installed")

FFMPEG = {"VP90": "vp9", "H264": "h264", "X265": "hevc", "AV10": "libdav1d"}
INTER = [codec for codec in codecs_here() if codec in FFMPEG]
SIZE = WIDTH, HEIGHT = 192, 128
PSNR = 32  # dB, of every frame of a moving picture, after encoding and colour conversion


@pytest.fixture(params=INTER)
def codec(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_what_the_wheels_of_pyav_have() -> None:
    assert set(codecs_here()) >= {"VP90", "H264", "X265", "I420", "MJPG"}


def grey(k: int, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """Rings that grow: smooth, and different in each frame."""
    y, x = np.mgrid[:height, :width]
    r = np.hypot(x - width / 2, y - height / 2)
    return (127.5 + 100 * np.sin(r / 9 - k / 3)).astype(np.uint8)


def colour(k: int, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """Colours that change over many pixels, for four share one."""
    y, x = np.mgrid[:height, :width]
    red = 100 + 80 * np.sin((x + k) / 30)
    green = 120 + 70 * np.sin((y - k) / 25)
    return np.stack([red, green, np.full_like(red, 60 + k)], -1).astype(np.uint8)


def psnr(a: Any, b: Any) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


class Ffmpeg:
    """PyAV alone: what any other program does with the payloads."""

    def __init__(self, codec: str) -> None:
        self.context = av.CodecContext.create(FFMPEG[codec], "r")
        self.context.thread_count = 1

    def frames(self, payload: bytes) -> list[Any]:
        return list(self.context.decode(av.Packet(payload)))


# ---- the judge is FFmpeg ----------------------------------------------------------------------


@pytest.mark.parametrize("picture", [grey, colour])
def test_ffmpeg_decodes_what_was_sent(codec: Any, picture: Any) -> None:
    ffmpeg = Ffmpeg(codec)
    with VideoEncoder(codec, key_interval=10, device_name="Cam") as encoder:
        for k in range(25):
            message = igtl.unpack(encoder.encode(picture(k)).pack())
            assert isinstance(message, igtl.Video)
            assert message.codec == codec
            assert message.size.tolist() == [WIDTH, HEIGHT, 1]
            assert message.grey is (picture is grey)
            expected = FrameType.KEY if k % 10 == 0 else FrameType.INTER
            assert message.kind == expected
            assert message.frame_type == (expected << 8 if picture is grey else expected)
            (frame,) = ffmpeg.frames(message.payload)  # at once: nothing waits for a later frame
            assert frame.key_frame is (k % 10 == 0)
            if picture is grey:
                assert frame.format.name == "yuv420p"
                luma = frame.to_ndarray()[:HEIGHT]
                assert psnr(luma, grey(k)) > PSNR
            else:
                assert psnr(frame.to_ndarray(format="rgb24"), colour(k)) > PSNR


@pytest.mark.parametrize("picture", [grey, colour])
@pytest.mark.parametrize("codec", codecs_here())
def test_there_and_back(codec: Any, picture: Any) -> None:
    decoder = VideoDecoder()
    with VideoEncoder(codec) as encoder:
        for k in range(12):
            found = decoder.decode(encoder.encode(picture(k)))
            assert found is not None
            assert found.dtype == np.uint8
            assert found.shape == picture(k).shape
            assert psnr(found, picture(k)) > PSNR
    assert (decoder.decoded, decoder.waiting and codec in INTER) == (12, False)


def test_jpeg_is_read_by_others() -> None:
    image = pytest.importorskip("PIL.Image")
    import io

    for picture, mode in ((grey, "L"), (colour, "RGB")):
        message = VideoEncoder("MJPG").encode(picture(0))
        read = image.open(io.BytesIO(message.payload))
        assert read.mode == mode
        assert psnr(np.asarray(read), picture(0)) > PSNR
        assert message.kind == FrameType.KEY


def test_orders() -> None:
    rgb = colour(3)
    for codec in ("I420", "MJPG", "VP90"):
        with VideoEncoder(codec) as encoder:  # type: ignore[arg-type]
            message = encoder.encode(rgb[..., ::-1], order="BGR")
        assert psnr(VideoDecoder().decode(message), rgb) > PSNR
        assert psnr(VideoDecoder().decode(message, order="BGR")[..., ::-1], rgb) > PSNR  # type: ignore[index]
    planes = np.arange(WIDTH * HEIGHT * 3 // 2, dtype=np.uint32).astype(np.uint8).reshape(-1, WIDTH)
    message = VideoEncoder("I420").encode(planes, order="I420")
    assert message.payload == planes.tobytes()
    assert (VideoDecoder().decode(message, order="I420") == planes).all()
    assert not message.grey
    message = VideoEncoder("I420").encode(grey(0))
    assert message.payload == grey(0).tobytes() + bytes([128]) * (WIDTH * HEIGHT // 2)
    assert (VideoDecoder().decode(message) == grey(0)).all()


def test_slicers_i420() -> None:
    """The frame of OpenIGTLinkIO's own encoder, decoded to what it had encoded. Its chroma is
    that of one pixel of four, so only what does not depend on the neighbours is compared."""
    rgb = np.stack(np.broadcast_arrays(
        np.arange(8)[None] * 32, np.arange(6)[:, None] * 42, np.full((6, 8), 128)
    ), -1)  # fmt: skip
    luma = 16 + (65.738 * rgb[..., 0] + 129.057 * rgb[..., 1] + 25.064 * rgb[..., 2]) / 256
    message = igtl.unpack((VECTORS / "slicer" / "video_i420_colour.bin").read_bytes())
    assert isinstance(message, igtl.Video)
    payload = message.payload
    np.testing.assert_allclose(np.frombuffer(payload[:48], np.uint8).reshape(6, 8), luma, atol=1.1)
    encoded = VideoEncoder("I420").encode(rgb.astype(np.uint8)).payload
    mine, yours = (np.frombuffer(p[:48], np.uint8).astype(int) for p in (encoded, payload))
    np.testing.assert_allclose(mine, yours, atol=1)
    found = VideoDecoder().decode(message)
    assert found is not None
    # the library's own decoding of the first row, from the same bytes
    ours = found[0].ravel().astype(int)
    theirs = [0, 0, 127, 8, 8, 136, 64, 0, 126, 73, 9, 135, 127, 0, 127, 136, 9, 136,
              191, 0, 126, 201, 10, 136]  # fmt: skip
    np.testing.assert_allclose(ours, theirs, atol=2)


def test_geometry_name_and_time_are_kept() -> None:
    place = np.array([[0, -0.5, 0, 10], [0.5, 0, 0, -20], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    image = igtl.Image.from_frame(
        colour(0), order="RGB", ijk_to_world=place, device_name="Endoscope", timestamp=1234.5
    )
    for codec in ("VP90", "I420"):
        with VideoEncoder(codec) as encoder:  # type: ignore[arg-type]
            message = igtl.unpack(encoder.encode(image).pack())
        assert isinstance(message, igtl.Video)
        np.testing.assert_array_equal(message.ijk_to_world, place)
        back = VideoDecoder().image(message)
        assert back is not None
        np.testing.assert_array_equal(back.ijk_to_world, image.ijk_to_world)
        np.testing.assert_array_equal(back.matrix, image.matrix)
        assert (back.device_name, back.timestamp) == ("Endoscope", 1234.5)
        assert psnr(back.array, image.array) > PSNR
    with VideoEncoder("I420", ijk_to_world=place, device_name="A") as encoder:
        message = encoder.encode(grey(0), timestamp=7.25)
    np.testing.assert_array_equal(message.ijk_to_world, place)
    assert (message.device_name, message.timestamp) == ("A", 7.25)


def test_key_frames_on_request_and_new_size(codec: Any) -> None:
    decoder = VideoDecoder()
    with VideoEncoder(codec, key_interval=1000) as encoder:
        kinds = []
        for k in range(12):
            if k == 4:
                encoder.request_key()
            width = WIDTH if k < 10 else WIDTH + 32
            message = encoder.encode(grey(k, width), key=k == 7)
            kinds.append(message.kind)
            late = VideoDecoder().decode(message)
            assert (late is None) == (message.kind != FrameType.KEY)
            found = decoder.decode(message)
            assert psnr(found, grey(k, width)) > PSNR
    assert [k for k, kind in enumerate(kinds) if kind == FrameType.KEY] == [0, 4, 7, 10]


# ---- loss and damage --------------------------------------------------------------------------


def test_every_tenth_message_lost(codec: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What is decoded is right; what is not is counted; it goes on at the next key frame."""
    caplog.set_level(logging.WARNING, "igtl")
    decoder = VideoDecoder()
    shown, lost = [], 0
    with VideoEncoder(codec, key_interval=8, numbered=True) as encoder:
        for k in range(100):
            message = encoder.encode(grey(k))
            if k % 10 == 9:
                lost += 1
                continue
            frame = decoder.decode(message)
            if frame is not None:
                assert psnr(frame, grey(k)) > PSNR
                shown.append(k)
            else:
                assert decoder.waiting
    assert lost == 10
    assert decoder.lost == 9  # of the last nothing tells
    assert decoder.decoded == len(shown)
    assert decoder.decoded + decoder.skipped + lost == 100
    keys = [k for k in range(100) if k % 8 == 0 and k % 10 != 9]
    assert set(keys) <= set(shown)
    assert len(shown) > 50
    assert "waiting for a key frame after 1 lost frames" in caplog.text


def test_late_messages_are_not_decoded(codec: Any) -> None:
    """Datagrams that overtake one another: what comes behind its successors is of no use."""
    with VideoEncoder(codec, numbered=True, key_interval=6) as encoder:
        messages = [encoder.encode(grey(k)) for k in range(12)]
    decoder = VideoDecoder()
    order = [0, 1, 3, 2, 4, 5, 6, 8, 7, 9]
    shown = [k for k in order if decoder.decode(messages[k]) is not None]
    assert shown == [0, 1, 6]
    again = VideoDecoder()
    for m in [*messages, *messages]:  # a sender that begins anew
        assert again.decode(m) is not None
    assert again.skipped == again.lost == 0


@pytest.mark.parametrize("codec", codecs_here())
def test_damage(codec: Any) -> None:
    """An error of ours or a picture, whatever the bytes; and the next key frame decodes."""
    rng = np.random.default_rng(5)
    decoder = VideoDecoder()
    with VideoEncoder(codec, key_interval=4) as encoder:
        errors = 0
        for k in range(80):
            message = encoder.encode(grey(k))
            payload = bytearray(message.payload)
            if k % 4 and k % 3 == 0:
                payload = payload[: rng.integers(len(payload))]
            elif k % 4 == 1:
                for at in rng.integers(0, len(payload), 1 + len(payload) // 50):
                    payload[at] ^= 1 << rng.integers(8)
            message.payload = bytes(payload)
            try:
                frame = decoder.decode(message)
            except igtl.BodyError:
                errors += 1
                assert decoder.waiting
            else:
                assert frame is None or frame.shape == (HEIGHT, WIDTH)
                if k % 4 == 0:
                    assert psnr(frame, grey(k)) > PSNR
    assert decoder.damaged == errors > 0


def test_lies_about_the_size(codec: Any) -> None:
    with VideoEncoder(codec) as encoder:
        message = encoder.encode(grey(0, 1280, 720))
    for size in ((WIDTH, HEIGHT, 1), (1280, 718, 1), (1920, 1080, 1)):
        message.size = message.sub_size = size
        with pytest.raises(igtl.BodyError):
            VideoDecoder().decode(message)
    message.size = message.sub_size = (1280, 720, 1)
    with pytest.raises(igtl.BodyError, match="the limit is 1000 pixels"):
        VideoDecoder(max_pixels=1000).decode(message)


@pytest.mark.parametrize("codec", codecs_here())
def test_wrong_sizes_and_payloads(codec: Any) -> None:
    with VideoEncoder(codec) as encoder:
        good = encoder.encode(grey(0))
    for size in ((0, 0, 1), (WIDTH, HEIGHT, 2), (WIDTH - 1, HEIGHT, 1), (WIDTH, HEIGHT - 2, 1),
                 (65534, 65534, 1)):  # fmt: skip
        message = igtl.Video(good.payload, codec, size, frame_type=1)
        with pytest.raises(igtl.BodyError):
            VideoDecoder().decode(message)
    for payload in (b"", b"\0" * 100, good.payload[:10]):
        message = igtl.Video(payload, codec, (WIDTH, HEIGHT, 1), frame_type=1)
        with pytest.raises(igtl.BodyError):
            VideoDecoder().decode(message)


def test_golden_videos_are_no_streams() -> None:
    """Random bytes in each codec's name: refused, and nothing else happens."""
    for path in sorted(VECTORS.glob("video_*.bin")):
        message = igtl.unpack(path.read_bytes())
        assert isinstance(message, igtl.Video)
        if path.stem == "video_h2_i420_frame":
            continue
        decoder = VideoDecoder()
        try:
            assert decoder.decode(message) is None
        except igtl.BodyError:
            assert decoder.damaged == 1
        assert message.pack() == path.read_bytes()


def test_peers_that_do_not_say_what_a_frame_is(codec: Any) -> None:
    decoder = VideoDecoder()
    with VideoEncoder(codec, key_interval=6) as encoder:
        for k in range(14):
            message = encoder.encode(colour(k))
            message.frame_type = [FrameType.UNKNOWN, FrameType.INVALID][k % 2]
            if k < 2:
                continue
            found = decoder.decode(message)
            assert (found is None) == (k < 6)
            assert found is None or psnr(found, colour(k)) > PSNR
    assert (decoder.skipped, decoder.damaged) == (4, 0)


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="codec must be one of"):
        VideoEncoder("THEO")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        VideoEncoder(fps=0)
    with pytest.raises(ValueError, match="quality 0"):
        VideoEncoder("MJPG", quality=0)
    with pytest.raises(ValueError, match="order must be"):
        VideoEncoder("I420").encode(colour(0), order="RBG")  # type: ignore[arg-type]
    for frame, word in [
        (grey(0).astype(float), "float64"),
        (np.zeros((4, 4, 4), np.uint8), "must be uint8"),
        (np.zeros((4, 5), np.uint8), "must be even"),
        (np.zeros((0, 4), np.uint8), "must be even"),
        (igtl.Image(np.zeros((2, 4, 4), np.uint8)), "2 slices"),
    ]:
        with pytest.raises(igtl.EncodeError, match=word):
            VideoEncoder("I420").encode(frame)
    with pytest.raises(igtl.EncodeError, match="rows"):
        VideoEncoder("I420").encode(np.zeros((4, 4), np.uint8), order="I420")
    with pytest.raises(igtl.EncodeError, match="MJPG takes"):
        VideoEncoder("MJPG").encode(np.zeros((6, 4), np.uint8), order="I420")
    with pytest.raises(igtl.BodyError, match="'THEO' is not known"):
        VideoDecoder().decode(igtl.Video(b"", "THEO", (4, 4, 1)))


@pytest.mark.processes
def test_missing_extra_is_named() -> None:
    code = """
import sys
for name in ("av", "simplejpeg"):
    sys.modules[name] = None
import igtl, numpy as np
assert igtl.video.codecs_here() == ("I420",)
for codec in ("VP90", "MJPG"):
    try:
        igtl.VideoEncoder(codec)
    except ModuleNotFoundError as error:
        assert 'pip install "igtl[video]"' in str(error), error
    else:
        raise AssertionError(codec)
    try:
        igtl.VideoDecoder().decode(igtl.Video(b"x", codec, (4, 4, 1), frame_type=1))
    except ModuleNotFoundError as error:
        assert 'pip install "igtl[video]"' in str(error), error
    else:
        raise AssertionError(codec)
grey = np.zeros((4, 4), np.uint8)
assert (igtl.VideoDecoder().decode(igtl.VideoEncoder("I420").encode(grey)) == grey).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_encoder_that_ffmpeg_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"libvpx-vp9"})
    assert set(codecs_here()) == {"VP90", "I420", "MJPG"}
    with pytest.raises(igtl.EncodeError, match="has no libx264 for H264"):
        VideoEncoder("H264")


# ---- a camera for many ------------------------------------------------------------------------


class Camera:
    """Publishes when told to."""

    def __init__(self, server: Any, **settings: Any) -> None:
        self.publisher = Publisher(server, "Cam", **settings)
        self.k = 0

    def shoot(self, times: int = 1) -> None:
        for _ in range(times):
            self.publisher.publish(grey(self.k))
            self.k += 1

    def wait_for(self, viewers: int) -> None:
        for _ in igtl.Rate(200):
            if self.publisher.watching == viewers:
                return


@contextmanager
def watching(
    camera: Camera, server: Any, codec: str, version: Any = 1, interval_ms: int = 0
) -> Iterator[Any]:
    """A client that has asked, and is served."""
    before = camera.publisher.watching
    with igtl.connect("127.0.0.1", server.port, version=version) as link:
        link.send(
            igtl.StartVideo(codec=codec, interval_ms=interval_ms, device_name="Cam")
        )  # fmt: skip
        camera.wait_for(before + 1)
        yield link
    camera.wait_for(before)


def test_one_camera_several_codecs() -> None:
    codecs = [codec for codec in codecs_here() if codec != "X265"]
    with igtl.serve(port=0) as server:
        camera = Camera(server, codecs=codecs)
        camera.shoot()  # nobody watches: nothing is encoded
        assert camera.publisher.encoders == {}
        with ExitStack() as stack:
            links = [
                (codec, stack.enter_context(watching(camera, server, codec, version)))
                for codec in codecs
                for version in (1, 2)
            ]
            encoded: dict[Any, int] = {}
            camera.shoot(6)
            for group, encoder in camera.publisher.encoders.items():
                encoded[group] = encoder._count
            # each once, for two clients each
            assert encoded == {(codec, 0): 6 for codec in codecs}
            for codec, link in links:
                decoder = VideoDecoder()
                for k in range(1, 7):
                    m = link.recv(igtl.Video, timeout=5)
                    assert (m.device_name, m.codec) == ("Cam", codec)
                    assert m.kind == (FrameType.KEY if k == 1 or codec in ("I420", "MJPG") else 3)
                    assert m.message_id == (k if link.header_version == 2 else 0)
                    assert psnr(decoder.decode(m), grey(k)) > PSNR
        camera.shoot()
        assert camera.publisher.encoders == {}


def test_late_joiners_and_requests() -> None:
    """A key frame with the next frame, whoever comes or asks again; the others go on."""
    with igtl.serve(port=0) as server:
        camera = Camera(server, key_interval=1000)
        with watching(camera, server, "VP90") as first:
            camera.shoot(5)
            with watching(camera, server, "VP90") as late:
                camera.shoot(3)
                assert psnr(VideoDecoder().decode(late.recv(igtl.Video, timeout=5)), grey(5)) > PSNR
                late.recv(timeout=5), late.recv(timeout=5)
                kinds = [first.recv(igtl.Video, timeout=5).kind for _ in range(8)]
                assert kinds == [1, 3, 3, 3, 3, 1, 3, 3]
                late.send(igtl.StartVideo(codec="VP90", interval_ms=0, device_name="Cam"))
                for _ in igtl.Rate(50):  # until it has begun again
                    camera.shoot()
                    with suppress(TimeoutError):
                        if late.recv(igtl.Video, timeout=0.01).kind == FrameType.KEY:
                            break
                    assert camera.k < 500


def test_stop_and_refusal() -> None:
    with igtl.serve(port=0) as server:
        camera = Camera(server, codecs=["I420"])
        with igtl.connect("127.0.0.1", server.port) as link:
            with pytest.raises(igtl.CommandFailed, match="refused"):
                with link.stream(igtl.StartVideo(codec="VP90", device_name="Cam"), timeout=5):
                    pass
            link.send(igtl.StartVideo(codec="I420", interval_ms=0, device_name="Cam"))
            camera.wait_for(1)
            camera.shoot()
            assert link.recv(igtl.Video, timeout=5).codec == "I420"
            link.send(igtl.StopVideo(device_name="Cam"))
            camera.wait_for(0)
    with igtl.serve(port=0) as server:
        with pytest.raises(ValueError, match="positive"):
            Publisher(server, "Cam", fps=-1)


def test_a_client_asks_for_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames it will not get are not encoded for it, so none it gets depends on them."""
    now = 1000.0
    monkeypatch.setattr("igtl.video.publisher.time", SimpleNamespace(monotonic=lambda: now))
    with igtl.serve(port=0) as server:
        camera = Camera(server)
        with watching(camera, server, "VP90", 2, interval_ms=100) as slow:
            with watching(camera, server, "VP90", 2) as fast:
                for _ in range(20):
                    camera.shoot()
                    now += 0.02
                counts = {g[1]: e._count for g, e in camera.publisher.encoders.items()}
                assert counts[0] == 20
                assert counts[100] == 5  # in 0.38 s: two at the beginning, then every 100 ms
                for link, count in ((slow, counts[100]), (fast, 20)):
                    decoder = VideoDecoder()
                    for k in range(count):
                        m = link.recv(igtl.Video, timeout=5)
                        assert m.message_id == k + 1
                        assert decoder.decode(m) is not None
                    assert decoder.lost == 0


def test_a_client_that_lags_skips_to_a_key_frame() -> None:
    """Its losses are counted, the others lose nothing, and what it gets can be decoded."""
    with igtl.serve(port=0) as server:
        camera = Camera(server, fps=5, key_interval=1000)
        big = np.random.default_rng(1).integers(0, 256, (1080, 1920), np.uint8)
        with watching(camera, server, "I420", 2) as stalled:
            peer = server.clients[0]
            for _ in range(40):  # 3 MB each: more than the systems between them take
                camera.publisher.publish(big)
            for _ in igtl.Rate(100):
                if peer.stats.dropped["video"]:
                    break
                camera.publisher.publish(big)
            sent = camera.publisher.encoders["I420", 0]._count
            decoder = VideoDecoder()
            got = 0
            stalled.send(igtl.StopVideo(device_name="Cam"))
            camera.wait_for(0)
            waiting = sent - peer.stats.dropped["video"]
            with pytest.raises(TimeoutError):
                while True:
                    m = stalled.recv(igtl.Video, timeout=1)
                    assert decoder.decode(m) is not None
                    got += 1
            assert waiting - 6 <= got <= waiting  # those that waited when it stopped are gone


@pytest.mark.skipif("AV10" not in codecs_here(), reason="this FFmpeg has no AV1")
def test_a_codec_that_does_not_take_the_frames_concerns_its_clients_alone() -> None:
    """AV1 takes 64 × 64 and more."""
    with igtl.serve(port=0) as server:
        camera = Publisher(server, "Cam", fps=30)
        with igtl.connect(port=server.port) as small, igtl.connect(port=server.port) as viewer:
            for n, (link, codec) in enumerate(((small, "AV10"), (viewer, "VP90"))):
                link.send(igtl.StartVideo(codec=codec, interval_ms=0, device_name="Cam"))
                for _ in igtl.Rate(200):
                    if camera.watching > n:
                        break
            for k in range(5):
                camera.publish(grey(k, 48, 48))
                assert viewer.recv(igtl.Video, timeout=10)
            told = small.recv(igtl.Status, timeout=10)
            assert (told.code, told.error_name, told.device_name) == (4, "STT_VIDEO", "Cam")
            with pytest.raises(igtl.EncodeError):
                camera.publish(np.zeros((3, 3), np.uint8))  # of the program that publishes


def test_an_encoder_that_does_not_take_the_size_says_so() -> None:
    if "AV10" not in codecs_here():
        pytest.skip("this FFmpeg has no AV1")
    with VideoEncoder("AV10") as encoder:
        with pytest.raises(igtl.EncodeError, match="AV10"):
            encoder.encode(grey(0, 48, 48))
        assert encoder.encode(grey(0)).kind == FrameType.KEY  # it goes on


def test_a_client_that_keeps_asking_gets_few_key_frames() -> None:
    with igtl.serve(port=0) as server:
        camera = Camera(server, key_interval=1000)
        with watching(camera, server, "VP90", 2) as first:
            with igtl.connect("127.0.0.1", server.port) as greedy:
                begun = time.monotonic()
                for _, _ in zip(range(60), igtl.Rate(50), strict=False):
                    greedy.send(igtl.StartVideo(codec="VP90", interval_ms=0, device_name="Cam"))
                    camera.shoot()
                took = time.monotonic() - begun
            kinds = [first.recv(igtl.Video, timeout=5).kind for _ in range(60)]
            assert 1 <= kinds.count(FrameType.KEY) <= 2 + took / 0.5


def test_over_asyncio() -> None:
    async def main() -> None:
        async with igtl.aio.serve(port=0) as server:
            camera = Camera(server)
            async with igtl.aio.connect("127.0.0.1", server.port) as link:
                start = igtl.StartVideo(codec="VP90", interval_ms=0, device_name="Cam")
                shooting = asyncio.create_task(shoot(camera))
                async with link.stream(start) as frames:
                    decoder = VideoDecoder()
                    for _ in range(10):
                        assert decoder.decode(await frames.recv(timeout=5)) is not None
                shooting.cancel()

    async def shoot(camera: Camera) -> None:
        while True:
            camera.shoot()
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_publishing_from_a_thread_while_clients_come_and_go() -> None:
    with igtl.serve(port=0) as server:
        camera = Camera(server)
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(0.005):
                camera.shoot()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            for k in range(8):
                with igtl.connect("127.0.0.1", server.port) as link:
                    codec = ["VP90", "H264", "MJPG"][k % 3]
                    start = igtl.StartVideo(codec=codec, interval_ms=0, device_name="Cam")
                    with link.stream(start) as frames:
                        decoder = VideoDecoder()
                        for _ in range(3):
                            assert decoder.decode(frames.recv(timeout=10)) is not None
        finally:
            stop.set()
            thread.join()
