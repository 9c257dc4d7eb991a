"""Asking: one message, none, a refusal, and a stream at the rate you choose.

You see the answer to each request. What a server does not have is an answer too, not a time-out.
"""

import argparse
import time

import igtl
from igtl import simulate


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50, help="Hz")
    parser.add_argument("--count", type=int, default=25)
    args = parser.parse_args(argv)
    with simulate.serve("tracker", "ct", port=0) as simulator:
        with igtl.connect(port=simulator.port, read_timeout=10) as link:
            print("CT:", link.query(igtl.GetImage(device_name="CT")))
            print("MRI:", link.query(igtl.GetImage(device_name="MRI")))
            print("points:", link.query(igtl.GetPoints()))
            try:
                with link.stream(igtl.StartPolyData()):
                    pass
            except igtl.CommandFailed as error:
                print("meshes:", error)
            interval = round(1000 / args.rate)
            with link.stream(igtl.StartTrackingData(resolution_ms=interval)) as frames:
                start = time.perf_counter()
                for _ in range(args.count):
                    frame = next(frames)
                took = time.perf_counter() - start
            print(
                f"TDATA: {args.count} frames at {args.count / took:.0f} Hz, {len(frame.tools)} tools"
            )


if __name__ == "__main__":
    main()
