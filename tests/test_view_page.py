"""The live page in a real browser: the right pixels, several browsers, recordings, nothing elsewhere.

Screenshots are kept in build/screenshots.
"""

from __future__ import annotations

import http.client
import http.server
import importlib.util
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from tests.browser import SlowNetwork, Tab, opened, program
from tests.conftest import missing_peer
from tests.scenes import blocks, pose, record

pytestmark = pytest.mark.processes


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


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    pytest.importorskip("mcap", reason="mcap is not installed")
    return record(tmp_path / "case.mcap")


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
    tab.until("""() => { const c = document.querySelector('#charts canvas');
        return c.width && new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height)
            .data.buffer).some(Boolean); }""")
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
        view.note("once")
        tab.until("() => document.getElementById('lines').textContent.includes('once')")
        assert tab.page.locator("#rows tr").count() == 1
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
    """One behind 1 Mbit/s costs the others nothing, and its poses stay fresh."""
    scanner = igtl.simulate.Ultrasound(640, 480)
    frames = [scanner.frame(k / 5) for k in range(10)]
    tracker = igtl.simulate.Tracker([f"T{k}ToTracker" for k in range(8)])
    produce = [(lambda s, k=k: tracker.transform(s, k), 60) for k in range(8)]
    produce.append(
        (lambda s: igtl.Image.from_frame(frames[int(30 * s) % 10], device_name="US"), 30)
    )
    with ExitStack() as stack:
        slow = stack.enter_context(SlowNetwork(view.port, 1e6 / 8))
        fast_url, slow_url = view.url, view.url.replace(str(view.port), str(slow.port))
        tabs = [Tab(chromium, url) for url in (slow_url, fast_url, fast_url)]
        for tab in tabs:
            tab.until("() => document.getElementById('state').textContent === 'live'")
        for function, hz in produce:
            stack.callback(igtl.simulate.Stream(function, view.show, hz).stop)
        for tab in tabs:
            tab.until("() => igtlView.figures.pose.length > 400 && igtlView.figures.images > 5")
        assert view.browsers == 3
        for tab in tabs:
            ages = tab.value("igtlView.figures.pose.slice(-400)")
            assert np.median(ages) < 3
        tabs[0].until("() => igtlView.page.flow.quality > 0")
        for tab in tabs:
            tab.close()


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


# -- bounds, and frames of other pages


def test_the_page_by_https(chromium: Any, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "page.pem"
    )
    with igtl.View(cert=tmp_path / "page.pem") as view:
        assert view.url.startswith("https://localhost:")
        view.show(blocks())
        tab = Tab(chromium, view.url, ignore_https_errors=True)
        tab.until("() => igtlView.page.panes.volume")
        tab.close()


def test_a_browser_without_webgl_is_told(chromium: Any, view: igtl.View) -> None:
    context = chromium.new_context()
    context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
    page = context.new_page()
    page.goto(view.url)
    page.wait_for_function("() => document.getElementById('empty').textContent.includes('WebGL')")
    context.close()


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


def test_the_command_shows_a_server_and_ends_on_ctrl_c(chromium: Any) -> None:
    with igtl.simulate.serve("tracker", "force", port=0) as simulator:
        process = subprocess.Popen(
            [sys.executable, "-m", "igtl", "view", f"localhost:{simulator.port}", "--at", ":0"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        with process:
            try:
                assert process.stdout is not None
                url = next(line.strip() for line in process.stdout if line.startswith("http"))
                tab = Tab(chromium, url)
                tab.until("() => igtlView.page.space.tools.size === 3")
                tab.until("() => igtlView.page.side.plots.size === 1")
                tab.until(
                    "() => document.getElementById('lines').textContent.includes('connected')"
                )
                tab.close()
            finally:
                process.send_signal(signal.SIGINT if sys.platform != "win32" else signal.SIGTERM)
            rest = process.stdout.read()
        assert "Traceback" not in rest
        assert process.returncode == 0 or sys.platform == "win32"


@pytest.mark.long
def test_the_demo_in_a_browser(chromium: Any) -> None:
    command = [sys.executable, "-m", "igtl", "demo", "--view", "-s", "20"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = next(line.strip() for line in process.stderr if line.startswith("http"))
            tab = Tab(chromium, url)
            tab.until("() => igtlView.page.space.tools.size === 4 && igtlView.page.panes.volume")
            tab.picture(name="demo")
            tab.close()
        finally:
            process.terminate()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="no processor times in /proc")
def test_what_it_costs(chromium: Any) -> None:
    """Script and server, in processor time (measured: 2 ms, 13 %); frames depend on the machine."""
    cost = pytest.importorskip("benchmarks.view", reason="installed without the benchmarks")
    figures = dict(cost.measurements(chromium, (None, 5.0)))
    for found in figures.values():
        assert found["script ms, p50 p95"][0] <= 20
        assert found["server, % of a core"] <= 50
        assert found["ticks/s"] > 5
    assert figures["5 Mbit/s"]["Mbit/s"] < 5.5
