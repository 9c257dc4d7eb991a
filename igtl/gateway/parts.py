"""What sources and sinks have in common.

Each is opened in a thread of its own, again and again if need be, and says in words why it does not
work.
"""

from __future__ import annotations

import errno
import logging
import threading
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, Final

from igtl._stream import Stats
from igtl.errors import IgtlError
from igtl.gateway.config import Entry
from igtl.log import REMEDY, log, named
from igtl.session.backoff import Backoff

BACKOFF: Final = Backoff(0.2, 5.0)
"""How long a part rests that could not be opened; also that of its connections."""
_PATIENCE: Final = 5.0  # seconds for a thread to end


class Part(ABC):
    """A source or a sink.

    Attributes:
        entry: its part of the configuration.
        tried: set after the first attempt to open it, successful or not.
    """

    word: str

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.name = entry.name
        self.required: bool = entry.get("required", True)
        self.tried = threading.Event()
        self.closed = threading.Event()
        self._failure = f"{entry.kind} is not open yet"
        self._thread = threading.Thread(
            target=self._supervise, name=f"igtl {self.word} {self.name}", daemon=True
        )

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def __str__(self) -> str:
        return f"{self.word} {self.name}".rstrip()

    @property
    def reason(self) -> str:
        """Why it does not work; "" while it does."""
        return self._failure

    @abstractmethod
    def run(self) -> None:
        """Open it, call `opened`, and do its work until it is closed.

        An error that it raises says why it does not work; then it is opened anew.
        """

    def stop(self) -> None:  # noqa: B027  (there may be nothing to wake)
        """Make `run` return, in whichever thread it is called."""

    def opened(self) -> None:
        """Note that it works now."""
        if self._failure:
            place = self.entry.place
            where = f" at {named(place)}" if isinstance(place, tuple) else ""
            log(logging.INFO, "%s is open%s", str(self), where)
        self._failure = ""
        self.tried.set()

    def failed(self, error: Exception | str) -> None:
        """Note that it does not work now; log each reason once."""
        text = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            text = f"{error.strerror}{REMEDY}"
        if text != self._failure:
            cause = error if isinstance(error, Exception) else None
            log(logging.ERROR, "%s: %s", str(self), text, cause=cause, error=unforeseen(cause))
        self._failure = text
        self.tried.set()

    def _supervise(self) -> None:
        failures = 0
        while not self.closed.is_set():
            try:
                self.run()
                failures = 0
            except Exception as error:  # of a driver, or a fault of ours: the service goes on
                if self.closed.is_set():
                    return
                failures = failures + 1 if self._failure else 1
                self.failed(error)
            self.closed.wait(BACKOFF.limit(max(1, failures)))

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self.closed.set()
        self.stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)


def unforeseen(error: Exception | None) -> Exception | None:
    """Return an error whose traceback is worth a record; None if its text says what is wrong."""
    return None if isinstance(error, IgtlError | OSError | ImportError | ValueError) else error


def context_of_client(entry: Entry) -> Any:
    """Return the `ssl` of a connection that is made; None for no TLS, or the default of wss://."""
    ca, cert, key = entry.get("ca"), entry.get("cert"), entry.get("key")
    if not (entry.get("tls") or ca or cert):
        return None
    from igtl.session import tls

    return tls.client(ca, cert=cert, key=key)


def context_of_server(entry: Entry) -> Any:
    """Return the `ssl` of connections that come; None for no TLS."""
    if (cert := entry.get("cert")) is None:
        return None
    from igtl.session import tls

    return tls.server(cert, entry.get("key"), client_ca=entry.get("client_ca"))


class Tally:
    """Numbers by cause that several threads count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter[str]()

    def add(self, cause: str, times: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counts[cause] += times

    def update(self, counts: Counter[str]) -> None:
        """Count what was counted elsewhere."""
        with self._lock:
            self._counts.update(counts)

    def copy(self) -> Counter[str]:
        """Return the numbers as they are now."""
        with self._lock:
            return Counter(self._counts)


def settle(lost: Tally, stats: Stats) -> None:
    """Take over the losses of a connection that has closed."""
    lost.update(stats.dropped)
    lost.update(stats.errors)
