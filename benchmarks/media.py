"""Video and compression: frames a second, delay, ratios, MB/s, and a CT over a slow link.

    python -m benchmarks.media [--rows video] [--quick] [--write]

Codecs take turns; methods of compression come one after the other. Every decoded picture and every
decompressed byte is compared.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import igtl
from benchmarks.measure import chosen, command_line, machine, run, say
from igtl.codec.compression import _compressor, _shuffled, _unshuffled
from igtl.simulate import head_phantom
from igtl.video import VideoDecoder, VideoEncoder, codecs_here

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "media.md"
DATA = ROOT / "docs" / "performance" / "media.json"
Cells = dict[str, Any]
Volume = npt.NDArray[Any]


# ---- the data -----------------------------------------------------------------------------------


def head(noise: float, slices: int = 100) -> Volume:
    """512 × 512, int16, HU; see `igtl.simulate.head_phantom`. noise: in HU, within the head."""
    voxels: Volume = head_phantom(slices, noise=noise).array
    return voxels


def labels(slices: int = 100) -> Volume:
    """The same head as a label map, uint8."""
    values = head(0, slices)
    return np.searchsorted(np.unique(values), values).astype(np.uint8)


def ultrasound(frames: int = 60) -> Volume:
    """A sector with speckle that moves, 640 × 480, uint8, log-compressed; black outside."""
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:480, :640].astype(np.float32)
    depth, angle = np.hypot(x - 320, y + 60), np.arctan2(x - 320, y + 60)
    sector = (depth > 90) & (depth < 520) & (abs(angle) < 0.65)
    # complex scatterers, blurred by the beam: Rayleigh amplitudes, three pixels across
    fields = rng.normal(size=(2, 2, 480, 1024)).astype(np.float32)
    for axis in (2, 3):
        fields = fields + np.roll(fields, 1, axis) + np.roll(fields, -1, axis)
    out = np.zeros((frames, 480, 640), np.uint8)
    for n in range(frames):
        # the probe moves by a pixel a frame, and the speckle is another after about ten
        mixed = np.cos(n / 10) * fields[0] + np.sin(n / 10) * fields[1]
        echo = np.hypot(mixed[0], mixed[1])[:, n : n + 640]
        cyst = np.hypot(x - 300 - 30 * np.sin(n / 10), y - 240) < 45
        amplitude = echo / 12 * np.where(cyst, 0.05, 1) * np.exp(-depth / 400)
        level = 255 + 255 / 60 * 20 * np.log10(amplitude + 1e-6)
        out[n] = np.where(sector, np.clip(level, 0, 255), 0)
    return out


def noise(slices: int = 40) -> Volume:
    """Uniform noise, 512 × 512, int16."""
    rng = np.random.default_rng(9)
    return rng.integers(-32768, 32768, (slices, 512, 512), np.int16)


# ---- video --------------------------------------------------------------------------------------


def psnr(a: Volume, b: Volume) -> float:
    error = float(np.mean((a.astype(np.float32) - b) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def moving(width: int, height: int, frames: int, *, changing: bool = True) -> list[Volume]:
    """RGB: the ultrasound sequence, enlarged where that is asked for, with a coloured overlay; or
    its first picture, which moves as a whole."""
    out = []
    sequence = ultrasound(frames if changing else 1)
    for k in range(frames):
        frame = sequence[k] if changing else np.roll(sequence[0], k, 1)
        rows = np.arange(height) * 480 // height
        columns = np.arange(width) * 640 // width
        rgb = np.repeat(frame[np.ix_(rows, columns)][..., np.newaxis], 3, 2)
        rgb[20:60, 20 + k : 120 + k] = (250, 180, 20)
        out.append(rgb)
    return out


def video(quick: bool) -> Iterator[Cells]:
    for width, height, count, changing in (
        (640, 480, 60, False),
        (640, 480, 60, True),
        (1920, 1080, 30, True),
    ):
        frames = moving(width, height, 12 if quick else count, changing=changing)
        ends = {codec: (VideoEncoder(codec), VideoDecoder()) for codec in codecs_here()}
        taken: dict[str, list[tuple[float, float, int, float]]] = {codec: [] for codec in ends}
        for frame in frames:
            for codec, (encoder, decoder) in ends.items():
                start = time.perf_counter()
                message = encoder.encode(frame)
                middle = time.perf_counter()
                found = decoder.decode(message)
                end = time.perf_counter()
                assert found is not None  # its own picture: no frame waits for another
                taken[codec].append(
                    (middle - start, end - middle, len(message.payload), psnr(found, frame))
                )
        for codec, (encoder, _) in ends.items():
            encoder.close()
            encode, decode, sizes, quality = zip(*taken[codec][2:], strict=True)
            both = sorted(a + b for a, b in zip(encode, decode, strict=True))
            motion = "speckle changes" if changing else "moves as a whole"
            yield {
                "frames": f"{width} × {height}, {motion}",
                "codec": codec,
                "encode fps": round(1 / statistics.mean(encode)),
                "decode fps": round(1 / statistics.mean(decode)),
                "delay, median ms": round(1e3 * statistics.median(both), 1),
                "delay, p99 ms": round(1e3 * both[int(0.99 * (len(both) - 1))], 1),
                "frames held back": 0,
                "kB a frame": round(statistics.mean(sizes) / 1e3, 1),
                "PSNR dB": round(statistics.mean(quality), 1),
            }
        say(f"  {width} × {height}")


# ---- compression --------------------------------------------------------------------------------

METHODS: list[tuple[Any, Any]] = [
    ("deflate", "fast"), ("deflate", "default"), ("deflate", "best"),
    ("zstd", "fast"), ("zstd", "default"), ("zstd", "best"),
]  # fmt: skip


def pack(data: bytes, itemsize: int, method: Any, level: Any) -> bytes:
    """As a COMPRESSED message has it."""
    view = memoryview(data)
    return _compressor(method, level)(view if itemsize == 1 else _shuffled(view, itemsize))


def unpack(packed: bytes, itemsize: int) -> Any:
    out = igtl.decompress(packed)
    return out if itemsize == 1 else _unshuffled(out, itemsize)


def best_of(work: Callable[[], Any], quick: bool) -> tuple[float, Any]:
    """Shortest of a few, and what it gave; slow ones once."""
    best, result = float("inf"), None
    for _ in range(1 if quick else 3):
        start = time.perf_counter()
        result = work()
        took = time.perf_counter() - start
        best = min(best, took)
        if took > 1:
            break
    return best, result


def compression(quick: bool) -> Iterator[Cells]:
    slices = 20 if quick else 100
    sets = {
        "label map of a head, u8": labels(slices),
        "CT of a head without noise, i16": head(0, slices),
        "CT of a head, noise 10 HU, i16": head(10, slices),
        "ultrasound with speckle, u8": ultrasound(20 if quick else 60),
        "uniform noise, i16": noise(10 if quick else 40),
    }
    for name, values in sets.items():
        data = values.tobytes()
        shuffles = (1, 2) if values.itemsize == 2 else (1,)
        for itemsize in shuffles:
            for method, level in METHODS:
                there, packed = best_of(partial(pack, data, itemsize, method, level), quick)
                back, out = best_of(partial(unpack, packed, itemsize), quick)
                assert bytes(out) == data
                yield {
                    "data": name,
                    "method": f"{method}{', shuffled' if itemsize > 1 else ''}",
                    "level": level,
                    "ratio": round(len(data) / len(packed), 2),
                    "saved": f"{1 - len(packed) / len(data):.1%}",
                    "compress MB/s": round(len(data) / there / 1e6),
                    "decompress MB/s": round(len(data) / back / 1e6),
                }
        say(f"  {name}")


# ---- a slow link --------------------------------------------------------------------------------


@contextlib.contextmanager
def limited(port: int, bits: float) -> Iterator[int]:
    """A port that hands on to another, so many bits per second each way."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        due = time.perf_counter()
        with contextlib.suppress(OSError):
            while data := source.recv(16 << 10):
                due = max(due, time.perf_counter()) + 8 * len(data) / bits
                time.sleep(max(0, due - time.perf_counter()))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)

        def accept() -> None:
            while not stop.is_set():
                try:
                    near, _ = listening.accept()
                except TimeoutError:
                    continue
                far = socket.create_connection(("127.0.0.1", port))
                for a, b in ((near, far), (far, near)):
                    threads.append(threading.Thread(target=pump, args=(a, b), daemon=True))
                    threads[-1].start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            stop.set()
            thread.join()
            for each in threads:
                each.join(5)


