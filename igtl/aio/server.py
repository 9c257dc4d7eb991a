"""A server for many clients in one event loop; `igtl.serve` runs it in a thread.

Each client has a bounded queue of its own, so one that stalls or dies delays nobody: its queue
follows the policy, and after `stall_timeout` it is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Self, TypeVar

from igtl import _core
from igtl._core import Frame
from igtl.aio.connection import Arrival, Connection
from igtl.aio.link import Opening
from igtl.aio.tls import TLSConnection
from igtl.errors import CommandFailed, ConnectionClosed, EncodeError, MessageTooLarge
from igtl.exchange import (
    Exchange,
    fits,
    interval_of,
    new_command,
    ready_for,
    reply_to,
)  # fmt: skip
from igtl.link import LinkBase, Packed
from igtl.log import log, logger
from igtl.message import CRCPolicy, Message, NoData, message_types
from igtl.messages.general import Capability, Command, CommandReply, Status, StatusCode
from igtl.messages.queries import Get, GetCapability, GetStatus, Ready, Start, Stop
from igtl.protocol import MAX_SIZE, PORT, Protocol, Version
from igtl.queues import Policy, Queue

if TYPE_CHECKING:
    from ssl import SSLContext

M = TypeVar("M", bound=Message)
F = TypeVar("F", bound=Callable[..., Any])
MAX_QUEUED = 1000
MAX_QUEUED_BYTES = 256 << 20
STALL_TIMEOUT = 10.0
_WATCH = 0.5  # seconds between two looks at stalled and idle clients
_INBOUND, _INBOUND_BYTES = 1000, 64 << 20  # of one client, until its handlers have time
_ASKS = (Get, Start, Stop)


class AllowList:
    """Addresses and networks that may connect; None is everybody.

    IPv4 addresses that an IPv6 socket shows as ::ffff:… count as what they are.

    Raises:
        ValueError: an entry is neither an address nor a network.
    """

    def __init__(self, entries: Iterable[str] | None) -> None:
        if isinstance(entries, str):
            raise TypeError(f"allow is a list of addresses and networks, not {entries!r}")
        self._networks = None if entries is None else [_network(e) for e in entries]

    def admits(self, address: Any) -> bool:
        """Whether a peer's address, (host, port), may connect."""
        if self._networks is None:
            return True
        if not isinstance(address, tuple):
            return False
        host = ip_address(str(address[0]).partition("%")[0])
        if isinstance(host, IPv6Address) and host.ipv4_mapped:
            host = host.ipv4_mapped
        return any(host in network for network in self._networks)


