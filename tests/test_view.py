"""The live page: what is sent to browsers and when, and who may see it; tests/test_view_page.py looks at it."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import importlib.util
import json
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.view import shapes, wire, words
from igtl.view.feed import MAX_STREAMS, Feed
from igtl.view.flow import Flow, Tick
from igtl.view.page import three
from tests.conftest import VECTORS
from tests.scenes import at, pose, record

served = pytest.mark.skipif(
    importlib.util.find_spec("nicegui") is None, reason="nicegui is not installed"
)


@pytest.fixture
def view() -> Iterator[igtl.View]:
    with igtl.View() as view:
        yield view


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    pytest.importorskip("mcap", reason="mcap is not installed")
    return record(tmp_path / "case.mcap")


def unpacked(packed: bytes) -> tuple[int, bool, float, list[float]]:
    stream, state, _, stamp, *rows = struct.unpack("<HHId12f", packed)
    return stream, state == 1, stamp, rows


# -- the newest of each stream


def test_poses_are_64_bytes_and_the_newest_counts() -> None:
    feed = Feed()
    for k in range(5):
        feed.take(pose("ProbeToTracker", k, timestamp=100.0 + k))
    (stream,) = feed.after(0)
    assert len(stream.packed) == wire.POSE_BYTES
    number, valid, stamp, rows = unpacked(stream.packed)
    assert (number, valid, stamp, rows[3]) == (0, True, 104.0, 4.0)
    assert stream.count == 5
    assert feed.after(feed.changes) == []


def test_poses_that_are_not_finite_or_declared_invalid_are_lost() -> None:
    feed = Feed()
    feed.take(pose("A", np.nan))
    feed.take(pose("B", metadata={"TransformStatus": "MISSING"}))
    feed.take(pose("C"))
    assert [unpacked(s.packed)[1] for s in feed.all()] == [False, False, True]


def test_tools_out_of_sight_keep_their_place_and_are_lost() -> None:
    feed = Feed()
    tools = [igtl.Tool("A", matrix=at(1, 0, 0)), igtl.Tool("B", matrix=at(2, 0, 0))]
    feed.take(igtl.TrackingData(tools, device_name="Tracker"))
    feed.take(igtl.TrackingData(tools[:1], device_name="Tracker"))
    found = {s.key[1]: unpacked(s.packed) for s in feed.all() if s.packed}
    assert [found[name][1] for name in "AB"] == [True, False]
    assert found["B"][3][3] == 2
    feed.take(igtl.TrackingData(tools, device_name="Tracker"))
    assert all(unpacked(s.packed)[1] for s in feed.all() if s.packed)


def test_streams_are_bounded() -> None:
    feed = Feed()
    for k in range(MAX_STREAMS + 50):
        feed.take(pose(f"T{k}"))
    assert len(feed.streams) <= MAX_STREAMS + 1
    assert feed.streams["*", "*"].count == 50
    assert feed.streams["*", "*"].packed == b""


def test_the_table_says_rates_losses_and_what_is_stale() -> None:
    now = 0.0
    feed = Feed(clock=lambda: now)
    for k in range(1, 41):
        now = k / 50
        if k % 10:  # each tenth never comes
            feed.take(
                pose("ProbeToTracker", message_id=k, timestamp=1000 + now), received=1003 + now
            )
    table = feed.table()
    number, count, rate, _, age, lost, delay, valid = table["rows"][0]
    assert (number, count, lost, valid) == (0, 36, 3, 1)
    assert rate == pytest.approx(45, rel=0.1)
    assert age == 20  # the fortieth is one of those that never came
    assert delay == pytest.approx(3000)
    assert "3 s behind ours" in table["problems"][0]
    assert table["links"] == ["ProbeToTracker"]


def test_delays_by_the_clock_of_the_sender() -> None:
    now = 0.0
    feed, clock = Feed(clock=lambda: now), igtl.Clock(resolution=0)

    def take(count: int) -> tuple[float, list[str]]:
        nonlocal now
        for _ in range(count):
            now += 0.5  # so that the table is made anew
            stamp = 1000.2 + now - 3  # it is 3 s behind, and the network takes 0.2 s
            tools = igtl.TrackingData(
                [igtl.Tool("A", matrix=np.eye(3, 4))], device_name="T", timestamp=stamp
            )
            feed.take(tools, received=1000.4 + now, clock=clock)
        rows = feed.table()["rows"]
        assert len({row[6] for row in rows}) == 1
        return rows[0][6], feed.table()["problems"]

    delay, problems = take(6)
    assert delay == pytest.approx(3200)
    assert any("behind ours" in text for text in problems)
    for sent in (1001.0, 1001.3, 1001.6):
        clock.add(sent, sent - 3 + 0.0005, sent + 0.001)
    delay, problems = take(1)
    assert delay == pytest.approx(200, abs=0.5)
    assert not any("behind ours" in text for text in problems)


def test_words_hide_patients() -> None:
    info = igtl.ImageInfo("CT", "CT", modality="CT", patient_name="Jane Doe", patient_id="4711")
    meta = igtl.ImageMeta([info], device_name="PACS")
    hidden, shown = (words.line(meta, patients=p) for p in (False, True))
    assert hidden is not None
    assert shown is not None
    assert "Jane" not in hidden[1]
    assert "4711" not in hidden[1]
    assert "Jane Doe 4711" in shown[1]
    feed = Feed()
    feed.take(meta)
    assert "Jane" not in str(list(feed.lines))


def test_the_log_takes_what_is_said_and_keeps_a_bounded_part() -> None:
    feed = Feed()
    for k in range(2000):
        feed.take(igtl.String(f"line {k}"))
    feed.take(igtl.Status(13, 0, "Broken", "no light", device_name="Tracker"))
    feed.take(igtl.Command(7, "Start", "<Command/>"))
    assert len(feed.lines) == 500
    assert feed.lines[-2].severity == "warn"
    assert "Broken no light" in feed.lines[-2].text
    assert feed.lines[-1].text == "Start #7 <Command/>"


# -- images and shapes


def image_of(packed: bytes) -> tuple[tuple[Any, ...], np.ndarray[Any, Any], bytes]:
    head = struct.unpack_from("<BBHIHHHHffd", packed)
    return head, np.frombuffer(packed, "<f4", 16, 32).reshape(4, 4), packed[96:]


def test_small_images_are_exact_and_their_values_can_be_read() -> None:
    values = np.array([[100, 612], [356, 1124]], np.uint16)
    image = igtl.Image.from_frame(values, ijk_to_world=at(1, 2, 3), device_name="US")
    head, matrix, body = image_of(wire.picture(4, 9, image, 5.0, wire.QUALITIES[0]))
    assert head[:8] == (2, wire.GREY, 4, 9, 2, 2, 1, 0)
    low, high, stamp = head[8:]
    assert stamp == 5.0
    assert matrix == pytest.approx(at(1, 2, 3))
    read = low + np.frombuffer(body, np.uint8).reshape(2, 2) / 255 * (high - low)
    assert read == pytest.approx(values, abs=(high - low) / 255)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_as_jpeg(channels: int) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    pixels = np.zeros((200, 300, channels), np.uint8)
    pixels[:, 150:] = 200
    frame = pixels[..., 0] if channels == 1 else pixels
    image = igtl.Image.from_frame(frame, order=[None, None, None, "RGB", "RGBA"][channels])
    for quality in wire.QUALITIES:
        head, _, body = image_of(wire.picture(0, 1, image, 0.0, quality))
        assert head[1] == wire.JPEG
        decoded = simplejpeg.decode_jpeg(body)
        assert decoded.shape == (head[5], head[4], 3)
        assert head[4] * head[6] == pytest.approx(300, abs=4)
        assert abs(int(decoded[5, 5, 1])) < 20
        assert abs(int(decoded[5, -5, 1]) - 200) < 20
    head, _, body = image_of(wire.picture(0, 1, image, 0.0, wire.EXACT))
    assert body == np.ascontiguousarray(pixels[..., :3] if channels > 1 else frame).tobytes()


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_volumes_keep_their_values(dtype: str) -> None:
    voxels = np.arange(24).reshape(2, 3, 4).astype(dtype) * (1 if dtype == "u1" else 40)
    if dtype in ("i4", "f8"):
        voxels = voxels * 1000
    blobs = shapes.Blobs()
    drawn = shapes.shape(igtl.Image.from_volume(voxels, spacing=(1, 2, 3)), blobs)
    data = blobs.get(drawn["blob"])
    assert data is not None
    raw = np.frombuffer(data, "u1" if drawn["type"] == "u8" else "<f2").astype(float)
    scale = 1.0 if drawn["type"] == "u8" else drawn["scale"]
    assert drawn["size"] == [4, 3, 2]
    assert (raw * scale + drawn["offset"]).reshape(2, 3, 4) == pytest.approx(
        voxels, rel=2e-3, abs=8
    )
    assert np.reshape(drawn["ijk"], (4, 4))[:3, :3] == pytest.approx(np.diag([1, 2, 3]))


def test_large_volumes_are_thinned_and_stay_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "MAX_VOXELS", 1000)
    drawn = shapes.shape(igtl.Image.from_volume(np.zeros((20, 20, 20), np.int16)), shapes.Blobs())
    assert np.prod(drawn["size"]) <= 1000
    ijk = np.reshape(drawn["ijk"], (4, 4))
    assert ijk[:3, 3] == pytest.approx([-9.5] * 3)
    assert ijk[0, 0] == 2


def test_volumes_in_parts_are_pasted() -> None:
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    feed = Feed()
    for k in range(4):
        part = igtl.Image.from_volume(voxels[k : k + 1], device_name="CT")
        part.size, part.offset = (6, 5, 4), (0, 0, k)
        part.ijk_to_world = at(7, 8, 9)
        feed.take(part)
    newest = feed.streams["IMAGE", "CT"].newest
    assert np.array_equal(newest.array, voxels)
    assert newest.ijk_to_world == pytest.approx(at(7, 8, 9))


def test_volumes_in_parts_are_bounded() -> None:
    """A peer that begins many large volumes, and ends none, does not fill the memory."""
    feed = Feed()

    def send(name: str, corner: int, size: int = 4) -> None:
        part = igtl.Image.from_volume(np.ones((1, 1, 1), np.uint8), device_name=name)
        part.size, part.offset = (size,) * 3, (corner,) * 3
        feed.take(part)

    for k in range(20):
        send(f"CT{k}", 0)
    for name in ("CT0", "CT19"):
        send(name, 3)
    first, last = (feed.streams["IMAGE", name].newest.array for name in ("CT0", "CT19"))
    assert (first[0, 0, 0], first[3, 3, 3]) == (0, 1)  # what had come of it gave way
    assert (last[0, 0, 0], last[3, 3, 3]) == (1, 1)
    send("Huge", 0, 60000)
    assert "too large" in feed.lines[-1].text


def test_video_streams_are_bounded() -> None:
    feed = Feed()
    for k in range(200):
        feed.take(igtl.Video(b"x", "VP90", (64, 64, 1), device_name=f"US{k}"))
    assert "at most 32" in feed.lines[-1].text


def test_meshes_become_triangles_and_segments() -> None:
    points = np.arange(18, dtype=np.float32).reshape(6, 3)
    mesh = igtl.PolyData(
        points, polygons=[[0, 1, 2, 3], [3, 4, 5]], triangle_strips=[[0, 1, 2, 3]],
        lines=[[0, 1, 2]], attributes=[igtl.Attribute("c", np.ones((6, 4)), igtl.AttributeType.RGBA)],
    )  # fmt: skip
    blobs = shapes.Blobs()
    drawn = shapes.shape(mesh, blobs)
    triangles = np.frombuffer(blobs.get(drawn["triangles"]) or b"", "<u4").reshape(-1, 3)
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3], [3, 4, 5], [0, 1, 2], [1, 3, 2]]
    segments = np.frombuffer(blobs.get(drawn["segments"]) or b"", "<u4").reshape(-1, 2)
    assert segments.tolist() == [[0, 1], [1, 2]]
    assert blobs.get(drawn["colors"]) == bytes([255]) * 18


FLAT = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # not invertible


@pytest.mark.parametrize(
    "message",
    [
        igtl.Image.from_volume(np.zeros((2, 2, 2), np.uint8), ijk_to_world=FLAT),
        igtl.Image.from_volume(np.zeros((2, 2, 2), np.uint8), ijk_to_world=at(np.inf, 0, 0)),
        igtl.PolyData(np.zeros((2, 3)), polygons=[[0, 1, 7]]),
        igtl.String("no shape"),
    ],
)
def test_what_has_no_shape_is_refused(message: igtl.Message) -> None:
    with pytest.raises(ValueError):
        shapes.shape(message, shapes.Blobs())


def test_blobs_are_bounded() -> None:
    blobs = shapes.Blobs(max_bytes=100)
    names = [blobs.put(np.full(40, k, np.uint8)) for k in range(4)]
    assert [blobs.get(n) is not None for n in names] == [False, False, True, True]


# -- what one browser gets


ULTRASOUND = igtl.Image.from_frame(np.zeros((480, 640), np.uint8), device_name="US")


def size_of(quality: wire.Quality) -> float:
    """Bytes of an image of that size on the wire."""
    return 1000 * wire.SIZES[wire.QUALITIES.index(quality)]


class Network:
    """A browser behind a network: draws at once, and answers after the bytes have passed.

    Args:
        rate: bytes a second. delay: seconds, one way.
    """

    def __init__(self, feed: Feed, rate: float = 1e9, delay: float = 0.001) -> None:
        self.flow = Flow(feed)
        self.rate, self.delay = rate, delay
        self.now = self.free = 0.0
        self.answers: list[tuple[float, int]] = []
        self.ticks: list[tuple[float, float, Tick]] = []  # sent, arrived

    def run_until(self, end: float) -> None:
        """Send what may be sent, and acknowledge what has arrived, until then."""
        while self.now < end:
            while self.answers and self.answers[0][0] <= self.now:
                self.flow.acknowledge(self.answers.pop(0)[1], 0.0, self.now)
            wait = self.flow.delay(self.now)
            if wait is not None and wait <= 0:
                tick = self.flow.tick(self.now, {})
                size = sum(map(len, tick.texts)) + 64 * len(tick.poses) + 16
                size += len(tick.images) * size_of(self.flow.quality)
                self.free = max(self.free, self.now) + size / self.rate
                arrived = self.free + self.delay
                self.ticks.append((self.now, arrived, tick))
                self.answers.append((arrived + self.delay, tick.number))
            self.now += 0.002


def busy(feed: Feed, networks: list[Network], seconds: float, *, images: bool = True) -> None:
    """Eight tools at 60 Hz, and ultrasound at 30, over simulated time."""
    begun = networks[0].now
    for k in range(round(seconds * 60)):
        for tool in range(8):
            feed.take(pose(f"T{tool}ToTracker", k))
        if images and k % 2 == 0:
            feed.take(ULTRASOUND)
        for network in networks:
            network.run_until(begun + (k + 1) / 60)


def test_a_fast_browser_gets_everything_at_once_and_fine() -> None:
    feed = Feed()
    browser = Network(feed)
    busy(feed, [browser], 4)
    late = browser.ticks[60:]
    assert len(late) > 2.5 * 60
    assert sum(len(t.images) for _, _, t in late) > 0.9 * 30 * 3
    assert max(arrived - sent for sent, arrived, _ in late) < 0.02
    assert browser.flow.quality == wire.QUALITIES[0]


@pytest.mark.parametrize(("mbit", "within"), [(5.0, 0.15), (1.0, 0.3)])
def test_a_slow_network_gets_smaller_images_and_fresh_poses(mbit: float, within: float) -> None:
    feed = Feed()
    slow, fast = Network(feed, mbit * 1e6 / 8, 0.02), Network(feed)
    busy(feed, [slow, fast], 12)
    late = [t for t in slow.ticks if t[0] > 6]
    ages = sorted(arrived - sent for sent, arrived, _ in late)
    assert ages[len(ages) // 2] < within
    assert ages[int(0.95 * len(ages))] < 3 * within
    assert len(late) > 15 * 6  # ticks
    assert sum(len(t.images) for _, _, t in late) > 3 * 6
    assert slow.flow.quality != wire.QUALITIES[0]
    assert fast.flow.quality == wire.QUALITIES[0]  # the slow one has cost it nothing
    slow.rate = 1e9
    busy(feed, [slow, fast], 12)
    assert slow.flow.quality == wire.QUALITIES[0]


def test_a_browser_that_does_not_answer_gets_a_window_and_then_the_newest() -> None:
    feed = Feed()
    flow = Flow(feed)
    ticks = []
    for k in range(500):
        feed.take(pose("AToB", k))
        while (wait := flow.delay(k / 60)) is not None and wait <= 0:
            ticks.append(flow.tick(k / 60, {}))
    assert len(ticks) <= 12
    for tick in ticks:
        flow.acknowledge(tick.number, 0.0, 9.0)
    assert flow.delay(9.0) == 0
    assert unpacked(flow.tick(9.0, {}).poses[0])[3][3] == 499


def test_texts_come_once_and_plots_of_new_samples() -> None:
    feed = Feed()
    feed.take(igtl.Sensor([1.0, 2.0], "N", device_name="Force", timestamp=5.0))
    feed.take(igtl.String("hello", device_name="X"))
    flow = Flow(feed)

    def told(now: float) -> dict[str, Any]:
        tick = flow.tick(now, {"control": False})
        flow.acknowledge(tick.number, 0.0, now)
        out: dict[str, Any] = {}
        for text in tick.texts:
            out |= json.loads(text)
        return out

    first = told(0.0)
    assert first["streams"] == [[0, "SENSOR", "Force"], [1, "STRING", "X"]]
    assert first["log"][0][3:] == ["STRING X", "hello"]
    assert first["plots"]["0"] == {"unit": "N", "rows": [[5.0, 1.0, 2.0]]}
    assert first["control"] is False
    assert told(0.1) == {}
    feed.take(igtl.Sensor([3.0, 4.0], "N", device_name="Force", timestamp=6.0))
    assert told(0.6)["plots"]["0"]["rows"] == [[6.0, 3.0, 4.0]]
    feed.reset()
    assert told(0.7)["reset"] == 1


# -- who may see what


def request(view: igtl.View, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    client = http.client.HTTPConnection("127.0.0.1", view.port, timeout=30)
    client.request("GET", path, headers=headers)
    answer = client.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    client.close()
    return found


@served
def test_the_page_is_strict_and_whole(view: igtl.View) -> None:
    status, headers, body = request(view, "/")
    policy = headers["content-security-policy"]
    assert status == 200
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert view.url.partition("#")[2].encode() not in body
    names = set(re.findall(rb"/static/([\w.]+)|from \"\./([\w.]+)\"", body))
    for name in [n.decode() for pair in names for n in pair if n]:
        assert request(view, f"/static/{name}")[0] == 200, name
    assert b"Three.js Authors" in request(view, "/three.js")[2]
    for path in (
        "/static/../view.py",
        "/static/%2e%2e/view.py",
        "/static/nothing.js",
        "/etc/passwd",
    ):
        assert request(view, path)[0] == 404, path


@served
def test_arrays_need_the_token(view: igtl.View) -> None:
    name = "0" * 32
    token = view.url.partition("#")[2]
    assert request(view, f"/blob/{name}")[0] == 403
    assert request(view, f"/blob/{name}", Authorization="Bearer wrong")[0] == 403
    assert request(view, f"/blob/{name}", Authorization=f"Bearer {token}")[0] == 404


def knock(view: igtl.View, **changes: Any) -> int:
    """The HTTP status of a WebSocket handshake; a value of None leaves a header out."""
    headers = {
        "Host": f"localhost:{view.port}", "Origin": f"http://localhost:{view.port}",
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": f"igtl.view, {view.url.partition('#')[2]}",
    }  # fmt: skip
    headers |= {key.replace("_", "-"): value for key, value in changes.items()}
    lines = ["GET /live HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items() if v is not None)]
    with socket.create_connection(("127.0.0.1", view.port), timeout=30) as raw:
        raw.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(raw.recv(64).split()[1])


@served
def test_only_our_own_page_with_the_token_is_let_in(view: igtl.View) -> None:
    assert knock(view) == 101
    assert knock(view, Origin=None) == 403
    assert knock(view, Origin="https://evil.example") == 403
    assert knock(view, Origin="null") == 403
    assert knock(view, Sec_WebSocket_Protocol="igtl.view, wrong") == 403
    assert knock(view, Sec_WebSocket_Protocol="igtl.view") == 403
    assert knock(view, Sec_WebSocket_Protocol=None) == 403
    rebound = f"evil.example:{view.port}"  # a name of theirs that leads here
    assert knock(view, Host=rebound, Origin=f"http://{rebound}") in (403, 421)
    assert request(view, "/", Host=rebound)[0] == 421


@served
def test_it_listens_on_loopback_unless_told() -> None:
    with igtl.View() as view:
        assert view.host == "127.0.0.1"
        assert len(view.url.partition("#")[2]) >= 24
        with igtl.View() as other:
            assert other.url.partition("#")[2] != view.url.partition("#")[2]
        with pytest.raises(OSError):
            igtl.View(port=view.port)
    with pytest.raises(ValueError, match="token"):
        igtl.View(token="a b")
    with pytest.raises(OSError):
        igtl.View(cert="nothing.pem")


@served
def test_the_command_serves_a_recording_and_says_where(recording: Path) -> None:
    from click.testing import CliRunner

    from igtl.cli import main

    result = CliRunner().invoke(main, ["view", str(recording), "--at", "localhost:0", "-s", "0.2"])
    assert result.exit_code == 0, result.output
    assert re.search(r"http://localhost:\d+/#[\w-]{24}", result.output)
    wrong = CliRunner().invoke(main, ["view", str(recording), "localhost", "-s", "1"])
    assert wrong.exit_code == 2
    missing = CliRunner().invoke(main, ["view", "nothing.mcap", "-s", "1"])
    assert missing.exit_code == 2


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"igtl\[view\]"):
        three()


# -- what peers may send


def test_no_message_stops_the_others() -> None:
    """The golden vectors, whole and with odd numbers in their bodies, are shown or refused."""
    feed, random = Feed(), np.random.default_rng(5)
    odd = [b"\x7f\xc0\0\0", b"\x7f\x80\0\0", b"\xff\xff\xff\xff", b"\x7f\x7f\xff\xff"]
    taken = 0
    for path in sorted(VECTORS.glob("*.bin")):
        if path.stat().st_size > 200_000:
            continue
        raw = path.read_bytes()
        for attempt in range(12):
            changed = bytearray(raw)
            for _ in range(min(attempt, 3)):
                at = int(random.integers(58, max(len(raw) - 4, 59)))
                changed[at : at + 4] = odd[int(random.integers(4))][: len(raw) - at]
            try:
                message = igtl.Frame.from_bytes(bytes(changed)).unpack("off")
            except (igtl.ProtocolError, ValueError):
                continue
            feed.take(message)
            taken += 1
            if isinstance(message, igtl.Image) and not shapes.is_volume(message):
                if all(message.size):
                    wire.picture(0, 1, message, 0.0, wire.EXACT)
                continue
            with contextlib.suppress(ValueError):
                shapes.shape(message, feed.blobs)
    assert taken > 1000
    assert len(feed.streams) > 100
    feed.take(pose("ProbeToTracker", 1, 2, 3))
    tick = Flow(feed).tick(0.0, {})
    assert unpacked(tick.poses[-1])[3][3::4] == [1, 2, 3]
    for text in tick.texts:  # JSON that browsers read: no NaN, no Infinity
        json.loads(text, parse_constant=lambda name: pytest.fail(name))
