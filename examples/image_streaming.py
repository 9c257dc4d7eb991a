"""Images: a CT, an MRI or an ultrasound sequence to a server, at the right place in the patient.

You see what arrives: size, type, spacing and where the first voxel lies; and the rate in MB/s. With
--address the images go to a server that takes them, such as 3D Slicer.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
from common import at, parser

import igtl
from igtl.simulate import Ultrasound, head_phantom


def images(kind: str, count: int):
    """The images to send; arrays are (k, j, i), as everywhere in numpy."""
    if kind == "ct":
        ct = head_phantom(100, 512)  # int16, Hounsfield units
        array = (ct.array + 1000).astype(np.uint16)
        return [igtl.Image(array, ijk_to_world=ct.ijk_to_world, device_name="CT")] * count
    if kind == "mri":
        noise = np.random.default_rng(1).normal(300, 20, (60, 256, 256)).astype(np.float32)
        place = np.diag([0.9, 0.9, 3.0, 1.0])
        place[:3, 3] = -115, -115, -90  # of the first voxel, RAS, mm
        return [igtl.Image(noise, ijk_to_world=place, device_name="MRI")] * count
    scanner = Ultrasound(640, 480, spacing=0.2)
    return [scanner.image(n / 30) for n in range(count)]


def receive(listener: igtl.Listener) -> None:
    """Take all images of one client; show the last."""
    with listener.accept(timeout=10) as link:
        for message in link:
            image = message
        print(link.stats.received, "images arrived; the last:", image)
    place = image.ijk_to_world[:3, 3].round(2)
    print("first voxel at", place, "mm RAS; dtype", image.array.dtype)


@contextlib.contextmanager
def receiver() -> Iterator[igtl.Listener]:
    """A server with a thread that receives."""
    with igtl.listen(port=0) as listener:
        thread = threading.Thread(target=receive, args=(listener,))
        thread.start()
        yield listener
        thread.join()


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("kind", choices=["ct", "mri", "ultrasound"])
    options.add_argument("--count", type=int, default=10)
    args = options.parse_args(argv)
    to_send = images(args.kind, args.count)
    rate = 30.0 if args.kind == "ultrasound" else 1000.0  # an ultrasound scanner is paced

    with at(args.address, receiver) as where:
        with igtl.connect(*where) as link:
            start = time.perf_counter()
            for image, _ in zip(to_send, igtl.Rate(rate), strict=False):
                link.send(image)  # pixels are not copied
            took = time.perf_counter() - start
            print(f"{args.count} images sent, {link.stats.sent_bytes / took / 1e6:.0f} MB/s")


if __name__ == "__main__":
    main()
