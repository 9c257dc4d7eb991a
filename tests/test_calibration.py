"""Calibrations of stylus, time and probe against simulated data whose truth is known: the
arithmetic, the steps, the files of PLUS, and the command."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

import igtl
from igtl import calibration, simulate
from igtl.calibration import Pivot, Spin, Time, Touches, Wires, missing
from igtl.cli import main
from igtl.geometry import (
    CalibrationError,
    Pose,
    bright_line,
    bright_spots,
    calibrate_pivot,
    calibrate_probe,
    calibrate_spin,
    calibrate_time,
    calibrate_wires,
)
from igtl.simulate.freehand import HEIGHT, WIDTH, Freehand
from tests.test_cli import run

CORNERS = np.array([[u, v, 0, 1] for u in (0, WIDTH) for v in (0, HEIGHT)], np.float64)


def off(matrix: Any, truth: Any) -> float:
    """mm, the greatest distance at the corners of the picture."""
    return float(np.linalg.norm(((matrix - truth) @ CORNERS.T)[:3], axis=0).max())


def fed(step: calibration.Step, messages: Any) -> calibration.Step:
    for message in messages:
        step.add(message)
    return step


def known(hand: Freehand) -> dict[str, Any]:
    tip = np.eye(4)
    tip[:3, 3] = hand.tip
    return {"StylusTipToStylus": tip}


# ---- arithmetic -------------------------------------------------------------------------------


def test_pivot_leaves_out_poses_in_which_the_tip_slipped() -> None:
    hand = Freehand()
    poses = [message.matrix.astype(np.float64) for message in hand.pivot()]
    for n in range(0, len(poses), 5):
        poses[n][:3, 3] += (8, -5, 3)
    found = calibrate_pivot(poses)
    np.testing.assert_allclose(found.tip, hand.tip, atol=0.15)
    assert found.rejected == len(poses) // 5
    assert not found.used[::5].any()
    assert found.residuals[::5] == pytest.approx(9.9, abs=1.5)
    assert found.error < 0.3 < found.worst < 0.9
    assert 0.1 < found.conditioning < 0.4
    np.testing.assert_array_equal(found.matrix[:3, 3], found.tip)
    for n in range(0, len(poses), 2):
        poses[n][:3, 3] += np.random.default_rng(n).normal(0, 30, 3)
    with pytest.raises(CalibrationError, match="do not fit the others"):
        calibrate_pivot(poses)


def test_spin() -> None:
    hand = Freehand()
    found = calibrate_spin([message.matrix for message in hand.spin()])
    degrees = np.degrees(np.arccos(abs(found.axis @ hand.axis)))
    assert degrees < 0.05
    np.testing.assert_allclose(found.point, 0, atol=0.1)  # the axis goes through the marker
    assert found.error < 0.3
    matrix = found.matrix(hand.tip)
    np.testing.assert_allclose(matrix[:3, 2], hand.axis, atol=1e-3)  # forwards
    np.testing.assert_array_equal(matrix[:3, 3], hand.tip)
    assert igtl.geometry.is_rigid(matrix)


def test_spin_refuses() -> None:
    axis = np.array([0, 0.6, 0.8])
    little = [Pose.of(Rotation.from_rotvec(axis * a)) for a in np.linspace(0, 0.1, 20)]
    with pytest.raises(CalibrationError, match="degrees about their axis: turn it by 90"):
        calibrate_spin(little)
    swung = [message.matrix for message in Freehand().pivot()]
    with pytest.raises(CalibrationError, match=r"the axis tilts|do not fit"):
        calibrate_spin(swung)
    with pytest.raises(CalibrationError, match="4 poses"):
        calibrate_spin(little[:4])


def motion(t: Any) -> Any:
    return 60 + 12 * np.sin(np.pi * t + 0.8 * np.sin(0.7 * t)) + 2 * np.sin(2.6 * np.pi * t)


@pytest.mark.parametrize("true", [-0.12, 0.0, 0.073, 0.175])
def test_time(true: float) -> None:
    """With noise of 0.5 mm in each coordinate, 12 s at 120 Hz cannot tell the lag to better than
    0.44 ms (root mean square)."""
    errors, told = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        t = np.arange(0, 12, 1 / 120)
        places = np.outer(motion(t), (0.1, -0.2, 0.97)) + rng.normal(0, 0.5, (len(t), 3))
        stamps = np.sort(t + true + rng.normal(0, 0.001, len(t)))
        pictures = np.arange(0, 12, 1 / 30) + rng.normal(0, 0.002, 360)
        rows = 2.5 * motion(pictures) + rng.normal(0, 0.05, 360)
        rows[::17] = np.nan  # no line there
        found = calibrate_time(pictures, rows, stamps, places)
        errors.append(found.lag - true)
        told.append(found.uncertainty)
        assert found.correlation > 0.999
    assert np.sqrt(np.mean(np.square(errors))) < 0.0009
    assert abs(np.mean(errors)) < 0.0006
    assert 0.0003 < np.mean(told) < 0.0009


def test_time_refuses() -> None:
    t = np.arange(0, 12, 0.01)
    rng = np.random.default_rng(1)
    with pytest.raises(CalibrationError, match="several lags fit"):
        calibrate_time(t, np.sin(20 * t), t, np.sin(20 * t + 0.3))
    with pytest.raises(CalibrationError, match="does not follow the probe"):
        calibrate_time(t, motion(t), t, np.cumsum(rng.normal(0, 1, len(t))))
    with pytest.raises(CalibrationError, match="nothing moves"):
        calibrate_time(t, motion(t), t, np.zeros((len(t), 3)))
    with pytest.raises(CalibrationError, match="in common"):
        calibrate_time(t, motion(t), t + 11, motion(t))
    with pytest.raises(CalibrationError, match=r"no lag within ±0.1 s"):
        calibrate_time(t, motion(t), t + 0.2, motion(t), most=0.1)
    with pytest.raises(CalibrationError, match="0 samples"):
        calibrate_time(t, np.full(len(t), np.nan), t, motion(t))


@pytest.mark.parametrize(("touches", "limit"), [(6, 0.75), (12, 0.42), (30, 0.27)])
def test_probe_by_touches(touches: int, limit: float) -> None:
    """Mean error over the picture, of a tip known to 0.3 mm in each coordinate and to a pixel."""
    rng = np.random.default_rng(0)
    truth = Pose.of(rng.normal(size=4), (12, -5, 80)).matrix @ np.diag([0.15, 0.17, 0.16, 1])
    grid = np.array([[u, v, 0, 1.0] for u in (0, 320, 640) for v in (0, 240, 480)]).T
    errors = []
    for _ in range(60):
        pixels = rng.uniform((40, 40), (600, 440), (touches, 2))
        flat = np.c_[pixels, np.zeros(touches), np.ones(touches)]
        points = (flat @ truth.T)[:, :3] + rng.normal(0, 0.3, (touches, 3))
        found = calibrate_probe(pixels + rng.normal(0, 1, pixels.shape), points)
        errors.append(np.linalg.norm(((found.matrix - truth) @ grid)[:3], axis=0).mean())
    assert np.mean(errors) < limit


def test_probe_leaves_out_touches_that_were_elsewhere_and_takes_a_spacing() -> None:
    rng = np.random.default_rng(2)
    truth = Pose.of(rng.normal(size=4), (12, -5, 80)).matrix @ np.diag([0.2, 0.3, 0.25, 1])
    pixels = rng.uniform(0, 500, (40, 2))
    points = (np.c_[pixels, np.zeros(40), np.ones(40)] @ truth.T)[:, :3]
    points[:8] += rng.normal(0, 15, (8, 3))
    for spacing in (None, (0.2, 0.3)):
        found = calibrate_probe(pixels, points, spacing=spacing)
        np.testing.assert_allclose(found.matrix, truth, atol=1e-6)
        assert found.rejected == 8
        np.testing.assert_allclose(found.spacing, (0.2, 0.3))


@pytest.mark.parametrize(("pixels", "reason"), [
    (np.random.default_rng(0).uniform(0, 99, (3, 2)), "3 touches"),
    (np.outer(np.arange(9), (3, 2)), "lie on a line"),
    (np.full((9, 2), 5.0), "lie on a line"),
    (np.full((9, 2), np.nan), "not finite"),
    (np.zeros((9, 3)), r"must be \(n, 2\)"),
])  # fmt: skip
def test_probe_refuses(pixels: Any, reason: str) -> None:
    with pytest.raises(CalibrationError, match=reason):
        calibrate_probe(pixels, np.random.default_rng(1).normal(0, 9, (len(pixels), 3)))


def scene(hand: Freehand, count: int, width: float = 1.0) -> tuple[Any, Any]:
    """Where pictures cut the wires, and phantom to probe."""
    rng = np.random.default_rng(3)
    spacing = np.linalg.norm(hand.image_to_probe[:3, :3], axis=0)
    down = Rotation.from_matrix([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    pixels, poses = [], []
    for _ in range(count):
        turn = (Rotation.from_rotvec(rng.normal(0, 0.15 * width, 3)) * down).as_matrix()
        over = np.array([45, 20, 10]) + rng.normal(0, 4 * width, 3)
        middle = turn @ (np.array([WIDTH / 2, HEIGHT / 2, 0]) * spacing)
        image = Pose.of(turn, over - middle).matrix @ np.diag([*spacing, 1])
        pixels.append(hand.cut(image))
        poses.append(hand.image_to_probe @ np.linalg.inv(image))
    return np.array(pixels), np.array(poses)


def test_wires() -> None:
    hand = Freehand()
    pixels, poses = scene(hand, 12)
    found = calibrate_wires(pixels, poses, hand.wires)
    np.testing.assert_allclose(found.matrix, hand.image_to_probe, atol=1e-6)
    assert found.residuals.shape == (12, 9)
    rng = np.random.default_rng(4)
    pixels, poses = scene(hand, 60)
    pixels += rng.normal(0, 0.5, pixels.shape)
    wrong = rng.random(pixels.shape[:2]) < 0.1
    pixels[wrong] += rng.uniform(15, 40, (int(wrong.sum()), 2))
    unseen = rng.random(pixels.shape[:2]) < 0.05
    pixels[unseen] = np.nan
    rough = calibrate_wires(pixels, poses, hand.wires, refine=False)
    assert rough.residuals.shape == (60, 3)
    assert 0.1 < off(rough.matrix, hand.image_to_probe) < 1.5
    found = calibrate_wires(pixels, poses, hand.wires)
    assert off(found.matrix, hand.image_to_probe) < 0.3
    assert found.used[~wrong & ~unseen].mean() > 0.98
    assert not found.used[wrong].any()
    assert np.isnan(found.residuals[unseen]).all()


def test_wires_refuse() -> None:
    hand = Freehand()
    pixels, poses = scene(hand, 12)
    with pytest.raises(CalibrationError, match="4 pictures"):
        calibrate_wires(pixels[:4], poses[:4], hand.wires)
    for width in (0, 0.02):
        same, there = scene(hand, 12, width)
        with pytest.raises(CalibrationError, match=r"on a line|of the same place"):
            calibrate_wires(same, there, hand.wires)
    with pytest.raises(CalibrationError, match="make no N"):
        calibrate_wires(pixels, poses, hand.wires[[0, 2, 1, 3, 4, 5, 6, 7, 8]])
    with pytest.raises(CalibrationError, match="8 wires"):
        calibrate_wires(pixels[:, :8], poses, hand.wires[:8])
    with pytest.raises(CalibrationError, match="in the order of the picture"):
        calibrate_wires(pixels[:, ::-1], poses, hand.wires)


def test_lines_and_spots() -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(240)[:, None]
    for depth in (20.0, 100.4, 215.7):
        frame = rng.rayleigh(12, (240, 64)) + 160 * np.exp(-((rows - depth) ** 2) / 8)
        assert bright_line(frame.clip(0, 255).astype(np.uint8)) == pytest.approx(depth, abs=0.3)
    assert np.isnan(bright_line(rng.rayleigh(12, (240, 64))))
    oblique = rng.rayleigh(12, (240, 320)) + 160 * np.exp(
        -((rows - 90 - 0.2 * np.arange(320)) ** 2) / 8
    )
    oblique[:, 200:] = 0  # it is seen in a part of the picture
    middle = bright_line(oblique.clip(0, 255).astype(np.uint8))
    assert middle == pytest.approx(90 + 0.2 * 159.5, abs=0.3)
    assert np.isnan(bright_line(np.zeros((20, 20))))
    i, j = np.mgrid[:480, :640]
    places = np.array([[100.3, 80.2], [300.6, 82], [500, 79.5], [120, 300], [333.3, 310], [0, 0]])
    frame = rng.rayleigh(12, (1, 480, 640, 1)).repeat(3, axis=3)
    for u, v in places:
        spot = 200 * np.exp(-((j - u) ** 2 + (i - v) ** 2) / 12.5)
        frame[0] += spot[:, :, None]
    found = bright_spots(frame.clip(0, 255).astype(np.uint8), 6)
    nearest = np.linalg.norm(found[:, None] - places, axis=2).min(axis=0)
    assert (nearest[:5] < 0.3).all()
    assert nearest[5] < 2  # half of it is outside of the picture
    assert len(bright_spots(rng.rayleigh(12, (480, 640)), 6)) == 0
    assert bright_spots(np.zeros((40, 40)), 2).shape == (0, 2)
    with pytest.raises(ValueError, match="is not a picture"):
        bright_line(np.zeros((3, 40, 50)))


# ---- steps ------------------------------------------------------------------------------------


def test_pivot_says_what_motion_is_missing() -> None:
    step = Pivot()
    assert missing(step.goals()) == ["no pose has arrived"]
    messages = list(Freehand().pivot(10))
    fed(step, Freehand(noise=0.01).pivot(1, degrees=0.1))
    assert "swing the stylus about its tip, 30 degrees to each side" in missing(step.goals())
    with pytest.raises(CalibrationError, match="turn too little"):
        step.solve()
    fed(step, messages)
    assert missing(step.goals()) == []
    outcome = step.solve()
    assert [t.name for t in outcome.transforms] == ["StylusTipToStylus"]
    other = igtl.Transform(np.eye(4), device_name="StylusBToTracker")
    step.add(other)
    (hint,) = missing(step.goals())
    assert hint == "choose a pose by --tool: there are StylusBToTracker, StylusToTracker"


def test_pivot_beside_a_reference_that_moves() -> None:
    """In TDATA of PLUS, at other times, and with a status that says when a tool is lost."""
    hand = Freehand(noise=0.02)
    step = Pivot("StylusToTracker", "ReferenceToTracker")
    for n, message in enumerate(hand.pivot()):
        for share in (0, 0.5):
            t = message.timestamp + share / 20
            turn = Rotation.from_euler("xyz", (0.1 * np.sin(t), 0.02 * t % 1, 0.1 * np.cos(t)))
            moved = Pose.of(turn, (np.sin(t), 2 * np.cos(t), 3))
            tools = [igtl.Tool("ReferenceToTracker", matrix=moved.matrix)]
            sent = igtl.TrackingData(tools, timestamp=t)
            if share == 0:
                tools.append(
                    igtl.Tool("StylusToTracker", matrix=(moved @ Pose(message.matrix)).matrix)
                )
                sent = igtl.TrackingData(tools, timestamp=t)
                if n % 10 == 3:
                    sent.tools[1].matrix[:3, 3] = 0
                    sent.metadata["StylusToTrackerStatus"] = "OUT_OF_VIEW"
            step.add(sent)
    outcome = step.solve()
    assert step.tracks.invalid == {"StylusToTracker": 20}
    np.testing.assert_allclose(outcome.transforms[0].matrix[:3, 3], hand.tip, atol=0.1)
    assert outcome.result.samples == 180
    with pytest.raises(CalibrationError, match="in different frames"):
        step.add(igtl.Transform(np.eye(4), device_name="ProbeToPhantom"))
        fed(Pivot("StylusToTracker", "ProbeToPhantom"), [
            igtl.Transform(np.eye(4), device_name="StylusToTracker"),
            igtl.Transform(np.eye(4), device_name="ProbeToPhantom"),
        ]).solve()  # fmt: skip


def test_poses_of_trackers_that_round() -> None:
    """Rotations that are off by 1.4e-4, as in a recording of an electromagnetic tracker, count;
    those that scale do not."""
    hand = Freehand()
    step = Pivot()
    for n, message in enumerate(hand.pivot()):
        message.matrix[:3, :3] *= 1.00014 if n % 10 else 1.2
        step.add(message)
    assert step.tracks.invalid == {"StylusToTracker": 20}
    np.testing.assert_allclose(step.solve().transforms[0].matrix[:3, 3], hand.tip, atol=0.1)


def test_spin_from_the_tip() -> None:
    hand = Freehand()
    outcome = fed(Spin(transforms=known(hand)), hand.spin()).solve()
    (found,) = outcome.transforms
    assert found.name == "StylusTipToStylus"
    np.testing.assert_allclose(found.matrix[:3, 2], hand.axis, atol=2e-3)
    assert fed(Spin(), hand.spin()).solve().transforms[0].name == "StylusAxisToStylus"


@pytest.mark.parametrize("lag", [-0.05, 0.073])
def test_time_of_pictures(lag: float) -> None:
    step = fed(Time(), Freehand().tank(lag=lag))
    assert missing(step.goals()) == []
    outcome = step.solve()
    assert outcome.facts["lag ms"] == pytest.approx(1e3 * lag, abs=0.8)
    assert outcome.facts["LocalTimeOffsetSec"] == pytest.approx(-lag, abs=0.0008)
    assert outcome.transforms == ()


def test_time_without_a_line() -> None:
    """A picture that is shifted as a whole has no line; its principal motion does as well."""
    rng = np.random.default_rng(5)
    blobs = np.zeros((HEIGHT * 2, WIDTH))
    i, j = np.mgrid[: HEIGHT * 2, :WIDTH]
    for _ in range(25):
        u, v = rng.uniform(0, WIDTH), rng.uniform(0, 2 * HEIGHT)
        blobs += 120 * np.exp(-((j - u) ** 2 + (i - v) ** 2) / 300)
    step = Time()
    for message in Freehand().tank(lag=0.05):
        if isinstance(message, igtl.Image):
            t = message.timestamp - 1.7e9
            depth = 24 + 8 * np.sin(3 * t + 0.8 * np.sin(0.7 * t)) + 2 * np.sin(8 * t)
            frame = np.roll(blobs, -round(depth / 0.3), axis=0)[:HEIGHT]
            message = igtl.Image.from_frame(
                frame.clip(0, 255).astype(np.uint8),
                device_name="Image",
                timestamp=message.timestamp,
            )
        step.add(message)
    assert any("line" in hint for hint in missing(step.goals()))
    assert step.solve().facts["lag ms"] == pytest.approx(50, abs=5)


def test_probe_by_stylus() -> None:
    hand = Freehand()
    step = fed(Touches(transforms=known(hand)), hand.touches())
    assert missing(step.goals()) == []
    outcome = step.solve()
    assert [t.name for t in outcome.transforms] == ["ImageToProbe"]
    assert off(outcome.transforms[0].matrix, hand.image_to_probe) < 0.2
    with pytest.raises(CalibrationError, match="StylusTipToStylus comes from igtl calibrate pivot"):
        fed(Touches(), hand.touches(1)).solve()


def test_probe_by_wires() -> None:
    hand = Freehand()
    step = fed(Wires(hand.wires), hand.phantom())
    assert missing(step.goals()) == []
    outcome = step.solve()
    mirrored = hand.wires.reshape(3, 3, 2, 3)[:, ::-1].reshape(9, 2, 3)
    other = fed(Wires(mirrored), hand.phantom(3)).solve()
    assert off(other.transforms[0].matrix, hand.image_to_probe) < 0.3
    assert off(outcome.transforms[0].matrix, hand.image_to_probe) < 0.2
    assert outcome.result.residuals.shape == (120, 9)


def test_a_phantom_that_is_registered_beside_its_marker() -> None:
    """As PLUS has it: PhantomToReference is known, ReferenceToTracker is tracked."""
    hand = Freehand()
    registered = Pose.of(Rotation.from_euler("xyz", (0.3, 2, -1)), (10, 20, 30))
    step = Wires(hand.wires, transforms={"PhantomToReference": registered.matrix})
    for message in hand.phantom(3):
        if message.device_name == "PhantomToReference":
            message.device_name = "ReferenceToTracker"
            message.matrix = (Pose(message.matrix) @ registered.inverse).matrix
        elif message.device_name == "ProbeToReference":
            message.device_name = "ProbeToTracker"
        step.add(message)
    assert off(step.solve().transforms[0].matrix, hand.image_to_probe) < 0.3


def test_frames_of_plus_hold_both() -> None:
    """TRACKEDFRAME: the picture and all poses of its instant."""
    hand = Freehand()
    step = Touches(transforms=known(hand))
    poses: dict[str, Any] = {}
    for message in hand.touches():
        if isinstance(message, igtl.Image):
            frame = igtl.TrackedFrame(message.array, transforms=poses, timestamp=message.timestamp)
            step.add(igtl.unpack(frame.pack()))
        else:
            poses[message.device_name] = message.matrix
    assert off(step.solve().transforms[0].matrix, hand.image_to_probe) < 0.2


def test_video_is_decoded() -> None:
    """A damaged frame is counted."""
    pytest.importorskip("simplejpeg", reason="simplejpeg is not installed")
    hand = Freehand()
    step = Touches(transforms=known(hand))
    encoder = igtl.VideoEncoder("MJPG", device_name="Image")
    for message in hand.touches():
        if isinstance(message, igtl.Image):
            sent = encoder.encode(message.array[0])
            sent.timestamp = message.timestamp
            message = igtl.unpack(sent.pack())
        step.add(message)
    assert off(step.solve().transforms[0].matrix, hand.image_to_probe) < 0.25
    sent.payload = b"no picture at all"
    step.add(sent)
    assert step.damaged == 1


def test_one_bad_frame_is_counted() -> None:
    frame = igtl.TrackedFrame(np.zeros((8, 8), np.uint8), transforms={"ProbeToTracker": np.eye(4)})
    frame.xml = "<TrackedFrame"
    step = Touches()
    step.add(frame)
    assert step.damaged == 1
    assert step.tracks.names == []


# ---- files of PLUS ----------------------------------------------------------------------------

ROOT, PLACE = "PlusConfiguration", "CoordinateDefinitions"
CONFIG = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<!-- made by a person; <Transform From="Image" To="Probe"/> is below -->
<PlusConfiguration version="2.9">\r
  <DataCollection>
    <Device Id="TrackerDevice" Type="X"
            AcquisitionRate = '50' LocalTimeOffsetSec='0.1'/>
    <Device Id="Vidéo" Type="Y"></Device>
  </DataCollection>
  <CoordinateDefinitions>
    <Transform From="Image"  To='Probe' Note="a > b"
      Matrix="1 0 0 0
              0 1 0 0
              0 0 1 0  0 0 0 1" Date="old" />
    <Transform From="A" To="B" Matrix="1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"/>
  </CoordinateDefinitions>
</PlusConfiguration>
"""


