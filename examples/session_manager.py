"""Sessions: who is connected, since when, what they did; to one, to all, and good-bye.

You see the list of clients with their counters, and that a message reaches one or all of them.
"""

import argparse
import time

import igtl


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=4)
    args = parser.parse_args(argv)
    with igtl.serve(port=0, max_clients=args.clients, start=False) as server:
        server.on_disconnect(lambda peer: print(f"client {peer.id} is gone: {peer.close_reason}"))
        server.start()
        links = [igtl.connect(port=server.port, read_timeout=5) for _ in range(args.clients)]
        for link in links:
            link.send(igtl.String("hello"))
        while [peer.stats.received for peer in server.clients] != [1] * args.clients:
            time.sleep(0.01)
        for peer in server.clients:
            print(
                f"client {peer.id} from {peer.peer[0]}, {peer.stats.received} received, header version "
                f"{peer.header_version}, here for {peer.uptime:.1f} s"
            )
        server.broadcast(igtl.String("to all"))
        server.send_to(2, igtl.String("to the second"))
        for link in links:
            print(link.recv().string)
        second = next(link for link in links if _is_second(link, server))
        print(second.recv().string)
        with igtl.connect(
            port=server.port
        ) as one_too_many:  # over max_clients: refused, and counted
            try:
                one_too_many.recv(timeout=5)
            except igtl.ConnectionClosed:
                print("refused:", dict(server.refused))
        server.disconnect(2)
        while len(server.clients) == args.clients:
            time.sleep(0.01)
        print(len(server.clients), "left")
        for link in links:
            link.close()


def _is_second(link: igtl.Link, server: igtl.Server) -> bool:
    return any(peer.id == 2 and peer.peer == link.local for peer in server.clients)


if __name__ == "__main__":
    main()
