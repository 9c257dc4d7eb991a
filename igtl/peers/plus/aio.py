"""PLUS as a peer in asyncio: the names of `igtl.plus`, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self, TypeVar, Unpack, overload

import numpy.typing as npt

from igtl._stream import Stats
from igtl.aio.link import Link, Opening
from igtl.aio.peer import Peer
from igtl.aio.reconnect import reconnect
from igtl.aio.server import Server, open_server
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.log import log, logger, named
from igtl.messages.imaging import Image
from igtl.messages.plus import ClientInfo, Placed, TrackedFrame
from igtl.messages.queries import (
    GetStatus,
    ReadyTrackingData,
    StartTrackingData,
    StopTrackingData,
)  # fmt: skip
from igtl.options import (
    PORT,
    AioConnectOptions,
    AioConnectSettings,
    ServerOptions,
    ServerSettings,
    seconds,
)  # fmt: skip
from igtl.peers.plus import core, devices
from igtl.peers.plus.core import BACKOFF, SETTINGS, Matrix, Reading, Reply, Request, State, Tools
from igtl.peers.plus.rules import check_for_server
from igtl.peers.plus.selection import Select
from igtl.session.backoff import Backoff, LinkEvent, OnEvent
from igtl.session.requests import Exchange, Selection

M = TypeVar("M", bound=Message)
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


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


class Parameters:
    """The parameters of one ultrasound device: `await plus.us["UsDevice"].set("DepthMm", 50)`."""

    def __init__(self, plus: Plus, device: str) -> None:
        self._plus = plus
        self._device = device

    async def get(self, name: str) -> float | str:
        """A number, or a text of several."""
        return await self._plus.ask(core.get_parameter(self._device, name))

    async def set(self, name: str, value: object) -> None:
        """Set a parameter."""
        await self._plus.ask(core.set_parameter(self._device, name, value))


class Devices:
    """The ultrasound devices, by their id."""

    def __init__(self, plus: Plus) -> None:
        self._plus = plus

    def __getitem__(self, device: str) -> Parameters:
        return Parameters(self._plus, device)


class Reconstruction:
    """A volume that is reconstructed; see `igtl.plus.Plus.reconstruct`."""

    def __init__(self, plus: Plus, name: str, device: str | None, timeout: float) -> None:
        self.image: Image | None = None
        self._plus = plus
        self._name = name
        self._device = device
        self._timeout = timeout

    async def _step(self, step: str) -> None:
        request = core.reconstruction(step, self._name, self._device)
        await self._plus.ask(request, timeout=self._timeout)

    async def _image(self, step: str) -> Image:
        frames = Frames(self._plus, Image, self._name, self._timeout)
        await self._step(step)
        return await anext(frames)

    async def snapshot(self) -> Image:
        """The volume so far."""
        return await self._image("snapshot")

    async def __aenter__(self) -> Self:
        await self._step("start")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if exc[0] is None:
            self.image = await self._image("stop")
        else:
            with contextlib.suppress(Exception):  # what was raised is told
                await self._step("stop")


class Plus:
    """A client of PLUS; see `connect` and `igtl.plus.Plus`. A task reads, another one calls
    handlers."""

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
        self.state = State(self.stats, silence)
        if select is not None:
            self.state.select(select)
        self.us = Devices(self)
        self.failed: Exception | None = None
        self._address = address
        self._select = select
        self._timeout = timeout
        self._backoff = backoff
        self._on_event = on_event
        self._settings = settings
        self._link: Link | None = None
        self._past: Counter[str] = Counter()  # losses of the connections before
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._call_handlers())]

    @property
    def tools(self) -> Tools:
        """The statuses of the tools by name, and `tools.on_change`."""
        return self.state.tools

    # -- the tasks

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

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
                        self._link = link
                        self._tell()
                        await self._read(link)
                    self._link = None
                    self._past = self.lost_on(link)
        except Exception as error:
            self.state.reason = error
        finally:
            self._link = None
            self.state.reason = self.state.reason or ConnectionClosed("this link was closed")
            self._tell()

    def _happened(self, event: LinkEvent) -> None:
        self.failed = event.error
        if self._on_event is not None:
            self._on_event(event)

    async def _read(self, link: Link) -> None:
        """Take what arrives on a connection until the connection closes."""
        while True:
            left = self.state.tools.next_deadline() - time.monotonic()
            message: Message | None = None
            try:
                message = await link.recv(timeout=max(0.0, left) if left < 3600 else None)
            except TimeoutError:
                pass
            except (ConnectionClosed, MessageTooLarge, OSError):
                return
            except ProtocolError:  # it is counted
                continue
            if message is not None:
                self.state.take(message, link.session.protocol.last_size)
            self.state.expire(time.monotonic())
            self._tell()

    def lost_on(self, link: Link) -> Counter[str]:
        """What was lost until the end of a connection."""
        found = self._past + core.losses(link.stats)
        if not link.session.protocol.at_boundary:
            found["interrupted"] += 1
        return found

    async def _call_handlers(self) -> None:
        state = self.state
        while True:
            changed = self._changed
            changes, state.changes = state.changes, []
            for change in changes:
                for told in state.tools.handlers:
                    await _call(told, *change)
            if (message := state.waiting.take()) is not None:
                for handler in state.handlers_of(message):
                    await _call(handler, message)
            elif not changes:
                if state.reason is not None:
                    return
                left = state.tools.next_deadline() - time.monotonic()
                with contextlib.suppress(TimeoutError):
                    # a tool becomes silent while there is no connection too
                    async with asyncio.timeout(max(0.0, left) if left < 3600 else None):
                        await changed.wait()
                if self._link is None:
                    state.expire(time.monotonic())

    async def until(self, take: Callable[[], T | None], wanted: object, timeout: float | None) -> T:
        """What `take` returns, as soon as it returns something; see `igtl.plus.Plus.until`."""
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while (found := take()) is None:
                    await self._changed.wait()
                return found
        except TimeoutError:
            if limit.expired():
                text = f"no {wanted} within {timeout} s; seen: {self.state.seen()}"
                raise TimeoutError(text) from None
            raise

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

    def latest(self, kind: type[M], name: str = "*", *, max_age: float | None = None) -> M | None:
        """The newest message of a class whose device name fits, or None."""
        return self.state.newest(kind, name, seconds("max_age", max_age))

    async def wait(
        self,
        kind: type[M],
        name: str = "*",
        *,
        max_age: float | None = None,
        timeout: float | None = None,
    ) -> M:
        """As `latest`, but waits for it."""
        timeout, max_age = seconds("timeout", timeout), seconds("max_age", max_age)
        take = lambda: self.state.newest(kind, name, max_age)  # noqa: E731
        return await self.until(take, Selection(kind, name), timeout)

    def on(self, kind: type[Message] = Message, name: str = "*") -> Callable[[F], F]:
        """Decorator: call this with each message of a class whose device name fits; a coroutine
        function is awaited."""
        return self.state.on(kind, name)

    # -- what is sent

    async def _here(self) -> Link:
        """The connection there is, or the next one."""

        def take() -> Link | None:
            if self._link is None and self.state.reason is not None:
                raise self.state.reason.with_traceback(None)
            return self._link

        return await self.until(take, "connection", self._timeout)

    async def send(self, message: Message, *, force: bool = False) -> None:
        """Send a message, unless it harms PLUS; see `igtl.plus.Plus.send`."""
        if not force:
            check_for_server(message)
        await (await self._here()).send(message)

    async def select(self, select: Select) -> None:
        """Ask for something else, now and after each reconnection."""
        self._select = select
        self.state.select(select)
        await (await self._here()).send(select.message())

    async def ask(
        self, request: Request[T], *, timeout: float | None = None, force: bool = False
    ) -> T:
        """Carry out a command, and return what its reply means."""
        if not force:
            check_for_server(request.exchange.request)
        timeout = self._timeout if timeout is None else timeout
        link = await self._here()
        return request.result(await link.request(request.exchange, timeout))

    async def command(
        self,
        name: str,
        inner: str = "",
        *,
        legacy: bool = False,
        device_name: str = "",
        timeout: float | None = None,
        force: bool = False,
        **attributes: object,
    ) -> Reply:
        """Carry out any command of PLUS; see `igtl.plus.Plus.command`."""
        request = Request(
            name, core.as_it_is, attributes, inner=inner, legacy=legacy, device_name=device_name
        )
        return await self.ask(request, timeout=timeout, force=force)

    async def version(self) -> str:
        """The version of PLUS."""
        return await self.ask(core.version())

    async def device_ids(self, kind: str | None = None) -> list[str]:
        """The ids of its devices."""
        return await self.ask(core.device_ids(kind))

    async def channel_ids(self) -> list[str]:
        """The ids of its output channels."""
        return await self.ask(core.channel_ids())

    async def transform(self, name: str) -> Matrix:
        """4x4 of XToY, mm."""
        return await self.ask(core.transform(name))

    async def update_transform(
        self,
        name: str,
        matrix: npt.ArrayLike,
        *,
        persistent: bool = True,
        error: float | None = None,
        date: str | None = None,
    ) -> str:
        """Set a transform; see `igtl.plus.Plus.update_transform`."""
        return await self.ask(core.update_transform(name, matrix, persistent, error, date))

    async def save_config(self, filename: str | None = None) -> str:
        """Write the configuration."""
        return await self.ask(core.save_config(filename))

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

    async def ping(self, timeout: float | None = None) -> float:
        """Seconds until PLUS answers; see `igtl.plus.Plus.ping`."""
        timeout = self._timeout if timeout is None else timeout
        link = await self._here()
        begun = time.perf_counter()
        await link.request(Exchange(GetStatus()), timeout)
        return time.perf_counter() - begun

    # -- the connection

    @property
    def connected(self) -> bool:
        """Whether PLUS is there, as far as this end knows."""
        return self._link is not None and self._link.connected

    @property
    def lost(self) -> Counter[str]:
        """What was lost over all connections, by cause; see `igtl.plus.Plus.lost`."""
        now = core.losses(self._link.stats) if self._link is not None else Counter()
        return self._past + now + core.losses(self.stats)

    async def open(self, timeout: float | None) -> Self:
        """Wait for the first connection."""
        try:
            async with asyncio.timeout(timeout):
                while self._link is None:
                    if self.state.reason is not None:
                        raise self.state.reason
                    await self._changed.wait()
        except TimeoutError:
            await self.close()
            raise self.failed or TimeoutError(f"{named(self._address)} does not answer") from None
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """End the connection, and wait for a handler that is at work."""
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

    def __repr__(self) -> str:
        state = "connected to" if self.connected else "waiting for"
        return f"<Plus {state} {named(self._address)}>"


async def _call(handler: Callable[..., Any], *arguments: Any) -> None:
    try:
        result = handler(*arguments)
        if inspect.isawaitable(result):
            await result
    except Exception as error:
        logger.error("a handler failed", exc_info=error, extra={"cause": error})


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
    """Connect to a PlusServer: `async with igtl.plus.aio.connect(select=…) as plus`, or
    `plus = await …`. See `igtl.plus.connect`.

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


