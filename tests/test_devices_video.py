"""Cameras, films, the screen and ArUco markers, as devices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.devices import device_of
from igtl.devices.camera import Camera, Screen
from igtl.devices.film import Input, pictures
from tests.test_devices import QUICK

av: Any = pytest.importorskip("av", reason="av is not installed")
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


def film(path: Path, frames: list[np.ndarray], *, rate: int = 30, pixels: str = "bgr0") -> Path:
    """A lossless film."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        for frame in frames:
            form = "gray" if frame.ndim == 2 else "rgb24"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, form)))
        container.mux(stream.encode(None))
    return path


def plain(colour: Any, shape: tuple[int, ...] = (32, 48, 3)) -> np.ndarray:
    return np.full(shape, colour, np.uint8)


def images(source: Any) -> list[igtl.Image]:
    return [m for m in source if isinstance(m, igtl.Image)]


def test_a_film_arrives_pixel_by_pixel_in_its_own_time(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv", [plain(c) for c in COLOURS], rate=10)
    before = time.time()
    with igtl.devices.open(f"camera:{path}", name="Endo") as source:
        found = images(source)
        took = time.time() - before
    assert [tuple(m.array[0, 0, 0]) for m in found] == COLOURS
    assert all(m.device_name == "Endo" and m.array.shape == (1, 32, 48, 3) for m in found)
    stamps = [m.timestamp or 0 for m in found]
    assert np.diff(stamps) == pytest.approx([0.1, 0.1], abs=0.002)
    assert took >= 0.2
    assert before <= stamps[0] <= time.time()


def test_a_grey_film_stays_grey_and_need_not_take_its_time(tmp_path: Path) -> None:
    frames = [plain(n, (32, 48)) for n in range(100)]
    path = film(tmp_path / "film.mkv", frames, rate=1, pixels="gray")
    with igtl.devices.open(f"camera:{path}?pace=no") as source:
        found = images(source)
        assert source.dropped == 0
    assert [int(m.array[0, 5, 5]) for m in found] == list(range(100))
    assert found[0].array.shape == (1, 32, 48)
    assert np.diff([m.timestamp or 0 for m in found]) == pytest.approx(np.ones(99), abs=0.002)


def test_a_film_again_and_again_at_another_rate(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv", [plain(c) for c in COLOURS], rate=1)
    with igtl.devices.open(f"camera:{path}?loop=yes,fps=200") as source:
        found = [source.recv(10) for _ in range(7)]
    assert [tuple(m.array[0, 0, 0]) for m in found if isinstance(m, igtl.Image)] == [
        COLOURS[n % 3] for n in range(7)
    ]


@pytest.mark.parametrize("codec", ["MJPG", "VP90", "h264"])
def test_video(codec: str) -> None:
    if codec.upper() not in igtl.video.codecs_here():
        pytest.skip(f"this FFmpeg does not encode {codec}")
    decoder = igtl.VideoDecoder()
    spec = f"camera:testsrc=size=64x48:rate=100?encode={codec},fps=100"
    with igtl.devices.open(spec) as source:
        for _ in range(5):
            message = source.recv(10)
            assert isinstance(message, igtl.Video)
            assert message.codec == codec.upper()
            frame = decoder.decode(message)
            assert frame is not None
            assert frame.shape == (48, 64, 3)
            assert len(np.unique(frame)) > 10


def test_what_is_no_film_is_reported(tmp_path: Path) -> None:
    wrong = tmp_path / "film.mkv"
    wrong.write_bytes(b"no film")
    with igtl.devices.open(f"camera:{wrong}", backoff=QUICK) as source:
        status = source.recv(20)
        assert isinstance(status, igtl.Status)
        assert status.code == igtl.StatusCode.NOT_READY
        film(wrong, [plain(c) for c in COLOURS])  # and once it is one, it is played
        found = list(source)
    assert len([m for m in found if isinstance(m, igtl.Image)]) == 3
    assert [m.is_ok for m in found if isinstance(m, igtl.Status)][-1:] == [True]


@pytest.mark.parametrize(
    ("system", "spec", "kind", "url", "options"),
    [
        ("linux", "camera", "v4l2", "/dev/video0", {"timestamps": "abs"}),
        ("linux", "camera:/dev/video2?size=640x480,fps=30", "v4l2", "/dev/video2",
         {"timestamps": "abs", "video_size": "640x480", "framerate": "30"}),
        ("linux", "camera:1?ffmpeg=input_format=mjpeg:timestamps=default", "v4l2", "/dev/video1",
         {"timestamps": "default", "input_format": "mjpeg"}),
        ("darwin", "camera:0?fps=29.97", "avfoundation", "0", {"framerate": "29.97"}),
        ("win32", "camera:video=Webcam", "dshow", "video=Webcam", {}),
        ("linux", "camera:rtsp://host/live", None, "rtsp://host/live", {}),
        ("linux", "screen:?size=64x48,at=10x20", "x11grab", ":7",
         {"framerate": "10", "video_size": "64x48", "grab_x": "10", "grab_y": "20"}),
        ("win32", "screen", "gdigrab", "desktop",
         {"framerate": "10", "offset_x": "0", "offset_y": "0"}),
        ("darwin", "screen", "avfoundation", "Capture screen 0:none", {"framerate": "10"}),
    ],
)  # fmt: skip
def test_what_ffmpeg_is_asked_for(
    system: str, spec: str, kind: str | None, url: str, options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("igtl.devices.camera.sys", SimpleNamespace(platform=system))
    monkeypatch.setenv("DISPLAY", ":7")
    device = device_of(spec)
    assert isinstance(device, Camera | Screen)
    found = device.input
    assert (found.format, found.url, dict(found.options)) == (kind, url, options)
    assert found.live
    assert device.live


def test_cameras_that_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def look(kind: str) -> list[Any]:
        asked.append(kind)
        if kind == "avfoundation":
            raise OSError("it cannot tell")
        return [SimpleNamespace(name="Webcam", description="a camera")]

    module = SimpleNamespace(enumerate_input_devices=look)
    monkeypatch.setattr("igtl.devices.camera.ffmpeg", lambda: module)
    for system, found in (
        ("linux", ["Webcam (a camera)"]),
        ("win32", ["video=Webcam (a camera)"]),
        ("darwin", None),
    ):
        monkeypatch.setattr("igtl.devices.camera.sys", SimpleNamespace(platform=system))
        assert Camera.found() == found
    assert asked == ["v4l2", "dshow", "avfoundation"]
    monkeypatch.undo()
    assert Camera.found() is not None or not hasattr(av, "enumerate_input_devices")


def test_live_frames_have_the_stamp_of_the_driver_if_it_is_of_the_wall_clock(
    tmp_path: Path,
) -> None:
    """A film read as if it were live: its stamps begin at 0, or where they are told to."""
    path = film(tmp_path / "film.mkv", [plain(c) for c in COLOURS])
    found = []
    before = time.time()
    with pytest.raises(EOFError):
        for picture in pictures(Input(str(path))):
            assert picture is not None
            found.append(picture.stamp)
    assert all(before <= stamp <= time.time() for stamp in found)  # arrival
    past = time.time() - 3
    moved = tmp_path / "moved.nut"
    with av.open(str(path)) as old, av.open(str(moved), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.pts = packet.dts = packet.pts + round(past / packet.time_base)
                packet.stream = stream
                new.mux(packet)
    stamps = []
    with pytest.raises(EOFError):
        for picture in pictures(Input(str(moved))):
            assert picture is not None
            stamps.append(picture.stamp)
    assert stamps == pytest.approx([past, past + 1 / 30, past + 2 / 30], abs=0.002)


@pytest.fixture
def display(tmp_path: Path) -> Iterator[str]:
    """An X server of its own, all of whose screen is grey 128."""
    program = shutil.which("Xvfb")
    if program is None or sys.platform == "win32":
        pytest.skip("Xvfb is not installed")
    read, write = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(write), "-screen", "0", "320x240x24", "-nolisten", "tcp"],
        pass_fds=[write], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as number:
        name = number.readline().strip()
    if not name:
        server.wait(60)
        pytest.skip("Xvfb does not start here")
    yield f":{name}"
    server.terminate()
    server.wait(60)


def test_the_screen(display: str) -> None:
    with igtl.devices.open(f"screen:{display}?size=64x48,at=8x8,fps=20") as source:
        before = time.time()
        found = [source.recv(20) for _ in range(4)]
    for message in found:
        assert isinstance(message, igtl.Image), message
        assert message.array.shape == (1, 48, 64, 3)
        assert abs((message.timestamp or 0) - before) < 20
    assert found[0].device_name == "Screen"


# ---- markers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def markers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A rendered film of a marker, its calibration, and the true poses."""
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    from tests.test_examples import load

    example = load("devices")
    truth = example.poses(40)
    path, calibration = example.render(tmp_path_factory.mktemp("film"), truth)
    return path, calibration, truth


def test_poses_of_a_marker(markers: Any) -> None:
    path, calibration, truth = markers
    spec = f"aruco:{path}?calibration={calibration},mm=40,pace=no"
    with igtl.devices.open(spec) as source:
        found = [m for m in source if isinstance(m, igtl.Transform)]
    assert len(found) == len(truth)
    assert {m.device_name for m in found} == {"Marker7ToCamera"}
    away = [np.linalg.norm(m.matrix[:3, 3] - t[:3, 3]) for m, t in zip(found, truth, strict=True)]
    turn = [
        np.degrees(np.arccos(min(1.0, (np.trace(m.matrix[:3, :3].T @ t[:3, :3]) - 1) / 2)))
        for m, t in zip(found, truth, strict=True)
    ]
    print(f"error {np.median(away):.2f} mm, {max(away):.2f} mm at most; {np.median(turn):.2f}°")
    assert max(away) <= 2
    assert np.median(turn) <= 2


def test_markers_as_tdata_with_the_frames(markers: Any) -> None:
    path, calibration, truth = markers
    spec = f"aruco:{path}?pace=no,send=tdata,image=yes,name=Markers"
    with igtl.devices.open(spec, calibration=str(calibration)) as source:
        found = list(source)
    pictures, tracked = found[::2], found[1::2]
    assert len(pictures) == len(tracked) == len(truth)
    for picture, message in zip(pictures, tracked, strict=True):
        assert isinstance(picture, igtl.Image)
        assert isinstance(message, igtl.TrackingData)
        assert picture.timestamp == message.timestamp
        assert [tool.name for tool in message.tools] == ["Marker7"]


def test_markers_that_are_not_asked_for(markers: Any) -> None:
    path, calibration, _ = markers
    with igtl.devices.open(f"aruco:{path}?calibration={calibration},pace=no,ids=1,2") as source:
        assert list(source) == []
        assert source.failures == 0


@pytest.mark.parametrize("kind", ["json", "npz", "yaml", "xml"])
def test_calibrations(kind: str, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    from igtl.devices.aruco import read_lens

    matrix = np.array([[600.0, 0, 320], [0, 610, 240], [0, 0, 1]])
    distortion = np.array([0.1, -0.2, 0.001, 0.002, 0.3])
    path = tmp_path / f"camera.{kind}"
    if kind == "json":
        path.write_text(
            json.dumps({"camera_matrix": matrix.tolist(), "dist": [distortion.tolist()]})
        )
    elif kind == "npz":
        np.savez(path, mtx=matrix, dist=distortion, rvecs=np.zeros((3, 3)))
    else:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
        storage.write("camera_matrix", matrix)
        storage.write("distortion_coefficients", distortion)
        storage.write("image_width", 640)
        storage.release()
    lens = read_lens(str(path))
    assert lens.matrix == pytest.approx(matrix)
    assert lens.distortion == pytest.approx(distortion)


def test_a_calibration_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    from igtl.devices.aruco import read_lens

    path = tmp_path / "camera.json"
    path.write_text('{"matrix": [1, 2]}')
    with pytest.raises(ValueError, match="camera_matrix of 3 × 3; it has matrix"):
        read_lens(str(path))
    with pytest.raises(ValueError, match=r"\.json, \.yaml"):
        read_lens("camera.txt")
    with pytest.raises(FileNotFoundError):
        read_lens(str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match="calibration=FILE"):
        device_of("aruco:0")
    with pytest.raises(ValueError, match="did you mean '4X4_50'"):
        device_of("aruco:0?calibration=x.json,dictionary=4X4_51")
