"""Recordings: what is in the file is what came, whatever happens to the process that writes it."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Frame, Recorder, Recording
from igtl.recording.chunks import Chunks
from igtl.simulate import Tracker
from tests.conftest import VECTORS, manifest
from tests.wire import frame as wire_frame

reader = pytest.importorskip("mcap.reader")

WIRES = [(VECTORS / v["file"]).read_bytes() for v in manifest()]


def broken() -> list[bytes]:
    """A wrong CRC, a body that cannot be decoded, a type that nobody knows."""
    wire = bytearray(igtl.Transform(np.eye(4), device_name="Bad", timestamp=7).pack())
    wire[60] ^= 1
    short = wire_frame("TRANSFORM", bytes(7))
    return [bytes(wire), short, igtl.Unknown("WHAT", b"12345", device_name="?", timestamp=7).pack()]


def recorded(path: Path, wires: list[bytes], **settings: Any) -> Path:
    with Recorder(path, **settings) as recorder:
        for wire in wires:
            recorder.write(Frame.from_bytes(wire), peer=("10.0.0.7", 18944), connection=1)
    return path


def tracking(path: Path, seconds: float = 3.0, hz: float = 60.0) -> Tracker:
    """Three streams of a tracker, at the times of a clock that is known."""
    tracker = Tracker(dropout=0.5, seed=1)
    with Recorder(path) as recorder:
        for n in range(round(seconds * hz)):
            t = n / hz
            for message in (tracker.transform(t), tracker.tracking_data(t)):
                message.timestamp = 1000 + t
                recorder.write(message, received=2000 + t + 0.004)
            if n % 6 == 0:
                image = igtl.Image(np.full((1, 8, 8), n % 251, np.uint8), device_name="Image")
                recorder.write(image, received=2000 + t)
    return tracker


# ---- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"])
def test_every_frame_comes_back_byte_for_byte(tmp_path: Path, compression: Any) -> None:
    wires = WIRES + broken()
    path = recorded(tmp_path / "all.mcap", wires, compression=compression)
    with Recording(path) as recording:
        found = list(recording)
        assert [bytes(r.frame) for r in found] == wires
        assert len(recording) == recording.count == len(wires)
        assert not recording.truncated
        assert not recording.damaged
        times = [r.time_ns for r in found]
        assert times == sorted(times)
        assert abs(times[0] / 1e9 - time.time()) < 60
        assert {(r.peer, r.connection) for r in found} == {("10.0.0.7:18944", 1)}
        kinds = {(f.type_name, f.device_name) for f in map(Frame.from_bytes, wires)}
        assert set(recording.streams) == kinds


def test_the_packages_own_reader_reads_it(tmp_path: Path) -> None:
    path = recorded(tmp_path / "all.mcap", WIRES)
    with path.open("rb") as file:
        theirs = reader.make_reader(file, validate_crcs=True)
        found = list(theirs.iter_messages(log_time_order=False))
        summary = theirs.get_summary()
    assert [message.data for _, _, message in found] == WIRES
    assert summary.statistics.message_count == len(WIRES)
    for schema, channel, message in found:
        frame = Frame.from_bytes(message.data)
        assert schema is None
        assert channel.message_encoding == "openigtlink"
        assert channel.topic == f"{frame.type_name}/{frame.device_name}"
        assert channel.metadata["peer"] == "10.0.0.7:18944"
        if frame.timestamp_raw == 0:
            assert message.publish_time == message.log_time
        else:
            assert abs(message.publish_time - frame.timestamp_raw * 1e9 / 2**32) < 1000


def test_index_by_stream(tmp_path: Path) -> None:
    tracking(tmp_path / "t.mcap")
    with Recording(tmp_path / "t.mcap") as recording:
        assert {key: len(stream) for key, stream in recording.streams.items()} == {
            ("TRANSFORM", "ProbeToTracker"): 180, ("TDATA", "Tracker"): 180, ("IMAGE", "Image"): 30,
        }  # fmt: skip
        assert recording["ProbeToTracker"] is recording["TRANSFORM", "ProbeToTracker"]
        assert recording["TDATA"].device_name == "Tracker"
        assert recording["Image"].rate == pytest.approx(10)
        with pytest.raises(KeyError, match="not recorded; there are IMAGE 'Image', TDATA"):
            recording["Probe"]
        images = [r.frame.unpack() for r in recording.frames(["Image"], start=1, end=1.45)]
        assert [int(m.array[0, 0, 0]) for m in images] == [60, 66, 72, 78, 84]  # type: ignore[attr-defined]
        assert recording.duration == pytest.approx(179 / 60 + 0.004)


def spread(path: Path, times: list[int], size: int = 300_000) -> Path:
    """A file with a chunk for each of these arrivals (seconds); the id says which."""
    body = np.random.default_rng(1).integers(0, 255, (10, size // 10), np.uint8)
    with Recorder(path, compression="none") as recorder:
        for t in times:
            message = igtl.NDArray(body, device_name=f"D{t % 2}", message_id=t + 1)
            recorder.write(message, received=1000 + t)
    return path


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("size", [10, 300_000], ids=["one chunk", "a chunk each"])
def test_order_of_arrival(tmp_path: Path, size: int, cut: bool) -> None:
    times = [5, 0, 7, 3, 3, 9, 1, 8]
    path = spread(tmp_path / "a.mcap", times, size)
    if cut:
        content = path.read_bytes()
        path.write_bytes(content[:-100])
    with Recording(path) as recording:
        assert recording.truncated == cut

        def found(**limits: Any) -> list[int]:
            return [r.frame.unpack().message_id - 1 for r in recording.frames(**limits)]

        assert found() == sorted(times)
        assert (recording.start_ns, recording.duration) == (1000 * 10**9, 9)
        # the first and the last of a chunk belong to the limits that equal them
        for start in range(10):
            for end in range(start, 10):
                assert found(start=start, end=end) == [
                    t for t in sorted(times) if start <= t <= end
                ]
        odd = recording["NDARRAY", "D1"]
        assert odd.span_ns == (1001 * 10**9, 1009 * 10**9)
        assert [r.time_ns // 10**9 - 1000 for r in odd] == [1, 3, 3, 5, 7, 9]
        assert recording["NDARRAY", "D0"].span_ns == (1000 * 10**9, 1008 * 10**9)
        playback = recording.play(speed=1000)
        assert [f.unpack().message_id - 1 for f in playback] == sorted(times)
        assert min(playback.lateness) >= 0


def test_streams_written_one_after_the_other_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    body = np.random.default_rng(1).integers(0, 255, 50_000, np.uint8)
    with Recorder(path, compression="none") as recorder:
        for device in ("A", "B"):
            for t in range(30):  # several chunks each
                recorder.write(igtl.NDArray(body, device_name=device), received=1000 + t)
    with Recording(path) as recording:
        assert [(r.time_ns // 10**9 - 1000, r.frame.device_name) for r in recording] == [
            (t, device) for t in range(30) for device in ("A", "B")
        ]
        assert recording["A"].span_ns == recording["B"].span_ns


def test_a_name_that_two_types_share(tmp_path: Path) -> None:
    wires = [
        igtl.Transform(np.eye(4), device_name="Probe").pack(),
        igtl.Status.ok(device_name="Probe").pack(),
    ]
    with Recording(recorded(tmp_path / "a.mcap", wires)) as recording:
        with pytest.raises(KeyError, match="more than one stream; there are STATUS 'Probe'"):
            recording["Probe"]
        assert len(recording["STATUS", "Probe"]) == len(recording["TRANSFORM"]) == 1


def test_arrays(tmp_path: Path) -> None:
    tracker = tracking(tmp_path / "t.mcap")
    seconds = np.arange(180) / 60
    with Recording(tmp_path / "t.mcap") as recording:
        probe = recording["ProbeToTracker"]
        expected = np.array([tracker.pose(s) for s in seconds], np.float32)
        np.testing.assert_array_equal(probe.matrices, expected)
        np.testing.assert_allclose(probe.times, seconds + 0.004, atol=1e-7)
        np.testing.assert_allclose(probe.timestamps, 1000 + seconds, atol=1e-6)
        assert probe.bad == 0
        for tool, name in enumerate(tracker.names):
            seen = np.array([tracker.sees(s, tool) for s in seconds])
            assert 0 < seen.sum() < len(seen)
            times, matrices = recording["TDATA"].tool(name)
            np.testing.assert_allclose(times, seconds[seen] + 0.004, atol=1e-7)
            poses = np.array([tracker.pose(s, tool) for s in seconds[seen]], np.float32)
            np.testing.assert_array_equal(matrices, poses)
        with pytest.raises(KeyError, match="no tool 'Needle'; there are Probe"):
            recording["TDATA"].tool("Needle")
        with pytest.raises(TypeError, match="no tools"):
            probe.tool("Needle")
        with pytest.raises(TypeError, match="Image does not fit columns"):
            recording["Image"].batch  # images have no columns
        first = next(recording["Image"].messages())
        assert isinstance(first, igtl.Image)
        assert first.received == 2000


def test_bad_messages_are_left_out_of_arrays_and_counted(tmp_path: Path) -> None:
    good = [igtl.Transform(np.eye(4), device_name="Probe").pack() for _ in range(5)]
    wrong = bytearray(good[2])
    wrong[70] ^= 8
    good[2] = bytes(wrong)
    with Recording(recorded(tmp_path / "a.mcap", good)) as recording:
        stream = recording["Probe"]
        assert len(stream) == 5
        assert stream.matrices.shape == (4, 4, 4)
        assert stream.times.shape == (4,)
        assert stream.bad == 1
        with pytest.raises(igtl.CRCError):
            list(stream.messages())
        assert [m.crc_ok for m in stream.messages(crc="warn")].count(False) == 1


def test_events_and_connections(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    frame = Frame.from_bytes(igtl.Status.ok(device_name="A").pack())
    with Recorder(path) as recorder:
        recorder.event("connected", peer=("h", 1), connection=1)
        recorder.write(frame, peer=("h", 1), connection=1)
        recorder.write(frame, peer=("h", 2), connection=2)
        recorder.event("disconnected", peer=("h", 1), connection=1, reason="cut")
        assert (recorder.count, recorder.bytes) == (2, 2 * len(frame))
    with Recording(path) as recording:
        assert [e["event"] for e in recording.events] == ["connected", "disconnected"]
        assert recording.events[1]["reason"] == "cut"
        assert recording.count == 2
        assert recording["A"].peers == ["h:1", "h:2"]
        assert [r.connection for r in recording] == [1, 2]


def test_a_name_longer_than_a_header_holds(tmp_path: Path) -> None:
    name = "LongStylusToolNameToTracker"
    wire = igtl.Transform(np.eye(4), device_name=name).pack(version=2, cut_name=True)
    frame = Frame.from_bytes(wire)
    with Recorder(tmp_path / "a.mcap") as recorder:
        recorder.write(frame)
        recorder.write(frame.unpack())
    with Recording(tmp_path / "a.mcap") as recording:
        assert set(recording.streams) == {("TRANSFORM", frame.device_name), ("TRANSFORM", name)}
        assert [r.stream[1] for r in recording] == [frame.device_name, name]
        assert bytes(next(iter(recording[name])).frame) == wire


def test_a_peer_that_makes_up_names_cannot_fill_the_index(tmp_path: Path) -> None:
    wires = [igtl.Status.ok(device_name=f"D{n}").pack() for n in range(5000)]
    with Recording(recorded(tmp_path / "a.mcap", wires)) as recording:
        assert [bytes(r.frame) for r in recording] == wires
        assert len(recording.streams) == 4097
        assert len(recording["*", "*"]) == 5000 - 4096
        assert sum(r.stream == ("*", "*") for r in recording) == 5000 - 4096


def test_links_are_recorded(tmp_path: Path) -> None:
    """A recorder is one more listener: frames of a link, with what cannot be decoded."""
    large = igtl.Image(np.arange(1 << 20, dtype=np.uint8).reshape(4, 512, 512)).pack()
    wires = [*broken(), large, *WIRES[:20]]
    a, b = igtl.pipe()
    with a, b, Recorder(tmp_path / "a.mcap") as recorder:
        for wire in wires:
            a.send(Frame.from_bytes(wire))
        a.close()
        for frame in b.frames():
            recorder.write(frame, peer=b.peer)
    with Recording(tmp_path / "a.mcap") as recording:
        assert [bytes(r.frame) for r in recording] == wires
        assert next(iter(recording)).peer == "pipe a"


def test_errors(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.mcap", WIRES[:1])
    with pytest.raises(FileExistsError):
        Recorder(path)
    with pytest.raises(ValueError, match="compression"):
        Recorder(tmp_path / "b.mcap", compression="rar")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        Recording(tmp_path / "none.mcap")
    closed = Recorder(tmp_path / "c.mcap")
    closed.close()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        closed.write(igtl.Status.ok())
    with Recording(tmp_path / "c.mcap") as empty:
        assert (len(empty), empty.streams, empty.duration, list(empty)) == (0, {}, 0, [])
    for content in (b"", b"\x89MCAP0\r\n"[:5], b"OpenIGTLink", os.urandom(1000)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(igtl.FileError, match="not an MCAP file"):
            Recording(tmp_path / "x")
    from mcap.writer import Writer

    for chunks, text in ((True, "no messages of OpenIGTLink"), (False, "no chunks")):
        with (tmp_path / "foreign").open("wb") as file:
            writer = Writer(file, use_chunking=chunks)
            writer.start()
            channel = writer.register_channel("topic", "json", 0)
            writer.add_message(channel, 1, b"{}", 1)
            writer.finish()
        with pytest.raises(igtl.FileError, match=text):
            Recording(tmp_path / "foreign")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "builtins.open", lambda *args, **kw: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")
    )
    recorder = Recorder("whatever")
    monkeypatch.undo()
    big = igtl.Image(np.random.default_rng(1).integers(0, 255, (8, 512, 512), np.uint8))

    def fill() -> None:
        end = time.monotonic() + 15
        while time.monotonic() < end:
            recorder.write(big)

    with pytest.raises(OSError, match="No space left"):
        fill()
    with pytest.raises(OSError, match="No space left") as told:
        recorder.close()
    assert told.value.filename == "whatever"


def test_a_disk_that_cannot_be_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    path = recorded(tmp_path / "a.mcap", WIRES[:1])
    with Recording(path) as recording:
        recording._file.close()
        recording._file.file = Failing(path)  # type: ignore[assignment]
        with pytest.raises(OSError, match="Input/output") as told:
            list(recording)
        assert told.value.filename == str(path)
    monkeypatch.setattr("builtins.open", lambda *args: Failing(path))
    with pytest.raises(OSError, match="Input/output") as told:
        Recording(path)
    assert told.value.filename == str(path)


def test_ctrl_c_does_not_interrupt_the_end_of_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path / "a.mcap")
    recorder.write(igtl.Status.ok())
    join, times = recorder._thread.join, iter([KeyboardInterrupt])

    def interrupted() -> None:
        for error in times:
            raise error
        join()

    monkeypatch.setattr(recorder._thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recorder.close()
    with Recording(tmp_path / "a.mcap") as recording:
        assert not recording.truncated


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcap.writer", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "igtl\[record\]"'):
        Recorder(tmp_path / "a.mcap")
    assert not (tmp_path / "a.mcap").exists()


# ---- cut, damaged, killed ---------------------------------------------------------------------


def test_a_cut_file_opens_up_to_the_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    wires = [
        igtl.NDArray(rng.integers(0, 255, 3000, np.uint8), device_name=f"A{n % 3}").pack()
        for n in range(1000)
    ]
    whole = recorded(tmp_path / "a.mcap", wires).read_bytes()
    cut = tmp_path / "cut.mcap"
    before = -1
    for size in sorted({*rng.integers(8, len(whole), 25).tolist(), 8, 40, len(whole) - 1}):
        cut.write_bytes(whole[:size])
        with Recording(cut) as recording:
            assert recording.truncated
            found = [bytes(r.frame) for r in recording]
            assert found == wires[: len(found)]
            assert len(recording) == len(found) >= before
            before = len(found)
            # all but the chunk that was cut
            assert len(found) >= (size - 300_000) // 3100
    assert before == len(wires)


def test_a_damaged_part_is_left_out_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    wires = [igtl.NDArray(rng.integers(0, 255, 3000, np.uint8)).pack() for _ in range(1000)]
    path = recorded(tmp_path / "a.mcap", wires)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    with Recording(path) as recording:
        found = [bytes(r.frame) for r in recording]
        assert [bytes(r.frame) for r in recording] == found
        assert recording.damaged == 1  # counted once
        assert 880 < len(found) < 1000
        assert set(found) < set(wires)
    path.write_bytes(content[:-200])  # and without its index
    with Recording(path) as recording:
        assert recording.truncated
        assert [bytes(r.frame) for r in recording] == found
        assert recording.damaged == 1


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_opening_reads_no_more_than_the_index(
    tmp_path: Path, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cut file the heads of its chunks, one chunk of each stream, and the last one."""
    image = igtl.Image.from_frame(np.zeros((256, 256), np.uint8), device_name="I")
    wires = [igtl.Transform(np.eye(4), device_name="T").pack(), image.pack()] * 100
    path = recorded(tmp_path / "a.mcap", wires, compression="none")
    if cut:
        path.write_bytes(path.read_bytes()[:-5000])
    opened = []
    read = Chunks._chunk_records

    def counting(self: Chunks, at: int) -> Any:
        opened.append(at)
        return read(self, at)

    monkeypatch.setattr(Chunks, "_chunk_records", counting)
    with Recording(path) as recording:
        assert recording.truncated == cut
        assert len(opened) == (2 if cut else 0)
        assert 190 < len(recording) <= 200
        assert len(list(recording)) == len(recording)
        assert len(set(opened)) > 20


