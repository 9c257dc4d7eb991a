"""How fast it is here: packing, reading, and messages a second over a connection on this machine.

You see times for each message type, and the rate of a stream of poses. (`igtl bench` measures more, and
`python -m benchmarks` in the sources compares with other libraries.)
"""

import argparse
import threading
import time

import numpy as np

import igtl
from igtl import StatusCode


def best(work, seconds: float) -> float:
    """Least time of one call, in seconds."""
    found, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(100):
            work()
        found = min(found, (time.perf_counter() - start) / 100)
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each measurement")
    parser.add_argument("--count", type=int, default=20_000, help="poses to stream")
    args = parser.parse_args(argv)
    image = igtl.Image(np.zeros((1, 1024, 1024), np.uint8))
    for name, message in {
        "TRANSFORM": igtl.Transform(np.eye(4), device_name="Probe"),
        "STATUS": igtl.Status(StatusCode.OK, 0, "OK", "all is well"),
        "IMAGE 1024 x 1024": image,
    }.items():
        wire, kept = message.pack(), bytearray(len(message.pack()))
        pack = best(lambda m=message, k=kept: m.pack_into(k), args.seconds)
        read = best(lambda w=wire: igtl.unpack(w), args.seconds)
        print(f"{name}: pack {1e6 * pack:.2f} us, read {1e6 * read:.2f} us")
    pose = igtl.Transform(np.eye(4), device_name="Probe")
    with igtl.listen(port=0) as listener, igtl.connect(port=listener.port) as link:
        with listener.accept(timeout=5) as receiver:
            sender = threading.Thread(target=lambda: [link.send(pose) for _ in range(args.count)])
            start = time.perf_counter()
            sender.start()
            for _ in range(args.count):
                receiver.recv(timeout=10)
            took = time.perf_counter() - start
            sender.join()
    print(f"{args.count} poses received, {args.count / took:,.0f} a second")


if __name__ == "__main__":
    main()
