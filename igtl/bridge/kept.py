"""The last message of each stream, for receivers that come later."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from igtl.bridge.names import Stamp

Numbers = Mapping[str, Mapping[str, int]]
"""The last number that a receiver has, by publisher (in hexadecimal) and key."""


class Kept:
    """The last messages of the streams of a publisher.

    Args:
        publisher: its number.
        most: bytes of all of them; beyond, the stream that was silent for longest is forgotten.
    """

    def __init__(self, publisher: int, most: int) -> None:
        self._publisher = f"{publisher:x}"
        self._most = most
        self._size = 0
        self._lock = threading.Lock()
        self._last = OrderedDict[str, tuple[bytes, Stamp]]()

    def keep(self, key: str, data: bytes, stamp: Stamp) -> None:
        """Keep the newest message of a stream."""
        with self._lock:
            before = self._last.pop(key, None)
            self._size += len(data) - (0 if before is None else len(before[0]))
            self._last[key] = data, stamp
            while self._size > self._most and len(self._last) > 1:
                _, (old, _) = self._last.popitem(last=False)
                self._size -= len(old)

    def answer(self, query: Any) -> None:
        """Answer a query of Zenoh with what its receiver does not have yet.

        The payload of the query says what the receiver has, as `asking` makes it.
        """
        numbers: Numbers = {}
        if query.payload is not None:
            numbers = json.loads(query.payload.to_bytes())
        known = numbers.get(self._publisher, {})
        with self._lock:
            last = list(self._last.items())
        with query:
            for key, (data, stamp) in last:
                if stamp.number > known.get(key, 0) and query.key_expr.intersects(key):
                    query.reply(key, data, attachment=stamp.pack())


def asking(numbers: Numbers) -> bytes:
    """Make the payload with which a receiver asks that has these messages."""
    return json.dumps(numbers).encode()
