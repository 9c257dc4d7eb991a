"""Recordings: how fast they are written and read, beside the mcap package alone and a bare dump,
and how late a replay is.

    python -m benchmarks.recording

Ten seconds of eight tools at 120 Hz and 640 × 480 pictures at 30 Hz. Contenders take turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mcap.writer import CompressionType, Writer

import igtl
from igtl.simulate import Tracker, Ultrasound

SECONDS = 10
REPEATS = 7


def content() -> list[igtl.Frame]:
    tracker = Tracker([f"Tool{k}ToTracker" for k in range(8)])
    scanner = Ultrasound(640, 480)
    pictures = [scanner.image(k / 30).pack() for k in range(30)]
    wires = []
    for n in range(120 * SECONDS):
        wires += [tracker.transform(n / 120, k).pack() for k in range(8)]
        if n % 4 == 0:
            wires.append(pictures[n // 4 % 30])
    return [igtl.Frame.from_bytes(wire) for wire in wires]


def recorder(path: Path, frames: list[igtl.Frame]) -> None:
    with igtl.Recorder(path) as out:
        for frame in frames:
            out.write(frame)


def mcap_alone(path: Path, frames: list[igtl.Frame]) -> None:
    channels: dict[str, int] = {}
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=256 * 1024, compression=CompressionType.LZ4)
        writer.start()
        for frame in frames:
            topic = f"{frame.type_name}/{frame.device_name}"
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "openigtlink", 0)
            writer.add_message(channels[topic], time.time_ns(), frame.data, time.time_ns())
        writer.finish()  # type: ignore[no-untyped-call]


def dump(path: Path, frames: list[igtl.Frame]) -> None:
    with path.open("wb") as file:
        for frame in frames:
            file.write(time.time_ns().to_bytes(8, "little"))
            file.write(frame.data)


def main() -> None:
    frames = content()
    size = sum(map(len, frames)) / 1e6
    print(f"{len(frames)} messages, {size:.0f} MB, {SECONDS} s")
    contenders: dict[str, Callable[[Path, list[igtl.Frame]], None]] = {
        "igtl.Recorder": recorder, "mcap alone": mcap_alone, "bare dump": dump,
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(REPEATS):
            for name, work in contenders.items():
                start = time.perf_counter()
                work(Path(folder) / f"{name} {k}", frames)
                times[name].append(time.perf_counter() - start)
        print("| write | MB/s | × real time | file |\n|---|---|---|---|")
        for name, found in times.items():
            took = statistics.median(found)
            file = (Path(folder) / f"{name} 0").stat().st_size / 1e6
            print(f"| {name} | {size / took:.0f} | {SECONDS / took:.0f} | {file:.0f} MB |")
        with igtl.Recording(Path(folder) / "igtl.Recorder 0") as recording:
            start = time.perf_counter()
            count = sum(1 for _ in recording)
            took = time.perf_counter() - start
            assert count == len(frames)
            print(f"read: {size / took:.0f} MB/s")
            start = time.perf_counter()
            shape = recording["Tool3ToTracker"].matrices.shape
            took = time.perf_counter() - start
            print(f"one tool of it as an array {shape}: {1e3 * took:.0f} ms")
        paced = Path(folder) / "paced"
        with igtl.Recorder(paced) as out:
            for n in range(120 * SECONDS):
                out.write(frames[0], received=1000 + n / 120)
        with igtl.Recording(paced) as recording:
            playback = recording.play()
            for _ in playback:
                pass
            p50, p99 = 1e3 * np.percentile(playback.lateness, [50, 99])
            print(f"replay at 120 Hz: late by {p50:.2f} ms (median), {p99:.2f} ms (99 %)")


if __name__ == "__main__":
    main()
