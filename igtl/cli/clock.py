"""`--clock`: the clock of a server that is watched, asked for again and again in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

import click

import igtl

_EVERY = 5.0  # seconds
_FIRST = 8  # exchanges
_NEXT = 3
_ENOUGH = 20  # messages without a time stamp show that the peer sets none

option = click.option(
    "--clock", "ask_clock", is_flag=True,
    help="Ask the server for its clock (GET_STATUS), and show delays by it. Not for 3D Slicer: "
    "it crashes.",
)  # fmt: skip


class PeerClock:
    """The clock of the peer of one connection, or why it cannot be known.

    The peer is not asked before it has sent a time stamp: 3D Slicer never sets one, and crashes if
    it is asked.

    Args:
        ask: the method `clock` of a link.
        tell: called when it is known, and when it is known that it cannot be.

    Attributes:
        clock: as far as it is known.
    """

    def __init__(self, ask: Callable[..., igtl.Clock], tell: Callable[[str], None]) -> None:
        self.clock = igtl.Clock()
        self._ask = ask
        self._tell = tell
        self._failed = ""
        self._unstamped = 0
        self._stamped = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="igtl clock", daemon=True).start()

    def saw(self, message: igtl.Message) -> None:
        """Note a message of the peer."""
        if self._failed or self._stamped.is_set():
            return
        if message.timestamp_raw:
            self._stamped.set()
            return
        self._unstamped += 1
        if self._unstamped == _ENOUGH:
            self._tell(self.text)

    def changed(self) -> None:
        """Note that the connection was lost, or is a new one, perhaps to another program."""
        self._stamped.clear()
        self._failed = ""
        self._unstamped = 0
        self.clock = igtl.Clock()

    def close(self) -> None:
        """Do not ask any more."""
        self._closed.set()
        self._stamped.set()

    @property
    def text(self) -> str:
        """The state in words, without a full stop."""
        if self.clock.known:
            return str(self.clock)
        if self._failed:
            return f"the clock of the peer cannot be known: {self._failed}"
        if self._stamped.is_set():
            return "the peer is being asked for its clock"
        if self._unstamped < _ENOUGH:
            return "the clock of the peer cannot be known yet: no time stamp has come"
        return "the clock of the peer cannot be known: it sets no time stamps, so it is not asked"

    def _run(self) -> None:
        while self._stamped.wait() and not self._closed.is_set():
            clock = self.clock
            known = clock.known
            try:
                self._ask(_NEXT if known else _FIRST, update=clock)
            except igtl.ClockUnknown as error:
                self._fail(error.reason)
            except TimeoutError:
                self._fail("it does not answer GET_STATUS")
            except OSError:  # the connection was lost
                self._stamped.clear()
            else:
                if not known and clock is self.clock:
                    self._tell(self.text)
                self._closed.wait(_EVERY)

    def _fail(self, reason: str) -> None:
        if not self._closed.is_set():
            self._failed = reason  # `saw` asks no more
            self._stamped.clear()
            self._tell(self.text)


def delay(clock: igtl.Clock, message: igtl.Message | None) -> float | None:
    """Seconds from the time stamp of a message to its arrival; None if they cannot be known."""
    if message is None:
        return None
    try:
        return clock.delay(message)
    except igtl.ClockUnknown:
        return None
