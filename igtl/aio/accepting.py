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

from igtl.aio.connection import Connection, address_of
from igtl.log import log, named

_BACKLOG = 1024  # clients that wait in the system until they are taken in
_REST = 1.0  # seconds without accepting, when the system has no descriptors or memory
_TURNED_AWAY = 100  # clients that are told so each time
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # a name may have addresses of both kinds
_NOTHING_LEFT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# of the one client that was to be taken in, says accept(2): the next one may be well
_OF_A_CLIENT = {
    errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.ENETDOWN, errno.ENETUNREACH,
    errno.EHOSTUNREACH, errno.ETIMEDOUT,
}  # fmt: skip


class Accepting:
    """The listening sockets of one server.

    Args:
        admit: called with the address of a client: gives its Connection, or None to refuse it.
        welcome: called with that Connection, which is then open.
        refused: counts the clients that are turned away because the system has no descriptors
            left, as "descriptors".

    Attributes:
        host, port: where it listens.
    """

    def __init__(
        self,
        admit: Callable[[Any], Connection | None],
        welcome: Callable[[Connection], None],
        refused: Counter[str] | None = None,
    ) -> None:
        self.host = ""
        self.port = 0
        self._refused = Counter[str]() if refused is None else refused
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
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno not in _OF_A_CLIENT and listening in self._sockets:
                    self._turn_away(listening, error)
                    await asyncio.sleep(_REST)
                await asyncio.sleep(0)
                continue
            self._resting = False
            peer = address_of(address)
            try:
                connection = self._admit(peer)
                if connection is None:
                    sock.close()
                    await asyncio.sleep(0)
                    continue
                connection.protocol.peer = peer
                await loop.connect_accepted_socket(lambda c=connection: c, sock)  # type: ignore[misc]
                self._welcome(connection)
            except Exception as error:  # one client must not keep the next ones out
                sock.close()
                log(logging.ERROR, "%s could not be taken in", peer,
                    peer=peer, cause=error, error=error)  # fmt: skip

    def _turn_away(self, listening: socket.socket, error: OSError) -> None:
        """The system has nothing left: close what waits, so that clients know."""
        if not self._resting:
            self._resting = True
            log(logging.WARNING, "no client can be taken in: %s", error, cause=error)
        if error.errno not in _NOTHING_LEFT:
            return
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
