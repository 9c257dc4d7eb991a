"""Metadata of a version 2 message: text keys, text values, each value with its encoding number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import TypeAlias

from igtl._core import LARGEST_METADATA, Entries, decode_text, encode_text
from igtl.errors import EncodeError

Value: TypeAlias = str | bool | int | float | bytes | tuple[int, str | bytes]
"""What may be assigned: text, a number or bool (sent as text), bytes (sent as they are, labelled
UTF-8), or (IANA MIBenum, text or bytes)."""

LARGEST = LARGEST_METADATA


def _encoded(key: str, value: Value) -> tuple[int, bytes]:
    if isinstance(value, tuple):
        encoding, text = value
        if not isinstance(encoding, int):
            raise TypeError(f"the encoding of {key!r} is a number (IANA MIBenum), not {encoding!r}")
        if not 0 <= encoding <= 0xFFFF:
            raise EncodeError("Metadata", key, f"the encoding {encoding} is outside 0..65535")
        try:
            return encoding, encode_text(text, encoding)
        except UnicodeEncodeError as error:
            reason = f"{text!r} has no bytes in {error.encoding}; UTF-8 is 106"
            raise EncodeError("Metadata", key, reason) from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return 106, bytes(value)
    if isinstance(value, bool):
        return 3, b"1" if value else b"0"
    raw = str(value).encode()
    return 3 if raw.isascii() else 106, raw


class Metadata(Entries, MutableMapping[str, str]):
    """Mapping of keys to texts; `encoding(key)` and `raw(key)` show what is on the wire.

    Keys are written in ascending byte order, as the official library does; received metadata that
    was not changed keeps its order (docs/protocol.md 5.3). Keys and values may have less than
    65,536 bytes together, because the official library's reader drops a message with more. Received
    metadata may be longer, and can be sent again if it was not changed.
    """

    __slots__ = ()

    def __init__(self, entries: Mapping[str, Value] | None = None) -> None:
        if isinstance(entries, Metadata):
            self._take(entries)
        elif entries is not None:
            self.update(entries)  # type: ignore[arg-type]

    def __getitem__(self, key: str) -> str:
        encoding, raw = self._read()[key]
        return decode_text(raw, encoding)

    def __setitem__(self, key: str, value: Value) -> None:
        if not isinstance(key, str):
            raise TypeError(f"metadata keys are str, not {type(key).__name__}")
        self._set(key, _encoded(key, value))

    def __delitem__(self, key: str) -> None:
        self._remove(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Metadata):
            return self._read() == other._read()
        return dict(self) == other if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def encoding(self, key: str) -> int:
        """IANA MIBenum of the value, as received or as it will be sent; it may be any number."""
        return self._read()[key][0]

    def raw(self, key: str) -> bytes:
        """Bytes of the value."""
        return self._read()[key][1]

    def get_int(self, key: str, default: int | None = None) -> int | None:
        """Return the value as an integer; `default` when it is missing or not a number."""
        try:
            return int(self[key])
        except (KeyError, ValueError):
            return default

    def get_float(self, key: str, default: float | None = None) -> float | None:
        """Return the value as a float; `default` when it is missing or not a number."""
        try:
            return float(self[key])
        except (KeyError, ValueError):
            return default

    def get_bool(self, key: str, default: bool | None = None) -> bool | None:
        """Return the value as a bool (1/0, true/false in any case).

        `default` when it is missing or none of these.
        """
        words = {"1": True, "true": True, "0": False, "false": False}
        return words.get(self.get(key, "").strip().lower(), default)

    def __repr__(self) -> str:
        return f"Metadata({dict(self)!r})"
