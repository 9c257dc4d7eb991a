"""The errors of the library, sorted by their origin, with the facts as attributes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class IgtlError(Exception):
    """Base of all errors of the library's own."""


class ProtocolError(IgtlError):
    """The peer's bytes are wrong."""


class MessageTooLarge(ProtocolError):
    """A header announces a body over the limit. The framing is lost, so a link closes.

    Attributes:
        size: bytes the header announces (header included).
        limit: the largest message accepted.
        reason: what the bytes are, where they are known not to be a header of OpenIGTLink; else "".
    """

    def __init__(self, size: int, limit: int, reason: str = "") -> None:
        super().__init__(reason or f"message of {size} bytes exceeds the limit of {limit}")
        self.size = size
        self.limit = limit
        self.reason = reason

    def __reduce__(self) -> tuple[type[MessageTooLarge], tuple[int, int, str]]:
        return type(self), (self.size, self.limit, self.reason)


class VersionError(ProtocolError):
    """A header version that does not exist (3 or more). Its body was skipped.

    Attributes:
        version: the number in the header.
    """

    def __init__(self, version: int) -> None:
        super().__init__(f"header version {version} does not exist (1 and 2 do)")
        self.version = version

    def __reduce__(self) -> tuple[type[VersionError], tuple[int]]:
        return type(self), (self.version,)


class CRCError(ProtocolError):
    """The body does not match the CRC in its header. The framing is intact.

    Attributes:
        expected: the CRC in the header.
        actual: the CRC of the bytes that arrived.
    """

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"CRC is {actual:016x}, header says {expected:016x}")
        self.expected = expected
        self.actual = actual

    def __reduce__(self) -> tuple[type[CRCError], tuple[int, int]]:
        return type(self), (self.expected, self.actual)


class BodyError(ProtocolError):
    """A body that contradicts itself or its type. The framing is intact.

    Attributes:
        type_name: type on the wire.
        field: the field at fault, or the part of the body ("metadata", "extended header").
        reason: what is wrong with it.
    """

    def __init__(self, type_name: str, field: str, reason: str) -> None:
        super().__init__(f"{type_name}.{field}: {reason}")
        self.type_name = type_name
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[BodyError], tuple[str, str, str]]:
        return type(self), (self.type_name, self.field, self.reason)


class EncodeError(IgtlError, ValueError):
    """This object cannot be sent as it is.

    Attributes:
        type_name: class of the object.
        field: the field at fault.
        reason: what is wrong, and what to do instead.
    """

    def __init__(self, type_name: str, field: str, reason: str) -> None:
        super().__init__(f"{type_name}.{field}: {reason}")
        self.type_name = type_name
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[EncodeError], tuple[str, str, str]]:
        return type(self), (self.type_name, self.field, self.reason)


class ClockUnknown(IgtlError):
    """The clock of a peer, or the age of a message by it, cannot be known.

    Attributes:
        reason: why.
    """

    def __init__(self, reason: str, what: str = "the clock of the peer") -> None:
        super().__init__(f"{what} cannot be known: {reason}")
        self.reason = reason
        self._what = what

    def __reduce__(self) -> tuple[type[ClockUnknown], tuple[str, str]]:
        return type(self), (self.reason, self._what)


class FileError(IgtlError, ValueError):
    """A file cannot be read as what it should be, or cannot hold what it should.

    Attributes:
        path: of the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Any, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[FileError], tuple[Any, str]]:
        return type(self), (self.path, self.reason)


class FileWarning(UserWarning):
    """A file was read or written, but not all of its content was kept, or its place is in doubt.

    There is one warning for a file, whose text names everything.
    """


class ConnectionClosed(IgtlError, ConnectionError):
    """The link is closed.

    Attributes:
        clean: True when it ended between two messages, by this side or the other.
    """

    def __init__(self, reason: str = "connection closed", *, clean: bool = True) -> None:
        super().__init__(reason)
        self.clean = clean


class CommandFailed(IgtlError):
    """The peer refused a request or a command, or failed at it.

    Attributes:
        reply: its answer: a CommandReply, a Ready class with status 1, or a Status.
    """

    def __init__(self, reply: Any, reason: str = "") -> None:
        super().__init__(reason or "the peer gave no reason")
        self.reply = reply

    def __reduce__(self) -> tuple[type[CommandFailed], tuple[Any, str]]:
        return type(self), (self.reply, str(self))


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the name of a file to an OSError that has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
