"""Asking: one message, none, a refusal, and a stream at the rate you choose.

You see the answer to each request. What a server does not have is an answer too, not a time-out.
"""

import time
from functools import partial

from common import at, parser

import igtl
from igtl import simulate


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--rate", type=float, default=50, help="Hz")
    options.add_argument("--count", type=int, default=25)
    args = options.parse_args(argv)
    with at(args.address, partial(simulate.serve, "tracker", "ct", port=0)) as where:
        with igtl.connect(*where, read_timeout=10) as link:
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