def test_random_damage_raises_nothing_else(tmp_path: Path) -> None:
    content = recorded(tmp_path / "a.mcap", WIRES[:60]).read_bytes()
    rng = random.Random(5)
    path = tmp_path / "b.mcap"
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.randint(len(damaged) // 2, len(damaged))])
        try:
            with Recording(path) as recording:
                for r in recording:
                    assert len(bytes(r.frame)) >= 58
        except igtl.FileError:
            pass


_CHILD = """
import itertools, sys, igtl, numpy as np
recorder = igtl.Recorder(sys.argv[1])
for number, _ in zip(itertools.count(1), igtl.Rate(200)):
    recorder.write(igtl.Transform(np.eye(4), device_name="Probe", message_id=number))
    print(number, flush=True)
"""


def ids_in(path: Path) -> list[int]:
    with Recording(path) as recording:
        assert recording.truncated
        return [r.frame.unpack().message_id for r in recording]


def killed(path: Path, later: float) -> list[int]:
    """Ids in the file of a process that is killed `later` seconds after its 200th message is in
    the file, which it comes into by itself."""
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, path], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if line == "200\n":
                    break
            reading = threading.Thread(target=child.stdout.read, daemon=True)  # it goes on writing
            reading.start()
            end = time.monotonic() + 20
            while len(ids_in(path)) < 200:
                assert time.monotonic() < end, "not in the file after 20 s"
                time.sleep(0.02)
            time.sleep(later)
        finally:
            child.kill()
        reading.join()
    return ids_in(path)


