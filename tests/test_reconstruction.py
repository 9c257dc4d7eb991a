"""Volumes from freehand pictures, against phantoms of known shape and a reference that pastes pixel
by pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

import igtl
from igtl.calibration import Scan
from igtl.cli import main
from igtl.geometry import (
    CalibrationError,
    Pose,
    Reconstruction,
    ReconstructionError,
    Volume,
    fan,
    rectangle,
)
from igtl.simulate.freehand import Freehand
from tests.conftest import VECTORS
from tests.test_calibration import here, played, record  # noqa: F401  (a fixture)
from tests.test_cli import run


def ball(volume: Any, matrix: Any, hand: Freehand) -> tuple[float, float]:
    """The volume of what is bright, as a share of the ball's, less 1; and how far its centroid is
    off, mm."""
    inside = np.argwhere(np.asarray(volume) > 85)
    size = len(inside) * abs(np.linalg.det(matrix[:3, :3]))
    centroid = matrix @ np.append(inside.mean(axis=0)[::-1], 1)
    return (
        size / (4 / 3 * np.pi * hand.radius**3) - 1,
        float(np.linalg.norm(centroid[:3] - hand.centre)),
    )


def scanned(volume: Reconstruction, hand: Freehand, seconds: float = 8.0) -> Volume:
    scan = Scan(
        volume, tool="ProbeToReference", transforms={"ImageToProbe": hand.image_to_probe}
    )  # fmt: skip
    for message in hand.sweep(seconds):
        scan.add(message)
    scan.finish()
    assert scan.unplaced == 0
    return volume.result(fill=2)


# ---- accuracy ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("paste", "compounding"), [
    ("nearest", "mean"), ("linear", "mean"), ("nearest", "max"), ("nearest", "latest"),
])  # fmt: skip
def test_a_ball(paste: Any, compounding: Any) -> None:
    """By a probe whose poses have 0.1 mm of noise. The greatest value makes what is bright larger,
    by half a voxel at its surface or less."""
    hand = Freehand()
    volume = Reconstruction(0.6, paste=paste, compounding=compounding)
    found = scanned(volume, hand, 5)
    assert found.array.dtype == np.uint8
    size, away = ball(found.array, found.ijk_to_world, hand)
    assert abs(size) < (0.10 if compounding == "max" else 0.02)
    assert away < (0.15 if compounding == "mean" else 0.3)
    assert volume.frames == 100
    assert volume.outside == 0


def test_pictures_that_lie_on_the_grid_come_out_as_they_are() -> None:
    """In voxels of another size along each axis, as a volume as well, and in any order."""
    rng = np.random.default_rng(0)
    truth = rng.integers(-3000, 3000, (6, 20, 30)).astype(np.int16)
    matrix = np.diag([0.5, 0.25, 2, 1.0])
    matrix[:3, 3] = -7, 3, 10
    for paste in ("nearest", "linear"):
        for compounding in ("mean", "max", "latest"):
            one = Reconstruction((0.5, 0.25, 2), paste=paste, compounding=compounding)
            one.add(truth, matrix)
            many = Reconstruction((0.5, 0.25, 2), paste=paste, compounding=compounding)
            for k in (3, 0, 5, 1, 4, 2):
                place = matrix.copy()
                place[:3, 3] += k * matrix[:3, 2]
                assert many.add(truth[k], place) == 600
            for found in (one.result(), many.result()):
                np.testing.assert_array_equal(found.array, truth)
                np.testing.assert_allclose(found.ijk_to_world, matrix)
                assert found.filled.all()
                assert found.array.dtype == np.int16


def reference(frames: Any, spacing: float) -> dict[tuple[int, ...], float]:
    """The mean of the pixels in each voxel, one after the other."""
    sums: dict[tuple[int, ...], list[float]] = {}
    for picture, matrix in frames:
        found: dict[tuple[int, ...], list[float]] = {}
        for (k, j, i), value in np.ndenumerate(picture):
            place = (matrix @ [i, j, k, 1])[:3] / spacing
            found.setdefault(tuple(int(n) for n in np.rint(place)), []).append(float(value))
        for cell, values in found.items():
            sums.setdefault(cell, []).extend(values)
    return {cell: float(np.mean(values)) for cell, values in sums.items()}


@pytest.mark.parametrize("name", ["grey", "s16", "vol"])
def test_a_sequence_of_plus_against_pixel_by_pixel(name: str) -> None:
    """The pictures and poses of a PlusServer; PLUS leaves out the same frames as not valid."""
    image_to_probe = Pose.of(Rotation.from_euler("xyz", (0.3, -0.2, 0.1)), (1.03, 2.04, 3)).matrix
    image_to_probe = image_to_probe @ np.diag([0.4, 0.3, 0.5, 1])
    messages = igtl.files.load_sequence(VECTORS / "plus" / f"{name}.igs.mha")
    frames, picture = [], None
    for message in messages:
        if isinstance(message, igtl.Image):
            picture = message.array
        elif message.device_name == "ProbeToTracker" and (
            message.metadata["TransformStatus"] == "OK"
        ):
            frames.append((picture, message.matrix.astype(np.float64) @ image_to_probe))
    assert 5 < len(frames) < 10
    volume = Reconstruction(0.7)
    for picture, matrix in frames:
        volume.add(picture, matrix)
    found = volume.result()
    truth = reference(frames, 0.7)
    low = np.rint(found.ijk_to_world[:3, 3] / 0.7).astype(int)
    assert found.filled.sum() == len(truth)
    for cell, value in truth.items():
        k, j, i = (np.array(cell) - low)[::-1]
        assert found.array[k, j, i] == pytest.approx(value, abs=0.501)
    scan = Scan(
        Reconstruction(0.7), tool="ProbeToTracker",
        transforms={f"{name}ToProbe": image_to_probe, "ImageToProbe": image_to_probe},
    )  # fmt: skip
    for message in messages:
        scan.add(message)
    scan.finish()
    assert scan.volume.frames + scan.unplaced == 10
    assert scan.volume.frames >= len(frames)  # the pose of an invalid one lies between two others


def test_linear_pastes_by_distance() -> None:
    volume = Reconstruction(1.0, paste="linear")
    place = np.eye(4)
    place[:3, 3] = 0.25, 0, 0
    volume.add(np.full((1, 1), 100.0, np.float32), place)
    place[0, 3] = 1.25
    volume.add(np.full((1, 1), 200.0, np.float32), place)
    found = volume.result()
    np.testing.assert_allclose(found.array[0, 0], [100, (25 + 150) / 1, 200], rtol=1e-6)
    assert found.array.dtype == np.float32


def test_compounding() -> None:
    for compounding, value in (("mean", 20), ("max", 30), ("latest", 10)):
        volume = Reconstruction(1.0, compounding=compounding)
        for grey in (20, 30, 10):
            volume.add(np.full((4, 5), grey, np.uint8), np.eye(4))
        assert (volume.result().array == value).all(), compounding


# ---- holes, growth, masks ---------------------------------------------------------------------


def test_holes_are_filled_between_and_never_outwards() -> None:
    volume = Reconstruction(1.0)
    for z in (0, 4, 12):
        place = np.eye(4)
        place[2, 3] = z
        volume.add(np.full((5, 6), 10 * z, np.uint8), place)
    assert volume.result().holes == 0
    found = volume.result(fill=3.5)  # three voxels between 0 and 4, seven between 4 and 12
    assert found.holes == 3 * 30
    np.testing.assert_array_equal(found.array[:5, 2, 2], [0, 10, 20, 30, 40])
    assert not found.array[5:12].any()
    assert found.filled.sum() == 3 * 30
    found = volume.result(fill=20)
    np.testing.assert_array_equal(found.array[:, 4, 5], np.arange(13) * 10)
    assert found.array.shape == (13, 5, 6)


def test_growing_is_as_good_as_an_extent() -> None:
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(30):
        pose = Pose.of(Rotation.random(random_state=rng), rng.uniform(0, 25, 3))
        frames.append((rng.integers(0, 255, (20, 20)).astype(np.uint8), pose.matrix))
    for paste in ("nearest", "linear"):
        grown = Reconstruction(0.8, paste=paste)
        fixed = Reconstruction(0.8, paste=paste, extent=[(-80, 80)] * 3)
        for frame, matrix in frames:
            grown.add(frame, matrix)
            fixed.add(frame, matrix)
        a, b = grown.result(), fixed.result()
        assert fixed.outside == 0
        assert b.array.shape == (201, 201, 201)
        at = np.rint((a.ijk_to_world[:3, 3] - b.ijk_to_world[:3, 3]) / 0.8).astype(int)[::-1]
        inner = tuple(slice(n, n + size) for n, size in zip(at, a.array.shape, strict=True))
        np.testing.assert_array_equal(a.array, b.array[inner])
        np.testing.assert_array_equal(a.filled, b.filled[inner])
        assert b.filled.sum() == a.filled.sum()
        for axis in range(3):  # no empty border
            assert a.filled.take(0, axis).any()
            assert a.filled.take(-1, axis).any()


def test_what_lies_outside_of_the_extent_is_counted() -> None:
    volume = Reconstruction(1.0, extent=((0, 3), (0, 100), (-1, 1)))
    assert volume.add(np.ones((5, 10), np.uint8), np.eye(4)) == 20
    assert volume.outside == 30
    far = np.eye(4)
    far[2, 3] = 50
    assert volume.add(np.ones((5, 10), np.uint8), far) == 0
    assert volume.outside == 80
    assert volume.result().array.sum() == 20


def test_the_size_is_limited_before_memory_is_taken() -> None:
    volume = Reconstruction(1.0, max_voxels=20_000)
    volume.add(np.ones((50, 50), np.uint8), np.eye(4))
    far = np.eye(4)
    far[2, 3] = 1e7
    with pytest.raises(
        ReconstructionError,
        match=r"50x50x10000001 voxels, the limit is 20000: .* spacing of about 110 mm",
    ):
        volume.add(np.ones((50, 50), np.uint8), far)
    far[2, 3] = 7  # less than the room that it would like
    volume.add(np.ones((50, 50), np.uint8), far)
    assert volume.result().array.shape == (8, 50, 50)
    assert volume.frames == 2
    with pytest.raises(ReconstructionError, match="the limit is"):
        Reconstruction(0.001, extent=((0, 1e6), (0, 1e6), (0, 1e6)))
    far[2, 3] = 1e30
    with pytest.raises(ValueError, match="farther away"):
        volume.add(np.ones((5, 5)), far)


def test_masks() -> None:
    frame = np.arange(1, 49, dtype=np.uint8).reshape(6, 8)
    mask = rectangle(frame.shape, 2, 1, 3, 4)
    assert mask.sum() == 12
    for given in (mask, lambda shape: rectangle(shape, 2, 1, 3, 4)):
        volume = Reconstruction(1.0, mask=given)
        assert volume.add(frame, np.eye(4)) == 12
        found = volume.result()
        np.testing.assert_array_equal(found.array[0], frame[1:5, 2:5])
        np.testing.assert_array_equal(found.ijk_to_world[:3, 3], (2, 1, 0))
    with pytest.raises(ValueError, match=r"the mask is \(6, 8\), a picture \(7, 8\)"):
        Reconstruction(1.0, mask=mask).add(np.zeros((7, 8)), np.eye(4))
    part = fan((200, 300), (150, -20), (-30, 30), (60, 180))
    assert part[100, 150]
    assert not part[30, 150]  # too near
    assert not part[190, 150]  # too far
    assert part[100, 150 + 60]
    assert not part[100, 150 + 80]  # 33 degrees
    np.testing.assert_array_equal(part, fan((200, 300), (150, -20), (-30, 30), (60, 180))[:, ::1])
    area = np.pi * (180**2 - 60**2) / 6
    assert part.sum() == pytest.approx(area, rel=0.02)


def test_colours_and_wrong_arguments() -> None:
    volume = Reconstruction(1.0)
    volume.add(np.full((3, 4, 3), (10, 20, 60), np.uint8), np.eye(4))
    assert (volume.result().array == 30).all()
    for wrong in (np.zeros(5), np.zeros((2, 2, 2, 2, 2))):
        with pytest.raises(ValueError, match="not a picture"):
            volume.add(wrong, np.eye(4))
    with pytest.raises(ValueError, match="4x4 and finite"):
        volume.add(np.zeros((3, 4)), np.full((4, 4), np.nan))
    with pytest.raises(ReconstructionError, match="nothing in the volume"):
        Reconstruction(1.0).result()
    for arguments in ({"spacing": 0}, {"spacing": (1, 1, np.inf)}, {"paste": "cubic"},
                      {"compounding": "min"}, {"extent": ((1, 0), (0, 1), (0, 1))}):  # fmt: skip
        with pytest.raises(ValueError, match="must be"):
            Reconstruction(**arguments)


# ---- scans ------------------------------------------------------------------------------------


def test_a_body_that_moves_and_a_lag() -> None:
    """Poses that are late by 60 ms, of a probe and of what is scanned, which moves about."""
    hand = Freehand(noise=0.02)
    scan = Scan(
        Reconstruction(0.6), "Image", "ProbeToTracker", "ReferenceToTracker",
        transforms={"ImageToProbe": hand.image_to_probe}, lag=0.06,
    )  # fmt: skip
    for message in hand.sweep(5):
        if isinstance(message, igtl.Transform):
            t = message.timestamp
            body = Pose.of(
                Rotation.from_euler("xyz", (0.1 * np.sin(t), 0.2 * np.cos(t), 0)),
                (9 * np.sin(t), 5, 0),
            )
            probe = body @ Pose(message.matrix)
            for name, pose in (("ProbeToTracker", probe), ("ReferenceToTracker", body)):
                scan.add(igtl.Transform(pose.matrix, device_name=name, timestamp=t + 0.06))
        else:
            scan.add(message)
    scan.finish()
    found = scan.volume.result(fill=2)
    size, away = ball(found.array, found.ijk_to_world, hand)
    assert abs(size) < 0.02
    assert away < 0.15
    assert scan.volume.frames >= 99


def test_what_a_scan_refuses() -> None:
    image = igtl.Image(np.zeros((1, 4, 4), np.uint8), device_name="Image", timestamp=1)
    for scan, reason in (
        (Scan(Reconstruction(), tool="ProbeToReference"), "no pose has arrived"),
        (Scan(Reconstruction(), tool="AToB"), "no pose 'AToB' has arrived; there are ProbeToX"),
        (Scan(Reconstruction(), tool="ProbeToX"), "ImageToProbe is not known: .* there are none"),
    ):
        if "arrived;" in reason or "known" in reason:
            scan.add(igtl.Transform(np.eye(4), device_name="ProbeToX", timestamp=1))
        scan.add(image)
        with pytest.raises(CalibrationError, match=reason):
            scan.finish()


def test_pictures_without_a_pose_are_counted() -> None:
    scan = Scan(Reconstruction(), tool="ProbeToX", transforms={"ImageToProbe": np.eye(4)})
    for n in range(300):
        scan.add(igtl.Image(np.ones((1, 4, 4), np.uint8), device_name="Image", timestamp=n + 1))
    assert scan.unplaced == 100  # no more than 200 wait
    scan.add(igtl.Transform(np.eye(4), device_name="ProbeToX", timestamp=150))
    scan.finish()
    assert scan.volume.frames == 1
    assert scan.unplaced == 299


# ---- the command ------------------------------------------------------------------------------


def reconstruct(*args: object, exit_code: int = 0) -> str:
    done = CliRunner().invoke(main, ["reconstruct", *map(str, args)])
    assert done.exit_code == exit_code, done.output
    return done.output


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recording, and a configuration."""
    folder = tmp_path_factory.mktemp("scan")
    hand = Freehand()
    config = folder / "plus.xml"
    igtl_transform = igtl.calibration.NamedTransform("Image", "Probe", hand.image_to_probe)
    igtl.calibration.update_config(config, [igtl_transform])
    return record(folder / "sweep.mcap", hand.sweep(5)), config


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
def test_a_recording_into_a_file(case: Any, tmp_path: Path, suffix: str) -> None:
    source, config = case
    path = tmp_path / f"volume{suffix}"
    said = reconstruct(
        source, "--tool", "ProbeToReference", "--config", config, "--to", path,
        "--spacing", "0.6", "--fill", "2",
    )  # fmt: skip
    assert "100 pictures" in said
    found = igtl.files.load(path)
    assert isinstance(found, igtl.Image)
    size, away = ball(found.array, found.to("RAS").array_to_world, Freehand())
    assert abs(size) < 0.02
    assert away < 0.15


