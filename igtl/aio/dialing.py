"""A server that opens its one connection itself.

The peer at the other end is its only client, and has all that a client of a server has: handlers,
providers, commands, latched messages, a queue.
"""

from __future__ import annotations

import asyncio
from functools import partial

from igtl.addresses import of_tcp, websocket_address
from igtl.aio.answers import Runner
from igtl.aio.peer import Peer
from igtl.aio.server import Server
from igtl.aio.transport import Connection
from igtl.options import ConnectOptions, ServerOptions
from igtl.session.backoff import Backoff, Supervisor
from igtl.session.facade import client_layer, new_session

_OPEN = 5.0  # seconds to connect


class Dialing(Server):
    """Connects again and again, and serves whatever it finds there.

    Args:
        address: host and port of the peer; "ws://host:port/path" and "wss://…" are WebSockets.
        options: as of a server; what is for accepting has no meaning here. `ssl` is the context of
            a client, for wss:// only; default: one that trusts the authorities of the system.
        backoff: how long to wait between two tries. Without a number of attempts it goes on, even
            where another program than was expected answers.

    Attributes: see `Server`.

    Raises:
        ValueError: the address cannot be understood, or does not fit `ssl`.
        MissingExtra: it is a WebSocket, and the package for that is not installed.
    """

    def __init__(
        self,
        address: tuple[str, int],
        options: ServerOptions,
        backoff: Backoff,
        runner: Runner | None = None,
    ) -> None:
        url = websocket_address(*address)
        if options.ssl is not None and (url is None or not url.secure):
            raise ValueError("ssl is for connections that are accepted, and for wss://")
        super().__init__(options, runner)
        self._new_layer = partial(client_layer, ConnectOptions.of({"ssl": options.ssl}), *address)
        self._new_layer()  # tells now what can never be
        self._address = address
        self._backoff = backoff
        self._started = False
        self._over = asyncio.Event()

    @property
    def host(self) -> str:
        """The host of the peer."""
        return self._address[0]

    @property
    def port(self) -> int:
        """The port of the peer."""
        return self._address[1]

    async def prepare(self) -> None:
        """Begin to watch over the connection that will be there."""
        self._start_task(self._watch())

    async def start(self) -> None:
        """Begin to connect."""
        if not self._started:
            self._started = True
            self._start_task(self._keep())

    async def _keep(self) -> None:
        while True:
            try:
                await self._connect_again(Supervisor(self._address, self._backoff))
            except Exception:  # logged by the supervisor: it was refused, or talked nonsense
                if self._backoff.attempts is not None:
                    return
                await asyncio.sleep(self._backoff.maximum)

    async def _connect_again(self, supervisor: Supervisor) -> None:
        while True:
            try:
                peer = await self._dial()
            except OSError as error:
                pause = supervisor.failed(error)
            else:
                supervisor.connected()
                await self._over.wait()
                pause = supervisor.lost(peer.close_reason)
            await asyncio.sleep(pause)

    async def _dial(self) -> Peer:
        session = new_session(self.options, self.options, peer=self._address)
        connection = Connection(session, self._new_layer(), keepalive=self.options.keepalive)
        connection.resets = True
        self._over.clear()
        loop, (host, port) = asyncio.get_running_loop(), of_tcp(*self._address)
        async with asyncio.timeout(_OPEN):
            await loop.create_connection(lambda: connection, host, port)
            await connection.handshake(None)
        self._welcome(connection)
        return self.clients[-1]

    async def _serve(self, peer: Peer) -> None:
        try:
            await super()._serve(peer)
        finally:
            self._over.set()


async def open_dialing(
    address: tuple[str, int],
    options: ServerOptions,
    backoff: Backoff,
    start: bool,
    runner: Runner | None = None,
) -> Dialing:
    """Return a server that connects to this address."""
    server = Dialing(address, options, backoff, runner)
    await server.prepare()
    if start:
        await server.start()
    return server
