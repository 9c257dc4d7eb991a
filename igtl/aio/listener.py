"""A listening socket in asyncio that gives a link for each client: `listen`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Self, Unpack

from igtl.aio.accepting import Accepting
from igtl.aio.link import Link, Opening
from igtl.aio.transport import Connection
from igtl.errors import ConnectionClosed
from igtl.options import PORT, AioListenOptions, AioListenSettings, seconds
from igtl.session.facade import new_session
from igtl.session.session import Session

MAX_ARRIVED = 100  # clients that wait for `accept`; the system holds what comes beyond them


class Listener:
    """Hands out a Link for each client; see `listen`.

    `async for link in listener` yields links as clients come, until it is closed.

    Attributes:
        refused: clients that were turned away, by cause: "tls", "websocket",
            "descriptors".
    """

    def __init__(self, options: AioListenOptions) -> None:
        self.refused: Counter[str] = Counter()
        self._options = options
        self._arrived: asyncio.Queue[Link | None] = asyncio.Queue()
        self._closed = False
        self._room = asyncio.Semaphore(MAX_ARRIVED)
        self._failed: OSError | None = None
        self._accepting = Accepting(options, self._admit, self._welcome, self.refused, self._room)
        self._accepting.failed = self._fail

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._accepting.host

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._accepting.port

    async def bind(self, host: str, port: int) -> None:
        """Take the port, and listen.

        Raises:
            OSError: the address cannot be used.
        """
        await self._accepting.bind(host, port)
        self._accepting.start()

    def _fail(self, error: OSError) -> None:
        self._failed = error
        self._arrived.put_nowait(None)

    def _admit(self, peer: Any) -> Session:
        return new_session(self._options, self._options, peer=peer)

    def _welcome(self, connection: Connection) -> None:
        self._arrived.put_nowait(Link(connection, self._options))

    async def accept(self, *, timeout: float | None = None) -> Link:
        """Wait for the next client, whose handshake (TLS, WebSocket) is then done.

        See `igtl.Listener.accept`.
        """
        timeout = seconds("timeout", timeout)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                link = await self._arrived.get()
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no client within {timeout:g} s") from None
            raise
        if link is None:
            self._arrived.put_nowait(None)  # for the next task that waits
            raise self._failed or ConnectionClosed("this listener was closed")
        self._room.release()
        return link

    async def __aiter__(self) -> AsyncIterator[Link]:
        while True:
            try:
                link = await self.accept()
            except ConnectionClosed:
                return
            yield link

    async def close(self) -> None:
        """See `igtl.Listener.close`."""
        if not self._closed:
            self._closed = True
            await self._accepting.close()
            while not self._arrived.empty():  # no task will take them any more
                link = self._arrived.get_nowait()
                if link is not None:
                    await link.close()
            self._arrived.put_nowait(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def listen(
    host: str = "127.0.0.1", port: int = PORT, **settings: Unpack[AioListenSettings]
) -> Opening[Listener]:
    """Listen for clients, and treat each as a Link of your own; see `igtl.listen`.

    The settings are `igtl.options.AioListenOptions`.
    """
    options = AioListenOptions.of(settings)

    async def opened() -> Listener:
        listener = Listener(options)
        await listener.bind(host, port)
        return listener

    return Opening(opened())
