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
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from igtl.aio.transport import Connection, address_of
from igtl.log import log, named
from igtl.net.sockets import concerns_one_client, is_exhausted, rest_of

_BACKLOG = 1024  # clients that wait in the system until they are taken in
_TURNED_AWAY = 100  # clients that are told so each time
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # a name may have addresses of both kinds


class Accepting:
    """The listening sockets of one server.

    Args:
        admit: called with the address of a client: gives its Connection, or None to refuse it.
        welcome: called with that Connection, which is then open.
        refused: counts the clients that are turned away because the system has no descriptors
            left, as "descriptors".
        room: acquired before each client is taken in; the system holds those beyond it. None:
            without a bound.

    Attributes:
        host, port: where it listens.
        failed: called when a socket can accept no more. Without it that is tried again, and
            clients are turned away while the system has no descriptor left; with it they wait.
    """

    def __init__(
        self,
        admit: Callable[[Any], Connection | None],
        welcome: Callable[[Connection], None],
        refused: Counter[str],
        room: asyncio.Semaphore | None = None,
    ) -> None:
        self.host = ""
        self.port = 0
        self._refused = refused
        self._room = room
        self.failed: Callable[[OSError], None] | None = None
        self._admit = admit
        self._welcome = welcome
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._resting = False
        self._spare = -1  # a descriptor, so that a client can be turned away without any other

    async def bind(self, host: str, port: int) -> None:
        """Take the port, on all addresses of the host.

        Raises:
            OSError: it cannot be had.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            missing: OSError | None = None
            for family, kind, proto, _, address in dict.fromkeys(found):
                if self.port:  # all families share the port that the first one got
                    address = (address[0], self.port, *address[2:])
                try:
                    self._bind_one(socket.socket(family, kind, proto), address)
                except OSError as error:
                    text = f"cannot listen on {named(address)}: {error.strerror}"
                    missing = OSError(error.errno, text)
                    if error.errno not in _NOT_HERE:
                        raise missing from None
            if missing is not None and not self._sockets:
                raise missing
        except BaseException:
            await self.close()
            raise

    def _bind_one(self, sock: socket.socket, address: Any) -> None:
        try:
            sock.setblocking(False)
            if os.name == "posix" and sys.platform != "cygwin":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        self._sockets.append(sock)
        if not self.port:
            self.host, self.port = sock.getsockname()[:2]

    def start(self) -> None:
        """Listen."""
        if not self._tasks:
            self._hold_spare()
            for sock in self._sockets:
                sock.listen(_BACKLOG)
                self._tasks.append(asyncio.get_running_loop().create_task(self._accept(sock)))

    async def close(self) -> None:
        """Stop listening, and give the port back."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            # where another process holds the socket too, after a fork, closing alone would leave
            # it listening
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in sockets:
            sock.close()
        self._let_spare_go()

    # -- clients

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while listening in self._sockets:
            if self._room is not None:
                await self._room.acquire()
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:
                if self._room is not None:
                    self._room.release()
                if listening not in self._sockets or not await self._goes_on(listening, error):
                    return
                continue
            self._resting = False
            await self._take_in(sock, address_of(address))

    async def _goes_on(self, listening: socket.socket, error: OSError) -> bool:
        """Accepting has failed: wait until it may succeed; whether to try again."""
        if concerns_one_client(error):
            await asyncio.sleep(0)
            return True
        if not is_exhausted(error) and self.failed is not None:
            self.failed(error)
            return False
        if not self._resting:
            self._resting = True
            log(logging.WARNING, "accepting rests: %s", error, cause=error)
        if is_exhausted(error) and self.failed is None:
            self._turn_away(listening)
        await asyncio.sleep(rest_of())
        return True

    async def _take_in(self, sock: socket.socket, peer: Any) -> None:
        try:
            connection = self._admit(peer)
            if connection is None:
                sock.close()
                await asyncio.sleep(0)
                return
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: connection, sock)
            self._welcome(connection)
        except Exception as error:  # one client must not keep the next ones out
            sock.close()
            log(logging.ERROR, "%s could not be taken in", peer,
                peer=peer, cause=error, error=error)  # fmt: skip

    def _turn_away(self, listening: socket.socket) -> None:
        """The system has nothing left: close what waits, so that clients know."""
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
