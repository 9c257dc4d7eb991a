"""A server for many clients: it answers requests, streams on demand and carries out commands.

You see who connects and what each client sends. Without --seconds it runs until Ctrl-C; try it with
`igtl query localhost IMAGE`, `igtl command localhost Status`, `igtl dump localhost --start TDATA`.
"""

from common import at, parser

import igtl
from igtl.log import named
from igtl.simulate import Tracker, head_phantom


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__, f"localhost:{igtl.PORT}")
    options.add_argument("--seconds", type=float, help="end after so long")
    args = options.parse_args(argv)

    ct, tracker = head_phantom(20, 128), Tracker()
    # handlers first, then start(): nothing that a quick client sends is missed
    with at(args.address) as where, igtl.serve(*where, start=False) as server:

        @server.on_connect
        def connected(peer):
            print("connected:", peer.peer)

        @server.on(igtl.Message)
        def received(message, peer):
            print("received:", message)

        @server.provides(igtl.GetImage)
        def image(request, peer):
            return ct

        @server.provides(igtl.StartTrackingData)
        def track(request, peer):
            for n in igtl.Rate(1000 / (request.resolution_ms or 20)):
                yield tracker.tracking_data(n / 50)

        @server.command("Status")
        def status(command, peer):
            return f"<clients>{len(server.clients)}</clients>"

        server.start()
        print(f"serving on {named((server.host, server.port))}, Ctrl-C ends")
        server.wait(args.seconds)
        print("seen:", len(server.clients), "clients at the end,", server.gone.total(), "gone")


if __name__ == "__main__":
    main()
