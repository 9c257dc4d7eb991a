"""Recordings: how fast they are written and read, beside the mcap package alone and a bare dump,
and how late a replay is.

    python -m benchmarks.recording [--rows write] [--quick]

Ten seconds of eight tools at 120 Hz and 640 × 480 pictures at 30 Hz. Contenders take turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import igtl
from benchmarks.measure import chosen, command_line, run, say
from igtl.simulate import Tracker, Ultrasound

SECONDS = 10
ROWS = {"write": (25.0, 8.0), "read": (5.0, 4.0), "replay at 120 Hz": (10.0, 10.0)}


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
    from mcap.writer import CompressionType, Writer

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


def write(folder: Path, frames: list[igtl.Frame], repeats: int) -> None:
    """igtl, mcap alone and a bare dump take turns."""
    size = sum(map(len, frames)) / 1e6
    contenders: dict[str, Callable[[Path, list[igtl.Frame]], None]] = {
        "igtl.Recorder": recorder, "mcap alone": mcap_alone, "bare dump": dump,
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(repeats):
        say(f"write {k + 1}/{repeats}")
        for name, work in contenders.items():
            start = time.perf_counter()
            work(folder / name, frames)
            times[name].append(time.perf_counter() - start)
    print("| write | MB/s | × real time | file |\n|---|---|---|---|")
    for name, found in times.items():
        took = statistics.median(found)
        file = (folder / name).stat().st_size / 1e6
        print(f"| {name} | {size / took:.0f} | {SECONDS / took:.0f} | {file:.0f} MB |")


def read(folder: Path, frames: list[igtl.Frame]) -> None:
    """All messages, and one tool as an array."""
    recorder(folder / "whole", frames)
    with igtl.Recording(folder / "whole") as recording:
        start = time.perf_counter()
        count = sum(1 for _ in recording)
        took = time.perf_counter() - start
        assert count == len(frames)
        print(f"read: {sum(map(len, frames)) / took / 1e6:.0f} MB/s")
        start = time.perf_counter()
        shape = recording["Tool3ToTracker"].matrices.shape
        took = time.perf_counter() - start
        print(f"one tool of it as an array {shape}: {1e3 * took:.0f} ms")


def replay(folder: Path, frames: list[igtl.Frame]) -> None:
    """How late each message leaves."""
    with igtl.Recorder(folder / "paced") as out:
        for n in range(120 * SECONDS):
            out.write(frames[0], received=1000 + n / 120)
    with igtl.Recording(folder / "paced") as recording:
        playback = recording.play()
        for _ in playback:
            pass
        p50, p99 = 1e3 * np.percentile(playback.lateness, [50, 99])
        print(f"replay at 120 Hz: late by {p50:.2f} ms (median), {p99:.2f} ms (99 %)")


def main() -> None:
    options = command_line("benchmarks.recording", __doc__).parse_args()
    rows = chosen(options, ROWS)
    frames = content()
    print(f"{len(frames)} messages, {sum(map(len, frames)) / 1e6:.0f} MB, {SECONDS} s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "write" in rows:
            write(folder, frames, 2 if options.quick else 7)
        if "read" in rows:
            read(folder, frames)
        if "replay at 120 Hz" in rows:
            replay(folder, frames)


if __name__ == "__main__":
    run(main)