@pytest.mark.processes
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_killed_process_leaves_what_it_has_recorded(tmp_path: Path, times: int) -> None:
    rng = random.Random(times)
    later = [rng.random() for _ in range(times)]
    with ThreadPoolExecutor(4) as pool:
        for ids in pool.map(killed, [tmp_path / f"{n}.mcap" for n in range(times)], later):
            assert ids == list(range(1, len(ids) + 1))
            assert len(ids) >= 200


# ---- playing ----------------------------------------------------------------------------------


def test_playing_sends_the_same_bytes_in_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    wires = [igtl.Transform(np.eye(4), device_name="P", message_id=n + 1).pack() for n in range(40)]
    with Recorder(path) as recorder:
        for n, wire in enumerate(wires):
            recorder.write(Frame.from_bytes(wire), received=1000 + 0.01 * n)
    a, b = igtl.pipe()
    with Recording(path) as recording, a, b:
        playback = recording.play(speed=2)
        begun = time.perf_counter()
        for frame in playback:
            a.send(frame)
        took = time.perf_counter() - begun
        assert 0.39 / 2 <= took < 5
        assert [bytes(b.recv_frame(timeout=1)) for _ in wires] == wires
        assert (playback.sent, playback.rounds, len(playback.lateness)) == (40, 1, 40)
        assert all(late >= 0 for late in playback.lateness)
        begun = time.perf_counter()
        slow = recording.play(speed=0.5, start=0.35)
        assert len(list(slow)) == 5
        assert time.perf_counter() - begun >= 0.08
        quick = recording.play(speed=None, streams=["P"])
        assert [bytes(f) for f in quick] == wires
        assert not quick.lateness
        for wrong in (0, -1, float("inf"), float("nan")):
            with pytest.raises(ValueError, match="speed"):
                recording.play(speed=wrong)