def test_options(case: Any, tmp_path: Path) -> None:
    source, config = case
    path = tmp_path / "volume.nrrd"
    base = [source, "--tool", "ProbeToReference", "--config", config, "--to", path]
    reconstruct(*base, "--extent", 10, 20, -20, 0, 30, 50, "--spacing", 1, "--paste", "linear")
    assert igtl.files.load(path).array.shape == (21, 21, 11)
    assert "--force" in reconstruct(*base, exit_code=1)  # writes over it
    base.append("--force")
    whole = reconstruct(*base, "--spacing", 1)
    assert igtl.files.load(path).array.shape[2] > 50
    part = reconstruct(*base, "--spacing", 1, "--clip", 80, 60, 40, 40, "--compounding", "max")
    assert igtl.files.load(path).array.shape[2] < 25
    assert whole != part
    reconstruct(*base, "--spacing", 1, "--fan", 100, -50, -15, 15, 60, 190)
    said = reconstruct(*base, "--spacing", 0.1, "--max-voxels", 100000, exit_code=1)
    assert "the limit is 100000" in said
    assert "ImageToProbe is not known" in reconstruct(
        source, "--tool", "ProbeToReference", "--to", tmp_path / "new.nrrd", exit_code=1
    )
    assert "exclude each other" in reconstruct(
        *base, "--clip", 1, 1, 9, 9, "--fan", 1, 1, 1, 2, 1, 2, exit_code=2
    )


