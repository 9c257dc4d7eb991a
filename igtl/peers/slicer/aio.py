"""The profile in asyncio: `igtl.slicer.aio.serve` and `igtl.slicer.aio.connect`.

What shows something is a plain method here too, since it never waits. `command` is awaited; what
handlers, answers and providers are may be coroutine functions.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar, Unpack

from igtl._core import Frame
from igtl.aio.dialing import open_dialing
from igtl.aio.link import Opening
from igtl.aio.peer import Peer
from igtl.aio.server import Server, open_server
from igtl.codec.message import Message
from igtl.errors import CommandFailed
from igtl.log import log
from igtl.messages.general import CommandReply
from igtl.options import PORT, ServerOptions, ServerSettings, seconds
from igtl.peers.slicer.scene import Handler, Scene, reply_of
from igtl.peers.slicer.settings import RETRY, checked
from igtl.session.backoff import Backoff

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=Message)


class Slicer(Scene):
    """One or more running 3D Slicer, in one event loop; see `igtl.slicer.Slicer`."""

    server: Server

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Condition()
        self._woken: dict[Handler, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        server.on_connect(self._welcome)
        server.on()(self._arrived)

    async def _welcome(self, peer: Peer) -> None:
        self._came(peer.peer, peer)
        async with self._changed:
            self._changed.notify_all()

    def _arrived(self, message: Message, peer: Peer) -> None:
        for handler in self._take(message):
            self._woken[handler].set()

    def _publish(self, message: Message | Frame, *, latch: bool) -> None:
        packed = self.server.pack(message, latch=latch, crc=True)
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self.server.deliver_now(packed)
        else:  # a frame that was encoded in a thread, for example
            self._loop.call_soon_threadsafe(self.server.deliver_now, packed)

    def _run(self, handler: Handler) -> None:
        self._woken[handler] = asyncio.Event()
        self._tasks.append(self._loop.create_task(self._call(handler)))

    async def _call(self, handler: Handler) -> None:
        woken = self._woken[handler]
        while True:
            await woken.wait()
            message = handler.waiting.take()
            if not handler.waiting:
                woken.clear()
            try:
                result = handler.call(message, self._peers.get(message.peer))
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                log(logging.ERROR, "a handler failed", peer=message.peer, cause=error, error=error)

    async def start(self) -> None:
        """Begin to listen or to connect, if that was left to this call."""
        await self.server.start()

    @property
    def connected(self) -> bool:
        """Whether a Slicer is there."""
        return bool(self.server.clients)

    async def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until a Slicer is there; returns whether one is."""
        try:
            async with asyncio.timeout(seconds("timeout", timeout)), self._changed:
                await self._changed.wait_for(lambda: self.connected)
        except TimeoutError:
            return self.connected
        return True

    def latest(self, kind: type[M], name: str = "*", *, max_age: float | None = None) -> M | None:
        """The newest message of a class and device name; see `igtl.slicer.Slicer.latest`."""
        return self._newest.newest(kind, name, seconds("max_age", max_age))

    async def command(
        self,
        name: str,
        text: str = "",
        *,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = 5.0,
        peer: Peer | None = None,
    ) -> CommandReply:
        """Send a Slicer module a COMMAND; see `igtl.slicer.Slicer.command`."""
        timeout = seconds("timeout", timeout)
        began = self._loop.time()
        if peer is None:
            if not await self.wait_connected(timeout):
                raise TimeoutError(f"no 3D Slicer was there within {timeout} s")
            peer = self.server.clients[0]
        if timeout is not None:
            timeout = max(0.0, began + timeout - self._loop.time())
        try:
            return await peer.ask(self._new_command(name, text, metadata), timeout=timeout)
        except CommandFailed as failed:
            return reply_of(failed)

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
    """`async with igtl.slicer.aio.serve() as slicer`; see `igtl.slicer.serve`."""

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
    """`async with igtl.slicer.aio.connect("localhost") as slicer`; see `igtl.slicer.connect`."""

    async def opened() -> Slicer:
        options = ServerOptions.of(checked(settings))
        retry = RETRY if backoff is None else backoff
        return Slicer(await open_dialing((host, port), options, retry, start))

    return Opening(opened())