def test_a_configuration_keeps_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "plus.xml"
    path.write_bytes(CONFIG.encode())
    matrix = np.arange(16.0).reshape(4, 4) / 3
    matrix[3] = 0, 0, 0, 1
    calibration.update_config(
        path,
        [
            calibration.NamedTransform("Image", "Probe", matrix, 0.25, "2026-01-01"),
            calibration.NamedTransform("StylusTip", "Stylus", np.eye(4), 0.5),
        ],
        {"TrackerDevice": -0.0731},
    )
    text = path.read_bytes().decode()
    numbers = calibration.plusconfig.matrix_text(matrix)
    there = CONFIG.replace("LocalTimeOffsetSec='0.1'", 'LocalTimeOffsetSec="-0.073100"')
    old = there[there.index('Matrix="1 0 0 0\n') : there.index(' Date="old"')]
    there = there.replace(old, f'Matrix="{numbers}"').replace(
        'Date="old"', 'Date="2026-01-01" Error="0.25"'
    )
    before, _, after = there.partition("  </CoordinateDefinitions>")
    eye = "1 0 0 0  0 1 0 0  0 0 1 0  0 0 0 1"
    new = f'    <Transform From="StylusTip" To="Stylus" Matrix="{eye}" Error="0.5"/>\r\n'
    assert text == before + new + "  </CoordinateDefinitions>" + after
    found = calibration.read_config(path)
    np.testing.assert_allclose(found.transforms["ImageToProbe"], matrix, rtol=1e-8)
    assert set(found.transforms) == {"ImageToProbe", "AToB", "StylusTipToStylus"}
    assert found.devices == ("TrackerDevice", "Vidéo")
    assert list(tmp_path.iterdir()) == [path]


