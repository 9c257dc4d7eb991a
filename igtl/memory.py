"""Two links joined in memory: for tests and examples that need no port."""

from __future__ import annotations

import threading
from collections import deque

from igtl.protocol import Parts, Protocol
from igtl.sync import Link


class MemoryTransport:
    """One end of a pair; what is sent is copied at once, and kept until the other end reads it."""

    def __init__(self, ready: threading.Condition) -> None:
        self._ready = ready  # shared by both ends
        self._inbox: deque[memoryview] = deque()
        self._over = False
        self.other: MemoryTransport

    def send(self, parts: Parts, patience: float | None = None) -> None:
        with self._ready:
            if self._over or self.other._over:
                raise BrokenPipeError("the other end is closed")
            self.other._inbox += (memoryview(bytes(part)) for part in parts)
            parts.clear()
            self._ready.notify_all()

    def recv_into(self, buffer: memoryview, timeout: float | None) -> int:
        with self._ready:
            ended = lambda: self._inbox or self._over or self.other._over  # noqa: E731
            if not self._ready.wait_for(ended, timeout):
                raise TimeoutError
            if not self._inbox:
                return 0
            part = self._inbox.popleft()
            n = min(len(part), len(buffer))
            buffer[:n] = part[:n]
            if n < len(part):
                self._inbox.appendleft(part[n:])
            return n

    def ended(self) -> bool:
        with self._ready:
            return self.other._over and not self._inbox

    def wait_ended(self) -> bool:
        with self._ready:
            return self._ready.wait_for(lambda: self._over or self.other._over)

    def finish(self) -> None:
        pass  # what was sent lies with the other end already

    def shutdown(self) -> None:
        with self._ready:
            self._over = True
            self._ready.notify_all()

    def close(self) -> None:
        self._inbox.clear()


def pipe() -> tuple[Link, Link]:
    """Two links, each the other's peer. Both write header version 2."""
    ready = threading.Condition()
    a, b = MemoryTransport(ready), MemoryTransport(ready)
    a.other, b.other = b, a
    return (
        Link(a, Protocol(version=2, peer="pipe b"), local="pipe a"),
        Link(b, Protocol(version=2, peer="pipe a"), local="pipe b"),
    )
