"""Two operating rooms and a ward on a bridge: a hub, a publisher in each room, one receiver of both.

You see which rooms are there, the newest pose of each, and what was lost on the way: nothing.
"""

import argparse
import socket
import time

import numpy as np

import igtl


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long it runs")
    args = parser.parse_args(argv)
    with socket.create_server(("127.0.0.1", 0)) as free:
        hub = f"tcp/127.0.0.1:{free.getsockname()[1]}"
    newest: dict[str, igtl.Message] = {}

    def keep(received: igtl.bridge.Received) -> None:
        newest[received.site] = received.frame.unpack()

    def tell(site: str, there: bool) -> None:
        print(site, "is there" if there else "is gone")

    with igtl.bridge.Router(listen=hub):  # on a computer of its own
        with igtl.bridge.Subscriber(
            ["or1", "or2"], on_frame=keep, on_site=tell, connect=hub
        ) as ward:
            rooms = [igtl.bridge.Publisher(site, connect=hub) for site in ("or1", "or2")]
            while ward.sites != ["or1", "or2"]:
                time.sleep(0.01)
            for tick in igtl.Rate(60):
                if tick >= 60 * args.seconds:
                    break
                for number, room in enumerate(rooms):
                    matrix = np.eye(4)
                    matrix[0, 3] = 100 * number + tick
                    room.put(igtl.Transform(matrix, device_name="ProbeToTracker"))
            for room in rooms:
                room.close()  # sends what waits
            while ward.sites:
                time.sleep(0.01)
            for site, pose in sorted(newest.items()):
                print(site, pose.device_name, pose.position)
            print("gaps:", ward.stats.dropped["gap"])


if __name__ == "__main__":
    main()
