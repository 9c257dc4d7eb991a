"""asyncio: one server, many clients at once; one of them is slow and delays no other.

You see how many messages each client got, and what the slow one lost, by cause.
"""

import argparse
import asyncio

import igtl
from igtl.simulate import Ultrasound


async def client(port: int, number: int, pause: float) -> int:
    """Receive until the server ends; returns how many came."""
    count = 0
    async with igtl.aio.connect(port=port) as link:
        await link.send(igtl.String(f"client {number}"))
        async for _ in link:
            count += 1
            await asyncio.sleep(pause)
    return count


async def run(clients: int, seconds: float) -> None:
    scanner = Ultrasound(640, 480)
    async with igtl.aio.serve(port=0, policy="latest", max_queued=10) as server:

        @server.on(igtl.String)
        async def hello(message, peer):
            print("hello from", message.string)

        tasks = [
            asyncio.create_task(client(server.port, n, pause=0.2 if n == 0 else 0))
            for n in range(clients)
        ]
        while len(server.clients) < clients:
            await asyncio.sleep(0.01)
        image = scanner.image(0)  # packed once a frame, whatever the number of clients
        sent = 0
        async for tick in igtl.Rate(50):
            if tick >= 50 * seconds:
                break
            await server.broadcast(image)
            sent += 1
        lost = {peer.id: dict(peer.stats.dropped) for peer in server.clients if peer.stats.lost}
    counts = await asyncio.gather(*tasks)
    print("sent:", sent)
    print("received:", *counts)
    print("lost by cause:", lost)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args(argv)
    asyncio.run(run(args.clients, args.seconds))


if __name__ == "__main__":
    main()
