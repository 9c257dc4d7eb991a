"""The names of `igtl`, awaited: `import igtl.aio`, or `igtl.aio` after `import igtl`.

    async with igtl.aio.connect("localhost", 18944) as link:
        async for message in link: ...

Everything here belongs to the event loop it was made in; other threads use `igtl.connect` and
`igtl.serve`. Works with uvloop when that is the loop.
"""

from igtl.aio import udp
from igtl.aio.link import Link, connect, pipe
from igtl.aio.listener import Listener, listen
from igtl.aio.peer import Peer
from igtl.aio.reconnect import reconnect
from igtl.aio.server import Server, serve
from igtl.aio.subscriber import Subscriber, subscribe

__all__ = [
    "Link",
    "Listener",
    "Peer",
    "Server",
    "Subscriber",
    "connect",
    "listen",
    "pipe",
    "reconnect",
    "serve",
    "subscribe",
    "udp",
]
