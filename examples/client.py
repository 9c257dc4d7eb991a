"""A client: it connects, receives what you choose, and asks for the rest.

You see one line a message: all that comes, or the poses, or a status, or what the server can do, or a
tracking stream that is started and stopped. Without --address it brings its own simulated server.
"""

from functools import partial

from common import at, parser

import igtl
from igtl import simulate


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("what", choices=["all", "transform", "status", "capability", "tracking"])
    options.add_argument("--count", type=int, default=5, help="messages to show")
    args = options.parse_args(argv)

    own = partial(simulate.serve, "tracker", "ultrasound", port=0)
    with at(args.address, own) as where, igtl.connect(*where, read_timeout=10) as link:
        match args.what:
            case "all":
                for _ in range(args.count):
                    print(link.recv())
            case "transform":
                for _ in range(args.count):
                    pose = link.recv(igtl.Transform, "Probe*")  # others stay queued, in order
                    print(pose.device_name, "at", pose.position.round(1), "mm")
            case "status":
                print(link.query(igtl.GetStatus()))
            case "capability":
                print(*link.query(igtl.GetCapability()).types)
            case "tracking":  # STT_TDATA, then RTS_TDATA and TDATA, in the end STP_TDATA
                with link.stream(igtl.StartTrackingData(resolution_ms=20)) as frames:
                    for frame, _ in zip(frames, range(args.count), strict=False):
                        print(len(frame.tools), "tools:", *frame.tools.names)


if __name__ == "__main__":
    main()
