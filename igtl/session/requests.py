"""Requests and their answers, without I/O: what pairs with what (docs/protocol.md section 9).

An `Exchange` is one request that waits. Links, servers and subscriptions ask it of each message
whether this is the answer, and then for what to hand to the user.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Generic, NamedTuple, TypeVar

from igtl._core import Frame
from igtl.codec.message import Message, NoData, Unknown, message_types
from igtl.errors import CommandFailed, EncodeError
from igtl.messages.general import Command, CommandReply, Status, StatusCode
from igtl.messages.queries import Get, Ready, Start, Stop

M = TypeVar("M", bound=Message)


def name_fits(name: str, pattern: str) -> bool:
    """Return whether a name fits a pattern; case counts.

    The only wildcards are * (any text) and ? (any one character).
    """
    return pattern in ("*", name) or fnmatchcase(name, pattern.replace("[", "[[]"))


def fits(message: Message | Frame, kind: type[Message], name: str) -> bool:
    """Return whether a message or frame has this class and a device name that fits."""
    cls = type(message)
    if isinstance(message, Frame):
        cls = message_types().get(message.type_name, Unknown)
    return issubclass(cls, kind) and name_fits(message.device_name, name)


class Exchange:
    """A request on its way.

    Pairing: an answer repeats the request's device name (one without a name fits any; a request
    without a name takes any), or its message id. A STATUS with an error code and that name is an
    answer too, and so is a RTS_COMMAND with the id 0 that says that the request failed.

    Attributes:
        request: what was asked.
    """

    def __init__(self, request: Message) -> None:
        self.request = request

    def matches(self, m: Message) -> bool:
        """Return whether m is the answer."""
        asked = self.request
        if isinstance(asked, Command):
            return isinstance(m, CommandReply) and m.command_id == asked.command_id
        same_id = asked.message_id and m.message_id == asked.message_id
        if not same_id and asked.device_name and m.device_name not in (asked.device_name, ""):
            return False
        if isinstance(m, CommandReply):  # PLUS refuses a request like a command without an id
            return m.command_id == 0 and m.name == asked.type_name and _failed(m)
        answer = _answer_of(asked)
        if isinstance(m, Status) and answer is not Status:
            if m.code == StatusCode.NOT_FOUND:
                return True
            # others are news of the device unless they name what was asked
            return m.code > 1 and m.error_name == asked.type_name
        if isinstance(m, Ready) and type(m).answer is answer:
            # an answer to STT_ and STP_; to GET_ only when it says that there is none
            return not isinstance(asked, Get) or m.status == 1
        if isinstance(asked, Stop):
            return False
        # a peer that sends no RTS_ answers STT_ with the first message of the stream
        return isinstance(m, answer) or (
            isinstance(m, NoData) and m.type_name == answer.type_name and isinstance(asked, Get)
        )

    def result(self, m: Message) -> Any:
        """Return the result of the request, from the answer m.

        Raises:
            CommandFailed: the peer refused the request.
        """
        asked = self.request
        if isinstance(m, CommandReply):
            if _failed(m):
                raise CommandFailed(m, _reason(m))
            return m
        answer = _answer_of(asked)
        if isinstance(m, Status) and answer is not Status:
            if m.code == StatusCode.NOT_FOUND and isinstance(asked, Get):
                return NoData(answer.type_name, device_name=asked.device_name)
            raise CommandFailed(m, f"{asked.type_name} was refused: {_told(m)}")
        if isinstance(m, Ready):
            if isinstance(asked, Get):
                return NoData(answer.type_name, device_name=asked.device_name)
            # the official library writes RTS_POLYDATA the other way round
            if m.status == 1 and m.type_name != "RTS_POLYDATA":
                raise CommandFailed(m, f"{asked.type_name} was refused")
        return m

    def __str__(self) -> str:
        what = self.request.name if isinstance(self.request, Command) else self.request.device_name
        return f"answer to {self.request.type_name} {what!r}"


def _answer_of(request: Message) -> type[Message]:
    if isinstance(request, Get | Start | Stop):
        return type(request).answer
    raise TypeError(f"{type(request).__name__} is not a request: use a Get class, or a Command")


def stop_for(start: Start[Any]) -> Stop[Any]:
    """Return the STP_ message that ends what a STT_ message has started."""
    for cls in message_types().values():
        if issubclass(cls, Stop) and cls.answer is type(start).answer:
            return cls(device_name=start.device_name)
    raise TypeError(f"nothing stops {type(start).__name__}")


def ready_for(request: Start[Any] | Stop[Any]) -> type[Ready[Any]] | None:
    """Return the RTS_ class that answers a STT_ or STP_ message; None if its type has none."""
    for cls in message_types().values():
        if issubclass(cls, Ready) and cls.answer is type(request).answer:
            return cls
    return None


def interval_of(start: Start[Any]) -> float:
    """Least time between two messages that a STT_ message asks for, in seconds."""
    for field, unit in (("resolution_ms", 1e-3), ("interval_ms", 1e-3), ("interval_ns", 1e-9)):
        value = getattr(start, field, None)
        if value:
            return float(max(0.0, value * unit))
    return 0.0


def part_of_stream(start: Start[Any], m: Message) -> bool:
    """Return whether m belongs to the stream that `start` has asked for."""
    return isinstance(m, type(start).answer) and (
        not start.device_name or m.device_name in (start.device_name, "")
    )


class StreamOf(Generic[M]):
    """Picks the messages of the stream that `start` has asked for."""

    def __init__(self, start: Start[M]) -> None:
        self._start = start

    def matches(self, m: Message) -> bool:
        """Return whether m belongs to the stream."""
        return part_of_stream(self._start, m)

    def __str__(self) -> str:
        return f"{type(self._start).answer.__name__} of the stream"


# PLUS ignores an id it has seen lately, so a new process must not begin where the last one did
_ids = itertools.count(int.from_bytes(os.urandom(3), "big") << 6 | 1)


def new_command(name: str, text: str, device_name: str) -> Command:
    """Return a Command with an id of its own."""
    return Command(next(_ids) & 0xFFFFFFFF, name, text, device_name=device_name)


# the head of the first element: no declarations, no entities but those of `html.unescape`
_HEAD = re.compile(r"""<[A-Za-z_][^<>"']*(?:"[^"]*"[^<>"']*|'[^']*'[^<>"']*)*""")
_ATTRIBUTE = re.compile(r"""(?<![\w:.-])([\w:.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_SUCCESS = ("SUCCESS", "TRUE", "OK", "1")


def _attributes(text: str) -> dict[str, str]:
    """Attributes of the first element of an XML text; of two of a name the first one.

    Only its first 10,000 characters are read.
    """
    from html import unescape  # with its table of entities, for replies only

    head = _HEAD.search(text[:10_000])
    found: dict[str, str] = {}
    for name, double, single in _ATTRIBUTE.findall(head.group()) if head else ():
        found.setdefault(name, unescape(double or single))
    return found


def _failed(reply: CommandReply) -> bool:
    """Return whether a reply says that the command failed.

    In its metadata (Slicer, PLUS), or in its XML (PLUS).

    One that says nothing is a success.
    """
    if reply.metadata.get("ErrorMessage"):  # Slicer's Status says nothing then
        return True
    status = reply.metadata.get("Status")
    if status is None:
        status = _attributes(reply.text).get("Status", "SUCCESS")
    return status.strip().upper() not in _SUCCESS


def _reason(reply: CommandReply) -> str:
    """Return why it failed: from the metadata, else the XML, else the text itself."""
    said = _attributes(reply.text)
    return (
        reply.metadata.get("Error") or reply.metadata.get("ErrorMessage")
        or said.get("Error") or said.get("Message") or reply.text
    )  # fmt: skip


def _told(status: Status) -> str:
    """Return why a STATUS refuses something."""
    if status.message:
        return status.message
    known = status.code in StatusCode._value2member_map_
    return StatusCode(status.code).name if known else f"code {status.code}"


def _quoted(text: str) -> str:
    for plain, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(plain, entity)
    return f'"{text}"'


class CommandAnswer(NamedTuple):
    """What a handler answers a command: text, None for the usual XML, and metadata."""

    text: str | None
    metadata: Mapping[str, Any]


def answer_of(result: Any) -> CommandAnswer:
    """Return the answer in a handler's result: text, a dict, both as (text, dict), or None."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        text, metadata = result
        return CommandAnswer(None if text is None else str(text), metadata)
    if isinstance(result, Mapping):
        return CommandAnswer(None, result)
    return CommandAnswer(None if result is None else str(result), {})


def reply_to(
    command: Command, answer: CommandAnswer | None, error: str | None, version: int
) -> CommandReply:
    """Return the reply to a command: what its handler answered, or why it failed.

    Status stands in the metadata, if the link can carry them, and in the XML of a reply that the
    handler has not written itself; so do the metadata of the handler.

    Raises:
        EncodeError: the handler has written a text and metadata, and the link cannot carry them.
    """
    text, metadata = answer or (None, {})
    status = "SUCCESS" if error is None else "FAIL"
    if text is None:
        head = (
            f"<CommandReply Name={_quoted(command.name)} Status={_quoted(status)} "
            f"Message={_quoted(error or '')}"
        )
        inner = "".join(
            f"<Parameter Name={_quoted(key)} Value={_quoted(str(value))}/>"
            for key, value in metadata.items()
        )
        text = f"{head}>{inner}</CommandReply>" if inner else f"{head}/>"
    elif metadata and version != 2:
        raise EncodeError(
            "CommandReply", "metadata", "the client reads header version 1, which cannot carry it"
        )
    reply = CommandReply(command.command_id, command.name, text, device_name=command.device_name)
    if version == 2:
        reply.metadata.update(metadata)
        reply.metadata.setdefault("Status", status)
        if error is not None:
            reply.metadata["ErrorMessage"] = error
    return reply


def with_status(reply: CommandReply, version: int) -> CommandReply:
    """Return a reply that its handler has built, with a Status in its metadata.

    Metadata that have one, or that cannot be sent, are not changed.
    """
    if version == 2 and "Status" not in reply.metadata:
        failed = "FAIL" if _failed(reply) else "SUCCESS"
        reply = copy.copy(reply)
        reply.metadata = {**reply.metadata, "Status": failed}
    return reply


def named_after(request: Message, answer: M) -> M:
    """Return an answer, under the name that was asked for if it has none."""
    if request.device_name and not answer.device_name:
        answer = copy.copy(answer)
        answer.device_name = request.device_name
    return answer


class Selection:
    """What a receiver wants: messages of a class and a device name (with wildcards)."""

    def __init__(self, kind: type[Message], name: str = "*") -> None:
        self.kind = kind
        self.name = name

    def matches(self, m: Message) -> bool:
        """Return whether m is one of them."""
        return fits(m, self.kind, self.name)

    def __str__(self) -> str:
        return f"{self.kind.__name__} {self.name!r}"


class _Anything(Selection):
    def matches(self, m: Message) -> bool:
        return True

    def __str__(self) -> str:
        return "message"


class _Nothing(Selection):
    def matches(self, m: Message) -> bool:
        return False


ANYTHING = _Anything(Message)
NOTHING = _Nothing(Message)


def selection(kind: type[Message], name: str) -> Selection:
    """Return the selection of `recv(kind, name)`."""
    return ANYTHING if kind is Message and name == "*" else Selection(kind, name)
