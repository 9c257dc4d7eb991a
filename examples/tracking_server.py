"""A tracker with three tools at 60 Hz, as TDATA on request, and a client that follows one of them.

You see the tools as they come and go (one is out of sight now and then), and the rate.
"""

import argparse
import time

import igtl
from igtl import simulate


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=180)
    parser.add_argument("--tool", default="StylusToTracker")
    parser.add_argument("--dropout", type=float, default=0.5, help="share of the time out of sight")
    args = parser.parse_args(argv)

    with simulate.serve("tracker", port=0, dropout=args.dropout, seed=7) as simulator:
        with igtl.connect(port=simulator.port, read_timeout=10) as link:
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
