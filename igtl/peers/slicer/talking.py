"""What both profiles do with what comes from 3D Slicer, in steps (see `igtl.session.steps`).

`threads` and `aio` make methods of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from igtl.codec.message import Message
from igtl.errors import CommandFailed
from igtl.messages.general import CommandReply
from igtl.options import seconds
from igtl.peers.slicer.scene import Handler, Scene, reply_of
from igtl.session.operations import ask
from igtl.session.requests import new_command
from igtl.session.steps import Steps
from igtl.session.subscribing import Changing

M = TypeVar("M", bound=Message)


class Talking(Scene):
    """A scene that receives what Slicer sends.

    Args:
        server: of the driver, which has not used it yet.
        call: calls a function of the user, and logs what that raises.

    Attributes:
        changed: guards what has arrived.
        closed: whether handlers are to end.
        others: see `Scene`.
    """

    def __init__(self, server: Any, changed: Changing, call: Callable[..., Any]) -> None:
        super().__init__(server)
        self.changed = changed
        self.closed = False
        self._call = call
        server.on_connect(self._welcome)
        server.on()(self._arrived)

    async def _welcome(self, peer: Any) -> None:
        self._came(peer.peer, self.shown(peer))
        self.changed.tell()

    async def _arrived(self, message: Message, peer: Any) -> None:
        with self.changed:
            wanted = self._take(message)
        if wanted:
            self.changed.tell()

    def shown(self, peer: Any) -> Any:
        """Return a client of the server as handlers see it."""
        return peer

    def call_handler(self, handler: Handler) -> Steps[None]:
        """Call a function of the user with what arrives for it, until this is closed."""

        def waiting() -> tuple[Message | None, Any] | None:
            if self.closed:
                return None, None
            message = handler.waiting.take()
            return None if message is None else (message, self._peers.get(message.peer))

        while True:
            message, peer = yield self.changed.until(waiting, None)
            if message is None:
                return
            yield self._call(handler.call, message, peer, peer=message.peer)

    @property
    def connected(self) -> bool:
        """Whether a Slicer is connected."""
        return bool(self.server.clients)

    def latest(self, kind: type[M], name: str = "*", *, max_age: float | None = None) -> M | None:
        """Return the newest message of a class and device name that Slicer has sent.

        None if none came.

        Args:
            kind: class of the message.
            name: with the wildcards * and ?.
            max_age: seconds since it arrived; older messages are not returned.
        """
        max_age = seconds("max_age", max_age)
        with self.changed:
            return self._newest.newest(kind, name, max_age)


def wait_connected(slicer: Talking, timeout: float | None = None) -> Steps[bool]:
    """Wait until a Slicer is connected, or `timeout` seconds; returns whether one is."""
    try:
        yield slicer.changed.until(lambda: slicer.connected or None, seconds("timeout", timeout))
        return True
    except TimeoutError:
        return slicer.connected


def command(
    slicer: Talking,
    name: str,
    text: str = "",
    *,
    metadata: Mapping[str, Any] | None = None,
    timeout: float | None = 5.0,
    peer: Any = None,
) -> Steps[CommandReply]:
    """Send a Slicer module a COMMAND and wait for its reply.

    The command has failed where the reply has an ErrorMessage; the `Status` of Slicer says nothing.

    Args:
        name: of the command.
        text: of the command.
        metadata: of the message.
        timeout: seconds; None: for ever.
        peer: which Slicer; default the first that is connected.

    Raises:
        CommandFailed: the module has failed; the text is its reason.
        TimeoutError: no Slicer is connected, or none answered in time.
    """
    timeout = seconds("timeout", timeout)
    end = math.inf if timeout is None else time.monotonic() + timeout
    if peer is None:
        if not (yield from wait_connected(slicer, timeout)):
            raise TimeoutError(f"no 3D Slicer was there within {timeout} s")
        peer = slicer.server.clients[0]
    asked = new_command(name, text, "command")
    asked.metadata = metadata
    left = None if timeout is None else max(0.0, end - time.monotonic())
    try:
        return (yield from ask(peer, asked, timeout=left))
    except CommandFailed as failed:
        return reply_of(failed)
