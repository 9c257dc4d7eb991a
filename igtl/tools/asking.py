"""Requests of clients of a server are passed to the source behind it.

Each answer goes to the client that has asked.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from igtl import _core
from igtl._core import Frame
from igtl.blocking.server import Peer, Server
from igtl.codec.message import Message
from igtl.errors import ProtocolError
from igtl.messages.general import Command
from igtl.messages.queries import Get, Start, Stop
from igtl.session.requests import Exchange

_REQUESTS: Final = (Command, Get, Start, Stop)
_PENDING: Final = 1000  # requests whose answers are awaited; the oldest is forgotten then
_PATIENCE: Final = 600.0  # seconds until a request is forgotten that nothing has answered


class Askers:
    """Requests on their way to a source, each with the client that has asked."""

    def __init__(self) -> None:
        self._asked = OrderedDict[Exchange, tuple[Peer, float]]()
        self._changed = threading.Lock()

    def hand_on(self, server: Server, send: Callable[[Message], None]) -> None:
        """Pass on what clients of a server send: messages, commands and requests, with their ids.

        The server then answers nothing itself.

        Args:
            server: of the clients.
            send: sends to the source; what it raises is logged.
        """

        def ask(message: Message, peer: Peer) -> None:
            now = time.monotonic()
            with self._changed:
                self._asked[Exchange(message)] = peer, now
                _, oldest = next(iter(self._asked.values()))
                if len(self._asked) > _PENDING or now - oldest > _PATIENCE:
                    self._asked.popitem(last=False)
            send(message)

        for kind in _REQUESTS:
            server.on(kind)(ask)

        @server.on()
        def _(message: Message, peer: Peer) -> None:
            if not isinstance(message, _REQUESTS):
                send(message)

    def of(self, frame: Frame) -> Peer | None:
        """Return the client whose request this frame of the source answers.

        None if it answers none.

        The request is then no longer pending.
        """
        if not self._asked:
            return None
        try:
            message = _core.unpack(frame.data)
        except ProtocolError:
            return None
        with self._changed:
            for exchange in self._asked:
                if exchange.matches(message):
                    return self._asked.pop(exchange)[0]
        return None
