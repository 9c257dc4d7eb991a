"""The live page: what is sent to browsers and when, who may see it, and what they then show."""

from __future__ import annotations

import http.client
import http.server
import importlib.util
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.view import shapes, wire, words
from igtl.view.feed import MAX_STREAMS, Feed
from igtl.view.flow import Flow, Tick
from tests.browser import Tab, opened, program
from tests.conftest import missing_peer

served = pytest.mark.skipif(
    importlib.util.find_spec("nicegui") is None, reason="nicegui is not installed"
)


def at(x: float, y: float, z: float) -> np.ndarray[Any, Any]:
    out = np.eye(4)
    out[:3, 3] = x, y, z
    return out


def pose(
    name: str, x: float = 0.0, y: float = 0.0, z: float = 0.0, **header: Any
) -> igtl.Transform:
    return igtl.Transform(at(x, y, z), device_name=name, **header)


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
                for stream, image, change in tick.images:
                    size += len(wire.picture(stream.number, change, image, 0.0, self.flow.quality))
                self.free = max(self.free, self.now) + size / self.rate
                arrived = self.free + self.delay
                self.ticks.append((self.now, arrived, tick))
                self.answers.append((arrived + self.delay, tick.number))
            self.now += 0.002


def busy(feed: Feed, networks: list[Network], seconds: float, *, images: bool = True) -> None:
    """Eight tools at 60 Hz, and ultrasound at 30, over simulated time."""
    scanner = igtl.simulate.Ultrasound(640, 480)
    frames = [scanner.frame(k / 5) for k in range(5)]
    begun = networks[0].now
    for k in range(round(seconds * 60)):
        for tool in range(8):
            feed.take(pose(f"T{tool}ToTracker", k))
        if images and k % 2 == 0:
            feed.take(igtl.Image.from_frame(frames[k // 2 % 5], device_name="US"))
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
    busy(feed, [slow, fast], 20)
    late = [t for t in slow.ticks if t[0] > 10]
    ages = sorted(arrived - sent for sent, arrived, _ in late)
    assert ages[len(ages) // 2] < within
    assert ages[int(0.95 * len(ages))] < 3 * within
    assert len(late) > 15 * 10  # ticks
    assert sum(len(t.images) for _, _, t in late) > 3 * 10
    assert slow.flow.quality != wire.QUALITIES[0]
    assert fast.flow.quality == wire.QUALITIES[0]  # the slow one has cost it nothing
    slow.rate = 1e9
    busy(feed, [slow, fast], 30)
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
    flow.acknowledge(ticks[-1].number, 0.0, 9.0)
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


# -- in a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if importlib.util.find_spec("nicegui") is None:
        missing_peer("nicegui")
    if importlib.util.find_spec("playwright") is None:
        missing_peer("playwright")
    if program() is None:
        missing_peer("Chromium")
    with opened() as browser:
        yield browser


@pytest.fixture
def view() -> Iterator[igtl.View]:
    with igtl.View() as view:
        yield view


def look_down(tab: Tab) -> None:
    """The camera 500 mm above the origin, the right of the patient on the right."""
    tab.value(
        "() => { const s = igtlView.page.space; s.touched = true; s.grid.visible = false;"
        " s.camera.position.set(0, -.001, 500); s.controls.target.set(0, 0, 0); s.camera.near = 1;"
        " s.camera.far = 5000; s.controls.update(); }"
    )


def seen_at(tab: Tab, x: float, y: float, z: float) -> tuple[int, int]:
    """Row and column of a place in the pane of the scene, by the rules of perspective."""
    box = tab.page.locator("#space").bounding_box()
    focal = box["height"] / 2 / np.tan(np.radians(20))
    depth = 500 - z
    return round(box["height"] / 2 - focal * y / depth), round(box["width"] / 2 + focal * x / depth)


def test_a_known_tool_is_at_a_known_pixel(chromium: Any, view: igtl.View) -> None:
    tab = Tab(chromium, view.url, color_scheme="dark")
    tab.until("() => document.getElementById('state').textContent === 'live'")
    assert "Nothing has come" in tab.text("#empty")
    view.show(pose("StylusToTracker", 60, 40, 20))
    tab.until("() => igtlView.page.space.tools.size === 1")
    look_down(tab)
    tab.page.locator("#labels-on").evaluate("e => e.click()")
    tab.settle()
    picture = tab.picture("#space", "tool").astype(int)
    row, column = seen_at(tab, 60, 40, 20)
    red, green, blue = picture[row, column]  # the colour of the first tool is orange
    assert red > 120
    assert red > green > blue + 40
    background = picture[row + 60, column + 60]
    assert abs(background - (20, 24, 29)).max() < 6
    tab.page.locator("#labels-on").evaluate("e => e.click()")
    tab.settle()
    label = tab.page.locator(".tag").bounding_box()
    stage = tab.page.locator("#space").bounding_box()
    assert "StylusToTracker" in tab.text(".tag")
    assert abs(label["x"] - stage["x"] - column) < 14
    assert abs(label["y"] - stage["y"] - row) < 14
    tab.close()


def choose(tab: Tab, select: str, text: str) -> None:
    """An option of a select, as soon as it is offered."""
    tab.until(
        f"() => [...document.querySelectorAll('{select} option')].some(o => o.text === '{text}')"
    )
    tab.page.select_option(select, label=text)


def blocks() -> igtl.Image:
    """A volume of two values: 100 where x > 0 (the right of the patient), else 700; 40 mm wide."""
    voxels = np.full((20, 20, 20), 700, np.int16)
    voxels[:, :, 10:] = 100
    return igtl.Image.from_volume(voxels, spacing=(2, 2, 2), device_name="CT")


def test_a_known_slice_has_known_values(chromium: Any, view: igtl.View) -> None:
    view.show(blocks())
    tab = Tab(chromium, view.url)
    tab.until("() => igtlView.page.panes.volume")
    tab.page.click("#settings-button")
    tab.page.fill("#window", "1000")
    tab.page.fill("#level", "500")
    tab.page.press("#level", "Enter")
    tab.page.click("#settings-button")
    tab.settle()
    picture = tab.picture('[data-pane="axial"]', "slice").astype(int)
    height, width = picture.shape[:2]
    left, right = (picture[height // 2 - 10, width // 2 + dx] for dx in (-20, 20))
    assert abs(left - 0.1 * 255).max() < 5  # of the picture: the patient's right
    assert abs(right - 0.7 * 255).max() < 5
    assert tab.text('[data-pane="axial"] .edge.l') == "R"
    assert tab.text('[data-pane="axial"] .reading').endswith("R 0.0 A 0.0 S 0.0")
    box = tab.page.locator('[data-pane="axial"]').bounding_box()
    tab.page.mouse.click(box["x"] + width // 2 + 20, box["y"] + height // 2 - 10)
    tab.until("""() => document.querySelector('[data-pane="axial"] .reading')
        .textContent.startsWith('700 · L ')""")
    tab.page.mouse.wheel(0, -100)  # the next slice: 2 mm up
    tab.until("""() => document.querySelector('[data-pane="axial"] .reading')
        .textContent.endsWith('S 2.0')""")
    tab.page.focus('[data-pane="coronal"]')
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Enter")  # larger
    tab.settle()
    assert tab.picture('[data-pane="coronal"]').shape[1] > 400
    tab.close()


def test_slices_follow_a_tool(chromium: Any, view: igtl.View) -> None:
    view.show(blocks())
    place = [-7, 3, 5]
    needle = igtl.simulate.Stream(lambda s: pose("NeedleToReference", *place), view.show, 20)
    tab = Tab(chromium, view.url)
    tab.until("() => igtlView.page.panes.volume")
    choose(tab, "#driver", "NeedleToReference")
    reading = "document.querySelector('[data-pane=\"oblique\"] .reading').textContent"
    tab.until(f"() => {reading} === '700 · L 7.0 A 3.0 S 5.0'")
    place[0] = 7
    tab.until(f"() => {reading} === '100 · R 7.0 A 3.0 S 5.0'")
    needle.stop()
    tab.close()


@pytest.mark.parametrize("mode", ["slices", "solid", "brightest"])
def test_a_volume_in_space(chromium: Any, view: igtl.View, mode: str) -> None:
    view.show(blocks())
    tab = Tab(chromium, view.url, color_scheme="dark")
    tab.until("() => igtlView.page.panes.volume")
    tab.page.click("#settings-button")
    tab.page.select_option("#render", mode)
    tab.page.click("#settings-button")
    tab.page.select_option("#camera", "superior")
    tab.settle()
    picture = tab.picture("#space", f"volume-{mode}").astype(int)
    height, width = picture.shape[:2]
    right, left = picture[height // 2, width // 2 + 30], picture[height // 2, width // 2 - 30]
    assert left.mean() > 100  # from above: the patient's left is on the left
    assert left.mean() > right.mean() + 50
    tab.close()


@pytest.mark.parametrize("exact", [False, True])
def test_an_image_is_upright_and_in_its_colours(
    chromium: Any, view: igtl.View, exact: bool
) -> None:
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[:120, :160] = 255, 0, 0
    frame[120:, 160:] = 0, 0, 255
    tab = Tab(chromium, view.url)
    tab.until("() => document.getElementById('state').textContent === 'live'")
    if exact:
        tab.page.click("#settings-button")
        tab.page.check("#exact")
        tab.page.click("#settings-button")
    view.show(igtl.Image.from_frame(frame, order="RGB", device_name="Endoscope"))
    tab.until("() => igtlView.page.panes.picture")
    tab.settle()
    picture = tab.picture('[data-pane="flat"]', "image").astype(int)
    height, width = picture.shape[:2]
    row, column = height // 2, width // 2
    assert abs(picture[row - 30, column - 30] - (255, 0, 0)).max() < 40
    assert abs(picture[row + 30, column + 30] - (0, 0, 255)).max() < 40
    assert picture[row - 30, column + 30].max() < 40
    assert "Endoscope  320 × 240" in tab.text('[data-pane="flat"] .reading')
    tab.close()


def test_video_is_decoded(chromium: Any, view: igtl.View) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    encoder = igtl.VideoEncoder("VP90")
    tab = Tab(chromium, view.url)
    for k in range(3):
        frame = np.full((96, 128), 80 * k, np.uint8)
        view.show(encoder.encode(igtl.Image.from_frame(frame, device_name="US")))
    tab.until("() => igtlView.page.panes.picture")
    tab.settle()
    picture = tab.picture('[data-pane="flat"]').astype(int)
    assert abs(picture[picture.shape[0] // 2, picture.shape[1] // 2] - 160).max() < 8
    tab.close()


def test_meshes_points_and_trajectories(chromium: Any, view: igtl.View) -> None:
    corners = np.array([[-50, -50, 0], [50, -50, 0], [50, 50, 0], [-50, 50, 0]], np.float32)
    mesh = igtl.PolyData(corners, polygons=[[0, 1, 2, 3]], device_name="Skin")
    view.show(mesh)
    fiducial = igtl.Point("Nasion", position=(70, 0, 0), color=(0, 255, 0, 255), diameter=10)
    view.show(igtl.Points([fiducial], device_name="Fiducials"))
    plan = igtl.Trajectory(
        "Plan A", entry=(-70, -40, 0), target=(-70, 0, 0), color=(255, 0, 0, 255)
    )
    view.show(igtl.Trajectories([plan], device_name="Plans"))
    tab = Tab(chromium, view.url, color_scheme="dark")
    tab.until("() => igtlView.page.space.things.size === 3")
    tab.page.locator("#opacity").evaluate(
        "e => { e.value = 1; e.dispatchEvent(new Event('input')); }"
    )
    look_down(tab)
    tab.settle()
    picture = tab.picture("#space", "shapes").astype(int)
    assert {tab.page.locator(".tag").nth(k).text_content() for k in range(2)} == {
        "Nasion",
        "Plan A",
    }
    inside, beside = picture[seen_at(tab, 0, 0, 0)], picture[seen_at(tab, 0, 60, 0)]
    assert inside[0] > beside[0] + 80
    assert picture[seen_at(tab, 70, 0, 2)].argmax() == 1
    assert picture[seen_at(tab, -70, 0, 0)].argmax() == 0
    tab.page.locator("#side-button").click()
    tab.page.locator('input[aria-label="show Skin"]').uncheck()
    tab.page.locator("#side-button").click()
    tab.settle()
    assert abs(tab.picture("#space").astype(int)[seen_at(tab, 0, 0, 0)] - beside).max() < 20
    mesh.points = corners * 0.1  # a newer one takes its place
    view.show(igtl.PolyData(corners * 0.1, polygons=[[0, 1, 2, 3]], device_name="Skin"))
    tab.until(
        "() => [...igtlView.page.space.things.values()].some(t => t.name === 'Skin' && t.from > 3)"
    )
    assert tab.value("igtlView.page.space.things.size") == 3
    tab.close()


def test_frames_are_joined_whatever_the_root(chromium: Any, view: igtl.View) -> None:
    view.show(pose("ProbeToTracker", 10, 0, 0))
    view.show(pose("StylusToTracker", 0, 20, 0))
    view.show(pose("ReferenceToTracker", 0, 0, 5))
    view.show(pose("TargetToModel", 1, 1, 1))
    view.show(igtl.Image.from_frame(np.zeros((8, 8), np.uint8), device_name="Image_Reference"))
    tab = Tab(chromium, view.url, size=(1280, 800))
    where = """name => { const t = [...igtlView.page.space.tools.values()].find(t => t.name === name);
        return t.group.visible ? [t.label.at.x, t.label.at.y, t.label.at.z] : null; }"""
    choose(tab, "#root", "Reference")
    tab.settle()
    assert tab.page.evaluate(where, "ProbeToTracker") == [10, 0, -5]
    assert tab.page.evaluate(where, "TargetToModel") is None
    tab.page.click("#tab-frames")
    tab.until("() => document.getElementById('problems').textContent.includes("
              "'TargetToModel: no way from Model to Reference')")  # fmt: skip
    assert "ProbeToTracker" in tab.text("#links")
    choose(tab, "#root", "Probe")
    tab.settle()
    assert tab.page.evaluate(where, "StylusToTracker") == [-10, 20, 0]
    choose(tab, "#root", "as sent")
    tab.settle()
    assert tab.page.evaluate(where, "TargetToModel") == [1, 1, 1]
    tab.close()


def test_table_plots_log_and_what_is_lost(chromium: Any, view: igtl.View) -> None:
    tab = Tab(chromium, view.url, size=(1280, 800))
    for k in range(5):
        view.show(igtl.Sensor([k, 2 * k], "N", device_name="Force", timestamp=100 + k))
    view.show(pose("ProbeToTracker", metadata={"TransformStatus": "MISSING"}))
    view.show(igtl.Status(13, 0, "Broken", "<b>no light</b>", device_name="Tracker"))
    tab.until("() => document.getElementById('rows').children.length === 3")
    assert tab.text("#rows tr:first-child td:nth-child(2)").startswith("Force")
    tab.until("() => document.querySelector('.tag.lost')?.textContent === 'ProbeToTracker · lost'")
    tab.page.focus("#tab-streams")
    tab.page.keyboard.press("ArrowRight")
    assert tab.text("#charts figcaption") == "Force, N"
    drawn = "() => { const c = document.querySelector('#charts canvas'); return c.width && " \
        "new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer).some(Boolean); }"  # fmt: skip
    tab.until(drawn)
    choose(tab, "#plot-pose", "ProbeToTracker")
    view.show(pose("ProbeToTracker", 1, 2, 3))
    tab.until("() => document.querySelectorAll('#charts figcaption').length === 2")
    tab.page.keyboard.press("Escape")
    tab.page.click("#tab-log")
    assert "Broken <b>no light</b>" in tab.text("#lines li.warn")
    assert tab.page.locator("#lines b b").count() == 0
    tab.picture(name="panel")
    tab.close()


def test_keys_themes_and_a_tablet(chromium: Any, view: igtl.View) -> None:
    view.show(pose("ProbeToTracker", 10, 20, 30))
    tab = Tab(chromium, view.url, size=(820, 1180), has_touch=True, color_scheme="light")
    tab.until("() => igtlView.page.space.tools.size === 1")
    assert tab.page.locator("#side").is_hidden()  # room for the picture
    smallest = min(
        b["height"]
        for b in (e.bounding_box() for e in tab.page.locator("header button").all())
        if b
    )
    assert smallest >= 36
    tab.page.focus("#space")
    tab.page.keyboard.press("5")
    assert tab.page.input_value("#camera") == "superior"
    tab.page.keyboard.press("p")
    assert tab.page.locator("#side").is_visible()
    assert tab.value("document.documentElement.scrollWidth") <= 820
    light = tab.picture("#space", "tablet").mean()
    tab.page.keyboard.press("t")
    assert tab.text("#theme") == "Dark"
    tab.settle()
    assert tab.picture("#space").mean() < light - 80
    tab.page.reload()
    tab.until("() => document.getElementById('theme').textContent === 'Dark'")
    focusable = tab.value(
        "() => [...document.querySelectorAll('button, select, input')].filter(e => e.offsetParent)"
        ".every(e => e.labels?.length || e.textContent.trim() || e.title || e.ariaLabel)"
    )
    assert focusable
    tab.close()


# -- connections, recordings, several browsers


def test_the_page_comes_back_by_itself(chromium: Any) -> None:
    with igtl.View(token="again") as view:
        port = view.port
        view.show(pose("ProbeToTracker", 1))
        tab = Tab(chromium, view.url)
        tab.until("() => igtlView.page.space.tools.size === 1")
    tab.until("() => document.getElementById('state').dataset.state === 'lost'")
    assert tab.value("document.getElementById('stage').classList.contains('old')")
    tab.errors.clear()  # the browser logs each attempt that fails
    with igtl.View(port=port, token="again") as view:
        view.show(pose("ProbeToTracker", 7))
        tab.until("() => document.getElementById('state').textContent === 'live'")
        tab.until("() => [...igtlView.page.space.tools.values()][0].label.at.x === 7")
        tab.errors.clear()
        tab.close()


def test_a_link_is_followed_and_stays_its_owners(chromium: Any, view: igtl.View) -> None:
    with igtl.serve(port=0) as server:
        with igtl.connect("127.0.0.1", server.port, reconnect=igtl.Backoff(0.05, 0.2)) as link:
            view.follow(link)
            tab = Tab(chromium, view.url)
            tab.until("() => document.getElementById('state').textContent === 'live'")
            stream = igtl.simulate.Stream(
                lambda s: igtl.simulate.Tracker().transform(s), server.broadcast, 60
            )
            tab.until("() => igtlView.page.space.tools.size === 1")
            tab.until("() => igtlView.figures.pose.length > 60")
            stream.stop()
            tab.until("() => document.querySelector('.tag').textContent.endsWith('stale')")
            tab.close()
            view.close()
            link.send(igtl.String("still open"))


def test_three_browsers_at_once_one_of_them_slow(chromium: Any, view: igtl.View) -> None:
    """One throttled to 1 Mbit/s costs the others nothing, and its poses stay fresh."""
    scanner = igtl.simulate.Ultrasound(640, 480)
    frames = [scanner.frame(k / 5) for k in range(10)]
    tabs = [Tab(chromium, view.url) for _ in range(3)]
    for tab in tabs:
        tab.until("() => document.getElementById('state').textContent === 'live'")
    client = tabs[0].context.new_cdp_session(tabs[0].page)
    client.send("Network.enable")
    limit = 1e6 / 8
    client.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 20, "downloadThroughput": limit, "uploadThroughput": limit},
    )
    tracker = igtl.simulate.Tracker([f"T{k}ToTracker" for k in range(8)])
    streams = [
        igtl.simulate.Stream(lambda s, k=k: tracker.transform(s, k), view.show, 60)
        for k in range(8)
    ]
    streams.append(
        igtl.simulate.Stream(
            lambda s: igtl.Image.from_frame(frames[int(30 * s) % 10], device_name="US"),
            view.show, 30,
        )
    )  # fmt: skip
    try:
        for tab in tabs:
            tab.until("() => igtlView.figures.pose.length > 400 && igtlView.figures.images > 5", 60)
        assert view.browsers == 3
        for tab in tabs[1:]:
            assert tab.value("igtlView.page.live.ticks") > 60
        for tab in tabs:
            median = "(() => { const a = igtlView.figures.pose.slice(-400).sort((a, b) => a - b);" \
                " return a[a.length >> 1]; })()"  # fmt: skip
            assert tab.value(median) < 3
    finally:
        for stream in streams:
            stream.stop()
    for tab in tabs:
        tab.close()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Ten seconds: a volume and a text at the start, a tool that moves 10 mm a second."""
    pytest.importorskip("mcap", reason="mcap is not installed")
    path = tmp_path / "case.mcap"
    with igtl.Recorder(path) as recorder:
        recorder.write(blocks(), received=1000.0)
        for k in range(501):
            moved = pose("ProbeToTracker", k / 5, timestamp=1000 + k / 50)
            recorder.write(moved, received=1000 + k / 50)
        recorder.write(igtl.String("the end"), received=1010.0)
    return path


def test_a_recording_is_played(chromium: Any, view: igtl.View, recording: Path) -> None:
    view.play(recording)
    tab = Tab(chromium, view.url)
    where = "[...igtlView.page.space.tools.values()][0].label.at.x"
    shown = "parseFloat(document.getElementById('time').textContent)"
    tab.until("() => igtlView.page.space.tools.size === 1 && igtlView.page.panes.volume")
    assert "case.mcap" in tab.text("#file")
    assert tab.text("#time").endswith("/ 10.0 s")
    before = tab.value(where)
    tab.until(f"() => {where} > {before} + 2")
    tab.page.focus("#space")
    tab.page.keyboard.press(" ")
    tab.until("() => document.getElementById('play').textContent === 'Play'")
    tab.page.locator("#seek").evaluate("e => { e.value = 6; e.dispatchEvent(new Event('input'));"
                                       " e.dispatchEvent(new Event('change')); }")  # fmt: skip
    tab.until(f"() => Math.abs({where} - 60) < 0.5 && Math.abs({shown} - 6) < 0.1")
    tab.page.keyboard.press(".")
    tab.until(f"() => {where} > 60.1")
    tab.page.keyboard.press(",")
    tab.page.keyboard.press(",")
    tab.until(f"() => {where} < 59.9")
    assert "stale" not in tab.text(".tag")  # nothing is due
    tab.picture(name="recording")
    tab.page.select_option("#speed", "8")
    tab.page.click("#play")
    tab.until(f"() => {shown} === 10 && document.getElementById('play').textContent === 'Play'")
    tab.page.click("#play")  # again, from the beginning
    tab.until(f"() => {shown} < 9")
    tab.close()


def test_the_record_button_is_there_with_control(chromium: Any, tmp_path: Path) -> None:
    pytest.importorskip("mcap", reason="mcap is not installed")
    with igtl.View(control=True, folder=tmp_path) as view:
        tab = Tab(chromium, view.url)
        tab.until("() => !document.getElementById('record').hidden")
        tab.page.click("#record")
        tab.until("() => document.getElementById('record').textContent.startsWith('■')")
        for k in range(20):
            view.show(pose("ProbeToTracker", k))
        tab.page.click("#record")
        tab.until("() => document.getElementById('record').textContent.startsWith('●')")
        (path,) = tmp_path.glob("*.mcap")
        with igtl.Recording(path) as taken:
            assert len(taken["ProbeToTracker"]) == 20
        tab.close()


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
@pytest.mark.filterwarnings("ignore")
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


def test_browsers_are_bounded(chromium: Any) -> None:
    with igtl.View(max_browsers=1) as view:
        one = Tab(chromium, view.url)
        one.until("() => document.getElementById('state').textContent === 'live'")
        two = Tab(chromium, view.url)
        two.until("() => document.getElementById('state').textContent.includes('watch already')")
        assert view.browsers == 1
        one.close()
        two.until("() => document.getElementById('state').textContent === 'live'")
        two.close()


def test_a_page_without_control_may_only_look(chromium: Any, tmp_path: Path) -> None:
    with igtl.View(folder=tmp_path) as view:
        tab = Tab(chromium, view.url, size=(1280, 800))
        tab.until("() => document.getElementById('state').textContent === 'live'")
        assert tab.page.locator("#record").is_hidden()
        tab.value("igtlView.page.live.ask({record: true})")
        tab.value("igtlView.page.live.ask({seek: 'nonsense'})")
        tab.value("igtlView.page.live.ask([1, 2])")
        tab.until("() => document.getElementById('lines').children.length >= 2")
        assert "may only look" in tab.text("#lines")
        assert list(tmp_path.iterdir()) == []
        view.show(pose("ProbeToTracker"))
        tab.until("() => igtlView.page.space.tools.size === 1")
        tab.close()


@pytest.fixture
def notebook() -> Iterator[tuple[str, list[bytes]]]:
    """A page of another server of this machine: its address, and what it consists of."""
    body = [b""]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<link rel=icon href=data:,>" + body[0])

        def log_message(self, *told: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}/", body
        server.shutdown()
        thread.join()


def test_jupyter_shows_the_page_in_a_frame(
    chromium: Any, view: igtl.View, notebook: tuple[str, list[bytes]]
) -> None:
    url, body = notebook
    view.show(pose("ProbeToTracker"))
    body[0] = f'<iframe src="{view.url}"></iframe>'.encode()  # nobody asked for a widget
    tab = Tab(chromium, url)
    tab.until("() => document.querySelector('iframe').contentDocument === null")  # an error page
    assert any("frame-ancestors" in error for error in tab.errors)
    tab.errors.clear()
    tab.close()
    body[0] = view.widget(height=300)._repr_html_().encode()
    tab = Tab(chromium, url)
    frame = next(f for f in tab.page.frames if f.url.startswith(view.url[:20]))
    frame.wait_for_function("() => igtlView.page.space.tools.size === 1")
    assert tab.page.locator("iframe").bounding_box()["height"] == 300
    tab.close()


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
