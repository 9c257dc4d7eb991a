"""When to connect again, without I/O.

`reconnect`, `igtl.aio.reconnect`, and the link that reconnects by itself use it.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from igtl.errors import ConnectionClosed, ProtocolError
from igtl.log import log, logger
from igtl.options import LONGEST, seconds
from igtl.session.steps import Steps

_REFUSALS = 3  # times that a peer may refuse this client, or talk nonsense, before it is given up


def _share() -> float:
    """Return a number between 0 and 1, another one in each process.

    The module random is slow to import.
    """
    return int.from_bytes(os.urandom(6), "big") / 2**48


class Backoff:
    """How long to wait before the next try: a random time ("full jitter") up to a limit.

    The limit doubles with each failure, so that many clients do not come back at the same moment.

    Args:
        initial: first limit, in seconds; default 0.1.
        maximum: largest limit; default 30.
        attempts: failures in a row until the error is raised; None (default): never. Refused
            certificates and broken framing are raised after 3 in any case.
        settled: seconds that a connection must last before the limit starts again from `initial`.
            So a client does not connect without a pause to a peer that accepts and closes.
            Default 5.

    Raises:
        ValueError: a limit or a number is not allowed.
    """

    def __init__(
        self,
        initial: float = 0.1,
        maximum: float = 30.0,
        attempts: int | None = None,
        settled: float = 5.0,
    ) -> None:
        first, longest = seconds("initial", initial), seconds("maximum", maximum)
        if longest is None:
            longest = LONGEST
        if first is None or not 0 < first <= longest:
            raise ValueError(f"0 < initial <= maximum, not {initial} and {maximum}")
        if attempts is not None and attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts}")
        lived = seconds("settled", settled)
        self.initial = first
        self.maximum = longest
        self.attempts = attempts
        self.settled = math.inf if lived is None else lived

    def limit(self, failures: int) -> float:
        """Return the longest wait after so many failures in a row (from 1 on)."""
        return float(min(self.maximum, self.initial * 2.0 ** min(failures - 1, 60)))

    def __repr__(self) -> str:
        return f"Backoff({self.initial}, {self.maximum}, {self.attempts}, {self.settled})"


class LinkEvent(NamedTuple):
    """An event of a connection that is made again when it is lost.

    Attributes:
        kind: "connected", "disconnected", or "failed" (could not connect).
        peer: (host, port).
        error: why it was lost, or could not be made.
        delay: seconds until the next try.
    """

    kind: Literal["connected", "disconnected", "failed"]
    peer: tuple[str, int]
    error: Exception | None = None
    delay: float = 0.0


OnEvent = Callable[[LinkEvent], None]


class Supervisor:
    """Decides when to try again, without I/O."""

    def __init__(
        self,
        peer: tuple[str, int],
        backoff: Backoff,
        on_event: OnEvent | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        share: Callable[[], float] = _share,
    ) -> None:
        self._peer = peer
        self._backoff = backoff
        self._on_event = on_event
        self._clock = clock
        self._share = share
        self._failures = 0
        self._refusals = 0
        self._since = 0.0

    def connected(self) -> None:
        """Note that a connection was made."""
        self._since = self._clock()
        self._tell(logging.INFO, LinkEvent("connected", self._peer))

    def failed(self, error: Exception) -> float:
        """Note that it could not be made; return the seconds to wait.

        Raises:
            the error: it was the last attempt.
        """
        return self._next(LinkEvent("failed", self._peer, error))

    def lost(self, error: Exception | None) -> float:
        """Return the seconds to wait after a connection that has closed.

        Raises:
            the error: the peer has refused this client, or talked nonsense, too often.
        """
        if self._clock() - self._since >= self._backoff.settled:
            self._failures = self._refusals = 0
        return self._next(LinkEvent("disconnected", self._peer, error))

    def _next(self, event: LinkEvent) -> float:
        self._failures += 1
        self._refusals = self._refusals + 1 if _refusal(event.error) else 0
        attempts = self._backoff.attempts
        if self._refusals >= _REFUSALS or (attempts is not None and self._failures >= attempts):
            self._tell(logging.ERROR, event)
            raise event.error or ConnectionClosed(f"{self._peer} was lost too often", clean=False)
        delay = self._share() * self._backoff.limit(self._failures)
        self._tell(logging.INFO, LinkEvent(event.kind, event.peer, event.error, delay))
        return delay

    def _tell(self, level: int, event: LinkEvent) -> None:
        why = "" if event.error is None else f": {event.error}"
        log(level, "%s %s%s", event.peer, event.kind, why, peer=event.peer, cause=event.error)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("on_event failed")


class Reconnecting:
    """A new link after each disconnect, in steps (see `igtl.session.steps`).

    Args:
        supervisor: decides when to try again.
        open_link: makes one connection.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        open_link: Callable[[], Any],
        sleep: Callable[[float], Any],
    ) -> None:
        self._supervisor = supervisor
        self._open_link = open_link
        self._sleep = sleep
        self._link: Any = None

    def next_link(self) -> Steps[Any]:
        """Close the link there was, wait, and connect."""
        if self._link is not None:
            yield from self.close()
            yield self._sleep(self._supervisor.lost(self._link.close_reason))
        while True:
            try:
                self._link = yield self._open_link()
            except OSError as error:
                yield self._sleep(self._supervisor.failed(error))
            else:
                self._supervisor.connected()
                return self._link

    def close(self) -> Steps[None]:
        """Close the link there is."""
        if self._link is not None:
            yield self._link.close()


def _refusal(error: Exception | None) -> bool:
    """Return whether trying again is not likely to help."""
    if isinstance(error, ProtocolError):
        return True
    ssl = sys.modules.get("ssl")  # never loaded for its own sake
    return (
        ssl is not None
        and isinstance(error, getattr(ssl, "SSLError", ()))  # another thread may be loading it
        and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))
    )
