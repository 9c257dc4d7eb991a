"""Recordings exported to each format, as how many times real time.

    python -m benchmarks.exporting                # a minute of recording, to all formats
    python -m benchmarks.exporting --rows npz     # to this one

The recording: eight tools of 120 Hz each, as TRANSFORM, and pictures of 640 × 480 at 30 Hz. Times
are of the process (CPU) and of the clock; what a format cannot hold is left out of it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from pathlib import Path

import igtl
from benchmarks.measure import chosen, command_line, run, say
from igtl import simulate

FORMATS = (
    "npz", "h5", "csv", "mp4", "igs.mha", "seq.nrrd", "bag", "foxglove.mcap", "mcap"
)  # fmt: skip
TOOLS, HZ, FRAMES = 8, 120, 30


def record(path: Path, seconds: float) -> None:
    """Make the recording."""
    tracker = simulate.Tracker([f"Tool{k}ToTracker" for k in range(TOOLS)])
    scanner = simulate.Ultrasound(640, 480)
    pictures = [scanner.image(k / FRAMES) for k in range(FRAMES)]
    with igtl.Recorder(path) as recorder:
        for n in range(round(seconds * HZ)):
            at = 1_700_000_000 + n / HZ
            for k in range(TOOLS):
                message = tracker.transform(n / HZ, k)
                message.timestamp = at
                recorder.write(message, received=at)
            if n % (HZ // FRAMES) == 0:
                picture = pictures[n // (HZ // FRAMES) % FRAMES]
                picture.timestamp = at
                recorder.write(picture, received=at)


def size(path: Path) -> int:
    """Bytes of a file, or of the files of a folder."""
    return sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())


def main() -> None:
    """Print a line for each format."""
    options = command_line("benchmarks.exporting", __doc__).parse_args()
    formats = chosen(options, dict.fromkeys(FORMATS, (6, 2)))
    seconds = 10.0 if options.quick else 60.0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "case.mcap")
        say("making the recording")
        record(source, seconds)
        print(f"{seconds:.0f} s, {size(source) / 1e6:.0f} MB")
        for name in formats:
            target = Path(folder, "out" if name == "bag" else f"out.{name}")
            clock, cpu = time.perf_counter(), time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", igtl.FileWarning)
                try:
                    igtl.export(source, target)
                except ModuleNotFoundError as error:
                    say(f"{name} skipped: {error}")
                    continue
            clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
            print(
                f"{name:15}{seconds / clock:6.0f} x real time {seconds / cpu:6.0f} x "
                f"by CPU {size(target) / 1e6:8.0f} MB",
                flush=True,
            )
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
