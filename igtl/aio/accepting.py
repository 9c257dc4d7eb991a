"""Listening sockets, and how clients are taken in.

Not by asyncio's own server: without descriptors it tries as many times a turn as the backlog is
long, and logs each failure; and it makes a transport for a client before anything can refuse it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from igtl.addresses import of_tcp
from igtl.aio.transport import Connection
from igtl.log import log
from igtl.net.sockets import (
    REST,
    Bound,
    Resting,
    address_of,
    concerns_one_client,
    is_exhausted,
    unix_path,
)  # fmt: skip
from igtl.options import AcceptOptions
from igtl.session.facade import server_layers
from igtl.session.layers import Layer
from igtl.session.session import Session

_BACKLOG = 1024  # clients that wait in the system until they are taken in
_TURNED_AWAY = 100  # clients that are closed each time
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # a name may have addresses of both kinds


class Accepting:
    """The listening sockets of one server, and the handshakes of its clients.

    Args:
        options: of the server.
        admit: called with the address of a client: gives its Session, or None to refuse it.
        welcome: called with its Connection, which is then through with its handshake.
        refused: counts the clients that are turned away because the system has no descriptors
            left, as "descriptors".
        room: acquired before each client is taken in; the system holds those beyond it. None:
            without a bound.

    Attributes:
        host, port: where it listens.
        coming: clients that are let in, but not yet through with a handshake.
        failed: called when a socket can accept no more. Without it that is tried again, and
            clients are turned away while the system has no descriptor left; with it they wait.
    """

    def __init__(
        self,
        options: AcceptOptions,
        admit: Callable[[Any], Session | None],
        welcome: Callable[[Connection], None],
        refused: Counter[str],
        room: asyncio.Semaphore | None = None,
    ) -> None:
        self.host = ""
        self.port = 0
        self.coming = 0
        self._options = options
        self._new_layer: Callable[[], Layer | None] = lambda: None
        self._refused = refused
        self._room = room
        self.failed: Callable[[OSError], None] | None = None
        self._admit = admit
        self._welcome = welcome
        self._bound: list[Bound] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting = Resting()
        self._started = False
        self._spare = -1  # a descriptor, so that a client can be turned away without any other

    async def bind(self, host: str, port: int) -> None:
        """Take the port, on all addresses of the host.

        A host may also be the path of a Unix socket; or the options have a socket with an address.

        Raises:
            OSError: the address is not available.
            MissingExtra, ValueError: see `server_layers`.
        """
        self._new_layer = server_layers(self._options, host)
        sock = self._options.sock
        if sock is not None:
            self._keep(Bound(sock))
        elif (path := unix_path(host)) is not None:
            self._keep(Bound.at(path))
        else:
            await self._bind_all(*of_tcp(host, port))

    async def _bind_all(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            missing: OSError | None = None
            for family, _, proto, _, address in dict.fromkeys(found):
                if self.port:  # all families share the port that the first one got
                    address = (address[0], self.port, *address[2:])
                try:
                    self._keep(Bound.at(address, family, proto))
                except OSError as error:
                    missing = error
                    if error.errno not in _NOT_HERE:
                        raise
            if missing is not None and not self._bound:
                raise missing
        except BaseException:
            await self.close()
            raise

    def _keep(self, bound: Bound) -> None:
        self._bound.append(bound)
        if not self.port:
            self.host, self.port = bound.host, bound.port

    def start(self) -> None:
        """Listen."""
        if not self._started:
            self._started = True
            self._hold_spare()
            for bound in self._bound:
                bound.sock.listen(_BACKLOG)
                self._start_task(self._accept(bound))

    async def close(self) -> None:
        """Stop listening, and give the port back."""
        was_bound, self._bound = self._bound, []
        for bound in was_bound:
            bound.stop()  # closing alone would leave it listening in a forked process
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for bound in was_bound:
            bound.close()
        self._let_spare_go()

    # -- clients

    async def _accept(self, bound: Bound) -> None:
        loop, listening = asyncio.get_running_loop(), bound.sock
        while bound in self._bound:
            if self._room is not None:
                await self._room.acquire()
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:
                if self._room is not None:
                    self._room.release()
                if bound not in self._bound or not await self._goes_on(listening, error):
                    return
                continue
            self._resting.ends()
            await self._take_in(sock, address_of(address) or bound.host)

    async def _goes_on(self, listening: socket.socket, error: OSError) -> bool:
        """Wait until accepting may succeed, after it has failed.

        Returns whether to try again.
        """
        if concerns_one_client(error):
            await asyncio.sleep(0)
            return True
        if not is_exhausted(error) and self.failed is not None:
            self.failed(error)
            return False
        self._resting.begins(error)
        if is_exhausted(error) and self.failed is None:
            self._turn_away(listening)
        await asyncio.sleep(REST)
        return True

    async def _take_in(self, sock: socket.socket, peer: Any) -> None:
        try:
            session = self._admit(peer)
            if session is None:
                sock.close()
                await asyncio.sleep(0)
                return
            layer = self._new_layer()
            connection = Connection(session, layer, keepalive=self._options.keepalive)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: connection, sock)
            if layer is None:
                self._welcome(connection)
            else:
                self.coming += 1
                self._start_task(self._shake_hands(connection))
        except Exception as error:  # one client must not keep the next ones out
            sock.close()
            log(logging.ERROR, "%s could not be taken in", peer,
                peer=peer, cause=error, error=error)  # fmt: skip

    async def _shake_hands(self, connection: Connection) -> None:
        try:
            await connection.handshake(self._options.handshake_timeout)
        except OSError as error:  # SSLError and TimeoutError are OSErrors
            connection.count_refusal(self._refused, error)
            if self._room is not None:
                self._room.release()
        else:
            self._welcome(connection)
        finally:
            self.coming -= 1

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _turn_away(self, listening: socket.socket) -> None:
        """Close the connections that wait, so that clients know that there is no room."""
        self._let_spare_go()
        with contextlib.suppress(OSError):  # BlockingIOError: there are no more
            for _ in range(_TURNED_AWAY):
                listening.accept()[0].close()
                self._refused["descriptors"] += 1
        self._hold_spare()

    def _hold_spare(self) -> None:
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY)

    def _let_spare_go(self) -> None:
        spare, self._spare = self._spare, -1
        if spare >= 0:
            os.close(spare)
