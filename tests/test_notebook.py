"""What Jupyter shows: tables, pictures, and the example notebook, cell by cell."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    """The pixels of a PNG, as another program reads them, in units of 1/255."""
    image = pytest.importorskip("matplotlib.image")
    return np.round(255 * image.imread(io.BytesIO(data)))


def numbers(html: str) -> list[list[float]]:
    """The rows of the first table of numbers."""
    inner = re.search(r"<table>((?:<tr>(?:<td[^>]*>[-\d.]+</td>)+</tr>)+)</table>", html)
    assert inner
    rows = re.findall(r"<tr>(.*?)</tr>", inner[1])
    return [[float(cell) for cell in re.findall(r">([-\d.]+)<", row)] for row in rows]


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.arange(12, dtype=np.uint8).reshape(1, 3, 4), np.arange(12).reshape(3, 4)),
        (np.array([[[-1000, 0, 1000]]] * 3, np.int16), [[0, 127, 255]]),
        (np.array([[[0.0, np.nan, np.inf, 2.0]]]), [[0, 0, 255, 255]]),
        (np.full((5, 2, 2), 7.5, np.float32), np.zeros((2, 2))),
    ],
)
def test_an_image_is_a_picture(array: Any, shown: Any) -> None:
    image = igtl.Image.from_volume(array)
    png = image._repr_png_()
    assert png is not None
    pixels = decoded(png)
    np.testing.assert_array_equal(pixels if pixels.ndim == 2 else pixels[..., 0], shown)
    (embedded,) = re.findall(r"base64,([^']+)'", image._repr_html_())
    assert b64decode(embedded) == png


@pytest.mark.parametrize("order", ["RGB", "RGBA"])
def test_colours(order: Any) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (20, 30, len(order)), np.uint8)
    png = igtl.Image.from_frame(frame, order=order)._repr_png_()
    assert png is not None
    np.testing.assert_array_equal(decoded(png), frame)


def test_the_middle_slice_of_a_volume_not_larger_than_needed() -> None:
    volume = np.zeros((9, 1000, 500), np.uint16)
    volume[4] = np.arange(500)
    image = igtl.Image(volume)
    png = image._repr_png_()
    assert png is not None
    pixels = decoded(png)
    assert max(pixels.shape[:2]) <= 384
    assert pixels.max() == 255
    assert "slice 4 of 9" in image._repr_html_()


def test_an_image_shows_where_it_lies() -> None:
    """The matrix of the first voxel, not the one on the wire, which is of the centre."""
    place = np.array([[0.5, 0, 0, -12], [0, 0, 2, 30], [0, -0.5, 0, 7], [0, 0, 0, 1]])
    image = igtl.Image(np.zeros((3, 40, 50), np.uint8), ijk_to_world=place)
    assert numbers(image._repr_html_()) == place.tolist()


def test_an_image_without_pixels_is_a_table() -> None:
    image = igtl.Image(np.zeros((0, 4, 5), np.uint8))
    assert image._repr_png_() is None
    assert "<img" not in image._repr_html_()


def test_matrices_are_tables() -> None:
    pose = np.array([[0.0, -1, 0, 10.25], [1, 0, 0, -3], [0, 0, 1, 0.5], [0, 0, 0, 1]])
    assert numbers(igtl.Transform(pose)._repr_html_()) == pose.tolist()
    assert numbers(igtl.Pose(pose)._repr_html_()) == pose.tolist()


def test_what_a_peer_has_chosen_is_escaped() -> None:
    a, b = igtl.pipe()
    with a, b:
        a.send(igtl.Transform(np.eye(4), device_name="<b>ToX", metadata={"<i>": "<u>"}))
        message = b.recv(timeout=5)
        for html in (message._repr_html_(), b._repr_html_()):
            assert "&lt;b&gt;" in html
            assert not re.search("<[biu]>", html)


def test_a_link_shows_its_streams() -> None:
    a, b = igtl.pipe()
    with a, b:
        for _ in range(3):
            a.send(igtl.Transform(np.eye(4), device_name="Probe"))
        b.recv(timeout=5)
        for html in (b._repr_html_(), b.stats._repr_html_()):
            row = re.findall(r"<td[^>]*>(.*?)</td>", html)
            assert row[:2] == ["TRANSFORM", "Probe"]
            assert int(row[2]) >= 1


def test_a_graph_shows_its_links_and_what_is_wrong() -> None:
    now = 100.0
    graph = igtl.TransformGraph(max_age=5, clock=lambda: now)
    graph.set("ProbeToTracker", igtl.Pose.of(None, (1, 2, 3)), arrived=90)
    graph.set("ReferenceToTracker", np.eye(4), arrived=99)
    row, other = (
        re.findall(r"<td[^>]*>(.*?)</td>", line)
        for line in re.findall(r"<tr>(<td.*?)</tr>", graph._repr_html_())
    )
    assert row[:5] == ["ProbeToTracker", "1.0", "2.0", "3.0", "10.0"]
    assert "stale" in row[5] or "old" in row[5]
    assert other == ["ReferenceToTracker", "0.0", "0.0", "0.0", "1.0", ""]


def test_a_recording_shows_its_streams(tmp_path: Path) -> None:
    pytest.importorskip("mcap")
    with igtl.Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(11):
            pose = igtl.Transform(np.eye(4), device_name="Probe")
            recorder.write(pose, received=1000 + n / 10, peer="tracker:18944")
    with igtl.Recording(tmp_path / "a.mcap") as recording:
        row = re.findall(r"<td[^>]*>(.*?)</td>", recording._repr_html_())
    assert row == ["TRANSFORM", "Probe", "11", "10.0", "tracker:18944"]


# ---- the notebook -------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.skipif(not NOTEBOOK.is_file(), reason="installed without the examples")
def test_the_example_notebook_runs_and_shows_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell in IPython, as Jupyter runs it. It keeps no output, and leaves no file."""
    for extra in ("mcap", "uvicorn"):
        pytest.importorskip(extra)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    interactive = pytest.importorskip("IPython.core.interactiveshell", reason="no IPython")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    shown: list[dict[str, str]] = []
    interactive.InteractiveShell.clear_instance()
    config = pytest.importorskip("traitlets.config").Config()
    config.HistoryManager.enabled = False  # a thread that writes into a file
    shell = interactive.InteractiveShell.instance(config=config)
    try:
        for cell in cells:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []
                ran = shell.run_cell("".join(cell["source"]))
                ran.raise_error()
                shown.append(shell.display_formatter.format(ran.result)[0])
    finally:
        interactive.InteractiveShell.clear_instance()
    html = [data["text/html"] for data in shown if "text/html" in data]
    assert [re.findall(r"<caption>(&lt;)?(\w+)", text)[0][1] for text in html[:-1]] == [
        "IMAGE", "TRANSFORM", "TransformGraph", "Pose", "Link", "Recording",
    ]  # fmt: skip
    assert "<img src='data:image/png" in html[0]
    assert re.fullmatch(r'<iframe src="http://localhost:\d+/#\S+" .*></iframe>', html[-1])
    assert not list(here.iterdir())