def test_a_configuration_without_a_place_and_a_new_one(tmp_path: Path) -> None:
    transform = calibration.NamedTransform("StylusTip", "Stylus", np.eye(4))
    for text in (
        '<PlusConfiguration version="2.9">\n</PlusConfiguration>',
        '<PlusConfiguration version="2.9"><CoordinateDefinitions/></PlusConfiguration>',
        '<PlusConfiguration v="2"><CoordinateDefinitions>\n</CoordinateDefinitions></PlusConfiguration>',
        None,
    ):
        path = tmp_path / "plus.xml"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        for _ in range(2):  # the second time it is there
            calibration.update_config(path, [transform])
            found = calibration.read_config(path)
            assert list(found.transforms) == ["StylusTipToStylus"], text
            assert path.read_text().count("<Transform ") == 1


@pytest.mark.parametrize(("text", "reason"), [
    ("<Other/>", "its root is 'Other'"),
    ("<PlusConfiguration>", "not well-formed XML"),
    ("<!DOCTYPE a [<!ENTITY b 'c'>]><PlusConfiguration/>", "document type"),
    (f"<{ROOT}><{PLACE}><Transform From='A' To='B' Matrix='1 2'/></{PLACE}></{ROOT}>", "AToB has '1 2', not 16 numbers"),
    ("", "not well-formed XML"),
])  # fmt: skip
def test_what_is_no_configuration(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "plus.xml"
    path.write_text(text)
    with pytest.raises(igtl.FileError, match=reason):
        calibration.read_config(path)


def test_what_a_configuration_refuses(tmp_path: Path) -> None:
    path = tmp_path / "plus.xml"
    path.write_bytes(CONFIG.encode())
    with pytest.raises(igtl.FileError, match="no device 'X'; there are TrackerDevice, Vidéo"):
        calibration.update_config(path, offsets={"X": 1.0})
    with pytest.raises(igtl.FileError, match="holds ImageToProbe, the inverse"):
        calibration.update_config(path, [calibration.NamedTransform("Probe", "Image", np.eye(4))])
    assert path.read_bytes() == CONFIG.encode()


# ---- the command ------------------------------------------------------------------------------


def record(path: Path, messages: Any) -> Path:
    with igtl.Recorder(path) as recorder:
        for message in messages:
            recorder.write(igtl.Frame.from_bytes(message.pack()), received=message.timestamp)
    return path


def calibrate(*args: object, exit_code: int = 0) -> Any:
    done = CliRunner().invoke(main, ["calibrate", *map(str, args)])
    assert done.exit_code == exit_code, done.output
    return done


def phantom_xml(hand: Freehand) -> str:
    wires = [
        f'<Wire Name="{n}" EndPointFront="{" ".join(map(str, front))}" '
        f'EndPointBack="{" ".join(map(str, back))}"/>'
        for n, (front, back) in enumerate(hand.wires)
    ]
    patterns = "".join(
        f'<Pattern Type="NWire">{"".join(wires[n : n + 3])}</Pattern>' for n in (0, 3, 6)
    )
    return f"<PhantomDefinition><Geometry>{patterns}</Geometry></PhantomDefinition>"


def test_a_whole_calibration_into_a_configuration_of_plus(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    hand = Freehand()
    config = tmp_path / "plus.xml"
    config.write_text(
        '<PlusConfiguration version="2.9"><DataCollection><Device Id="Tracker" Type="X"/>'
        f"</DataCollection>{phantom_xml(hand)}</PlusConfiguration>"
    )
    steps = {
        "pivot": hand.pivot(), "spin": hand.spin(), "time": hand.tank(8),
        "probe": hand.touches(6), "wires": hand.phantom(3),
    }  # fmt: skip
    for name, messages in steps.items():
        source = record(tmp_path / f"{name}.mcap", messages)
        more: list[object] = {
            "pivot": [], "time": [], "wires": ["--config", config, "--wires"],
        }.get(name, ["--config", config])  # fmt: skip
        done = calibrate(
            "probe" if name == "wires" else name, source, *more, "--to", config,
            "--plot", tmp_path / f"{name}.png",
        )  # fmt: skip
        assert "0 left out" in done.output
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        found = calibration.read_config(config).transforms
        if name == "pivot":
            np.testing.assert_allclose(found["StylusTipToStylus"][:3, 3], hand.tip, atol=0.1)
        elif name in ("probe", "wires"):
            assert off(found["ImageToProbe"], hand.image_to_probe) < 0.2
    text = config.read_text()
    assert text.count("<Transform ") == 2
    (offset,) = [float(part.split('"')[1]) for part in text.split("LocalTimeOffsetSec=")[1:]]
    assert offset == pytest.approx(-0.073, abs=0.0008)


def test_json_and_what_is_known_from_it(tmp_path: Path) -> None:
    hand = Freehand()
    file = tmp_path / "tip.json"
    done = calibrate("pivot", record(tmp_path / "a.mcap", hand.pivot()), "--json", "--to", file)
    said = json.loads(done.stdout)
    assert said == json.loads(file.read_text())
    assert said["kind"] == "pivot"
    assert said["samples"] == 200
    assert said["transforms"][0]["from"] == "StylusTip"
    touches = record(tmp_path / "b.mcap", hand.touches())
    done = calibrate("probe", touches, "--config", file, "--json")
    assert off(json.loads(done.stdout)["transforms"][0]["matrix"], hand.image_to_probe) < 0.2


def test_a_sequence_of_plus_is_a_source(tmp_path: Path) -> None:
    hand = Freehand()
    messages = []
    for message in hand.touches():
        message.timestamp -= 1.7e9
        messages.append(message)
    path = tmp_path / "touches.igs.mha"
    igtl.files.save_sequence(messages, path)
    known_tip = tmp_path / "tip.json"
    outcome = fed(Pivot(), hand.pivot()).solve()
    calibration.save_outcome(outcome, known_tip)
    said = json.loads(calibrate("probe", path, "--config", known_tip, "--json").stdout)
    assert off(said["transforms"][0]["matrix"], hand.image_to_probe) < 0.2


def test_errors_of_the_command(tmp_path: Path) -> None:
    still = [*Freehand(noise=0.01).pivot(10, degrees=0.1)]
    source = record(tmp_path / "a.mcap", still)
    text = calibrate("pivot", source, exit_code=1).output
    assert "turn too little" in text
    assert "lean the stylus to all sides" in text
    assert "no pose 'Nope'" in calibrate("pivot", source, "--tool", "Nope", exit_code=1).output
    assert "no such file" in calibrate("pivot", tmp_path / "no.mcap", exit_code=2).output
    assert "--wires needs a --config" in calibrate("probe", source, "--wires", exit_code=2).output
    tank = record(tmp_path / "b.mcap", Freehand().tank(6))
    text = calibrate("time", tank, "--to", tmp_path / "new.xml", exit_code=1).output
    assert "a file that exists" in text
    with simulate.plus(port=0) as server:
        address = f"localhost:{server.port}"
        text = calibrate("time", tank, "--send", address, exit_code=1).output
    assert "PLUS has no command for a time offset" in text


@pytest.fixture
def here() -> Iterator[igtl.Listener]:
    with igtl.listen(port=0) as listener:
        yield listener


def played(listener: igtl.Listener, messages: Any) -> threading.Thread:
    """A server that sends messages to the first client, and stays."""

    def work() -> None:
        with listener.accept(timeout=20) as link, suppress(igtl.ConnectionClosed):
            for message in messages:
                link.send(message)
            link.recv(timeout=40)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.processes
def test_live_until_there_is_enough_and_into_a_plus_server(here: igtl.Listener) -> None:
    hand = Freehand()
    thread = played(here, hand.pivot())
    with simulate.plus(port=0) as server:
        done = run(
            "calibrate", "pivot", f"localhost:{here.port}", "--send", f"localhost:{server.port}"
        )
        thread.join(20)
        assert not thread.is_alive()
        assert done.returncode == 0, done.stderr
        assert "StylusTipToStylus" in done.stdout
        assert "completed successfully" in done.stderr
        assert "\x1b" not in done.stdout + done.stderr  # no terminal, no screen
        np.testing.assert_allclose(
            server.transforms["StylusTipToStylus"][:3, 3], hand.tip, atol=0.1
        )


@pytest.mark.processes
def test_live_without_enough_motion(here: igtl.Listener) -> None:
    thread = played(here, Freehand(noise=0.01).pivot(2, degrees=0.1))
    done = run("calibrate", "pivot", f"localhost:{here.port}", "-s", "1.5")
    thread.join(20)
    assert done.returncode == 1
    assert "swing the stylus about its tip" in done.stderr
    assert "Traceback" not in done.stderr
