"""A device that reports its state, and a monitor that notices when it falls silent.

You see each change of state once, with the words of the specification, and the alarm when it is silent.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial

from common import at, parser

import igtl
from igtl import StatusCode

STATES = [
    (StatusCode.NOT_READY, "warming up"),
    (StatusCode.OK, ""),
    (StatusCode.OK, ""),
    (StatusCode.OVERFLOW, "too many tools"),
    (StatusCode.OK, ""),
    (StatusCode.HARDWARE_FAILURE, "camera 2"),
]


@contextlib.contextmanager
def device(interval: float) -> Iterator[igtl.Server]:
    """A device that reports to its client, and then hangs: connected, and silent."""
    with igtl.serve(port=0, start=False) as server:

        def report(peer: igtl.Peer) -> None:
            for code, text in STATES:
                peer.send(igtl.Status(code, 0, code.name, text, device_name="Tracker"))
                time.sleep(interval)

        server.on_connect(
            lambda peer: threading.Thread(target=report, args=(peer,), daemon=True).start()
        )
        server.start()
        yield server


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--interval", type=float, default=0.2, help="seconds between two reports")
    options.add_argument(
        "--seconds", type=float, default=60, help="end after so long at the latest"
    )
    args = options.parse_args(argv)
    before, heard = None, time.monotonic()
    end = heard + args.seconds
    with at(args.address, partial(device, args.interval)) as where, igtl.connect(*where) as link:
        while time.monotonic() < end:
            try:
                status = link.recv(igtl.Status, timeout=5 * args.interval)
            except TimeoutError:
                print(f"ALARM: nothing for {time.monotonic() - heard:.1f} s")
                break
            heard = time.monotonic()
            if status.code != before:
                before = status.code
                print("ok" if status.is_ok else "!!", StatusCode(status.code).name, status.message)


if __name__ == "__main__":
    main()
