"""A robot arm at 1 kHz: poses come in, a velocity command goes out at 500 Hz, nothing is lost.

You see the rates, the gaps in the numbering (none), and how late the loop was. With --address a real
arm is told to move up.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
from common import at, parser

import igtl
from igtl import simulate


@contextlib.contextmanager
def arm(commands: list[float]) -> Iterator[simulate.Simulator]:
    """A simulated arm; notes when the commands that it takes were sent."""
    with simulate.serve("robot", port=0, version=2) as simulator:
        simulator.server.on(igtl.Transform, "arm/servo_cp")(
            lambda m, peer: commands.append(m.timestamp)
        )
        yield simulator


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=2)
    args = options.parse_args(argv)
    commands: list[float] = []  # that the simulated arm has taken
    with at(args.address, partial(arm, commands)) as where:
        with igtl.connect(*where, version=2, read_timeout=5) as link:
            latest: list[igtl.Transform] = []
            ids: list[int] = []
            done = threading.Event()

            def read() -> None:
                while not done.is_set():
                    pose = link.recv(igtl.Transform, "arm/measured_cp")
                    ids.append(pose.message_id)
                    latest[:] = [pose]

            reader = threading.Thread(target=read)
            reader.start()
            pace, start = igtl.Rate(500), time.perf_counter()
            for _ in pace:
                if time.perf_counter() - start > args.seconds:
                    break
                if latest:
                    target = np.array(latest[0].matrix)
                    target[2, 3] += 1  # mm up
                    link.send(igtl.Transform(target, device_name="arm/servo_cp"))
            done.set()
            reader.join()
    took = time.perf_counter() - start
    missing = ids[-1] - ids[0] + 1 - len(ids)
    print(f"{len(ids)} poses at {len(ids) / took:.0f} Hz, {missing} missing")
    print(
        f"{len(commands)} commands at {len(commands) / took:.0f} Hz, jitter {1e3 * pace.jitter:.2f} ms"
    )


if __name__ == "__main__":
    main()
