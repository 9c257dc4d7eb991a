"""How old is a pose? The clocks of two machines differ, so arrival minus time stamp does not tell.

You see what the tracker's clock shows more than the one here, how surely that is known, and the age
of a pose by it, beside the age that a program computes which trusts both clocks.
"""

import argparse
import time

import numpy as np

import igtl


def tracker(offset: float) -> igtl.Server:
    """A tracker whose clock is wrong by so many seconds; it stamps all that it sends."""
    server = igtl.serve(port=0, start=False)

    @server.provides(igtl.GetStatus)
    def _(request: igtl.GetStatus, peer: igtl.Peer) -> igtl.Status:
        return igtl.Status.ok(timestamp=time.time() + offset)

    server.start()
    return server


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--offset", type=float, default=-2.5, help="seconds that its clock is wrong"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to look")
    args = parser.parse_args(argv)
    with tracker(args.offset) as server, igtl.connect(port=server.port) as link:
        clock = link.clock()
        print(clock)
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            stamp = time.time() + args.offset
            time.sleep(0.05)  # the tracker computes the pose
            server.broadcast(igtl.Transform(np.eye(4), device_name="Probe", timestamp=stamp))
            pose = link.latest(igtl.Transform, "Probe", timeout=5)
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
