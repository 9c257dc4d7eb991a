"""A server for many clients in one event loop; `igtl.serve` runs it in a thread.

Each client has a bounded queue of its own, so one that stalls or dies delays no other: its queue
follows the policy, and after `stall_timeout` it is dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Self, Unpack

from igtl._core import Frame
from igtl._stream import Audience, pass_on
from igtl.aio.accepting import Accepting
from igtl.aio.answers import Answers, Runner
from igtl.aio.link import Opening
from igtl.aio.peer import Peer
from igtl.aio.steps import method
from igtl.aio.transport import Connection
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.log import log, sum_up
from igtl.options import PORT, UNIX, ServerOptions, ServerSettings, seconds
from igtl.session import serving
from igtl.session.access import AllowList
from igtl.session.facade import new_session
from igtl.session.packed import Packed
from igtl.session.session import Session

_WATCH = 0.05, 0.5  # seconds between two looks at clients, at least and at most


class Server(Answers):
    """A listening socket and its clients; see `serve`.

    Attributes:
        options: what was asked for.
        peers: the clients, by id.
        audience: their connections, for messages to all of them.
        others: see `igtl.session.serving.ServerBase`.
    """

    def __init__(self, options: ServerOptions, runner: Runner | None = None) -> None:
        super().__init__(runner)
        self.options = options
        self.refused: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        self.peers: dict[int, Peer] = {}
        self.audience: Audience[Connection, Packed] = Audience(Packed, options.cut_names)
        self._allow = AllowList(options.allow)
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._latched: dict[bytes, Packed] = {}
        self._joining = threading.Lock()  # of what is latched, and who comes
        self._accepting = Accepting(options, self._admit, self._welcome, self.refused)
        self._shutdown: asyncio.Task[None] | None = None
        self._closers: set[asyncio.Task[Any] | None] = set()  # who waits for the shutdown
        self._compressing = asyncio.Lock()

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._accepting.host

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._accepting.port

    async def start(self) -> None:
        """See `igtl.Server.start`."""
        self._accepting.start()

    async def bind(self, host: str, port: int) -> None:
        """Take the port; `start` listens on it.

        Raises:
            OSError: the address cannot be used.
            ValueError: allow= was given for a Unix socket, whose clients have no address.
        """
        await self._accepting.bind(host, port)
        if self.options.allow is not None and self.host.startswith(UNIX):
            await self._accepting.close()
            raise ValueError("allow= is for addresses; the permissions of a Unix socket decide")
        self._start_task(self._watch())

    # -- clients

    @property
    def clients(self) -> list[Peer]:
        """The peers that are connected."""
        return list(self.peers.values())

    async def broadcast(
        self, message: Message | Frame, *, latch: bool = False, crc: bool = True
    ) -> int:
        """Send a message to all clients; see `igtl.Server.broadcast`.

        It is packed once, at once; what a client's header version and compression want is made of
        that when it leaves.

        Returns:
            To how many clients it was queued.
        """
        if self._compressing.locked() or self.compresses():
            packed = self.audience.pack(message, crc)
            async with self._compressing:  # what is sent later stays behind it
                await asyncio.to_thread(self.compress, packed)
                return await self._broadcast(packed, latch, crc)
        return await self._broadcast(message, latch, crc)

    async def _broadcast(self, message: Message | Frame | Packed, latch: bool, crc: bool) -> int:
        count = len(self.audience.passages)
        if (rest := self.pass_on(message, latch, crc)) is not None:
            packed, left = rest
            count += await self.deliver(packed, left) - len(left)
        return count

    def compresses(self) -> bool:
        """Return whether any client takes compressed messages."""
        return self.options.compression is not False and any(
            peer.session.protocol.peer_takes for peer in self.clients
        )

    def compress(self, packed: Packed) -> None:
        """Make the forms that the clients will want, for example in a thread."""
        for peer in self.clients:
            packed.wire_for(peer.session.protocol)

    def pass_on(
        self, message: Message | Frame | Packed, latch: bool, crc: bool
    ) -> tuple[Packed, list[Connection]] | None:
        """Pack a message, and send it at once to the clients for whom nothing waits, in any thread.

        Returns None if all have got it, else what `deliver` takes: as what it is packed, and the
        other clients. A client that comes now receives a latched message once: with those that were
        latched before it came, or as one that is broadcast.
        """
        if not latch:
            return self.audience.pass_on(message, crc)
        packed = self.audience.pack(message, crc)
        with self._joining:
            self._latched[packed.stream] = packed
            there = self.audience.passages
        left = pass_on(there, packed)
        return (packed, left) if left else None

    async def deliver(self, packed: Packed, left: list[Connection]) -> int:
        """Queue a packed message to those that `pass_on` has left, under the policy.

        Returns to how many: some may leave meanwhile.
        """
        if self.options.policy != "block":
            return self.deliver_now(packed, left)
        waits = [each.put_wait(packed, None) for each in _there(left)]
        await asyncio.gather(*waits, return_exceptions=True)
        return len(waits)

    def deliver_now(self, packed: Packed, left: list[Connection]) -> int:
        """As `deliver`, without waiting for room."""
        there = _there(left)
        for connection in there:
            connection.put(packed)
        return len(there)

    def peer_of(self, client: int) -> Peer:
        """See `igtl.Server.peer_of`."""
        return self.peers[client]

    send_to = method(serving.send_to)
    disconnect = method(serving.disconnect)

    async def shutdown(self, *, timeout: float | None = 5.0) -> None:
        """See `igtl.Server.shutdown`."""
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
            peer.stop(lambda key: True)
        for task in list(self._tasks):  # the watch
            if task.get_name() != "igtl peer":
                task.cancel()
        await asyncio.gather(
            *(peer.connection.finish(timeout, discard=False) for peer in self.clients)
        )
        if waited := self._tasks - self._closers:
            await asyncio.wait(waited, timeout=None if end is None else end - time.monotonic())
        for task in self._tasks - self._closers:
            task.cancel()
        sum_up(all=True)

    close = method(serving.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # -- coming and going

    def _admit(self, address: Any) -> Session | None:
        cause = None
        if not self._allow.admits(address):
            cause = "not allowed"
        elif len(self.peers) + self._accepting.coming >= self.options.max_clients:
            cause = "max_clients"
        elif self._shutdown is not None:
            cause = "closing"
        if cause is not None:
            self.refused[cause] += 1
            log(logging.WARNING, "%s was refused: %s", address, cause, peer=address, cause=cause)
            return None
        return new_session(self.options, self.options, peer=address)

    def _start_task(self, work: Coroutine[Any, Any, None], name: str | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _welcome(self, connection: Connection) -> None:
        options = self.options
        peer = Peer(
            self.handle, connection, next(self._ids),
            {
                "max_requests": options.max_requests,
                "max_commands": options.max_commands,
                "max_streams": options.max_streams,
            },
            self._left,
        )  # fmt: skip
        connection.take_over()
        with self._joining:
            self.peers[peer.id] = peer
            self.audience.join(connection)
            latched = list(self._latched.values())
        log(logging.INFO, "%s connected", peer.peer, peer=peer.peer)
        connection.put_first(latched)
        self._start_task(self._serve(peer), "igtl peer")

    async def _serve(self, peer: Peer) -> None:
        try:
            for handler in self.functions.connected:
                await self.guarded(peer, handler, peer)
            await peer.run()
        except Exception as error:
            peer.session.lost(error)
            log(logging.ERROR, "%s is dropped", peer.peer, peer=peer.peer, cause=error, error=error)
        finally:
            peer.leave()
            peer.gone = peer.gone or cause_of(peer.close_reason)
            try:
                await peer.connection.finish(0.5)
            finally:
                self._left(peer)  # a connection counts until it is closed
            log(logging.INFO, "%s is gone: %s", peer.peer, peer.close_reason,
                peer=peer.peer, cause=peer.gone)  # fmt: skip
            for handler in self.functions.disconnected:
                await self.guarded(peer, handler, peer)
            peer.facade = None  # which refers to it

    def _left(self, peer: Peer) -> None:
        """Take out a client whose connection is closed.

        Its handlers may go on for a while.
        """
        self.audience.leave(peer.connection)
        if self.peers.pop(peer.id, None) is not None:
            self.gone[peer.gone] += 1

    async def _watch(self) -> None:
        """Look for clients that take nothing, or say nothing, for too long."""
        options = self.options
        timeouts = [options.idle_timeout, options.message_timeout, options.stall_timeout]
        pause = min((t / 2 for t in timeouts if t is not None), default=_WATCH[1])
        while True:
            await asyncio.sleep(max(_WATCH[0], min(pause, _WATCH[1])))
            now = time.monotonic()
            for peer in self.clients:
                if cause := peer.connection.expired(now):
                    peer.gone = cause
                    log(logging.WARNING, "%s", peer.close_reason, peer=peer.peer, cause=cause)
            sum_up()


def _there(left: list[Connection]) -> list[Connection]:
    """Take over what was passed on to these; return those that still take something."""
    for connection in left:
        connection.arrived()
    return [connection for connection in left if not connection.is_over]


def cause_of(reason: Exception | None) -> str:
    """Return why a client has left, for `Server.gone`."""
    if isinstance(reason, ConnectionClosed):
        reason = reason.__cause__ if isinstance(reason.__cause__, Exception) else None
    return "closed" if reason is None else type(reason).__name__


def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    start: bool = True,
    runner: Runner | None = None,
    **settings: Unpack[ServerSettings],
) -> Opening[Server]:
    """Serve many clients: `async with igtl.aio.serve(port=18944) as server`; see `igtl.serve`."""
    return Opening(open_server(host, port, ServerOptions.of(settings), start, runner))


async def open_server(
    host: str, port: int, options: ServerOptions, start: bool, runner: Runner | None
) -> Server:
    """Return a server with these options; see `serve`."""
    server = Server(options, runner)
    await server.bind(host, port)
    if start:
        await server.start()
    return server
