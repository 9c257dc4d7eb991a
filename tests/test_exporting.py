"""What exports of all formats have in common: losses, memory, what is written where."""

from __future__ import annotations

import csv
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Frame, Recorder, Recording

pytest.importorskip("mcap")


def test_a_part_is_a_recording_again(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(10):
            for name in ("A", "B"):
                message = igtl.Transform(np.eye(4), device_name=name, message_id=n + 1)
                recorder.write(message, peer=("h", 1), connection=3, received=1000 + n)
            recorder.event("tick", received=1000 + n, number=n)
    igtl.export(tmp_path / "a.mcap", tmp_path / "b.mcap", streams=["B"], start=2, end=5)
    with Recording(tmp_path / "a.mcap") as whole, Recording(tmp_path / "b.mcap") as part:
        assert list(part.streams) == [("TRANSFORM", "B")]
        wanted = list(whole.frames(["B"], start=2, end=5))
        assert [(r.time_ns, bytes(r.frame.data), r.peer, r.connection) for r in part] == [
            (r.time_ns, bytes(r.frame.data), r.peer, r.connection) for r in wanted
        ]
        assert [event["number"] for event in part.events] == [2, 3, 4, 5]


def test_only_what_is_damaged_in_that_time_is_counted(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(10):
            wire = bytearray(igtl.Transform(np.eye(4), device_name="A").pack())
            wire[-1] ^= n in (1, 2, 8)
            recorder.write(Frame.from_bytes(bytes(wire)), received=1000 + n)
    for start, end, count in ((0, None, 3), (0, 2, 2), (8, None, 1)):
        with pytest.warns(igtl.FileWarning, match=f"{count} messages are left out"):
            igtl.export(tmp_path / "a.mcap", tmp_path / "a.npz", start=start, end=end)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        igtl.export(tmp_path / "a.mcap", tmp_path / "a.npz", start=3, end=7)
    with np.load(tmp_path / "a.npz") as arrays:
        assert len(arrays["TRANSFORM/A/matrix"]) == 5


def test_compressed_messages_are_opened(tmp_path: Path) -> None:
    pack = igtl.Compression(level="fast")
    with Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(4):
            picture = np.full((120, 130), n, np.uint8)
            wire = pack.wrap(igtl.Image.from_frame(picture, device_name="I").pack())
            assert Frame.from_bytes(wire).type_name == "COMPRESSED"
            recorder.write(Frame.from_bytes(wire), received=1000 + n)
        bomb = igtl.Compressed(1, 1, "IMAGE", 1 << 40, b"", device_name="I")
        recorder.write(bomb, received=1004)
    with pytest.warns(igtl.FileWarning, match="1 COMPRESSED messages are left out"):
        igtl.export(tmp_path / "a.mcap", tmp_path / "a.npz", start=1)
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["IMAGE/I/frames"][:, 0, 0].tolist() == [1, 2, 3]


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap") as recorder:
        for name in ("=1+1", "+A1", "-2", "@SUM(A1)", "plain"):
            recorder.write(igtl.Status.ok(name, device_name=name))
            recorder.write(igtl.Sensor([-1.5], device_name=name))
    igtl.export(tmp_path / "a.mcap", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = ["'=1+1", "'+A1", "'-2", "'@SUM(A1)", "plain"]
    assert [row["device_name"] for row in rows if row["type"] == "SENSOR"] == expected
    assert [row["values_0"] for row in rows if row["type"] == "SENSOR"] == ["-1.5"] * 5


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 MB of pictures."""
    path = tmp_path_factory.mktemp("large") / "a.mcap"
    noise = np.random.default_rng(1).integers(0, 255, (512, 512), np.uint8)
    with Recorder(path, compression="none") as recorder:
        for n in range(160):
            image = igtl.Image.from_frame(np.roll(noise, n), device_name="I", timestamp=9 + n / 30)
            recorder.write(image, received=1000 + n / 30)
            pose = igtl.Transform(np.eye(4), device_name="AToB", timestamp=9 + n / 30)
            recorder.write(pose, received=1000 + n / 30)
    assert path.stat().st_size > 40 << 20
    return path


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("a.igs.mha", "numpy"), ("a.seq.nrrd", "nrrd"), ("bag", "rosbags"),
        ("a.foxglove.mcap", "foxglove"), ("b.mcap", "mcap"),
    ],
)  # fmt: skip
def test_memory_does_not_grow_with_the_recording(
    large: Path, tmp_path: Path, name: str, needs: str
) -> None:
    pytest.importorskip(needs)
    tracemalloc.start()
    try:
        igtl.export(large, tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in written) > 40 << 20


@pytest.mark.parametrize("name", ["a.igs.mha", "a.seq.nrrd", "a.seq.nhdr", "a.igs.nrrd"])
def test_long_sequences_come_back(large: Path, tmp_path: Path, name: str) -> None:
    """By SimpleITK, which knows nothing of igtl."""
    sitk: Any = pytest.importorskip("SimpleITK")
    pytest.importorskip("nrrd")
    igtl.export(large, tmp_path / name, end=0.3)
    image = sitk.ReadImage(str(tmp_path / name))
    pixels = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:  # a component for each image, to ITK
        pixels = np.moveaxis(pixels, -1, 0)
    with Recording(large) as recording:
        expected = np.asarray(recording["I"].between(0, 0.3).frames)
    np.testing.assert_array_equal(pixels.reshape(-1, 512, 512), expected)
    found = igtl.files.load_sequence(tmp_path / name)
    assert sum(isinstance(m, igtl.Transform) for m in found) == len(expected) == 10
