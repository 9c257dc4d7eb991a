"""A link that reconnects by itself: the server goes away and comes back, and the client continues.

You see what happens to the connection, and that what was sent meanwhile arrives.
"""

import argparse
import socket
import time

import igtl


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--away", type=float, default=1.0, help="seconds that the server is away")
    args = parser.parse_args(argv)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    got: list[int] = []

    def server() -> igtl.Server:
        serving = igtl.serve(port=port, start=False)
        serving.on(igtl.String)(lambda message, peer: got.append(int(message.string)))
        serving.start()
        return serving

    def tell(event: igtl.LinkEvent) -> None:
        print(event.kind, f"(next try within {event.delay:.2f} s)" if event.delay else "")

    first = server()
    with igtl.connect(port=port, reconnect=igtl.Backoff(0.1, 1.0), on_event=tell) as link:
        link.wait_connected(5)
        link.send(igtl.String("1"))
        while got != [1]:
            time.sleep(0.01)
        first.close()
        time.sleep(args.away)
        link.send(igtl.String("2"))  # queued while the server is away
        with server():
            link.wait_connected(10)
            link.send(igtl.String("3"))
            while len(got) < 3:
                time.sleep(0.01)
    print("arrived:", *got)


if __name__ == "__main__":
    main()