def slow_link(quick: bool) -> Iterator[Cells]:
    bits = 100e6
    image = igtl.Image(head(10, 20 if quick else 100), device_name="CT")
    choices: dict[str, Any] = {
        "as it is": False,
        "compressed, deflate": igtl.Compression("deflate"),
        "compressed, zstd": igtl.Compression("zstd"),
    }
    taken: dict[str, list[float]] = {name: [] for name in choices}
    sent: dict[str, int] = {}
    for _ in range(1 if quick else 3):
        for name, how in choices.items():
            with contextlib.ExitStack() as stack:
                listener = stack.enter_context(igtl.listen(port=0, compression=bool(how)))
                port = stack.enter_context(limited(listener.port, bits))
                link = stack.enter_context(igtl.connect("127.0.0.1", port, compression=how))
                far = stack.enter_context(listener.accept(timeout=10))
                for a, b in ((link, far), (far, link)):
                    a.send(igtl.Status.ok())
                    b.recv(timeout=10)
                before = link.stats.sent_bytes
                sender = threading.Thread(target=link.send, args=(image,))
                start = time.perf_counter()
                sender.start()
                got = far.recv(timeout=60)
                taken[name].append(time.perf_counter() - start)
                sender.join()
                assert got == image
                sent[name] = link.stats.sent_bytes - before
    plain = statistics.median(taken["as it is"])
    for name in choices:
        seconds = statistics.median(taken[name])
        yield {
            "a CT of 100 slices, noise 10 HU, over 100 Mbit/s": name,
            "seconds": round(seconds, 2),
            "MB on the wire": round(sent[name] / 1e6, 1),
            "faster": f"{plain / seconds:.1f} ×",
        }


