"""Commands and requests from far away that wait for the answer of a source."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any, Final

from igtl import _core
from igtl._core import Frame
from igtl.codec.message import Message
from igtl.errors import ProtocolError
from igtl.messages.general import Command, CommandReply
from igtl.messages.queries import Get
from igtl.options import LONGEST
from igtl.session.requests import Exchange, new_command

MAX_PENDING: Final = 64
"""Requests in progress at one source; further ones are refused."""


class Asked:
    """What was asked, and by which query of Zenoh.

    Args:
        timeout: seconds until a request is forgotten that nothing has answered.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = LONGEST if timeout is None else timeout
        self._lock = threading.Lock()
        # what the source is asked -> the query, the id of the command, when it is forgotten
        self._pending = OrderedDict[Exchange, tuple[Any, int, float]]()

    def begin(self, query: Any) -> Message | None:
        """Return the message that the source gets for a query; None if the query was refused.

        Raises:
            ProtocolError, ValueError: the query has no message.
        """
        data = b"" if query.payload is None else query.payload.to_bytes()
        message = Frame.from_bytes(data).unpack()
        if not isinstance(message, Command | Get):
            query.reply_err(f"{message.type_name} is not passed on, only COMMAND and GET_")
            return None
        number = 0
        if isinstance(message, Command):  # two askers may use the same id
            number = message.command_id
            message.command_id = new_command("", "", "").command_id
        with self._lock:
            self._forget()
            if len(self._pending) >= MAX_PENDING:
                query.reply_err(f"busy: {MAX_PENDING} requests are in progress")
                return None
            self._pending[Exchange(message)] = query, number, time.monotonic() + self._timeout
        return message

    def answers(self, frame: Frame) -> bool:
        """Return whether a frame answers a request; if so, it was sent to the asker."""
        if not self._pending:
            return False
        try:
            message = _core.unpack(frame.data)
        except ProtocolError:
            return False
        with self._lock:
            self._forget()
            exchange = next((e for e in self._pending if e.matches(message)), None)
            if exchange is None:
                return False
            query, number, _ = self._pending.pop(exchange)
        data = bytes(frame.data)
        if isinstance(message, CommandReply):
            message.command_id = number
            data = message.pack()
        query.reply(query.key_expr, data)
        query.drop()
        return True

    def _forget(self) -> None:
        now = time.monotonic()
        while self._pending:
            exchange, (query, _, until) = next(iter(self._pending.items()))
            if until > now:
                return
            del self._pending[exchange]
            query.reply_err("the source has not answered in time")
            query.drop()
