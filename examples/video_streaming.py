"""Video: one simulated ultrasound scanner, encoded for a client that asks for a codec.

You see how large the stream is beside the pixels of its pictures, and how near the pictures come to
the original. h264, vp9 and mjpeg take `pip install "igtl[video]"`; raw is I420, without compression:
half as large again as the grey pixels, since it has two quarters for colour.
"""

import contextlib
import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
from common import at, beside, parser

import igtl
from igtl.simulate import Ultrasound

CODECS = {"mjpeg": "MJPG", "h264": "H264", "vp9": "VP90", "raw": "I420"}


@contextlib.contextmanager
def published(scanner: Ultrasound, codec: str) -> Iterator[igtl.Server]:
    """A server with the scanner as its camera; stamps count the seconds from 1."""
    with igtl.serve(port=0) as server:
        camera = igtl.video.Publisher(server, "Ultrasound", codecs=[codec], fps=30)

        def publish(done: threading.Event) -> None:
            for tick in igtl.Rate(30):
                if done.is_set():
                    return
                camera.publish(scanner.frame(tick / 30), timestamp=1 + tick / 30)

        try:
            with beside(publish):
                yield server
        finally:
            camera.close()


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("codec", choices=list(CODECS))
    options.add_argument("--frames", type=int, default=30)
    args = options.parse_args(argv)
    codec = CODECS[args.codec]
    scanner = Ultrasound(640, 480)

    sent, errors = 0, []
    with at(args.address, partial(published, scanner, codec)) as where:
        with igtl.connect(*where, read_timeout=10) as link:
            link.send(igtl.StartVideo(codec=codec, interval_ms=0, device_name="Ultrasound"))
            decoder = igtl.VideoDecoder()
            while decoder.decoded < args.frames:
                message = link.recv(igtl.Video)
                picture = decoder.decode(message)
                if picture is not None:
                    sent += len(message.payload)
                    if args.address is None:  # then the original is known
                        original = scanner.frame(message.timestamp - 1).astype(float)
                        errors.append(np.mean((picture - original) ** 2))
            link.send(igtl.StopVideo(device_name="Ultrasound"))
    pixels = picture.size * decoder.decoded
    print(f"{codec}: {decoder.decoded} frames of {picture.shape[1]} x {picture.shape[0]}")
    share = f"{100 * sent / pixels:.0f} %"
    print(f"{sent / 1e6:.2f} MB for {pixels / 1e6:.2f} MB of pixels: {share}")
    if errors:
        noise = np.mean(errors)
        psnr = (
            "none, every pixel is exact"
            if noise == 0
            else f"{10 * np.log10(255**2 / noise):.1f} dB"
        )
        print(f"difference from the original: {psnr}")


if __name__ == "__main__":
    main()
