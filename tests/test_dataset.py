"""Recordings as data: rows, pictures, pairs, and the files of other programs, read by others."""

from __future__ import annotations

import csv
import re
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl import Recorder, Recording
from igtl.cli import main
from igtl.simulate import Tracker

pytest.importorskip("mcap")

HZ, COUNT = 20, 40
SHAPE = (24, 32)


def picture(n: int) -> Any:
    """A grey picture that says which it is."""
    rows, columns = np.indices(SHAPE)
    return ((rows * 3 + columns * 2 + 4 * n) % 256).astype(np.uint8)


def pose(n: int) -> Any:
    return Tracker(seed=1).pose(n / HZ).astype(np.float32)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Poses, pictures, tools, forces and texts, of which some arrive late."""
    path = tmp_path_factory.mktemp("case") / "case.mcap"
    tracker = Tracker(dropout=0.5, seed=1)
    with Recorder(path) as recorder:
        for n in range(COUNT):
            t = n / HZ
            for k in range(2):  # twice as often as pictures
                late = t + k / HZ / 2
                number = 2 * n + k
                matrix = np.eye(4)
                matrix[0, 3] = number
                message = igtl.Transform(matrix, device_name="Probe", timestamp=1000 + late)
                recorder.write(message, received=2000 + late, peer="tracker:1")
            image = igtl.Image.from_frame(
                picture(n), device_name="Image", timestamp=1000 + t + 0.004
            )
            recorder.write(image, received=2000.3 + t)  # after poses that are newer
            tools = tracker.tracking_data(t)
            tools.timestamp = 1000 + t
            recorder.write(tools, received=2000 + t)
            force = igtl.Sensor([n, n / 2, -n], device_name="arm/force", timestamp=1000 + t)
            recorder.write(force, received=2000 + t)
        recorder.write(igtl.String("grüß", device_name="Note"), received=2001)
        recorder.write(igtl.NDArray(np.arange(6.0).reshape(2, 3), device_name="A"), received=2001)
    return path


# ---- arrays -----------------------------------------------------------------------------------


def test_pictures_are_an_array_that_is_read_when_asked_for(case: Path) -> None:
    with Recording(case) as recording:
        images = recording["Image"]
        frames = images.frames
        assert (frames.shape, frames.dtype, frames.ndim) == ((COUNT, *SHAPE), np.uint8, 3)
        assert len(frames) == len(images) == len(images.times) == len(images.timestamps) == COUNT
        np.testing.assert_array_equal(frames[7], picture(7))
        np.testing.assert_array_equal(frames[-1], picture(COUNT - 1))
        expected = np.stack([picture(n) for n in range(COUNT)])
        np.testing.assert_array_equal(np.asarray(frames), expected)
        np.testing.assert_array_equal(frames[30:2:-7], expected[30:2:-7])
        np.testing.assert_array_equal(frames[[5, 1, 5]], expected[[5, 1, 5]])
        np.testing.assert_array_equal(list(frames), expected)
        assert frames[3:3].shape == (0, *SHAPE)
        frames[7][:] = 0  # a copy
        np.testing.assert_array_equal(frames[7], picture(7))
        with pytest.raises(IndexError):
            frames[COUNT]
        np.testing.assert_allclose(images.times, 0.3 + np.arange(COUNT) / HZ, atol=1e-6)
        np.testing.assert_allclose(images.timestamps, 1000.004 + np.arange(COUNT) / HZ, atol=1e-6)
        with pytest.raises(TypeError, match="TRANSFORM has no pictures"):
            recording["Probe"].frames
        assert recording["A"].frames.shape == (1, 2, 3)
        note = recording["Note"]
        assert note.times.tolist() == [1.0]
        assert note[0].string == "grüß"  # type: ignore[union-attr]


def test_rows(case: Path) -> None:
    with Recording(case) as recording:
        probe = recording["Probe"]
        some = probe[10:20:3]
        assert (len(some), some.matrices[:, 0, 3].tolist()) == (4, [10, 13, 16, 19])
        np.testing.assert_array_equal(some.times, probe.times[10:20:3])
        again = some[[3, 0]]
        assert again.matrices[:, 0, 3].tolist() == [19, 10]
        assert [r.frame.unpack().matrix[0, 3] for r in again] == [19, 10]  # type: ignore[attr-defined]
        assert [m.matrix[0, 3] for m in probe[probe.times < 0.06].messages()] == [0, 1, 2]  # type: ignore[attr-defined]
        one = probe[-1]
        assert isinstance(one, igtl.Transform)
        assert (one.matrix[0, 3], one.peer) == (2 * COUNT - 1, "tracker:1")
        with pytest.raises(IndexError):
            probe[2 * COUNT]
        window = probe.between(0.5, 0.6)
        assert window.matrices[:, 0, 3].tolist() == [20, 21, 22, 23, 24]  # both ends
        assert window.rate == pytest.approx(40)
        assert window.span_ns == (2000_500_000_000, 2000_600_000_000)
        assert len(probe.between()) == len(probe)
        empty = probe.between(100)
        assert (len(empty), empty.times.shape, empty.rate) == (0, (0,), 0.0)
        assert recording["Image"].between(1, 1.2).frames.shape == (5, *SHAPE)


def test_pairs(case: Path) -> None:
    with Recording(case) as recording:
        images, poses = recording.sync("Image", "Probe")
        assert len(images) == len(poses) == COUNT
        assert poses.matrices[:, 0, 3].tolist() == [2 * n for n in range(COUNT)]
        np.testing.assert_allclose(images.timestamps - poses.timestamps, 0.004, atol=1e-6)
        images, poses, forces = recording.sync(
            recording["Image"].between(1, 1.3), "Probe", ("SENSOR", "arm/force"), by="arrival"
        )
        shown = [int(n) for n in images.times * HZ - 6 + 0.5]
        np.testing.assert_array_equal(images.frames[:], [picture(n) for n in shown])
        # 0.3 s later than the pictures were taken
        assert poses.matrices[:, 0, 3].tolist() == [2 * (n + 6) for n in shown]
        assert forces.batch["values"][:, 0].tolist() == [n + 6 for n in shown]
        with pytest.raises(ValueError, match=r"within 0\.001 s: TRANSFORM 'Probe': 0\.004 s apart"):
            recording.sync("Image", "Probe", tolerance=0.001)
        with pytest.raises(ValueError, match="two or more"):
            recording.sync("Image")
        with pytest.raises(KeyError):
            recording.sync("Image", "Needle")
        with Recording(case) as other, pytest.raises(ValueError, match="another recording"):
            recording.sync("Image", other["Probe"])


def test_partners_are_the_nearest(tmp_path: Path) -> None:
    """Against the plain definition, of stamps in any order, some not set."""
    rng = np.random.default_rng(3)
    stamps = {"A": rng.uniform(1000, 1010, 60), "B": rng.uniform(1000, 1010, 50)}
    stamps["A"][7] = stamps["B"][3] = 0
    with Recorder(tmp_path / "a.mcap") as recorder:
        for device, times in stamps.items():
            for n, stamp in enumerate(times):
                message = igtl.Transform(np.eye(4), device_name=device, timestamp=stamp or None)
                recorder.write(message, received=1002 + n / 10)
    with Recording(tmp_path / "a.mcap") as recording:
        a, b = recording.sync("A", "B", tolerance=0.03)
        at = [
            np.where(times == 0, 1002 + np.arange(len(times)) / 10, times)
            for times in stamps.values()
        ]
        distance = np.abs(at[0][:, None] - at[1])
        near = distance.min(axis=1) <= 0.03
        assert 5 < near.sum() < 55
        start = recording.start_ns / 1e9
        np.testing.assert_allclose(a.times, 1002 + np.nonzero(near)[0] / 10 - start, atol=1e-6)
        partners = distance.argmin(axis=1)[near]
        np.testing.assert_allclose(b.times, 1002 + partners / 10 - start, atol=1e-6)


def test_pictures_of_different_shapes_come_one_by_one(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap") as recorder:
        for n, size in enumerate((8, 8, 16)):
            image = igtl.Image(np.full((2, size, 8, 3), n, np.uint16), device_name="V")
            recorder.write(image, received=1000 + n)
    with Recording(tmp_path / "a.mcap") as recording:
        frames = recording["V"].frames
        assert [f.shape for f in frames] == [(2, 8, 8, 3), (2, 8, 8, 3), (2, 16, 8, 3)]
        assert frames[:2].shape == (2, 2, 8, 8, 3)
        assert "(2, 8, 8, 3) or (2, 16, 8, 3)" in repr(frames)
        with pytest.raises(ValueError, match="differ in shape"):
            frames.shape
        with pytest.raises(ValueError, match="differ in shape"):
            frames[1:]
        with pytest.raises(igtl.FileError, match="IMAGE 'V': the pictures differ"):
            igtl.export(recording, tmp_path / "a.npz")
        igtl.export(recording, tmp_path / "a.npz", end=1.5)
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["IMAGE/V/frames"].shape == (2, 2, 8, 8, 3)


def test_bad_messages_are_no_rows(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(5):
            wire = bytearray(igtl.Image.from_frame(picture(n), device_name="I").pack())
            wire[200] ^= n == 2
            recorder.write(igtl.Frame.from_bytes(bytes(wire)), received=1000 + n)
    with Recording(tmp_path / "a.mcap") as recording:
        images = recording["I"]
        assert (len(images), images.bad, images.times.tolist()) == (5, 1, [0, 1, 3, 4])
        np.testing.assert_array_equal(images.frames[:], [picture(n) for n in (0, 1, 3, 4)])
        with pytest.warns(igtl.FileWarning, match="1 messages are left out: damaged"):
            igtl.export(recording, tmp_path / "a.npz")


@pytest.mark.parametrize("chunks", ["one chunk", "a chunk each"])
def test_rows_are_in_order_of_arrival(tmp_path: Path, chunks: str) -> None:
    size = 10 if chunks == "one chunk" else 300_000
    times = [5, 0, 7, 3, 9, 1, 8]
    with Recorder(tmp_path / "a.mcap", compression="none") as recorder:
        for t in times:
            recorder.write(
                igtl.NDArray(np.full((10, size // 10), t, np.uint8), device_name="A"),
                received=1e3 + t,
            )
    content = (tmp_path / "a.mcap").read_bytes()
    (tmp_path / "a.mcap").write_bytes(content[:-50])  # without its index
    with Recording(tmp_path / "a.mcap") as recording:
        assert recording.truncated
        assert [frame[0, 0] for frame in recording["A"].frames] == sorted(times)
        assert recording["A"].times.tolist() == sorted(times)


def test_a_channel_that_several_types_share(tmp_path: Path) -> None:
    """Those of a peer that makes up names without end."""
    with Recorder(tmp_path / "a.mcap") as recorder:
        recorder._channels.update(dict.fromkeys(range(4096), 0))  # as many as there may be
        video = igtl.Video(b"1", "I420", (2, 2, 1), device_name="V")
        image = igtl.Image.from_frame(picture(0), device_name="I")
        for n, message in enumerate((video, igtl.Status.ok(), image, video)):
            recorder.write(message, received=1000 - n)
    with Recording(tmp_path / "a.mcap") as recording:
        stream = recording["*", "*"]
        assert [type(m) for m in stream.messages()] == [type(stream[n]) for n in range(4)]
        assert stream.times.tolist() == [0, 1, 2, 3]
        assert not stream.has_frames


# ---- video ------------------------------------------------------------------------------------


def film(path: Path, *, lost: int = -1, codec: Any = "H264", count: int = 30) -> list[Any]:
    """A recording that begins in the middle of a stream, with key frames at 3, 13, 23; and what
    decodes from it in order. Message `lost` never came."""
    encoder = igtl.VideoEncoder(codec, device_name="Camera", fps=HZ)
    decoder = igtl.VideoDecoder()
    shown = []
    with Recorder(path) as recorder:
        encoder.encode(picture(0))
        for n in range(count):
            message = encoder.encode(picture(n), key=n % 10 == 3)
            message.message_id = n + 1
            if n == lost:
                continue
            recorder.write(message, received=1000 + n / HZ)
            frame = decoder.decode(message)
            if frame is not None:
                shown.append((n, frame))
    return shown


@pytest.mark.parametrize("lost", [-1, 16])
def test_video_is_decoded_at_any_place(tmp_path: Path, lost: int) -> None:
    pytest.importorskip("av")
    shown = film(tmp_path / "v.mcap", lost=lost)
    assert shown[0][0] == 3
    with Recording(tmp_path / "v.mcap") as recording:
        camera = recording["Camera"]
        frames = camera.frames
        assert frames.shape == (len(shown), *SHAPE)
        assert camera.bad == len(camera) - len(shown) > 0
        np.testing.assert_allclose(camera.times * HZ, [n for n, _ in shown], atol=1e-4)
        expected = np.stack([frame for _, frame in shown])
        for k in (len(shown) - 1, 0, 12, 11, 11, 13, 5):
            np.testing.assert_array_equal(frames[k], expected[k])
        np.testing.assert_array_equal(frames[2:20:4], expected[2:20:4])
        np.testing.assert_array_equal(camera[5:9].frames[::-1], expected[8:4:-1])
        assert np.abs(frames[0].astype(int) - picture(3)).mean() < 8


def test_going_on_decodes_each_message_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    film(tmp_path / "v.mcap")
    decoded = []
    decode = igtl.VideoDecoder.decode

    def counting(self: Any, message: Any, **how: Any) -> Any:
        decoded.append(message.message_id)
        return decode(self, message, **how)

    monkeypatch.setattr(igtl.VideoDecoder, "decode", counting)
    with Recording(tmp_path / "v.mcap") as recording:
        frames = recording["Camera"].frames
        assert not decoded  # not for the index
        assert len(list(frames)) == len(decoded) == 27
        decoded.clear()
        frames[15]  # row 15 is message 19, its key frame 14
        assert decoded == [14, 15, 16, 17, 18, 19]
        frames[15], frames[17]
        assert decoded[6:] == [20, 21]


# ---- memory -----------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """64 MB of pictures: read, paired and exported with a few of them in memory."""
    path = tmp_path / "a.mcap"
    noise = np.random.default_rng(1).integers(0, 255, (512, 512), np.uint8)
    with Recorder(path, compression="none") as recorder:
        for n in range(256):
            recorder.write(
                igtl.Image.from_frame(np.roll(noise, n), device_name="I"), received=1000 + n / 30
            )
            recorder.write(igtl.Transform(np.eye(4), device_name="T"), received=1000 + n / 30)
    assert path.stat().st_size > 64 << 20
    tracemalloc.start()
    try:
        with Recording(path) as recording:
            images, _ = recording.sync("I", "T", by="arrival")
            assert sum(int(frame[0, 0]) for frame in images.frames) >= 0
            for k in (200, 3, 100, 255):
                np.testing.assert_array_equal(images.frames[k], np.roll(noise, k))
            igtl.export(recording, tmp_path / "a.npz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20
    assert (tmp_path / "a.npz").stat().st_size > 64 << 20


# ---- files of other programs ------------------------------------------------------------------


def check_arrays(get: Any) -> None:
    np.testing.assert_array_equal(
        get("IMAGE/Image/frames"), np.stack([picture(n) for n in range(COUNT)])
    )
    np.testing.assert_allclose(get("IMAGE/Image/times"), 0.3 + np.arange(COUNT) / HZ, atol=1e-6)
    assert get("TRANSFORM/Probe/matrix")[:, 0, 3].tolist() == list(range(2 * COUNT))
    np.testing.assert_allclose(
        get("TRANSFORM/Probe/timestamps"), 1000 + np.arange(2 * COUNT) / HZ / 2, atol=1e-6
    )
    np.testing.assert_array_equal(
        get("SENSOR/arm%2Fforce/values"), np.arange(COUNT)[:, None] * [1, 0.5, -1]
    )
    offsets = get("TDATA/Tracker/tools/offsets")
    assert (len(offsets), offsets[0]) == (COUNT + 1, 0)
    assert len(get("TDATA/Tracker/tools/matrix")) == len(get("TDATA/Tracker/tools/name"))
    assert get("NDARRAY/A/frames").tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert get("start_ns") == 2000 * 10**9


def test_npz(case: Path, tmp_path: Path) -> None:
    igtl.export(case, tmp_path / "case.npz")
    with np.load(tmp_path / "case.npz") as arrays:
        check_arrays(arrays.__getitem__)
        assert set(arrays["TDATA/Tracker/tools/name"]) <= set(Tracker().names)
        assert '"grüß"' in arrays["STRING/Note/json"][0].encode().decode("unicode_escape")
    igtl.export(case, tmp_path / "case.npz", streams=["Probe"], start=0.5, end=0.6)  # replaced
    with np.load(tmp_path / "case.npz") as arrays:
        assert arrays["TRANSFORM/Probe/matrix"][:, 0, 3].tolist() == [20, 21, 22, 23, 24]
        assert not any(name.startswith("IMAGE") for name in arrays)


def test_h5(case: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    igtl.export(case, tmp_path / "case.h5")
    with h5py.File(tmp_path / "case.h5") as file:
        check_arrays(lambda name: file.attrs[name] if name == "start_ns" else file[name][()])
        assert file["SENSOR/arm%2Fforce"].attrs["device_name"] == "arm/force"
        assert file["TRANSFORM/Probe"].attrs["peers"] == "tracker:1"
        assert file["IMAGE/Image/frames"].chunks == (1, *SHAPE)
        names = file["TDATA/Tracker/tools/name"].asstr()[()]
        assert set(names) <= set(Tracker().names)


def test_csv(case: Path, tmp_path: Path) -> None:
    with pytest.warns(igtl.FileWarning, match="no place for IMAGE 'Image', NDARRAY 'A', STRING"):
        igtl.export(case, tmp_path / "case.csv")
    with (tmp_path / "case.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["time"]) for row in rows] == sorted(float(row["time"]) for row in rows)
    poses = [row for row in rows if row["type"] == "TRANSFORM"]
    assert [float(row["matrix_03"]) for row in poses] == list(range(2 * COUNT))
    assert float(poses[3]["timestamp"]) == pytest.approx(1000.075, abs=1e-6)
    forces = [row for row in rows if row["device_name"] == "arm/force"]
    assert [[float(row[f"values_{k}"]) for k in range(3)] for row in forces] == [
        [n, n / 2, -n] for n in range(COUNT)
    ]
    with Recording(case) as recording:
        tools = recording["TDATA"].batch["tools"]
        found = [row for row in rows if row["tools.name"]]
        assert [row["tools.name"] for row in found] == tools.names
        read = [[float(row[f"tools.matrix_{k}3"]) for k in range(3)] for row in found]
        np.testing.assert_array_equal(np.float32(read), tools.matrices[:, :3, 3])


def test_mp4(case: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    igtl.export(case, tmp_path / "case.mp4")
    with av.open(str(tmp_path / "case.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == COUNT
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(COUNT) / HZ, atol=1e-3)
    grey = np.stack([frame.to_ndarray(format="gray") for frame in frames])
    expected = np.stack([picture(n) for n in range(COUNT)])
    assert np.abs(grey.astype(int) - expected).mean() < 6
    with pytest.raises(igtl.FileError, match="one stream of pictures, not none"):
        igtl.export(case, tmp_path / "probe.mp4", streams=["Probe"])
    assert not list(tmp_path.glob("probe*"))


def test_mp4_of_colours_with_odd_sizes(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(5):
            frame = np.zeros((25, 33, 3), np.uint8)
            frame[..., n % 3] = 200
            image = igtl.Image.from_frame(frame, order="RGB", device_name="I")
            recorder.write(image, received=1000 + n * n)  # unevenly
    igtl.export(tmp_path / "a.mcap", tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(34, 26)] * 5
    np.testing.assert_allclose([frame.time for frame in frames], [0, 1, 4, 9, 16], atol=1e-3)
    means = [frame.to_ndarray(format="rgb24").mean(axis=(0, 1)) for frame in frames]
    assert [int(mean.argmax()) for mean in means] == [0, 1, 2, 0, 1]
    assert all(mean.max() > 150 and np.sort(mean)[1] < 50 for mean in means)


@pytest.mark.parametrize("video", [False, True], ids=["images", "video"])
def test_sequence(case: Path, tmp_path: Path, video: bool) -> None:
    sitk = pytest.importorskip("SimpleITK")
    source = case
    expected = np.stack([picture(n) for n in range(COUNT)])
    if video:
        source = tmp_path / "v.mcap"
        expected = np.stack([frame for _, frame in film(source)])
    streams = ["Camera"] if video else ["Image", "Probe"]
    with pytest.warns(igtl.FileWarning, match="3 messages") if video else nullcontext():
        igtl.export(source, tmp_path / "case.igs.mha", streams=streams)
    image = sitk.ReadImage(str(tmp_path / "case.igs.mha"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).reshape(-1, *SHAPE), expected)
    if not video:
        transform = image.GetMetaData("Seq_Frame0003_ProbeTransform").split()
        assert float(transform[3]) == 6


def test_errors(case: Path, tmp_path: Path) -> None:
    with pytest.raises(igtl.FileError, match=r"\.npz, \.csv, \.h5"):
        igtl.export(case, tmp_path / "case.xlsx")
    with pytest.raises(KeyError, match="'Needle' is not recorded"):
        igtl.export(case, tmp_path / "case.npz", streams=["Needle"])
    with pytest.raises(FileNotFoundError):
        igtl.export(case, tmp_path / "no" / "case.npz")
    assert not list(tmp_path.iterdir())


def test_progress(case: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    igtl.export(case, tmp_path / "a.npz", progress=lambda *facts: told.append(facts))
    with Recording(case) as recording:
        total = recording.count
    for what in ("reading", "writing"):
        steps = [done for name, done, all_of_it in told if name == what and all_of_it == total]
        assert steps == sorted(steps)
        assert steps[-1] == total


def test_command(case: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    arguments = ["export", str(case), "--to", str(out), "-d", "Probe", "--from", "0.5", "--until"]
    result = CliRunner().invoke(main, [*arguments, "0.6"])
    assert result.exit_code == 0, result.output
    assert re.search(rf"{re.escape(str(out))}: [\d.]+ kB", result.output)
    with np.load(out) as arrays:
        assert arrays["TRANSFORM/Probe/times"].tolist() == [0.5, 0.525, 0.55, 0.575, 0.6]
    result = CliRunner().invoke(
        main, ["export", str(case), "--to", str(out), "-d", "Needle", "--force"]
    )
    assert result.exit_code == 1
    assert "'Needle' is not recorded" in result.output
    result = CliRunner().invoke(main, ["export", str(case), "--to", str(tmp_path / "a.csv")])
    assert result.exit_code == 0
    assert "warning: " in result.output
    assert "no place for IMAGE" in result.output
