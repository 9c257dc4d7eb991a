"""Back-pressure: a client that reads too slowly, under each policy of a full queue.

You see what is received and what is lost, by cause: sent = received + lost, always. "block" loses
nothing and waits; "latest" keeps up with the present.
"""

import argparse
import threading
import time

import numpy as np

import igtl

POLICIES = ["block", "drop_oldest", "drop_newest", "latest"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", choices=[*POLICIES, "all"], default="all")
    parser.add_argument("--count", type=int, default=200, help="images to send")
    parser.add_argument(
        "--pause", type=float, default=0.005, help="seconds that the client takes for each"
    )
    args = parser.parse_args(argv)
    image = igtl.Image(np.zeros((1, 480, 640), np.uint8), device_name="Image")
    for policy in POLICIES if args.policy == "all" else [args.policy]:
        numbers: list[float] = []

        def read(port: int, numbers: list[float] = numbers) -> None:
            with igtl.connect(port=port) as link:
                for message in link:
                    numbers.append(message.timestamp)
                    time.sleep(args.pause)

        with igtl.serve(port=0, policy=policy, max_queued=20) as server:
            reader = threading.Thread(target=read, args=(server.port,))
            reader.start()
            while not server.clients:
                time.sleep(0.01)
            (peer,) = server.clients
            start = time.perf_counter()
            for n in range(args.count):
                image.timestamp = n + 1
                server.broadcast(image)
            took = time.perf_counter() - start
        reader.join()  # the server has sent what was queued, and closed
        lost = dict(peer.stats.dropped) or "nothing"
        print(
            f"{policy:<11} {len(numbers)} received, lost: {lost}; the newest is number {numbers[-1]:.0f};"
            f" sending took {took:.2f} s"
        )


if __name__ == "__main__":
    main()
