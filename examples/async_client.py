"""asyncio: a client that receives a stream while it asks and commands.

You see poses that keep coming while the queries are answered, all in one task group.
"""

import asyncio
from functools import partial

from common import at, parser

import igtl
from igtl import simulate


async def follow(subscriber, count: int) -> int:
    """Count poses as they come."""
    seen = asyncio.Queue()
    subscriber.on(igtl.Transform, "ProbeToTracker")(seen.put_nowait)
    for _ in range(count):
        pose = await seen.get()
        print("pose  ", pose.position.round(1))
    return count


async def ask(subscriber) -> str:
    """Ask while the stream goes on."""
    image = await subscriber.query(igtl.GetImage(device_name="Image_Reference"), timeout=5)
    print("image ", image.size, "voxels")
    reply = await subscriber.command("SetDepth", "<depth>37</depth>")
    print("reply ", reply.text)
    return reply.text


async def run(address: str | None, count: int) -> None:
    with at(address, partial(simulate.serve, "tracker", "ultrasound", port=0)) as where:
        async with igtl.aio.connect(*where) as link:
            async with igtl.aio.subscribe(link) as subscriber:
                poses, reply = await asyncio.gather(follow(subscriber, count), ask(subscriber))
    print(f"{poses} poses, and the reply {reply!r}")


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=10, help="poses to show")
    args = options.parse_args(argv)
    asyncio.run(run(args.address, args.count))


if __name__ == "__main__":
    main()
