"""What happens to a connection, in words: each change once, and repetitions counted."""

from __future__ import annotations

from collections.abc import Callable

import igtl
from igtl.log import named


def reason(error: Exception | None) -> str:
    """Return why a connection was lost, or could not be made, in a few words."""
    if isinstance(error, igtl.ConnectionClosed):
        if isinstance(error.__cause__, OSError):
            return reason(error.__cause__)  # without the peer, whom the line names
        if not error.clean:
            return str(error)
        return "closed here" if str(error).startswith("this ") else "closed by the peer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if error is not None and str(error) else "closed"


class News:
    """Tells what happens to a connection that is made again and again.

    A peer that is away, or that accepts connections and closes them without a message, is told of
    once; the tries until a message comes, or a connection stands again, are counted.

    Args:
        tell: called with each line.

    Attributes:
        away: why there is no connection, with the number of tries; "" while there is one.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.away = ""
        self._tell = tell
        self._told = ""  # the reason that repeats
        self._tries = 0
        self._closes = False  # the peer has closed the last connection without a message

    def happened(self, event: igtl.LinkEvent, came: bool) -> None:
        """Tell of an event of a link that reconnects.

        Args:
            event: the event.
            came: a message has come on the connection that is lost.
        """
        if event.kind == "connected":
            self._connected(named(event.peer))
        elif event.kind == "failed":
            self._lost(f"{named(event.peer)}: {reason(event.error)}")
        elif came:
            self._tries = 0
            self.away = f"{named(event.peer)} disconnected: {reason(event.error)}"
            self._told = ""
            self._tell(self.away)
        else:
            self._closes = True
            how = reason(event.error)
            self._lost(f"{named(event.peer)} gives no message: {how}")

    def message(self, peer: str) -> None:
        """Note that a message has come, so that the connection is of use."""
        if self._closes:
            self._closes = False
            self._connected(peer)

    def _connected(self, peer: str) -> None:
        self.away = ""
        if self._closes:
            return  # it may close this one too
        tries = f" after {self._tries} tries" if self._tries > 1 else ""
        self._tries, self._told = 0, ""
        self._tell(f"{peer} connected{tries}")

    def _lost(self, text: str) -> None:
        self._tries += 1
        self.away = text if self._tries == 1 else f"{text} ({self._tries} times)"
        if text != self._told:
            self._told = text
            self._tell(f"{text}; trying again")
