"""Names on a bridge: the keys under which messages travel, and what travels beside each.

    igtl/SITE/TYPE/DEVICE                   the messages of a site
    igtl/SITE/!/!                           how many there were so far, behind the last of them
    igtl/SITE/@alive/PUBLISHER/GENERATION   present while this publisher of the site is connected
    igtl/SITE/@clock/PUBLISHER              answers with the clock of this publisher
    igtl/SITE/@ask                          answers commands and requests
    igtl/@may/put|get|ask/SITE              answered by the hub if this connection may do so

A chunk of a key that begins with @ is not matched by the wildcards of another key.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from igtl import _core
from igtl._core import Frame

ALL: Final = "*"
_LONGEST: Final = 128  # bytes of the name of a site
_TALLY: Final = "!/!"  # no type and device: `chunk_of` encodes this character
_HEADER: Final = struct.Struct(">H12s20s24x")


def chunk_of(name: bytes) -> str:
    """Return a name as one chunk of a key.

    Letters, digits and `_.-~` stay as they are, the rest is percent-encoded. An empty name becomes
    "%00", which no name of a message contains.
    """
    return quote_from_bytes(name, safe="") or "%00"


def name_of(chunk: str) -> bytes:
    """Return the name that `chunk_of` has made a chunk of."""
    return b"" if chunk == "%00" else unquote_to_bytes(chunk)


def checked_site(name: str) -> str:
    """Return the name of a site if it may be one.

    Raises:
        ValueError: it is empty, too long, or `*`, which means all sites.
    """
    if not name or name == ALL or len(name.encode()) > _LONGEST:
        raise ValueError(f"a site has a name of 1 to {_LONGEST} bytes, not {name!r}")
    return name


def site_chunk(site: str) -> str:
    """Return a site, or `*` for all of them, as a chunk."""
    return ALL if site == ALL else chunk_of(site.encode())


def site_of(key: str) -> str:
    """Return the site in a key."""
    return name_of(key.split("/", 2)[1]).decode("utf-8", "replace")


def messages_key(site: str) -> str:
    """Return the key of the messages of a site; of all sites for `*`."""
    return f"igtl/{site_chunk(site)}/*/*"


def tally_key(site: str) -> str:
    """Return the key at which a publisher of a site tells its numbers.

    The receivers of the messages of the site get it as one of them, in order; so what matches it
    says too whether there are receivers.
    """
    return f"igtl/{site_chunk(site)}/{_TALLY}"


def is_tally(key: str) -> bool:
    """Return whether this is a `tally_key`."""
    return key.endswith(f"/{_TALLY}")


def message_key(site: str, frame: Frame) -> str:
    """Return the key of one message."""
    stream = _core.stream_key(frame)
    type_name, device = (field.partition(b"\0")[0] for field in (stream[:12], stream[12:]))
    return f"igtl/{site_chunk(site)}/{chunk_of(type_name)}/{chunk_of(device)}"


def stream_of(key: str) -> str:
    """Return type and device in the key of a message, as they stand there."""
    return key.split("/", 2)[2]


def beside(key: str, stream: str) -> str:
    """Return the key of the messages of this `stream_of`, of the same site."""
    return f"{key[: -len(stream_of(key))]}{stream}"


def type_of(key: str) -> str:
    """Return the type in the key of a message."""
    return name_of(key.split("/")[2]).decode("ascii", "replace")


def header_of(key: str) -> bytes:
    """Make a header (58 bytes) with the type and the device in the key of a message."""
    return _HEADER.pack(1, *map(name_of, stream_of(key).split("/")))


def presence_key(site: str, publisher: int | None = None, generation: int = 0) -> str:
    """Return the key of the token of a publisher; of all publishers of the site without one."""
    tail = "*/*" if publisher is None else f"{publisher:x}/{generation}"
    return f"igtl/{site_chunk(site)}/@alive/{tail}"


def publisher_of(key: str) -> int:
    """Return the publisher in the key of a token or a clock."""
    return int(key.split("/")[3], 16)


def clock_key(site: str, publisher: int | None = None) -> str:
    """Return the key of the clock of a publisher; of all publishers of the site without one."""
    return f"igtl/{site_chunk(site)}/@clock/{'*' if publisher is None else f'{publisher:x}'}"


def request_key(site: str) -> str:
    """Return the key of commands and requests to a site."""
    return f"igtl/{site_chunk(site)}/@ask"


def permission_key(verb: str, site: str) -> str:
    """Return the key that the hub answers if a connection may "put", "get" or "ask" this site."""
    return f"igtl/@may/{verb}/{site_chunk(site)}"


_STAMP: Final = struct.Struct("<QQd")


class Stamp(NamedTuple):
    """What travels beside a message.

    Attributes:
        publisher: a random number of one run of a publisher.
        number: of the message in its stream, from 1 on.
        sent: when the message was put, by the monotonic clock of the publisher, in seconds.
    """

    publisher: int
    number: int
    sent: float

    def pack(self) -> bytes:
        """Return the stamp as bytes."""
        return _STAMP.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Stamp:
        """Read a stamp from bytes.

        Raises:
            ValueError: they are no stamp.
        """
        try:
            return cls(*_STAMP.unpack(data))
        except struct.error:
            raise ValueError(f"{len(data)} bytes are no stamp") from None


class Tally(NamedTuple):
    """How many messages a publisher has put, on one of its two connections.

    Attributes:
        publisher: as in a `Stamp`.
        live: of the streams that describe the present only, or of the others.
        closing: whether it is the last one.
        numbers: of the last message of each stream that was put before, by `stream_of`.
    """

    publisher: int
    live: bool
    closing: bool
    numbers: Mapping[str, int]

    def pack(self) -> bytes:
        """Return the tally as bytes."""
        return json.dumps(self).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Tally:
        """Read a tally from bytes.

        Args:
            data: what `pack` has made.

        Raises:
            ValueError: they are no tally.
        """
        try:
            publisher, live, closing, numbers = json.loads(data)
            counted = {_checked_stream(of): int(number) for of, number in numbers.items()}
            return cls(int(publisher), bool(live), bool(closing), counted)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{len(data)} bytes are no tally: {error}") from None


def _checked_stream(text: str) -> str:
    if text.count("/") != 1:
        raise ValueError(f"{text!r} is no stream")
    return text