# ---- what people read ---------------------------------------------------------------------------

TITLES = {"video": "Video", "compression": "Compression", "slow link": "A slow link"}


def table(rows: list[Cells]) -> str:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[n]) for n in names) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = command_line("benchmarks.media", __doc__)
    parser.add_argument("--write", action="store_true", help="also into docs/media.md; all rows")
    options = parser.parse_args()
    if options.write and options.rows:
        parser.error("docs/media.md shows all rows: only --quick with --write")
    works = {"video": video, "compression": compression, "slow link": slow_link}
    found: dict[str, list[Cells]] = {}
    for name in chosen(options, dict.fromkeys(works, (40, 12))):
        say(name)
        found[name] = list(works[name](options.quick))
    where, when = machine(), time.strftime("%Y-%m-%d")
    text = (
        f"Measured {when} on {where['cpu']}, {where['processors']} processors, {where['python']}."
    )
    for name, rows in found.items():
        text += f"\n\n### {TITLES[name]}\n\n{table(rows)}"
    print(text)
    if options.write:
        DATA.write_text(json.dumps({"when": when, "machine": where, **found}, indent=1) + "\n")
        mark = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.S)
        DOCUMENT.write_text(
            mark.sub(lambda m: f"{m[1]}{text}\n{m[2]}", DOCUMENT.read_text(), count=1)
        )


if __name__ == "__main__":
    run(main)
