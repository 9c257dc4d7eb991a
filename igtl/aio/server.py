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
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from igtl._core import Frame
from igtl.aio.answers import Answers, Runner
from igtl.aio.connection import Arrival, Connection
from igtl.aio.link import Opening
from igtl.aio.peer import Peer
from igtl.aio.tls import TLSConnection
from igtl.allow import AllowList
from igtl.compressing import protocol_for
from igtl.compression import Compression, stream_of
from igtl.errors import MessageTooLarge
from igtl.link import Packed
from igtl.log import log
from igtl.message import CRCPolicy, Message
from igtl.protocol import MAX_SIZE, PORT, Protocol, Version
from igtl.queues import Policy, Queue

if TYPE_CHECKING:
    from ssl import SSLContext

F = TypeVar("F", bound=Callable[..., Any])
MAX_QUEUED = 1000
MAX_QUEUED_BYTES = 256 << 20
STALL_TIMEOUT = 10.0
_WATCH = 0.5  # seconds between two looks at stalled and idle clients


class Server(Answers):
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
        super().__init__(runner)
        self.host = ""
        self.port = 0
        self.refused: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        self._new_protocol = new_protocol
        self._first_version: int = new_protocol().version  # of who comes next
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
        self._peers: dict[int, Peer] = {}
        self._ids = itertools.count(1)
        self._coming = 0  # let in, but not yet through with TLS
        self._tasks: set[asyncio.Task[Any]] = set()
        self._connected: list[Callable[..., Any]] = []
        self._disconnected: list[Callable[..., Any]] = []
        self._latched: dict[bytes, Packed] = {}
        self._listening: asyncio.Server
        self._closing = False
        self._compressing = asyncio.Lock()

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
        # nobody is there now, but somebody may be when it is delivered
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
        await asyncio.gather(*waits, return_exceptions=True)  # whoever left meanwhile
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
        peer = Peer(self._handle, connection, next(self._ids))
        self._peers[peer.id] = peer
        log(logging.INFO, "%s connected", peer.peer, peer=peer.peer)
        for packed in list(self._latched.values()):
            wire = peer._wire_of(packed)
            connection.put(wire, stream_of(wire))
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
            peer.facade = None

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


def _cause(peer: Peer) -> str:
    """Why it left, for `gone`."""
    if isinstance(peer.close_reason, MessageTooLarge):
        return "MessageTooLarge"
    ended = peer._connection.ended
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
    stall_timeout: float = STALL_TIMEOUT,
    idle_timeout: float | None = None,
    keepalive: float | None = 60.0,
    ssl: SSLContext | None = None,
    handshake_timeout: float = 10.0,
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
