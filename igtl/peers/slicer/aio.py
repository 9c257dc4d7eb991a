"""The profile in asyncio: `igtl.slicer.aio.serve` and `igtl.slicer.aio.connect`.

Methods that show something are plain functions here too, since they never wait. `command` is
awaited; handlers, answers and providers may be coroutine functions.
"""

from __future__ import annotations

import asyncio
from typing import Self, Unpack

from igtl._core import Frame
from igtl.aio.changes import Changes, guarded
from igtl.aio.dialing import open_dialing
from igtl.aio.link import Opening
from igtl.aio.server import Server, open_server
from igtl.aio.steps import method, run
from igtl.codec.message import Message
from igtl.options import PORT, ServerOptions, ServerSettings
from igtl.peers.slicer import talking
from igtl.peers.slicer.scene import Handler
from igtl.peers.slicer.settings import RETRY, checked
from igtl.peers.slicer.talking import Talking
from igtl.session.backoff import Backoff


class Slicer(Talking):
    """One or more running 3D Slicer, in one event loop; see `igtl.slicer.Slicer`."""

    server: Server

    def __init__(self, server: Server) -> None:
        super().__init__(server, Changes(), guarded)
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []

    def _publish(self, message: Message | Frame, *, latch: bool) -> None:
        rest = self.server.pass_on(message, latch, True)
        if rest is None:
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self.server.deliver_now(*rest)
        else:  # a frame that was encoded in a thread, for example
            self._loop.call_soon_threadsafe(self.server.deliver_now, *rest)

    def _run(self, handler: Handler) -> None:
        self._tasks.append(self._loop.create_task(run(self.call_handler(handler))))

    wait_connected = method(talking.wait_connected)
    command = method(talking.command)

    async def start(self) -> None:
        """Begin to listen or to connect, after `start=False`."""
        await self.server.start()

    async def close(self) -> None:
        """Send what waits, close, and stop the handlers."""
        await self.server.close()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    start: bool = True,
    **settings: Unpack[ServerSettings],
) -> Opening[Slicer]:
    """Be the server in `async with igtl.slicer.aio.serve() as slicer`; see `igtl.slicer.serve`."""

    async def opened() -> Slicer:
        options = ServerOptions.of(checked(settings))
        return Slicer(await open_server(host, port, options, start, None))

    return Opening(opened())


def connect(
    host: str = "localhost",
    port: int = PORT,
    *,
    backoff: Backoff | None = None,
    start: bool = True,
    **settings: Unpack[ServerSettings],
) -> Opening[Slicer]:
    """Be the client in `async with igtl.slicer.aio.connect("host") as slicer`.

    Arguments are those of `igtl.slicer.connect`.
    """

    async def opened() -> Slicer:
        options = ServerOptions.of(checked(settings))
        retry = RETRY if backoff is None else backoff
        return Slicer(await open_dialing((host, port), options, retry, start))

    return Opening(opened())
