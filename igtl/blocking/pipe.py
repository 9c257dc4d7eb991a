"""Two links joined in memory: for tests and examples that need no port."""

from __future__ import annotations

from collections import deque
from typing import Unpack

from igtl.blocking.changes import Changes
from igtl.blocking.link import Link
from igtl.options import LinkOptions, LinkSettings
from igtl.session.facade import new_session
from igtl.session.protocol import Parts
from igtl.session.session import Session


class MemoryTransport:
    """One end of a pair; what is sent is copied at once, and kept until the other end reads it."""

    descriptor = None

    def __init__(self, session: Session, ready: Changes) -> None:
        self.session = session
        self._ready = ready  # shared by both ends
        self._arrived: deque[memoryview] = deque()
        self._closed = False
        self.other: MemoryTransport

    def send(self, parts: Parts, patience: float | None = None) -> None:
        """Copy the bytes for the other end; it never waits."""
        with self._ready:
            if self._closed or self.other._closed:
                raise BrokenPipeError("the other end is closed")
            self.other._arrived += (memoryview(bytes(part)) for part in parts)
            self._ready.notify_all()

    def receive(self, timeout: float | None) -> None:
        """Wait for bytes of the other end, and feed them to the session."""
        n = self.recv_into(self.session.get_buffer(), timeout)
        if n:
            self.session.received(n)
        else:
            self.session.received_eof()

    def recv_into(self, buffer: memoryview, timeout: float | None) -> int:
        """Bytes of the other end, written to the start of the buffer; 0 at the end.

        Raises:
            TimeoutError: none came within `timeout` seconds.
        """
        with self._ready:
            ready = lambda: self._arrived or self._closed or self.other._closed  # noqa: E731
            if not self._ready.wait_for(ready, timeout):
                raise TimeoutError
            if not self._arrived:
                return 0
            part = self._arrived.popleft()
            n = min(len(part), len(buffer))
            buffer[:n] = part[:n]
            if n < len(part):
                self._arrived.appendleft(part[n:])
            return n

    def ended(self) -> bool:
        """Return whether the other end is closed, and all that it sent was read."""
        with self._ready:
            return self.other._closed and not self._arrived

    def finish(self) -> None:
        """Do nothing: what was sent lies with the other end already."""

    def shutdown(self) -> None:
        """End both directions, and any wait of either end."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def close(self) -> None:
        """Drop what was not read."""
        self._arrived.clear()

    def fileno(self) -> int:
        """-1: there is no socket."""
        return -1


def pipe(**settings: Unpack[LinkSettings]) -> tuple[Link, Link]:
    """Two links, each the other's peer. Both write header version 2, unless told otherwise.

    Args:
        settings: of both, see `igtl.options.LinkOptions`.

    Raises:
        TypeError: an option is for connections only (`keepalive`, `sock`, `ssl`, `drain`).
    """
    options = LinkOptions.of({"version": 2, **settings}).for_pipe("drain")
    ready = Changes()
    a = MemoryTransport(new_session(options, peer="pipe b", local="pipe a"), ready)
    b = MemoryTransport(new_session(options, peer="pipe a", local="pipe b"), ready)
    a.other, b.other = b, a
    return Link(a, options), Link(b, options)
