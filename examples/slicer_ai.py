"""AI in the loop of 3D Slicer: ultrasound and a needle in, a segmentation out, at the place and time of
its image.

You see how old each result is when Slicer shows it, and that the poses of the needle keep their
rate meanwhile. Scanner and Slicer are simulated; --address is a scanner of yours, and with --port a
Slicer of yours is the client.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from common import at, parser

import igtl
from igtl import simulate


def infer(pixels: np.ndarray, seconds: float) -> np.ndarray:
    """A network would stand here."""
    time.sleep(seconds)
    return pixels > 150


@contextlib.contextmanager
def scanner() -> Iterator[igtl.Server]:
    """A simulated scanner at 30 Hz."""
    device = simulate.Ultrasound()
    with igtl.serve(port=0) as server, ExitStack() as stack:
        for produce in (device.image, device.needle):
            stack.callback(simulate.Stream(produce, server.broadcast, 30).stop)
        yield server


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=3, help="end after so long")
    options.add_argument("--work", type=float, default=0.1, help="seconds that the network takes")
    options.add_argument("--port", type=int, help="of the connector of a Slicer that you have")
    args = options.parse_args(argv)
    with ExitStack() as stack:
        enter = stack.enter_context
        where = enter(at(args.address, scanner))
        slicer = enter(igtl.slicer.serve(port=args.port or 0))
        shown = None if args.port else enter(simulate.slicer(port=slicer.port))
        link = enter(igtl.connect(*where, drain=True))
        slicer.wait_connected()

        poses = threading.Thread(target=pass_poses, args=(link, slicer))
        poses.start()
        ages, end = [], time.monotonic() + args.seconds
        while time.monotonic() < end:
            image = link.latest(igtl.Image, timeout=5)  # the newest; those before are passed over
            prediction = infer(image.array, args.work)
            slicer.labels("Prediction_Reference", prediction, like=image)  # its place, its time
            ages.append(time.time() - image.timestamp)
        link.close()
        poses.join()
        low, high = 1000 * np.percentile(ages, [50, 95])
        print(f"{len(ages)} results, age {low:.0f} ms (half of them), {high:.0f} ms (95 of 100)")
        if shown is not None:
            node = shown.wait("Volume", "Prediction_Reference")
            needle = shown.wait("LinearTransform", "NeedleToReference")
            print(f"Slicer shows {node.value.sum()} pixels of the needle at the image's place")
            print(f"{needle.updates / args.seconds:.0f} poses a second beside")


def pass_poses(link: igtl.Link, slicer: Any) -> None:
    """Hand on the poses of the needle, whatever the network does."""
    with contextlib.suppress(igtl.ConnectionClosed):
        while True:
            pose = link.recv(igtl.Transform)
            slicer.transform(pose.device_name, pose, timestamp=pose.timestamp)


if __name__ == "__main__":
    main()
