"""The pictures of docs/view.md: runs `igtl.View` on simulated devices, and takes a real browser's
screen.

`python -m docs.view_pictures`, from the folder of the project, writes docs/view-*.png.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import igtl
from igtl.simulate import Stream, Tracker, Ultrasound, head_phantom
from tests.browser import Tab, opened

FOLDER = Path(__file__).parent
NAMES = [f"{name}ToReference" for name in ("Stylus", "Drill", "Scope", "Pointer")]
FIDUCIALS = {"Nasion": (0, 137, 0), "Left ear": (-112, 0, 0), "Right ear": (112, 0, 0)}


def skin(rows: int = 60) -> igtl.PolyData:
    """An ellipsoid a little larger than the head phantom."""
    t, p = np.meshgrid(
        np.linspace(0, np.pi, rows), np.linspace(0, 2 * np.pi, 2 * rows), indexing="ij"
    )
    points = np.stack(
        [122 * np.sin(t) * np.cos(p), 149 * np.sin(t) * np.sin(p), 101 * np.cos(t)], -1
    )
    corner = np.arange(rows * 2 * rows).reshape(rows, 2 * rows)
    quads = np.stack([corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]], -1)
    return igtl.PolyData(points.reshape(-1, 3), polygons=quads.reshape(-1, 4), device_name="Skin")


def still(show: Any) -> None:
    """What does not move."""
    show(head_phantom(100, 256, noise=5))
    show(skin())
    points = [igtl.Point(name, position=at) for name, at in FIDUCIALS.items()]
    show(igtl.Points(points, device_name="Fiducials"))
    plan = igtl.Trajectory("Plan", entry=(60, 90, 80), target=(15, 10, 10))
    show(igtl.Trajectories([plan], device_name="Plans"))


@contextmanager
def moving(show: Any) -> Any:
    """An operating room: four tools, a needle, ultrasound, a force sensor."""
    tracker, scanner = (
        Tracker(NAMES, noise=0.05, dropout=0.05, statuses=True),
        Ultrasound(640, 480, spacing=0.2),
    )
    force = igtl.simulate.sensors.ForceSensor()
    with ExitStack() as stack:
        for produce, hz in [
            *((lambda s, k=k: tracker.transform(s, k), 60) for k in range(len(NAMES))),
            (scanner.image, 20), (scanner.needle, 60), (force.sensor, 50),
            (lambda s: igtl.Status.ok(f"camera at {s:.0f} s", device_name="Tracker"), 0.5),
        ]:  # fmt: skip
            stack.callback(Stream(produce, show, hz).stop)
        yield


def choose(tab: Tab, select: str, text: str) -> None:
    tab.until(
        f"() => [...document.querySelectorAll('{select} option')].some(o => o.text === '{text}')"
    )
    tab.page.select_option(select, label=text)


def take(tab: Tab, name: str) -> None:
    path = FOLDER / f"view-{name}.png"
    tab.value("() => { igtlView.page.leastSharpness = 1; }")
    tab.page.wait_for_timeout(8000)
    tab.value("igtlView.page.space.fit()")
    tab.page.wait_for_timeout(2000)
    tab.page.screenshot(path=path)
    print(path, path.stat().st_size, "bytes")
    tab.close()


def main() -> None:
    with opened() as browser, tempfile.TemporaryDirectory() as folder:
        with igtl.View(control=True, folder=folder) as view, moving(view.show):
            still(view.show)
            tab = Tab(browser, view.url, size=(1280, 800), color_scheme="dark")
            tab.until(
                "() => igtlView.page.panes.volume && igtlView.page.space.things.size === 3", 120
            )
            choose(tab, "#driver", "NeedleToReference")
            take(tab, "dark")
        path = Path(folder) / "case-17.mcap"
        with igtl.Recorder(path) as recorder:
            still(lambda message: recorder.write(message, received=1000.0))
            tracker, scanner = Tracker(NAMES), Ultrasound(320, 240)
            for k in range(600):
                for message in [
                    tracker.transform(k / 30, 0),
                    scanner.needle(k / 30),
                    scanner.image(k / 30),
                ]:
                    recorder.write(message, received=1000 + k / 30)
        with igtl.View() as view:
            view.play(path)
            tab = Tab(browser, view.url, size=(820, 1100), color_scheme="light", has_touch=True)
            tab.until(
                "() => igtlView.page.panes.volume && igtlView.page.space.things.size === 3", 120
            )
            tab.value("igtlView.page.live.ask({seek: 12.4})")
            tab.value("igtlView.page.live.ask({play: false})")
            tab.page.click("#settings-button")
            tab.page.select_option("#render", "solid")
            tab.page.select_option("#preset", label="bone")
            tab.page.click("#settings-button")
            tab.value("igtlView.page.space.setOpacity(0.12)")
            take(tab, "tablet")


if __name__ == "__main__":
    main()
