"""Metadata of a version 2 message: text keys, text values, each value with its encoding number."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Self, TypeAlias

from igtl._core import decode_text, encode_text
from igtl.errors import EncodeError

Value: TypeAlias = str | bool | int | float | bytes | tuple[int, str | bytes]
"""What may be assigned: text, a number or bool (sent as text), bytes (sent as they are, labelled
UTF-8), or (IANA MIBenum, text or bytes)."""

LARGEST = 65_536  # bytes of keys and values that the official library does not read any more


def _encoded(value: Value) -> tuple[int, bytes]:
    if isinstance(value, tuple):
        encoding, text = value
        return encoding, encode_text(text, encoding)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return 106, bytes(value)
    if isinstance(value, bool):
        return 3, b"1" if value else b"0"
    raw = str(value).encode()
    return 3 if raw.isascii() else 106, raw


class Metadata(MutableMapping[str, str]):
    """Mapping of keys to texts; `encoding(key)` and `raw(key)` show what is on the wire.

    Keys are written in ascending byte order, as the official library does; metadata that came
    from the wire and was not changed is written in the order it had (docs/protocol.md 5.3).
    Keys and values have less than 65,536 bytes together: the official library's reader drops a
    message with more. Longer ones are received, and sent on if they were not changed.
    """

    __slots__ = ("_entries", "_wire")

    def __init__(self, entries: Mapping[str, Value] | None = None) -> None:
        self._entries: dict[str, tuple[int, bytes]] | None = {}
        self._wire: tuple[bytes, bytes] | None = None
        if isinstance(entries, Metadata):
            self._entries = dict(entries._read())
            self._wire = entries._wire
        elif entries is not None:
            self.update(entries)  # type: ignore[arg-type]

    @classmethod
    def _from_wire(cls, head: bytes, data: bytes) -> Self:
        """From both metadata sections, whose sizes `_core` has checked. Decoded on first use."""
        self = cls.__new__(cls)
        self._entries = None
        self._wire = head, data
        return self

    def _read(self) -> dict[str, tuple[int, bytes]]:
        if self._entries is None:
            assert self._wire is not None
            head, data = self._wire
            entries, at = {}, 0
            for k in range(struct.unpack_from(">H", head)[0]):
                key_size, encoding, size = struct.unpack_from(">HHI", head, 2 + 8 * k)
                # surrogateescape: keys that are not UTF-8 stay apart and can be written again
                key = data[at : at + key_size].decode("utf-8", "surrogateescape")
                at += key_size
                entries[key] = encoding, data[at : at + size]
                at += size
            self._entries = entries
        return self._entries

    def __getitem__(self, key: str) -> str:
        encoding, raw = self._read()[key]
        return decode_text(raw, encoding)

    def __setitem__(self, key: str, value: Value) -> None:
        if not isinstance(key, str):
            raise TypeError(f"metadata keys are str, not {type(key).__name__}")
        self._read()[key] = _encoded(value)
        self._wire = None

    def __delitem__(self, key: str) -> None:
        del self._read()[key]
        self._wire = None

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
        """IANA MIBenum of the value: any number, as it came or will be sent."""
        return self._read()[key][0]

    def raw(self, key: str) -> bytes:
        """Bytes of the value."""
        return self._read()[key][1]

    def get_int(self, key: str, default: int | None = None) -> int | None:
        """The value as an integer; default when it is missing or is none."""
        try:
            return int(self[key])
        except (KeyError, ValueError):
            return default

    def get_float(self, key: str, default: float | None = None) -> float | None:
        """The value as a float; default when it is missing or is none."""
        try:
            return float(self[key])
        except (KeyError, ValueError):
            return default

    def get_bool(self, key: str, default: bool | None = None) -> bool | None:
        """The value as a bool (1/0, true/false in any case); default when it is neither."""
        words = {"1": True, "true": True, "0": False, "false": False}
        return words.get(self.get(key, "").strip().lower(), default)

    def to_wire(self, owner: str) -> tuple[bytes, bytes]:
        """The metadata header and the metadata (docs/protocol.md 5.2, 5.3)."""
        if self._wire is not None:
            return self._wire
        entries = sorted(
            (key.encode("utf-8", "surrogateescape"), *entry) for key, entry in self._read().items()
        )
        if len(entries) > 8191:
            raise EncodeError(owner, "metadata", f"{len(entries)} entries, at most 8191 fit")
        head = [struct.pack(">H", len(entries))]
        data: list[bytes] = []
        for key, encoding, raw in entries:
            if len(key) > 65535:
                raise EncodeError(
                    owner, "metadata", f"a key of {len(key)} bytes, at most 65535 fit"
                )
            head.append(struct.pack(">HHI", len(key), encoding, len(raw)))
            data += key, raw
        if (size := sum(map(len, data))) >= LARGEST:
            raise EncodeError(
                owner, "metadata",
                f"{size} bytes of keys and values; receivers of the official library, 3D Slicer "
                f"among them, drop a message with {LARGEST} or more",
            )  # fmt: skip
        return b"".join(head), b"".join(data)

    def __repr__(self) -> str:
        return f"Metadata({dict(self)!r})"