def test_playing_in_a_loop(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.mcap", WIRES[:7])
    with Recording(path) as recording:
        playback = recording.play(loop=True, speed=None)
        assert [bytes(next(playback)) for _ in range(20)] == (WIRES[:7] * 3)[:20]
        assert playback.rounds == 3
        assert list(recording.play(loop=True, start=1e6)) == []  # nothing there: no endless loop


def test_restamped_frames_look_new(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with Recorder(path) as recorder:
        for n in range(3):
            m = igtl.Transform(np.eye(4), device_name="P", timestamp=5000 + n, metadata={"a": "b"})
            recorder.write(m, received=5000.03 + n)  # 30 ms on its way
        recorder.write(igtl.Transform(np.eye(4), timestamp=0), received=5003)
    with Recording(path) as recording:
        for recorded, frame in zip(
            recording, recording.play(speed=None, restamp=True), strict=True
        ):
            old, new = recorded.frame.unpack(), frame.unpack()  # the CRC is right
            if old.timestamp is None:
                assert new.timestamp is None
                continue
            assert new.timestamp is not None
            assert time.time() - new.timestamp == pytest.approx(0.03, abs=5)
            assert time.time() - new.timestamp >= 0.03 - 1e-4
            new.timestamp_raw = old.timestamp_raw
            assert new == old


def test_json_of_events_is_what_a_reader_gets(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap") as recorder:
        recorder.event("error", peer="x", reason="header version 9")
    with (tmp_path / "a.mcap").open("rb") as file:
        ((_, channel, message),) = reader.make_reader(file).iter_messages()
    assert (channel.topic, channel.message_encoding) == ("igtl/events", "json")
    assert json.loads(message.data)["reason"] == "header version 9"