def _network(entry: str) -> Any:
    network = ip_network(entry, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    return network


class Peer(LinkBase):
    """One client of a server.

    Attributes:
        id: number of this client, from 1 on, never used again.
        peer: its address, (host, port).
        connected: when it came, seconds since 1970.
        stats, header_version: see `igtl.Link`.
        stripped: broadcast messages that it got without their metadata and id, because it has
            not shown that it understands header version 2.
        close_reason: why it is gone; None while it is there.
    """

    def __init__(self, server: Server, connection: Connection, number: int) -> None:
        super().__init__(connection.protocol, connection.local, None, None, False)
        self.id = number
        self.connected = time.time()
        self.stripped = 0
        self._gone = ""
        self._heard = self._moved = self._since = time.monotonic()
        self._taken = -1
        self._server = server
        self._connection = connection
        self._inbound: Queue[Message] = Queue("block", _INBOUND, _INBOUND_BYTES)
        self._requests: list[tuple[Exchange, asyncio.Future[Message]]] = []
        self._streams: dict[tuple[type[Message], str], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake = asyncio.Event()
        self.facade: Any = None  # this peer for other threads, see igtl.server
        connection.on_bytes = self._on_bytes

    @property
    def uptime(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self._since

    @property
    def queued(self) -> int:
        """Messages that wait to be sent to it."""
        return len(self._connection.outbox)

    async def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Queue a message for this client under the server's policy; with "block", wait for room.

        Raises:
            EncodeError: the message cannot be sent to it as it is.
            ConnectionClosed: it is gone.
        """
        wire = self._protocol.pack(message, crc=crc)
        await self._send_wire(wire)

    async def _send_wire(self, wire: bytes) -> None:
        if self._connection.outbox.policy == "block" or self._connection.is_over:
            await self._connection.put_wait(wire, wire[2:34], None)
        else:
            self._connection.put(wire, wire[2:34])

    def _wire_of(self, packed: Packed) -> bytes:
        wire, stripped = packed.wire_for(self.header_version)
        self.stripped += stripped
        return wire

    async def query(self, request: Get[M], *, timeout: float | None = None) -> M | NoData:
        """Ask this client for a message; see `igtl.Link.query`."""
        exchange = Exchange(request)
        answer: M | NoData = exchange.result(await self._ask(exchange, timeout))
        return answer

    async def command(
        self, name: str, text: str = "", *, device_name: str = "", timeout: float | None = 5.0
    ) -> CommandReply:
        """Send this client a COMMAND and wait for the reply; see `igtl.Link.command`."""
        exchange = Exchange(new_command(name, text, device_name))
        reply: CommandReply = exchange.result(await self._ask(exchange, timeout))
        return reply

    async def _ask(self, exchange: Exchange, timeout: float | None) -> Message:
        entry = exchange, asyncio.get_running_loop().create_future()
        self._requests.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await self.send(exchange.request)
                answer: Message = await entry[1]
                return answer
        except TimeoutError:
            raise TimeoutError(f"no {exchange} within {timeout} s") from None
        finally:
            self._requests.remove(entry)

    async def disconnect(self) -> None:
        """Send what is queued for it, then close."""
        await self._connection.finish(STALL_TIMEOUT, discard=False)

    # -- what arrives

    def _on_bytes(self) -> None:
        """Sort what has arrived: answers to those who wait, the rest to the handlers."""
        try:
            while self._inbound.has_room(0):
                message = self._protocol.next_message()
                if message is None:
                    break
                self._heard = message.received_monotonic or self._heard
                if not self._answers(message):
                    self._inbound.put(message, self._protocol.last_size)
            else:
                self._connection.pause_reading()  # its handlers lag: let the peer feel it
        except MessageTooLarge as error:
            self.close_reason = error
            self._connection.abort()
        self._wake.set()

    def _answers(self, message: Message) -> bool:
        for exchange, answer in self._requests:
            if not answer.done() and exchange.matches(message):
                answer.set_result(message)
                return True
        return False

    async def _run(self) -> None:
        """Handle what arrives, one message after the other, until the connection ends."""
        try:
            while True:
                self._wake.clear()
                while self._inbound:
                    await self._server._handle(self, self._inbound.get())
                    if not self._connection._reading and len(self._inbound) < _INBOUND // 2:
                        self._connection.resume_reading()
                        self._on_bytes()  # what had come before the pause
                if self._connection.ended and not self._inbound:
                    break
                await self._wake.wait()
        finally:
            self._over()

    def _over(self) -> None:
        ended = self._connection.ended
        if self.close_reason is None:
            if isinstance(ended, ConnectionError):
                self._end(f"{self.peer}: {ended}", clean=False)
            elif isinstance(ended, Exception):
                self.close_reason = ended
            else:
                self._end_of_stream()
        for _, answer in self._requests:
            if not answer.done():
                answer.set_exception(ConnectionClosed(f"{self.peer} is gone"))
                answer.exception()  # whoever asked may have gone too
        for task in (*self._streams.values(), *self._tasks):
            task.cancel()

    def _start(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run something beside the handlers, for as long as the client is there."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class Server:
    """A listening socket and its clients; see `serve`.

    Attributes:
        host, port: where it listens.
        refused: connections not let in, by cause: "max_clients", "not allowed", "tls".
        gone: clients that have left, by cause: "closed", "stalled", "idle", "disconnected", or
            the name of an error.
    """

    def __init__(
        self,
        *,
        new_protocol: Callable[[], Protocol],
        new_outbox: Callable[[], Queue[bytes]],
        policy: Policy,
        cut_names: bool,
        allow: AllowList,
        max_clients: int,
        idle_timeout: float | None,
        stall_timeout: float,
        keepalive: float | None,
        ssl: SSLContext | None,
        handshake_timeout: float,
        runner: Runner | None = None,
    ) -> None:
        self.host = ""
        self.port = 0
        self.refused: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        self._new_protocol = new_protocol
        self._new_outbox = new_outbox
        self._policy = policy
        self._cut_names = cut_names
        self._allow = allow
        self._max_clients = max_clients
        self._idle_timeout = idle_timeout
        self._stall_timeout = stall_timeout
        self._keepalive = keepalive
        self._ssl = ssl
        self._handshake_timeout = handshake_timeout
        self._runner = runner or Runner()
        self._peers: dict[int, Peer] = {}
        self._ids = itertools.count(1)
        self._coming = 0  # let in, but not yet through with TLS
        self._tasks: set[asyncio.Task[Any]] = set()
        self._handlers: list[tuple[type[Message], str, Callable[..., Any]]] = []
        self._providers: list[tuple[type[Message], str, Callable[..., Any]]] = []
        self._commands: dict[str, Callable[..., Any]] = {}
        self._connected: list[Callable[..., Any]] = []
        self._disconnected: list[Callable[..., Any]] = []
        self._latched: dict[bytes, Packed] = {}
        self._listening: asyncio.Server
        self._closing = False

    # -- who does what

    def on(self, kind: type[Message] = Message, name: str = "*") -> Callable[[F], F]:
        """Decorator: call this with (message, peer) for each message of a class whose device name
        fits; a coroutine function is awaited. One message of a client after the other."""

        def register(handler: F) -> F:
            self._handlers.append((kind, name, handler))
            return handler

        return register

    def provides(
        self, kind: type[Get[Any]] | type[Start[Any]], name: str = "*"
    ) -> Callable[[F], F]:
        """Decorator: this answers requests of a Get or Start class whose device name fits.

        Called with (request, peer); may be a coroutine function. For Get it returns the message,
        or None if there is none. For Start it returns an iterable of messages, or is a
        (possibly async) generator of them, or returns None to refuse; RTS_ is sent for it, the
        rate that the request allows is kept, and STP_ or the client's end stops it.
        """
        if not issubclass(kind, Get | Start):
            raise TypeError(f"{kind.__name__} is not a Get or Start class")

        def register(provider: F) -> F:
            self._providers.append((kind, name, provider))
            return provider

        return register

    def command(self, name: str = "*") -> Callable[[F], F]:
        """Decorator: this carries out the COMMAND of a name ("*": any other).

        Called with (command, peer), beside the handlers, so it may take its time; may be a
        coroutine function. What it returns (text, or None) is the reply; what it raises is
        reported as a failure with the text of the exception. A CommandReply is sent as it is.
        """

        def register(handler: F) -> F:
            self._commands[name] = handler
            return handler

        return register

    def on_connect(self, handler: F) -> F:
        """Decorator: call this with each new peer."""
        self._connected.append(handler)
        return handler

    def on_disconnect(self, handler: F) -> F:
        """Decorator: call this with each peer that is gone, see its close_reason."""
        self._disconnected.append(handler)
        return handler

    async def start(self) -> None:
        """Begin to listen, if `serve` was told not to."""
        await self._listening.start_serving()

    # -- clients

    @property
    def clients(self) -> list[Peer]:
        """Who is connected."""
        return list(self._peers.values())

    async def broadcast(
        self, message: Message | Frame, *, latch: bool = False, crc: bool = True
    ) -> int:
        """Send a message to all clients; packed once, at once, for each header version.

        Clients still at version 1 get it without metadata and id, which is counted in
        `Peer.stripped`.

        Args:
            latch: also hand it to every client that comes later, at once, until a newer one of
                this type and device name takes its place.

        Returns:
            To how many clients it was queued.
        """
        return await self._deliver(self._pack(message, latch, crc))

    def _pack(self, message: Message | Frame, latch: bool, crc: bool) -> Packed:
        versions = {1, 2} if latch else {peer.header_version for peer in self.clients}
        packed = Packed(message, versions or {1}, crc=crc, cut_name=self._cut_names)
        if latch:
            self._latched[packed.stream] = packed
        return packed

    async def _deliver(self, packed: Packed) -> int:
        if self._policy != "block":
            return self._deliver_now(packed)
        peers = [peer for peer in self.clients if not peer._connection.is_over]
        waits = []
        for peer in peers:
            wire = peer._wire_of(packed)
            waits.append(peer._connection.put_wait(wire, wire[2:34], None))
        await asyncio.gather(*waits, return_exceptions=True)  # whoever left meanwhile
        return len(peers)

    def _deliver_now(self, packed: Packed) -> int:
        peers = [peer for peer in self.clients if not peer._connection.is_over]
        for peer in peers:
            wire = peer._wire_of(packed)
            peer._connection.put(wire, wire[2:34])
        return len(peers)

    async def send_to(self, client: int, message: Message | Frame, *, crc: bool = True) -> None:
        """Send to the client with this id.

        Raises:
            KeyError: there is none.
        """
        await self._peers[client].send(message, crc=crc)

    async def disconnect(self, client: int) -> None:
        """Send what is queued for the client with this id, then close it."""
        peer = self._peers[client]
        peer._gone = "disconnected"
        await peer.disconnect()

    async def shutdown(self, *, timeout: float = 5.0) -> None:
        """Stop listening, send what is queued, handle what still comes, and close.

        Args:
            timeout: seconds until whoever has not taken everything is cut.
        """
        if self._closing:
            return
        self._closing = True
        self._listening.close()
        for peer in self.clients:
            for stream in peer._streams.values():
                stream.cancel()
        for task in list(self._tasks):  # handshakes, and the watch
            if task is not asyncio.current_task() and task.get_name() != "igtl peer":
                task.cancel()
        await asyncio.gather(
            *(peer._connection.finish(timeout, discard=False) for peer in self.clients)
        )
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for task in list(self._tasks):
            task.cancel()

    async def close(self) -> None:
        """As shutdown."""
        await self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # -- coming and going

    def _admit(self, address: Any) -> Connection | None:
        cause = None
        if not self._allow.admits(address):
            cause = "not allowed"
        elif len(self._peers) + self._coming >= self._max_clients:
            cause = "max_clients"
        if cause or self._closing:
            self.refused[cause or "closing"] += 1
            log(logging.WARNING, "%s was refused: %s", address, cause, peer=address, cause=cause)
            return None
        protocol, outbox = self._new_protocol(), self._new_outbox()
        if self._ssl is None:
            return Connection(protocol, outbox, keepalive=self._keepalive)
        return TLSConnection(
            protocol, outbox, self._ssl, server_side=True, keepalive=self._keepalive
        )

    def _arrived(self, connection: Connection) -> None:
        if isinstance(connection, TLSConnection):
            self._start_task(self._shake_hands(connection))
        else:
            self._welcome(connection)

    async def _shake_hands(self, connection: TLSConnection) -> None:
        self._coming += 1
        try:
            await connection.handshake(self._handshake_timeout)
        except OSError as error:  # SSLError and TimeoutError are OSErrors
            self.refused["tls"] += 1
            peer = connection.protocol.peer
            log(logging.WARNING, "%s: TLS handshake failed: %s", peer, error,
                peer=peer, cause=error)  # fmt: skip
        else:
            self._welcome(connection)
        finally:
            self._coming -= 1

    def _start_task(self, work: Coroutine[Any, Any, None], name: str | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _welcome(self, connection: Connection) -> None:
        peer = Peer(self, connection, next(self._ids))
        self._peers[peer.id] = peer
        log(logging.INFO, "%s connected", peer.peer, peer=peer.peer)
        for packed in list(self._latched.values()):
            wire = peer._wire_of(packed)
            connection.put(wire, wire[2:34])
        self._start_task(self._serve(peer), "igtl peer")

    async def _serve(self, peer: Peer) -> None:
        for handler in self._connected:
            await self._guarded(peer, handler, peer)
        try:
            peer._on_bytes()  # a hello may be there already
            await peer._run()
        finally:
            self._peers.pop(peer.id, None)
            peer._gone = peer._gone or _cause(peer)
            self.gone[peer._gone] += 1
            log(logging.INFO, "%s is gone: %s", peer.peer, peer.close_reason,
                peer=peer.peer, cause=peer._gone)  # fmt: skip
            await peer._connection.finish(0.5)
            for handler in self._disconnected:
                await self._guarded(peer, handler, peer)

    async def _watch(self) -> None:
        """Look for clients that take nothing, or say nothing, for too long."""
        while True:
            await asyncio.sleep(min(_WATCH, self._stall_timeout / 2))
            now = time.monotonic()
            for peer in self.clients:
                connection = peer._connection
                taken = connection.taken
                if connection.idle or taken != peer._taken:
                    peer._taken, peer._moved = taken, now
                elif now - peer._moved >= self._stall_timeout:
                    self._drop(peer, "stalled", f"took nothing for {self._stall_timeout} s")
                if self._idle_timeout is not None and now - peer._heard >= self._idle_timeout:
                    self._drop(peer, "idle", f"said nothing for {self._idle_timeout} s")

    def _drop(self, peer: Peer, cause: str, reason: str) -> None:
        if peer.close_reason is None:
            peer._gone = cause
            peer._end(f"{peer.peer} {reason}", clean=False)
            log(logging.WARNING, "%s %s", peer.peer, reason, peer=peer.peer, cause=cause)
            peer._connection._give_up(cause)
            peer._connection.abort()

    # -- messages

    async def _handle(self, peer: Peer, message: Message) -> None:
        handled = False
        for kind, name, handler in self._handlers:
            if fits(message, kind, name):
                handled = handled or kind is not Message
                await self._guarded(peer, handler, message, peer)
        if isinstance(message, Command):
            work = self._commands.get(message.name) or self._commands.get("*")
            if work is not None or not handled:
                peer._start(self._carry_out(peer, message, work))
        elif isinstance(message, _ASKS):
            provider = self._provider_of(message)
            if provider is not None or not handled:
                await self._answer(peer, message, provider)
        elif not handled and not any(kind is Message for kind, _, _ in self._handlers):
            peer.stats.count_dropped(_core.stream_head(message), "unhandled")

    async def _guarded(self, peer: Peer, handler: Callable[..., Any], *args: Any) -> None:
        """Call a handler; what it raises is logged, and the server goes on."""
        try:
            await self._runner.in_order(handler, *args)
        except ConnectionClosed:
            pass  # it was sending to someone who left
        except Exception as error:
            logger.exception("a handler failed", extra={"peer": peer.peer, "cause": error})

    async def _carry_out(
        self, peer: Peer, command: Command, work: Callable[..., Any] | None
    ) -> None:
        text, error = None, None
        try:
            if work is None:
                raise LookupError(f"there is no command {command.name!r} here")
            text = await self._runner.apart(work, command, peer)
        except CommandFailed as failed:
            error = str(failed)
        except Exception as failed:
            error = f"{type(failed).__name__}: {failed}" if work else str(failed)
            log(
                logging.WARNING, "command %r of %s failed: %s", command.name, peer.peer, error,
                peer=peer.peer, type="COMMAND", device=command.device_name, cause=failed,
            )  # fmt: skip
        if isinstance(text, CommandReply):
            reply = text
        else:
            reply = reply_to(
                command, None if text is None else str(text), error, peer.header_version
            )
        try:
            await self._tell(peer, reply)
        except EncodeError as failed:  # the handler's own reply, for example with metadata
            await self._tell(peer, reply_to(command, None, str(failed), peer.header_version))

    def _provider_of(self, request: Message) -> Callable[..., Any] | None:
        for kind, name, provider in self._providers:
            if isinstance(request, Stop):
                same = issubclass(kind, Start) and kind.answer is type(request).answer
            else:
                same = isinstance(request, kind)
            # no name asks for any
            if same and (not request.device_name or fits(request, Message, name)):
                return provider
        return None

    async def _answer(
        self, peer: Peer, request: Message, provider: Callable[..., Any] | None
    ) -> None:
        if isinstance(request, Stop) and provider is not None:
            self._stop_streams(peer, request)
            await self._ready(peer, request, 0)
        elif provider is not None:
            peer._start(self._provide(peer, request, provider))
        elif isinstance(request, GetCapability):
            await self._tell(peer, Capability(sorted(message_types())))
        elif isinstance(request, GetStatus):
            await self._tell(peer, Status.ok(device_name=request.device_name or "igtl"))
        else:
            await self._not_found(peer, request, "is not provided")

    async def _provide(self, peer: Peer, request: Message, provider: Callable[..., Any]) -> None:
        try:
            if isinstance(request, Start):
                await self._begin_stream(peer, request, provider)
                return
            found = await self._runner.apart(provider, request, peer)
            if found is None:
                await self._not_found(peer, request, "is not here")
            else:
                await self._tell(peer, found)
        except Exception as error:
            logger.exception(
                "the provider of %s failed", request.type_name,
                extra={"peer": peer.peer, "type": request.type_name, "cause": error},
            )  # fmt: skip
            await self._not_found(peer, request, "failed")

    async def _begin_stream(
        self, peer: Peer, request: Start[Any], provider: Callable[..., Any]
    ) -> None:
        self._stop_streams(peer, request)
        frames = await self._runner.begun(provider, request, peer)
        if frames is None:
            await self._ready(peer, request, 1)
            return
        await self._ready(peer, request, 0)
        task = peer._start(self._stream(peer, request, frames))
        peer._streams[type(request).answer, request.device_name] = task

    async def _stream(self, peer: Peer, request: Start[Any], frames: Any) -> None:
        interval, due = interval_of(request), time.monotonic()
        try:
            async with contextlib.aclosing(self._runner.iterated(frames)) as messages:
                async for message in messages:
                    wire = peer._protocol.pack(message)
                    # never more of a stream than the client can take, whatever its policy
                    await peer._connection.put_wait(wire, wire[2:34], None)
                    due = max(due + interval, time.monotonic())
                    await asyncio.sleep(due - time.monotonic())
        except ConnectionClosed:
            pass
        except Exception as error:
            logger.exception("a stream failed", extra={"peer": peer.peer, "cause": error})

    def _stop_streams(self, peer: Peer, request: Message) -> None:
        answer = request.answer  # type: ignore[attr-defined]
        for (kind, name), task in list(peer._streams.items()):
            if kind is answer and request.device_name in ("", name):
                task.cancel()
                del peer._streams[kind, name]

    async def _ready(self, peer: Peer, request: Any, status: int) -> None:
        kind: type[Ready[Any]] | None = ready_for(request)
        if kind is not None:
            await self._tell(peer, kind(status, device_name=request.device_name))

    async def _not_found(self, peer: Peer, request: Message, why: str) -> None:
        # a STATUS without a name ends 3D Slicer, and so would an RTS_ that it has not asked for
        name = request.device_name or "igtl"
        text = f"{request.type_name} {request.device_name!r} {why}"
        await self._tell(
            peer, Status(StatusCode.NOT_FOUND, 0, request.type_name, text, device_name=name)
        )

    async def _tell(self, peer: Peer, message: Message) -> None:
        with contextlib.suppress(ConnectionClosed):
            await peer.send(message)


def _cause(peer: Peer) -> str:
    """Why it left, for `gone`."""
    if isinstance(peer.close_reason, MessageTooLarge):
        return "MessageTooLarge"
    ended = peer._connection.ended
    return type(ended).__name__ if isinstance(ended, Exception) else "closed"


class Runner:
    """How a server calls what its user has registered: here in the event loop."""

    async def in_order(self, work: Callable[..., Any], *args: Any) -> Any:
        """Handlers, one after the other."""
        result = work(*args)
        return await result if inspect.isawaitable(result) else result

    async def apart(self, work: Callable[..., Any], *args: Any) -> Any:
        """Commands and providers, which may take long."""
        return await self.in_order(work, *args)

    async def begun(self, provider: Callable[..., Any], *args: Any) -> Any:
        """The frames of a stream: an iterable, or an async one."""
        return await self.in_order(provider, *args)

    async def iterated(self, frames: Any) -> AsyncGenerator[Message]:
        """One frame after the other; the generator is closed in the end."""
        try:
            if hasattr(frames, "__aiter__"):
                async for message in frames:
                    yield message
            else:
                for message in frames:
                    yield message
        finally:
            if hasattr(frames, "aclose"):
                await frames.aclose()
            elif isinstance(frames, Iterator) and hasattr(frames, "close"):
                frames.close()


def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    max_clients: int = 1000,
    allow: Iterable[str] | None = None,
    policy: Policy = "drop_oldest",
    max_queued: int = MAX_QUEUED,
    max_queued_bytes: int = MAX_QUEUED_BYTES,
    stall_timeout: float = STALL_TIMEOUT,
    idle_timeout: float | None = None,
    keepalive: float | None = 60.0,
    ssl: SSLContext | None = None,
    handshake_timeout: float = 10.0,
    version: Version = "auto",
    max_size: int = MAX_SIZE,
    crc: CRCPolicy = "verify",
    cut_names: bool = False,
    start: bool = True,
    runner: Runner | None = None,
) -> Opening[Server]:
    """Serve many clients: `async with igtl.aio.serve(port=18944) as server: ...`.

    Args: see `igtl.serve`.

    Raises:
        OSError: the address cannot be used.
    """

    def new_protocol() -> Protocol:
        return Protocol(
            max_size=max_size, crc=crc, on_error="skip", version=version, cut_names=cut_names
        )

    def new_outbox() -> Queue[bytes]:
        return Queue(policy, max_queued, max_queued_bytes)

    async def opened() -> Server:
        server = Server(
            new_protocol=new_protocol, new_outbox=new_outbox, policy=policy, cut_names=cut_names,
            allow=AllowList(allow),
            max_clients=max_clients, idle_timeout=idle_timeout, stall_timeout=stall_timeout,
            keepalive=keepalive, ssl=ssl, handshake_timeout=handshake_timeout, runner=runner,
        )  # fmt: skip
        new_protocol(), new_outbox()  # wrong settings show here, not at the first client
        loop = asyncio.get_running_loop()
        server._listening = await loop.create_server(
            lambda: Arrival(server._admit, server._arrived),
            host, port, backlog=1024, start_serving=start,
        )  # fmt: skip
        server.host, server.port = server._listening.sockets[0].getsockname()[:2]
        server._start_task(server._watch())
        return server

    return Opening(opened())