class PlusServer:
    """Sends tools and frames to devices of PLUS; see `serve` and `igtl.plus.PlusServer`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.host, self.port = server.host, server.port
        self._devices = devices.Devices()
        server.on_connect(self._devices.connected)
        server.on_disconnect(self._devices.gone)
        server.on(ClientInfo)(self._chosen)
        server.on(StartTrackingData)(self._started)
        server.on(StopTrackingData)(self._stopped)

    def _chosen(self, info: ClientInfo, peer: Peer) -> None:
        try:
            self._devices.chose(info, peer)
        except ValueError as error:
            log(
                logging.WARNING, "%s has sent a CLIENTINFO that cannot be read: %s", peer.peer,
                error, peer=peer.peer, cause=error,
            )  # fmt: skip

    async def _started(self, request: StartTrackingData, peer: Peer) -> None:
        await peer.send(self._devices.started(request, peer))
        self._devices.streams(peer, True)

    async def _stopped(self, request: StopTrackingData, peer: Peer) -> None:
        self._devices.streams(peer, False)
        await peer.send(ReadyTrackingData(0))

    @property
    def clients(self) -> list[devices.Device]:
        """The devices that are connected, and what each has asked for."""
        return list(self._devices.by_id.values())

    async def _send(self, sending: devices.Sending) -> None:
        for peer, message in sending:
            with contextlib.suppress(ConnectionClosed):  # it has left
                await peer.send(message)

    async def send(self, message: Message, *, force: bool = False) -> None:
        """Send a message to each device that has asked for it, unless it harms PLUS."""
        await self._send(self._devices.sending(message, force=force))

    async def tool(
        self,
        name: str,
        pose: npt.ArrayLike,
        *,
        status: str = "OK",
        timestamp: float | None = None,
        force: bool = False,
    ) -> None:
        """Send the pose of a tool; see `igtl.plus.PlusServer.tool`."""
        await self._send(self._devices.tool(name, pose, status, timestamp, force))

    async def frame(
        self,
        image: Image | npt.ArrayLike,
        transforms: Mapping[str, Placed] = {},
        *,
        fields: Mapping[str, object] = {},
        timestamp: float | None = None,
    ) -> None:
        """Send an image with the transforms of its instant; see `igtl.plus.PlusServer.frame`."""
        await self.send(devices.frame_of(image, transforms, fields, timestamp))

    async def close(self) -> None:
        """Stop serving."""
        await self.server.close()


def serve(
    host: str = "127.0.0.1", port: int = PORT, **settings: Unpack[ServerSettings]
) -> Opening[PlusServer]:
    """Serve devices of PLUS that are clients: `async with igtl.plus.aio.serve() as server`. See
    `igtl.plus.serve`."""
    given: Any = {**devices.SETTINGS, **settings}
    options = ServerOptions.of(given)

    async def opened() -> PlusServer:
        server = await open_server(host, port, options, False, None)
        plus = PlusServer(server)
        await server.start()
        return plus

    return Opening(opened())
