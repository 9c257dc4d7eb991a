"""How old is a pose? The clocks of two machines differ, so arrival minus time stamp does not tell.

You see what the tracker's clock shows more than the one here, how surely that is known, and the age
of a pose by it, beside the age that a program computes which trusts both clocks.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
from common import at, beside, parser

import igtl


@contextlib.contextmanager
def tracker(offset: float) -> Iterator[igtl.Server]:
    """A tracker whose clock is wrong by so many seconds, and which takes 50 ms for a pose."""
    with igtl.serve(port=0, start=False) as server:

        @server.provides(igtl.GetStatus)
        def _(request: igtl.GetStatus, peer: igtl.Peer) -> igtl.Status:
            return igtl.Status.ok(timestamp=time.time() + offset)

        def track(done: threading.Event) -> None:
            stamp = time.time() + offset
            while not done.wait(0.05):
                server.broadcast(igtl.Transform(np.eye(4), device_name="Probe", timestamp=stamp))
                stamp = time.time() + offset

        server.start()
        with beside(track):
            yield server


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument(
        "--offset", type=float, default=-2.5, help="seconds that the clock of our tracker is wrong"
    )
    options.add_argument("--seconds", type=float, default=2.0, help="how long to look")
    args = options.parse_args(argv)
    with at(args.address, partial(tracker, args.offset)) as where, igtl.connect(*where) as link:
        clock = link.clock()
        print(clock)
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            pose = link.latest(igtl.Transform, timeout=5)
            naive = 1e3 * (time.time() - (pose.timestamp or 0))
            print(f"age {1e3 * clock.age(pose):.1f} ms; without its clock {naive:.1f} ms")
            link.clock(1, update=clock)  # again and again: the drift becomes known
        known = f"{clock.drift:+.0f} ± {clock.drift_uncertainty:.0f}"
        print(f"drift {known} ppm, of {clock.samples} exchanges")
    try:  # PLUS writes no time stamp into its replies
        with igtl.simulate.plus(port=0) as plus, igtl.connect(port=plus.port) as link:
            link.clock()
    except igtl.ClockUnknown as error:
        print(error)


if __name__ == "__main__":
    main()
