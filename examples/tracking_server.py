"""A tracker with three tools at 60 Hz, as TDATA on request, and a client that follows one of them.

You see the tools as they come and go (one is out of sight now and then), and the rate.
"""

import time
from functools import partial

from common import at, parser

import igtl
from igtl import simulate


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--frames", type=int, default=180)
    options.add_argument("--tool", default="StylusToTracker")
    options.add_argument(
        "--dropout", type=float, default=0.5, help="share of the time out of sight"
    )
    args = options.parse_args(argv)

    own = partial(simulate.serve, "tracker", port=0, dropout=args.dropout, seed=7)
    with at(args.address, own) as where:
        with igtl.connect(*where, read_timeout=10) as link:
            start, count, seen, before = time.perf_counter(), 0, 0, None
            with link.stream(igtl.StartTrackingData(resolution_ms=16)) as frames:
                for frame in frames:
                    count += 1
                    there = args.tool in frame.tools.names
                    seen += there
                    if there != before:
                        x, y, z = frame.tools[args.tool].matrix[:3, 3] if there else (0, 0, 0)
                        print(
                            f"{args.tool}: {f'at {x:.1f} {y:.1f} {z:.1f} mm' if there else 'out of sight'}"
                        )
                        before = there
                    if count == args.frames:
                        break
            took = time.perf_counter() - start
    print(f"{count} frames, {count / took:.0f} Hz, {args.tool} in {seen} of them")


if __name__ == "__main__":
    main()
