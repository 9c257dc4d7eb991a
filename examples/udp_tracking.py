"""A 120 Hz tracking loop by UDP, with the time each pose takes, and the same by TCP for comparison.

You see median and worst latency from send to receive, what was lost, and how even the pace was.
"""

import argparse
import threading
import time

import numpy as np

import igtl
from igtl.simulate import Tracker


def loop(rate: float, count: int, send) -> igtl.Rate:
    """Send poses at a rate; the message id counts them."""
    tracker, pace = Tracker(), igtl.Rate(rate)
    for n, _ in zip(range(count), pace, strict=False):
        pose = tracker.transform(n / rate)
        pose.message_id = n + 1
        pose.timestamp = time.time()
        send(pose)
    return pace


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=120, help="Hz")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--compare-tcp", action="store_true")
    args = parser.parse_args(argv)
    count = round(args.rate * args.seconds)

    def measure(name: str, recv, send) -> None:
        late: list[float] = []

        def receive() -> None:
            try:
                while len(late) < count:
                    message = recv()
                    late.append(time.time() - message.timestamp)
            except TimeoutError:  # what is lost by UDP does not come
                pass

        thread = threading.Thread(target=receive)
        thread.start()
        pace = loop(args.rate, count, send)
        thread.join()
        p50, worst = 1e3 * np.median(late), 1e3 * max(late)
        print(
            f"{name}: {len(late)} of {count} received, {p50:.2f} ms (median), {worst:.2f} ms (worst);"
            f" pace {args.rate:g} Hz, jitter {1e3 * pace.jitter:.2f} ms, {pace.overruns} left out"
        )

    with igtl.udp.Receiver(0) as receiver, igtl.udp.Sender("127.0.0.1", receiver.port) as out:
        measure("UDP", lambda: receiver.recv(timeout=2)[0], out.send)
    if args.compare_tcp:
        with igtl.listen(port=0) as listener, igtl.connect(port=listener.port, version=2) as link:
            with listener.accept(timeout=5) as other:
                measure("TCP", lambda: other.recv(timeout=2), link.send)


if __name__ == "__main__":
    main()
