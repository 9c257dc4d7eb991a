"""PLUS as a peer in asyncio: the names of `igtl.plus`, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Self, TypeVar, Unpack, overload

from igtl._stream import Stats
from igtl.aio.changes import Changes, guarded
from igtl.aio.link import Link, Opening
from igtl.aio.reconnect import reconnect
from igtl.aio.server import Server, open_server
from igtl.aio.steps import method, run
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.log import named
from igtl.messages.plus import TrackedFrame
from igtl.options import (
    PORT,
    AioConnectOptions,
    AioConnectSettings,
    ServerOptions,
    ServerSettings,
    seconds,
)  # fmt: skip
from igtl.peers.plus import client, core, devices, serving
from igtl.peers.plus.client import Client, Devices, ParametersOf, ReconstructionOf
from igtl.peers.plus.core import BACKOFF, SETTINGS, Reading, State
from igtl.peers.plus.selection import Select
from igtl.peers.plus.serving import Serving
from igtl.session import subscribing
from igtl.session.backoff import Backoff, LinkEvent, OnEvent

M = TypeVar("M", bound=Message)


class Frames(Reading[M]):
    """Iterator over the newest frames; see `igtl.plus.Plus.frames`."""

    def __init__(self, plus: Plus, kind: type[M], name: str, timeout: float | None) -> None:
        super().__init__(plus.state, kind, name)
        self._plus = plus
        self._timeout = timeout

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        return await self._plus.until(self.next, self.wanted, self._timeout)


class Parameters(ParametersOf["Plus"]):
    """The parameters of one ultrasound device: `await plus.us["UsDevice"].set("DepthMm", 50)`."""

    get = method(client.parameter)
    set = method(client.set_parameter)


class Reconstruction(ReconstructionOf["Plus"]):
    """A volume that is reconstructed; see `igtl.plus.Plus.reconstruct`."""

    snapshot = method(client.snapshot)

    async def __aenter__(self) -> Self:
        await run(self.step("start"))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await run(self.end(exc[0] is not None))


class Plus(Client):
    """A client of PLUS; see `connect` and `igtl.plus.Plus`.

    A task reads, another one calls handlers.
    """

    def __init__(
        self,
        address: tuple[str, int],
        select: Select | None,
        timeout: float,
        silence: float,
        backoff: Backoff,
        on_event: OnEvent | None,
        settings: AioConnectSettings,
    ) -> None:
        self.stats = Stats()
        state = State(self.stats, silence)
        super().__init__(state, Changes(), guarded, address, select, timeout)
        self.us = Devices(self, Parameters)
        self.failed: Exception | None = None
        self._select = select
        self._backoff = backoff
        self._on_event = on_event
        self._settings = settings
        self.link: Link | None = None
        self._past: Counter[str] = Counter()  # losses of the connections before
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(run(self.call_handlers()))]

    async def _run(self) -> None:
        links = reconnect(
            *self._address, backoff=self._backoff, on_event=self._happened, **self._settings
        )
        try:
            async with contextlib.aclosing(links):
                async for link in links:
                    with contextlib.suppress(ConnectionClosed, OSError):
                        if self._select is not None:
                            await link.send(self._select.message())
                        self.link = link
                        self.changed.tell()
                        await run(self.read(link))
                    self.link = None
                    self._past = self.lost_on(link)
        except Exception as error:
            self.state.reason = error
        finally:
            self.link = None
            self.state.reason = self.state.reason or ConnectionClosed("this link was closed")
            self.changed.tell()

    def _happened(self, event: LinkEvent) -> None:
        self.failed = event.error
        if self._on_event is not None:
            self._on_event(event)

    def lost_on(self, link: Link) -> Counter[str]:
        """Messages lost on a connection, counted at its end."""
        found = self._past + core.losses(link.stats)
        if not link.session.protocol.at_boundary:
            found["interrupted"] += 1
        return found

    def idle(self) -> float | None:
        """Seconds until a tool becomes silent, also while there is no connection."""
        return self.until_silent()

    def rest(self) -> None:
        """Note that time has passed: tools become silent."""
        if self.link is None:
            self.state.expire(time.monotonic())

    async def here(self) -> Link:
        """Return the present connection, or the next one."""
        return await self.until(self._connection, "connection", self.timeout)

    def _connection(self) -> Link | None:
        if self.link is None and self.state.reason is not None:
            raise self.state.reason.with_traceback(None)
        return self.link

    until = method(subscribing.until)
    wait = method(subscribing.wait)
    send = method(client.send)
    ask = method(client.ask)
    command = method(client.command)
    version = method(client.version)
    device_ids = method(client.device_ids)
    channel_ids = method(client.channel_ids)
    transform = method(client.transform)
    update_transform = method(client.update_transform)
    save_config = method(client.save_config)
    ping = method(client.ping)

    # -- what arrives

    @overload
    def frames(self, *, timeout: float | None = ...) -> Frames[TrackedFrame]: ...
    @overload
    def frames(
        self, kind: type[M], name: str = ..., *, timeout: float | None = ...
    ) -> Frames[M]: ...
    def frames(
        self, kind: type[Any] = TrackedFrame, name: str = "*", *, timeout: float | None = None
    ) -> Frames[Any]:
        """Iterate over frames, always the newest; see `igtl.plus.Plus.frames`."""
        return Frames(self, kind, name, seconds("timeout", timeout))

    async def select(self, select: Select) -> None:
        """Ask for something else, now and after each reconnection."""
        self._select = select
        self.state.select(select)
        await (await self.here()).send(select.message())

    @contextlib.asynccontextmanager
    async def recording(
        self, device: str, filename: str | None = None, *, compress: bool = False
    ) -> AsyncIterator[None]:
        """Let PLUS record while the `async with` block runs."""
        await self.ask(core.start_recording(device, filename, compress))
        try:
            yield
        finally:
            await self.ask(core.stop_recording(device))

    def reconstruct(
        self, name: str, *, device: str | None = None, timeout: float = 60.0
    ) -> Reconstruction:
        """Let PLUS reconstruct a volume while the `async with` block runs."""
        return Reconstruction(self, name, device, timeout)

    # -- the connection

    @property
    def lost(self) -> Counter[str]:
        """What was lost over all connections, by cause; see `igtl.plus.Plus.lost`."""
        now = core.losses(self.link.stats) if self.link is not None else Counter()
        return self._past + now + core.losses(self.stats)

    async def open(self, timeout: float | None) -> Self:
        """Wait for the first connection."""
        try:
            await self.changed.until(self._connection, timeout)
        except TimeoutError:
            await self.close()
            raise self.failed or TimeoutError(f"{named(self._address)} does not answer") from None
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """End the connection, and wait for a handler that is running."""
        reading, handling = self._tasks
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        if handling is not asyncio.current_task():
            await handling

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def connect(
    host: str = "localhost",
    port: int = PORT,
    *,
    select: Select | None = None,
    timeout: float = 5.0,
    silence: float = 1.0,
    backoff: Backoff = BACKOFF,
    on_event: OnEvent | None = None,
    **settings: Unpack[AioConnectSettings],
) -> Opening[Plus]:
    """Connect to a PlusServer: `async with igtl.plus.aio.connect(select=…) as plus`, or `await` it.

    Arguments are those of `igtl.plus.connect`.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
        OSError: there is no server within the open_timeout: the error of the last attempt.
    """
    given: Any = {**SETTINGS, **settings}
    options = AioConnectOptions.of(given)

    async def opened() -> Plus:
        plus = Plus((host, port), select, timeout, silence, backoff, on_event, given)
        return await plus.open(options.open_timeout)

    return Opening(opened())


class PlusServer(Serving):
    """Sends tools and frames to devices of PLUS; see `serve` and `igtl.plus.PlusServer`."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, Changes(), method)

    send = method(serving.send)
    tool = method(serving.tool)
    frame = method(serving.frame)

    async def close(self) -> None:
        """Stop serving."""
        await self.server.close()


def serve(
    host: str = "127.0.0.1", port: int = PORT, **settings: Unpack[ServerSettings]
) -> Opening[PlusServer]:
    """Serve devices of PLUS that are clients: `async with igtl.plus.aio.serve() as server`.

    See `igtl.plus.serve`.
    """
    given: Any = {**devices.SETTINGS, **settings}
    options = ServerOptions.of(given)

    async def opened() -> PlusServer:
        server = await open_server(host, port, options, False, None)
        plus = PlusServer(server)
        await server.start()
        return plus

    return Opening(opened())
