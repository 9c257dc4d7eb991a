"""Log records with fields: `record.peer`, `.type`, `.device`, `.size`, `.cause`.

Everything goes to the logger "igtl". What happens once a connection is INFO or WARNING, what
happens once a message is DEBUG. Names and texts that a peer has chosen are escaped in the text of
a record, which may go to a terminal; the fields hold them as they are.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from igtl.show import printable

logger: Final = logging.getLogger("igtl")


def log(
    level: int,
    text: str,
    *args: Any,
    peer: Any = None,
    type: str | None = None,
    device: str | None = None,
    size: int | None = None,
    cause: Any = None,
) -> None:
    """One record; fields that do not apply are None."""
    if logger.isEnabledFor(level):
        args = tuple(
            arg if isinstance(arg, int | float) else _Shown(named(arg) if arg is peer else arg)
            for arg in args
        )
        fields = {"peer": peer, "type": type, "device": device, "size": size, "cause": cause}
        logger.log(level, text, *args, extra=fields, stacklevel=2)


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
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return "" if peer is None else str(peer)
