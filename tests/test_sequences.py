"""Sequences: files of PLUS and 3D Slicer, images in time, to timed messages and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Image, Transform
from tests.conftest import VECTORS, Slicer
from tests.test_cli import run

nrrd = pytest.importorskip("nrrd", reason="pynrrd is not installed")
nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
PLUS = VECTORS / "plus"  # files from which a PlusServer 2.9 sent


def frames_of(messages: list[igtl.Message]) -> list[Image]:
    return [m for m in messages if isinstance(m, Image)]


def transforms_of(messages: list[igtl.Message], name: str) -> list[Transform]:
    return [m for m in messages if isinstance(m, Transform) and m.device_name == name]


def equal(a: list[igtl.Message], b: list[igtl.Message]) -> None:
    """But for the names of images, which are those of the files."""
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert type(one) is type(other)
        assert one.timestamp == pytest.approx(other.timestamp, abs=1e-6)
        if isinstance(one, Image):
            assert isinstance(other, Image)
            np.testing.assert_array_equal(one.array, other.array)
            assert one.array.dtype == other.array.dtype
            np.testing.assert_allclose(one.ijk_to_world, other.ijk_to_world, atol=1e-4)
            assert one.metadata == other.metadata
        else:
            assert isinstance(one, Transform)
            assert isinstance(other, Transform)
            assert (one.device_name, one.metadata) == (other.device_name, other.metadata)
            np.testing.assert_allclose(one.matrix, other.matrix, atol=1e-5)


@pytest.mark.parametrize(("name", "shape", "dtype"), [
    ("grey", (1, 10, 12), np.uint8), ("rgb", (1, 10, 12, 3), np.uint8),
    ("s16", (1, 10, 12), np.int16), ("vol", (3, 5, 7), np.uint8),
])  # fmt: skip
def test_files_of_plus(tmp_path: Path, name: str, shape: Any, dtype: Any) -> None:
    messages = igtl.files.load_sequence(PLUS / f"{name}.igs.mha")
    images = frames_of(messages)
    assert len(messages) == 40
    assert [image.array.shape for image in images] == [shape] * 10
    assert images[0].array.dtype == dtype
    assert images[0].device_name == name
    np.testing.assert_allclose(images[0].ijk_to_world, np.eye(4))  # a frame of its own: no flip
    assert [image.timestamp for image in images[1:]] == pytest.approx(
        [0.05 * n for n in range(1, 10)]
    )
    assert dict(images[3].metadata) == {
        "FrameNumber": "3", "ImageStatus": "OK", "DepthMm": "43",
        "Sector Label": "frame 3 <a&b>", "Wert": "äµm",
    }  # fmt: skip
    probe = transforms_of(messages, "ProbeToTracker")
    assert [t.metadata["TransformStatus"] for t in probe[:4]] == ["OK", "OK", "MISSING", "OK"]
    np.testing.assert_allclose(probe[1].matrix[:3, 3], [11, 20, 30])
    np.testing.assert_allclose(
        probe[1].matrix[:2, :2], [[0.996195, -0.087156], [0.087156, 0.996195]]
    )
    assert len(transforms_of(messages, "LongStylusToolNameToTracker")) == 10
    raw = (PLUS / f"{name}.igs.mha").read_bytes().partition(b"ElementDataFile = LOCAL\n")[2]
    assert b"".join(image.array.tobytes() for image in images) == raw
    for suffix in (".igs.mha", ".igs.mhd", ".igs.nrrd", ".seq.mha", ".seq.nrrd"):
        path = tmp_path / f"again{suffix}"
        messages = igtl.files.load_sequence(PLUS / f"{name}.igs.mha")
        images = frames_of(messages)
        if suffix.endswith(".nrrd"):
            with pytest.warns(igtl.FileWarning, match="'Wert' is left out: .* are ASCII") as told:
                igtl.files.save_sequence(messages, path)
            assert len(told) == 1
            for image in images:
                image.metadata.pop("Wert")
        else:
            igtl.files.save_sequence(messages, path)
        equal(igtl.files.load_sequence(path), messages)


def tracked(count: int = 4, moving: bool = False) -> list[igtl.Message]:
    """Images, each with a transform a little later, and one of a tool that is lost."""
    messages: list[igtl.Message] = []
    for n in range(count):
        place = np.diag([0.5, 0.75, 2, 1.0])
        place[:3, 3] = (10 + n * moving, -20, 30)
        array = np.full((2, 3, 4), n, np.int16)
        at = 1000 + 0.1 * n
        messages.append(
            Image(array, ijk_to_world=place, device_name="Image_Reference", timestamp=at)
        )
        pose = np.eye(4)
        pose[0, 3] = n
        messages.append(Transform(pose, device_name="ProbeToReference", timestamp=at + 0.004))
        if n == 0:
            lost = Transform(pose, device_name="StylusToReference", timestamp=at)
            lost.metadata["TransformStatus"] = "INVALID"
            messages.append(lost)
    return messages


def test_what_is_near_in_time_goes_together(tmp_path: Path) -> None:
    path = tmp_path / "a.igs.mha"
    igtl.files.save_sequence(tracked(), path, tolerance=0.02)
    loaded = igtl.files.load_sequence(path)
    assert [image.timestamp for image in frames_of(loaded)] == pytest.approx(
        [1000, 1000.1, 1000.2, 1000.3]
    )
    probe = transforms_of(loaded, "ProbeToReference")
    assert [t.matrix[0, 3] for t in probe] == [0, 1, 2, 3]
    stylus = transforms_of(loaded, "StylusToReference")
    assert [t.metadata["TransformStatus"] for t in stylus] == ["INVALID", *["MISSING"] * 3]
    shuffled = [m for m in tracked() if isinstance(m, Transform)] + frames_of(tracked())
    igtl.files.save_sequence(shuffled, tmp_path / "b.igs.mha", tolerance=0.02)
    equal(igtl.files.load_sequence(tmp_path / "b.igs.mha"), loaded)


def test_images_that_move(tmp_path: Path) -> None:
    """Where each one is becomes a transform, as PLUS has it."""
    path = tmp_path / "a.igs.mha"
    with pytest.warns(igtl.FileWarning, match="written as the transform ImageToReference"):
        igtl.files.save_sequence(tracked(moving=True), path)
    loaded = igtl.files.load_sequence(path)
    for was, place in zip(
        frames_of(tracked(moving=True)), transforms_of(loaded, "ImageToReference"), strict=True
    ):
        np.testing.assert_allclose(place.matrix, was.ijk_to_world, atol=1e-5)
    np.testing.assert_allclose(frames_of(loaded)[0].ijk_to_world, np.eye(4))


def test_transforms_alone_and_tracking_data(tmp_path: Path) -> None:
    path = tmp_path / "a.seq.mha"
    only = [m for m in tracked() if isinstance(m, Transform)]
    igtl.files.save_sequence(only, path)
    loaded = igtl.files.load_sequence(path)
    assert not frames_of(loaded)
    with pytest.raises(igtl.FileError, match="holds no image; load_sequence"):
        igtl.files.load(path, frame=0)
    assert [t.matrix[0, 3] for t in transforms_of(loaded, "ProbeToReference")] == [0, 1, 2, 3]
    tools = igtl.TrackingData(
        [igtl.Tool("ProbeToTracker", matrix=np.diag([1, 2, 3, 1.0]))], timestamp=5
    )
    igtl.files.save_sequence([tools], path)
    (found,) = igtl.files.load_sequence(path)
    assert isinstance(found, Transform)
    assert (found.device_name, found.timestamp) == ("ProbeToTracker", 5)


def test_what_is_no_sequence(tmp_path: Path) -> None:
    path = tmp_path / "a.igs.mha"
    with pytest.raises(igtl.FileError, match="neither an image nor a transform"):
        igtl.files.save_sequence([], path)
    two = [Image(np.zeros((1, 2, 3), np.uint8), device_name=name) for name in ("A", "B")]
    with pytest.raises(igtl.FileError, match="images of one device, not of A, B"):
        igtl.files.save_sequence(two, path)
    two[1].device_name, two[1].array = "A", np.zeros((1, 2, 4), np.uint8)
    with pytest.raises(igtl.FileError, match="the images differ"):
        igtl.files.save_sequence(two, path)
    with pytest.warns(igtl.FileWarning, match="no place for STATUS"):
        igtl.files.save_sequence([two[0], igtl.Status.ok()], path)
    with pytest.raises(igtl.FileError, match="one image, not 4"):
        igtl.files.save_sequence(frames_of(tracked()), tmp_path / "a.tif")
    with pytest.raises(igtl.FileError, match="holds no images"):
        igtl.files.load_sequence(_stl(tmp_path))
    with pytest.raises(igtl.FileError, match="holds no images"):
        igtl.files.save_sequence(two, tmp_path / "a.stl")


def _stl(folder: Path) -> Path:
    igtl.files.save(igtl.PolyData(np.eye(3), polygons=[[0, 1, 2]]), folder / "a.stl")
    return folder / "a.stl"


# ---- images in time ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".seq.nrrd", ".mha"])
@pytest.mark.parametrize("colour", [False, True])
def test_one_of_several(tmp_path: Path, suffix: str, colour: bool) -> None:
    path = tmp_path / f"ct{suffix}"
    images = frames_of(tracked())
    for n, image in enumerate(images):
        image.timestamp = 2 + 0.5 * n
        if colour:
            image.array = np.full((2, 3, 4, 3), [n, 1, 2], np.uint8)
    igtl.files.save_sequence(images, path)
    with pytest.raises(igtl.FileError, match="holds 4 images: choose one"):
        igtl.files.load(path)
    third = igtl.files.load(path, frame=2)
    assert isinstance(third, Image)
    np.testing.assert_array_equal(third.array, images[2].array)
    np.testing.assert_allclose(third.ijk_to_world, images[2].ijk_to_world, atol=1e-4)
    with pytest.raises(igtl.FileError, match="has no image 4, there are 4"):
        igtl.files.load(path, frame=4)
    loaded = frames_of(igtl.files.load_sequence(path))
    assert [image.timestamp for image in loaded] == pytest.approx([2, 2.5, 3, 3.5])
    for one, other in zip(loaded, images, strict=True):
        np.testing.assert_array_equal(one.array, other.array)
    if suffix == ".nii.gz":
        assert nib.load(path).shape[3] == 4
        assert nib.load(path).header.get_zooms()[3] == 0.5


def test_one_image_is_a_sequence_too(tmp_path: Path) -> None:
    igtl.files.save(frames_of(tracked())[1], tmp_path / "ct.nii")
    (image,) = frames_of(igtl.files.load_sequence(tmp_path / "ct.nii"))
    assert image.array[0, 0, 0] == 1


# ---- 3D Slicer ----------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("suffix", [".seq.nrrd", ".seq.mha"])
def test_slicer_and_back(tmp_path: Path, slicer: Slicer, suffix: str) -> None:
    """Slicer writes .seq.mha of images, but cannot read even its own."""
    images = frames_of(tracked())
    for n, image in enumerate(images):
        image.timestamp = 0.5 * n + 1
    there, back = tmp_path / "there.seq.nrrd", tmp_path / f"back{suffix}"
    igtl.files.save_sequence(images, there)
    poses = tmp_path / "poses.seq.mha"
    only = transforms_of(tracked(), "ProbeToReference")
    igtl.files.save_sequence(only, poses)
    volumes, transforms = slicer([
        {"do": "sequence", "path": str(there), "to": str(back)},
        {"do": "sequence", "path": str(poses), "transforms": True, "to": str(tmp_path / "p.seq.mha")},
    ])  # fmt: skip
    assert "error" not in volumes, volumes
    assert (volumes["name"], volumes["unit"]) == ("time", "s")
    assert [float(frame["index"]) for frame in volumes["frames"]] == [1, 1.5, 2, 2.5]
    for frame, image in zip(volumes["frames"], images, strict=True):
        np.testing.assert_allclose(frame["matrix"], image.ijk_to_world, atol=1e-4)
        assert frame["values"] == image.array.ravel().tolist()
    loaded = frames_of(igtl.files.load_sequence(back))
    assert [image.timestamp for image in loaded] == pytest.approx([1, 1.5, 2, 2.5])
    for one, image in zip(loaded, images, strict=True):
        np.testing.assert_array_equal(one.array, image.array)
        np.testing.assert_allclose(one.ijk_to_world, image.ijk_to_world, atol=1e-4)
    again = igtl.files.load_sequence(tmp_path / "p.seq.mha")
    for frame, pose, found in zip(transforms["frames"], only, again, strict=True):
        np.testing.assert_allclose(frame["matrix"], pose.matrix, atol=1e-5)
        np.testing.assert_allclose(found.matrix, pose.matrix, atol=1e-5)  # type: ignore[attr-defined]
        assert found.timestamp == pytest.approx(pose.timestamp, abs=1e-3)


# ---- the commands -----------------------------------------------------------------------------


@pytest.mark.processes
def test_info_and_replay(tmp_path: Path) -> None:
    pytest.importorskip("mcap", reason="mcap is not installed")
    file = PLUS / "grey.igs.mha"
    told = json.loads(run("info", str(file), "--json", "--check").stdout)
    assert (told["count"], told["duration"]) == (40, pytest.approx(0.45))
    assert {each["device_name"] for each in told["streams"]} == {
        "grey", "ProbeToTracker", "ReferenceToTracker", "LongStylusToolNameToTracker"
    }  # fmt: skip
    assert "without date" in run("info", str(file)).stdout
    with igtl.listen(port=0) as listener:
        done = run("replay", str(file), "--peer", f":{listener.port}", "--speed", "max", "-q")
        assert done.returncode == 0, done.stderr
        with listener.accept(timeout=10) as link:
            got = list(link)
    for message in got:  # a name that is cut has the whole one beside it
        message.metadata.pop("IGTL_DEVICE_NAME", None)
    equal(got, igtl.files.load_sequence(file))
    wrong = run("info", str(_stl(tmp_path)))
    assert wrong.returncode == 1


@pytest.mark.processes
@pytest.mark.parametrize("suffix", [".igs.mha", ".seq.nrrd"])
def test_record(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("mcap", reason="mcap is not installed")
    path = tmp_path / f"a{suffix}"
    with igtl.serve(port=0, start=False) as server:

        @server.on(igtl.Status)  # the hello, after which metadata can be sent
        def _(message: igtl.Message, peer: Any) -> None:
            for each in tracked():
                peer.send(each)

        server.start()
        done = run("record", str(path), f":{server.port}", "-n", "9", "--hello", "-s", "30")
    assert done.returncode == 0, done.stderr
    assert f"{path}: written" in done.stderr
    equal_frames = frames_of(igtl.files.load_sequence(path))
    assert [image.array[0, 0, 0] for image in equal_frames] == [0, 1, 2, 3]
    assert run("record", str(path), f":{1}").returncode == 1  # it exists


@pytest.mark.processes
def test_send_one_image_of_a_file(tmp_path: Path) -> None:
    """And say what is in doubt, as a warning."""
    path = tmp_path / "ct4d.nii.gz"
    data = np.arange(4 * 24, dtype=np.int16).reshape(4, 2, 3, 4).transpose(3, 2, 1, 0)
    nib.save(nib.Nifti1Image(data, None), path)
    with igtl.listen(port=0) as listener:
        done = run("send", f"{path}[3]", f":{listener.port}")
        assert done.returncode == 0, done.stderr
        assert f"warning: {path}: neither its sform nor its qform is set" in done.stderr
        with listener.accept(timeout=10) as link:
            image = link.recv(timeout=10)
    assert isinstance(image, Image)
    assert image.array.ravel().tolist() == list(range(72, 96))
    several = run("send", str(path), ":1")
    assert several.returncode in (1, 3)


def test_transforms_alone_as_plus_writes_them(tmp_path: Path) -> None:
    """Images of size 0, of a type that is none."""
    path = tmp_path / "tracker.igs.mha"
    igtl.files.save_sequence([m for m in tracked() if isinstance(m, Transform)], path)
    data = path.read_bytes()
    assert data.count(b"MET_UCHAR") == 1
    path.write_bytes(data.replace(b"MET_UCHAR", b"MET_OTHER"))
    found = igtl.files.load_sequence(path)
    assert len(transforms_of(found, "ProbeToReference")) == 4
    assert not frames_of(found)


def test_a_volume_that_plus_has_reconstructed(tmp_path: Path) -> None:
    """It has three axes of space, and fields of one frame."""
    path = tmp_path / "volume.mha"
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = False\nDimSize = 4 3 2\n"
        "ElementSpacing = 0.5 0.5 0.5\nElementType = MET_UCHAR\nKinds = domain domain domain\n"
        "Offset = 1 2 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nUltrasoundImageOrientation = MFA\n"
        "Seq_Frame0000_ImageStatus = OK\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + bytes(range(24)))
    found = igtl.files.load(path)
    assert isinstance(found, Image)
    np.testing.assert_array_equal(found.array.ravel(), range(24))
    assert found.array.shape == (2, 3, 4)
    np.testing.assert_allclose(found.ijk_to_world[:3, 3], (1, 2, 3))