def placed(seconds: float) -> Any:
    """Pictures that say themselves where they are, as PLUS sends them."""
    hand, matrix = Freehand(noise=0), np.eye(4)
    for message in hand.sweep(seconds):
        if isinstance(message, igtl.Image):
            yield igtl.Image.from_frame(
                message.array[0], ijk_to_world=matrix @ hand.image_to_probe,
                device_name="Image_Reference", timestamp=message.timestamp,
            )  # fmt: skip
        else:
            matrix = message.matrix.astype(np.float64)


@pytest.mark.processes
def test_live_until_the_server_ends(here: igtl.Listener, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "live.mha"
    thread = played(here, placed(3))
    done = run("reconstruct", f"localhost:{here.port}", "-s", "4", "--to", str(path), "--fill", "3")
    thread.join(20)
    assert done.returncode == 0, done.stderr
    assert "60 pictures" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    found = igtl.files.load(path)
    size, away = ball(found.array, found.to("RAS").array_to_world, Freehand())
    assert abs(size) < 0.04
    assert away < 0.15


@pytest.mark.processes
def test_live_until_the_volume_is_too_large(here: igtl.Listener, tmp_path: Path) -> None:  # noqa: F811
    """What there is until then is written."""
    path = tmp_path / "live.mha"
    thread = played(here, placed(3))
    done = run(
        "reconstruct", f"localhost:{here.port}", "--to", str(path), "--max-voxels", "400000"
    )  # fmt: skip
    thread.join(20)
    assert done.returncode == 1
    assert "the limit is 400000" in done.stderr
    assert igtl.files.load(path).array.size <= 400_000
