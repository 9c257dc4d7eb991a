"""Log records with fields: `record.peer`, `.type`, `.device`, `.size`, `.cause`.

Everything goes to the logger "igtl". What happens once a connection is INFO or WARNING, what
happens once a message is DEBUG. Records of one kind (same text, same cause) are bounded: after
BURST of them within WINDOW seconds the rest of that time is only counted, and summed up in one
record. DEBUG records are all written. Names and texts that a peer has chosen are escaped in the
text of a record, which may go to a terminal; the fields hold them as they are.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final

from igtl.addresses import websocket_address
from igtl.codec.formatting import printable
from igtl.options import SITE, UNIX

logger: Final = logging.getLogger("igtl")
BURST: Final = 20
WINDOW: Final = 10.0
REMEDY: Final = (
    ": another program listens there. End it, or choose another port (0 takes a free one)"
)
"""What follows the words of the system for a port in use."""
_MAX_KINDS: Final = 256
_FIELDS: Final = ("peer", "type", "device", "size", "cause")


class _Kind:
    """Records of one text and cause within one window."""

    def __init__(self, level: int, begun: float) -> None:
        self.level = level
        self.begun = begun
        self.records = 0
        self.last = ""

    @property
    def left_out(self) -> int:
        """How many were counted, and not written."""
        return max(0, self.records - BURST)


class Bounded:
    """Which records are written, and which are only counted.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def admits(self, level: int, text: str, cause: str, args: tuple[Any, ...]) -> bool:
        """Return whether a record is to be written now."""
        self.sum_up()
        with self._lock:
            kind = self._kinds.get((text, cause))
            if kind is None:
                if len(self._kinds) >= _MAX_KINDS:
                    return False
                kind = self._kinds[text, cause] = _Kind(level, self._clock())
            kind.records += 1
            if kind.left_out:
                kind.last = text % args
            return not kind.left_out

    def sum_up(self, *, all: bool = False) -> None:
        """Write one record for each kind of which some were left out, when its time has passed.

        Args:
            all: also for kinds whose time has not passed.
        """
        now = self._clock()
        with self._lock:
            done = [k for k, kind in self._kinds.items() if all or now - kind.begun >= WINDOW]
            kinds = [self._kinds.pop(key) for key in done]
        for kind in kinds:
            if kind.left_out:
                logger.log(
                    kind.level, "%d more like this within %.0f s, the last one: %s",
                    kind.left_out, now - kind.begun, kind.last,
                )  # fmt: skip


bounded: Final = Bounded()
"""Of all records of this process."""


def sum_up(*, all: bool = False) -> None:
    """Write the summaries of this process; see Bounded.sum_up."""
    bounded.sum_up(all=all)


def log(
    level: int,
    text: str,
    *args: Any,
    peer: Any = None,
    type: str | None = None,
    device: str | None = None,
    size: int | None = None,
    cause: Any = None,
    error: BaseException | None = None,
) -> None:
    """Write one record; fields that do not apply are None.

    Args:
        level: as in `logging`.
        text: with the placeholders of `logging`.
        args: for the placeholders; texts of peers are escaped.
        peer: its address.
        type: type name of a message.
        device: device name of a message.
        size: bytes.
        cause: an exception, or a word.
        error: whose traceback the record has.
    """
    if not logger.isEnabledFor(level):
        return
    args = tuple(
        arg if isinstance(arg, int | float) else _Shown(named(arg) if arg is peer else arg)
        for arg in args
    )
    kind = cause if isinstance(cause, str) else cause.__class__.__name__
    if level > logging.DEBUG and not bounded.admits(level, text, kind, args):
        return
    fields = {"peer": peer, "type": type, "device": device, "size": size, "cause": cause}
    logger.log(level, text, *args, extra=fields, exc_info=error, stacklevel=2)


class JSONFormatter(logging.Formatter):
    """Formats a record as one JSON object.

    It has "time" (UTC, ISO 8601), "level", "logger", "message", the fields that apply, and
    "traceback" of an error that has one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        import json  # rarely wanted
        from datetime import UTC, datetime

        at = datetime.fromtimestamp(record.created, UTC)
        told: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for field in _FIELDS:
            value = getattr(record, field, None)
            if isinstance(value, Exception):
                told[field] = f"{type(value).__name__}: {value}"
            elif value is not None:
                told[field] = value if isinstance(value, int) else named(value)
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


class _Shown:
    """An argument of a log record, as one line for a terminal."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        return printable(str(self.value))

    def __repr__(self) -> str:
        return printable(repr(self.value))


def named(peer: Any) -> str:
    """Address of a peer as people write it: "host:port"."""
    if isinstance(peer, tuple) and len(peer) >= 2:
        host, port = peer[:2]
        if str(host).startswith((UNIX, SITE)):
            return str(host)
        if url := websocket_address(str(host), port):
            return str(url)
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return "" if peer is None else str(peer)
