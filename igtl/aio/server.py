"""A server for many clients in one event loop; `igtl.serve` runs it in a thread.

Each client has a bounded queue of its own, so one that stalls or dies delays nobody: its queue
follows the policy, and after `stall_timeout` it is dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from igtl._core import Frame
from igtl.aio.accepting import Accepting
from igtl.aio.answers import Answers, Runner
from igtl.aio.connection import Connection
from igtl.aio.link import Opening
from igtl.aio.peer import Limit, Peer
from igtl.aio.tls import TLSConnection
from igtl.allow import AllowList
from igtl.compressing import protocol_for
from igtl.compression import Compression, stream_of
from igtl.errors import ConnectionClosed
from igtl.limits import seconds
from igtl.link import Packed
from igtl.log import log, named, sum_up
from igtl.message import CRCPolicy, Message
from igtl.protocol import MAX_SIZE, PORT, Protocol, Version
from igtl.queues import Policy, Queue

if TYPE_CHECKING:
    from ssl import SSLContext

F = TypeVar("F", bound=Callable[..., Any])
MAX_QUEUED = 1000
MAX_QUEUED_BYTES = 256 << 20
STALL_TIMEOUT = 10.0
MESSAGE_TIMEOUT = 5.0
MAX_IN_PROGRESS = 64
_WATCH = 0.05, 0.5  # seconds between two looks at clients, at least and at most


class Server(Answers):
    """A listening socket and its clients; see `serve`.

    Attributes:
        refused: connections not let in, by cause: "max_clients", "not allowed", "tls",
            "closing", "descriptors" (the system has none left).
        gone: clients that have left, by cause: "closed", "stalled", "unfinished", "idle",
            "disconnected", or the name of an error.
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
        message_timeout: float | None,
        stall_timeout: float | None,
        keepalive: float | None,
        ssl: SSLContext | None,
        handshake_timeout: float | None,
        limits: Mapping[Limit, int],
        runner: Runner | None = None,
    ) -> None:
        super().__init__(runner)
        if max_clients < 1:
            raise ValueError(f"max_clients must be at least 1, not {max_clients}")
        for name, limit in limits.items():
            if limit < 0:
                raise ValueError(f"{name} must be at least 0, not {limit}")
        self.refused: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        self._new_protocol = new_protocol
        self._first_version: int = new_protocol().version  # of who comes next
        self._new_outbox = new_outbox
        self._policy = policy
        self._cut_names = cut_names
        self._allow = allow
        self._max_clients = max_clients
        self._idle_timeout = seconds("idle_timeout", idle_timeout)
        self._message_timeout = seconds("message_timeout", message_timeout)
        self._stall_timeout = seconds("stall_timeout", stall_timeout)
        self._keepalive = keepalive
        self._ssl = ssl
        self._handshake_timeout = seconds("handshake_timeout", handshake_timeout)
        self._limits = limits
        self._peers: dict[int, Peer] = {}
        self._ids = itertools.count(1)
        self._coming = 0  # let in, but not yet through with TLS
        self._tasks: set[asyncio.Task[Any]] = set()
        self._connected: list[Callable[..., Any]] = []
        self._disconnected: list[Callable[..., Any]] = []
        self._latched: dict[bytes, Packed] = {}
        self._accepting = Accepting(self._admit, self._arrived, self.refused)
        self._shutdown: asyncio.Task[None] | None = None
        self._closers: set[asyncio.Task[Any] | None] = set()  # who waits for the shutdown
        self._compressing = asyncio.Lock()

    def on_connect(self, handler: F) -> F:
        """Decorator: call this with each new peer."""
        self._connected.append(handler)
        return handler

    def on_disconnect(self, handler: F) -> F:
        """Decorator: call this with each peer that is gone, see its close_reason."""
        self._disconnected.append(handler)
        return handler

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._accepting.host

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._accepting.port

    async def start(self) -> None:
        """Begin to listen, if `serve` was told not to."""
        self._accepting.start()

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
        packed = self._pack(message, latch, crc)
        if self._compressing.locked() or self._compresses():
            async with self._compressing:  # what is sent later stays behind it
                await asyncio.to_thread(self._compress, packed)
                return await self._deliver(packed)
        return await self._deliver(packed)

    def _compresses(self) -> bool:
        """Whether any client takes compressed messages."""
        return any(peer._protocol.peer_takes for peer in self.clients)

    def _compress(self, packed: Packed) -> None:
        """Once for each kind of client."""
        for peer in self.clients:
            packed.wire_for(peer._protocol)

    def _pack(self, message: Message | Frame, latch: bool, crc: bool) -> Packed:
        versions = {1, 2} if latch else {peer.header_version for peer in self.clients}
        # without a client now, for the next one; `Packed` makes other forms when they are needed
        versions = versions or {self._first_version}
        packed = Packed(message, versions, crc=crc, cut_name=self._cut_names)
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
            waits.append(peer._connection.put_wait(wire, stream_of(wire), None))
        await asyncio.gather(*waits, return_exceptions=True)  # some may leave meanwhile
        return len(peers)

    def _deliver_now(self, packed: Packed) -> int:
        peers = [peer for peer in self.clients if not peer._connection.is_over]
        for peer in peers:
            wire = peer._wire_of(packed)
            peer._connection.put(wire, stream_of(wire))
        return len(peers)

    async def send_to(self, client: int, message: Message | Frame, *, crc: bool = True) -> None:
        """Send to the client with this id.

        Raises:
            KeyError: there is none.
        """
        await self._peers[client].send(message, crc=crc)

    async def disconnect(self, client: int) -> None:
        """Send what is queued for the client with this id, then close it."""
        await self._peers[client].disconnect()

    async def shutdown(self, *, timeout: float | None = 5.0) -> None:
        """Stop listening, send what is queued, handle what still comes, and close. A handler may
        call it: what waits behind that handler is not handled.

        Args:
            timeout: seconds until a client that has not taken everything is cut. None: wait for
                all.
        """
        timeout = seconds("timeout", timeout)
        self._closers.add(asyncio.current_task())
        if self._shutdown is None:
            # in a task of its own: the end of a client ends the command that has called this
            self._shutdown = asyncio.get_running_loop().create_task(self._shut_down(timeout))
        await asyncio.shield(self._shutdown)

    async def _shut_down(self, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        await self._accepting.close()
        for peer in self.clients:
            peer._stop(lambda key: True)
        for task in list(self._tasks):  # handshakes, and the watch
            if task.get_name() != "igtl peer":
                task.cancel()
        await asyncio.gather(
            *(peer._connection.finish(timeout, discard=False) for peer in self.clients)
        )
        if waited := self._tasks - self._closers:
            await asyncio.wait(waited, timeout=None if end is None else end - time.monotonic())
        for task in self._tasks - self._closers:
            task.cancel()
        sum_up(all=True)

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
        elif self._shutdown is not None:
            cause = "closing"
        if cause is not None:
            self.refused[cause] += 1
            log(logging.WARNING, "%s was refused: %s", address, cause, peer=address, cause=cause)
            return None
        return self._new_connection()

    def _new_connection(self) -> Connection:
        protocol, outbox = self._new_protocol(), self._new_outbox()
        if self._ssl is None:
            return Connection(protocol, outbox, keepalive=self._keepalive)
        return TLSConnection(
            protocol, outbox, self._ssl, server_side=True, keepalive=self._keepalive
        )

    def _arrived(self, connection: Connection) -> None:
        if isinstance(connection, TLSConnection):
            self._coming += 1
            self._start_task(self._shake_hands(connection))
        else:
            self._welcome(connection)

    async def _shake_hands(self, connection: TLSConnection) -> None:
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
        peer = Peer(self._handle, connection, next(self._ids), self._limits)
        self._peers[peer.id] = peer
        log(logging.INFO, "%s connected", peer.peer, peer=peer.peer)
        for packed in list(self._latched.values()):
            wire = peer._wire_of(packed)
            connection.put(wire, stream_of(wire))
        self._start_task(self._serve(peer), "igtl peer")

    async def _serve(self, peer: Peer) -> None:
        try:
            for handler in self._connected:
                await self._guarded(peer, handler, peer)
            peer._on_bytes()  # a hello may be there already
            await peer._run()
        except Exception as error:
            peer.close_reason = peer.close_reason or error
            log(logging.ERROR, "%s is dropped", peer.peer, peer=peer.peer, cause=error, error=error)
        finally:
            peer._left()
            peer._gone = peer._gone or _cause(peer)
            try:
                await peer._connection.finish(0.5)
            finally:
                self.gone[peer._gone] += 1
                del self._peers[peer.id]  # a connection counts until it is closed
            log(logging.INFO, "%s is gone: %s", peer.peer, peer.close_reason,
                peer=peer.peer, cause=peer._gone)  # fmt: skip
            for handler in self._disconnected:
                await self._guarded(peer, handler, peer)

    async def _watch(self) -> None:
        """Look for clients that take nothing, or say nothing, for too long."""
        timeouts = [self._idle_timeout, self._message_timeout, self._stall_timeout]
        pause = min((t / 2 for t in timeouts if t is not None), default=_WATCH[1])
        while True:
            await asyncio.sleep(max(_WATCH[0], min(pause, _WATCH[1])))
            now = asyncio.get_running_loop().time()
            for peer in self.clients:
                self._look_at(peer, now)
            sum_up()

    def _look_at(self, peer: Peer, now: float) -> None:
        connection = peer._connection
        taken = connection.taken
        if connection.idle or taken != peer._taken:
            peer._taken, peer._moved = taken, now
        elif _passed(self._stall_timeout, now - peer._moved):
            self._drop(peer, "stalled", f"took nothing for {self._stall_timeout:g} s")
        # what its handlers have no time for is no silence of the client
        if not connection.reading:
            return
        silence = now - connection.heard
        if not peer._protocol.at_boundary and _passed(self._message_timeout, silence):
            text = f"sent nothing more of a message for {self._message_timeout:g} s"
            self._drop(peer, "unfinished", text)
        elif _passed(self._idle_timeout, silence):
            self._drop(peer, "idle", f"said nothing for {self._idle_timeout:g} s")

    def _drop(self, peer: Peer, cause: str, reason: str) -> None:
        if peer.close_reason is None:
            peer._gone = cause
            peer._end(f"{named(peer.peer)} {reason}", clean=False)
            log(logging.WARNING, "%s %s", peer.peer, reason, peer=peer.peer, cause=cause)
            peer._connection._give_up(cause)
            peer._connection.abort()


def _passed(timeout: float | None, waited: float) -> bool:
    return timeout is not None and waited >= timeout


def _cause(peer: Peer) -> str:
    """Why it left, for `gone`."""
    ended = peer._connection.ended
    if not isinstance(peer.close_reason, ConnectionClosed):
        ended = peer.close_reason or False
    return type(ended).__name__ if isinstance(ended, Exception) else "closed"


def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    max_clients: int = 1000,
    allow: Iterable[str] | None = None,
    policy: Policy = "drop_oldest",
    max_queued: int = MAX_QUEUED,
    max_queued_bytes: int = MAX_QUEUED_BYTES,
    max_requests: int = MAX_IN_PROGRESS,
    max_commands: int = MAX_IN_PROGRESS,
    max_streams: int = MAX_IN_PROGRESS,
    stall_timeout: float | None = STALL_TIMEOUT,
    message_timeout: float | None = MESSAGE_TIMEOUT,
    idle_timeout: float | None = None,
    keepalive: float | None = 60.0,
    ssl: SSLContext | None = None,
    handshake_timeout: float | None = 10.0,
    version: Version = "auto",
    max_size: int = MAX_SIZE,
    crc: CRCPolicy = "verify",
    cut_names: bool = False,
    compression: Compression | bool = False,
    start: bool = True,
    runner: Runner | None = None,
) -> Opening[Server]:
    """Serve many clients: `async with igtl.aio.serve(port=18944) as server: ...`.

    Args: see `igtl.serve`.

    Raises:
        OSError: the address cannot be used.
    """

    def new_protocol() -> Protocol:
        return protocol_for(
            compression, max_size=max_size, crc=crc, on_error="skip", version=version,
            cut_names=cut_names,
        )  # fmt: skip

    def new_outbox() -> Queue[bytes]:
        return Queue(policy, max_queued, max_queued_bytes)

    async def opened() -> Server:
        server = Server(
            new_protocol=new_protocol, new_outbox=new_outbox, policy=policy, cut_names=cut_names,
            allow=AllowList(allow),
            max_clients=max_clients, idle_timeout=idle_timeout, message_timeout=message_timeout,
            stall_timeout=stall_timeout, keepalive=keepalive, ssl=ssl,
            handshake_timeout=handshake_timeout,
            limits={
                "max_requests": max_requests, "max_commands": max_commands,
                "max_streams": max_streams,
            },
            runner=runner,
        )  # fmt: skip
        server._new_connection()  # wrong settings show here, not at the first client
        await server._accepting.bind(host, port)
        server._start_task(server._watch())
        if start:
            await server.start()
        return server

    return Opening(opened())
