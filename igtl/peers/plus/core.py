"""What a client of PLUS knows and asks, without I/O; `link` and `aio` drive it.

That is the newest message of each stream, the tools and their statuses, commands and the meaning
of their replies.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from igtl._core import Frame
from igtl._stream import Stats
from igtl.codec.message import Message
from igtl.codec.xml import element, elements
from igtl.errors import BodyError, CommandFailed
from igtl.messages.general import CommandReply, Status, String
from igtl.messages.plus import tool_states
from igtl.messages.tracking import Position, Transform
from igtl.peers.plus.selection import Select
from igtl.session.backoff import Backoff
from igtl.session.requests import Exchange, Selection, new_command
from igtl.session.subscriptions import MAX_STREAMS, Subscriptions

M = TypeVar("M", bound=Message)
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Matrix = npt.NDArray[np.float64]

BACKOFF: Final = Backoff(0.05, 0.5)
SETTINGS: Final[dict[str, Any]] = {
    "hello": True, "version": 2, "resync": True, "on_error": "skip",
}  # fmt: skip
"""What a link to PLUS needs: it sends statuses, long names and values of replies to clients of
header version 2 only, and begins a message again that it could not send."""

SILENT: Final = "SILENT"
"""The status of a tool of which nothing arrives any more."""


MAX_TOOLS: Final = 1000
MAX_CHANGES: Final = 10_000  # that wait for their handlers

# -- what arrives


class Tools(Mapping[str, str]):
    """The status of each tool by name ("ProbeToTracker").

    The status is "OK", "MISSING", "OUT_OF_VIEW", "OUT_OF_VOLUME", "INVALID", … as PLUS says, or
    "SILENT" where nothing has arrived for a while: by default PLUS does not send transforms that
    are not valid.

    Args:
        silence: seconds after which a tool is "SILENT".
    """

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._statuses: dict[str, str] = {}
        self._heard: dict[str, float] = {}
        self.handlers: list[Callable[[str, str | None, str], Any]] = []

    def on_change(self, handler: F) -> F:
        """Call the decorated function with (name, old, new) when a status changes.

        old is None for a new tool. Handlers run one after the other, and may take their time.
        """
        self.handlers.append(handler)
        return handler

    def __getitem__(self, name: str) -> str:
        return self._statuses[name]

    def __iter__(self) -> Any:
        return iter(list(self._statuses))

    def __len__(self) -> int:
        return len(self._statuses)

    def __repr__(self) -> str:
        return f"<Tools {self._statuses}>"

    def tell(self, name: str, status: str, now: float) -> tuple[str, str | None, str] | None:
        """Note a status; returns the change, if it is one."""
        self._heard[name] = now
        old = self._statuses.get(name)
        self._statuses[name] = status
        return None if old == status else (name, old, status)

    def next_deadline(self) -> float:
        """When the caller should ask `expired`, by the monotonic clock; infinity for never."""
        heard = [at for name, at in self._heard.items() if self._statuses[name] != SILENT]
        return min(heard, default=math.inf) + self._silence

    def expired(self, now: float) -> list[tuple[str, str | None, str]]:
        """Return the tools that have become silent by now."""
        silent = [
            name for name, at in self._heard.items()
            if self._statuses[name] != SILENT and now >= at + self._silence
        ]  # fmt: skip
        changes: list[tuple[str, str | None, str]] = []
        for name in silent:
            changes.append((name, self._statuses[name], SILENT))
            self._statuses[name] = SILENT
        return changes


class State(Subscriptions):
    """What a client of PLUS has received. Not thread-safe: its owner locks.

    Attributes:
        tools: see Tools.
        changes: of their statuses, for the handlers.
        arrived: messages so far, which numbers them.
        reconnected: connections after the first.
    """

    def __init__(self, stats: Stats, silence: float) -> None:
        super().__init__(stats)
        self.stats = stats
        self.tools = Tools(silence)
        self.changes: list[tuple[str, str | None, str]] = []
        self.arrived = 0
        self._selected: frozenset[str] = frozenset()
        self._serials: dict[tuple[str, str], tuple[int, int]] = {}  # of the newest, and how many

    def take(self, message: Message | Frame, size: int) -> None:
        """Note a message that has arrived, unless it is a keep-alive."""
        if isinstance(message, Frame):
            super().take(message, size)
            return
        if isinstance(message, Status) and message.is_ok and not message.timestamp_raw:
            return
        super().take(message, size)
        self.arrived += 1
        key = message.type_name, message.device_name
        self._serials[key] = self.arrived, self._serials.get(key, (0, 0))[1] + 1
        if len(self._serials) > MAX_STREAMS:  # the oldest one is forgotten
            keys = [(m.type_name, m.device_name) for m in self.all()]
            self._serials = {key: self._serials[key] for key in keys}
        if (
            isinstance(message, Transform | Position)
            and self._selected
            and message.device_name not in self._selected
        ):
            return  # PLUS has sent it before it read what this client wants
        try:
            states = list(tool_states(message))
        except BodyError:
            return
        now = message.received_monotonic or time.monotonic()
        for state in states:
            if state.name not in self.tools and len(self.tools) >= MAX_TOOLS:
                continue
            if (change := self.tools.tell(state.name, state.status, now)) is not None:
                self.changes.append(change)
        del self.changes[:-MAX_CHANGES]

    def select(self, select: Select) -> None:
        """Note the selection of this client: other transforms that arrive are not tools."""
        self._selected = frozenset(select.transforms)

    def expire(self, now: float) -> None:
        """Note the time: tools become silent."""
        self.changes += self.tools.expired(now)

    def newer(self, wanted: Selection, than: int) -> tuple[int, M] | None:
        """Return the newest message that is wanted and arrived after that number.

        It comes with its own number.

        Raises:
            the reason: there is none, and nothing more will arrive.
        """
        for message in reversed(self.all()):
            serial, _ = self._serials[message.type_name, message.device_name]
            if serial <= than:
                break
            if wanted.matches(message):
                return serial, cast(M, message)
        if self.reason is not None:
            raise self.reason.with_traceback(None)
        return None

    def count(self, wanted: Selection) -> int:
        """Return how many messages have arrived of the streams that are wanted."""
        return sum(
            self._serials[m.type_name, m.device_name][1] for m in self.all() if wanted.matches(m)
        )


class Reading(Generic[M]):
    """One reader of frames: always the newest, those between are counted.

    Attributes:
        passed_over: frames that this reader has not seen, since newer ones had arrived.
    """

    def __init__(self, state: State, kind: type[M], name: str) -> None:
        self.wanted = Selection(kind, name)
        self.passed_over = 0
        self._state = state
        self._serial = state.arrived
        self._count = state.count(self.wanted)

    def next(self) -> M | None:
        """Return the newest frame, if there is one that this reader has not had.

        Raises:
            the reason: there is none, and nothing more will arrive.
        """
        found: tuple[int, M] | None = self._state.newer(self.wanted, self._serial)
        if found is None:
            return None
        self._serial, message = found
        count = self._state.count(self.wanted)
        over = max(0, count - self._count - 1)
        self._count = count
        if over:
            self.passed_over += over
            self._state.stats.count_dropped(message, "superseded", over)
        return message


# -- commands


@dataclass(frozen=True)
class Reply:
    """The reply of PLUS to a command.

    Attributes:
        name: of the command.
        message: the sentence that PLUS has answered.
        values: by name: the metadata of the reply, and the parameters in its XML.
        text: the XML.
        raw: the reply as a message.
    """

    name: str
    message: str
    values: Mapping[str, str]
    text: str
    raw: Message = field(repr=False)


def read_reply(name: str, raw: Message) -> Reply:
    """Return the reply in a RTS_COMMAND, or the STRING of a legacy command."""
    text = raw.text if isinstance(raw, CommandReply) else cast(String, raw).string
    values: dict[str, str] = {}
    try:
        for tag, attributes in elements(text):
            if tag == "Parameter" and "Value" in attributes:
                values[attributes.get("Name", "")] = attributes["Value"]
            elif tag == "CommandReply":
                values.update(attributes)
    except ValueError:
        pass  # that of GetFrameRate never is; the metadata hold the same
    values.update(raw.metadata)
    for shown in ("Name", "Status", "Error"):
        values.pop(shown, None)
    return Reply(name, values.pop("Message", ""), values, text, raw)


# PLUS ignores an id that it has seen lately; a new process begins elsewhere
_numbers: Final = itertools.count(int.from_bytes(os.urandom(3), "big") << 6 | 1)


class LegacyExchange(Exchange):
    """A command as STRING, named CMD_n, which PLUS acknowledges by a STRING named ACK_n."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._number = next(_numbers) & 0x7FFFFFFF
        super().__init__(String(text, device_name=f"CMD_{self._number}"))

    def matches(self, m: Message) -> bool:
        """Return whether m acknowledges it: under its number, or, unknown to PLUS, without one."""
        return isinstance(m, String) and m.device_name in (f"ACK_{self._number}", "CMD", "ACK")

    def result(self, m: Message) -> Message:
        """Return the acknowledgement.

        Raises:
            CommandFailed: the command has failed in PLUS, which gives no reason here.
        """
        reply = cast(String, m)
        try:
            status = elements(reply.string)[0][1].get("Status", "FAIL")
        except ValueError:
            status = "FAIL"
        if status != "SUCCESS":
            raise CommandFailed(m, f"{self._name}: {read_reply(self._name, m).message}")
        return m

    def __str__(self) -> str:
        return f"answer to the command {self._name!r} of STRING CMD_{self._number}"


def command_text(name: str, inner: str, attributes: Mapping[str, object]) -> str:
    """Return the text of a command, `<Command Name="name" …>inner</Command>`.

    `some_attribute=1` is written SomeAttribute="1", None is left out.
    """
    texts = {"Name": name}
    for key, value in attributes.items():
        if value is not None:
            texts["".join(word[:1].upper() + word[1:] for word in key.split("_"))] = _text(value)
    return element("Command", texts, inner)


def _text(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "TRUE" if value else "FALSE"
    if isinstance(value, np.ndarray | list | tuple):
        return " ".join(f"{float(x):.17g}" for x in np.ravel(value))
    return str(value)


class Request(Generic[T]):
    """A command, and what its reply means.

    Args:
        name, inner, attributes: see `command_text`.
        meaning: makes the result for the caller from the reply.
        legacy: as STRING.
        device_name: of the message.

    Attributes:
        exchange: what is sent, and what answers it.
    """

    def __init__(
        self,
        name: str,
        meaning: Callable[[Reply], T],
        attributes: Mapping[str, object] = {},
        *,
        inner: str = "",
        legacy: bool = False,
        device_name: str = "",
    ) -> None:
        self.name = name
        self._meaning = meaning
        text = command_text(name, inner, attributes)
        self.exchange: Exchange = (
            LegacyExchange(name, text)
            if legacy
            else Exchange(new_command(name, text, device_name or "igtl"))
        )

    def result(self, answer: Message) -> T:
        """Return what the answer means.

        Raises:
            CommandFailed: the command has failed in PLUS; the text is its reason.
        """
        try:
            reply = self.exchange.result(answer)
        except CommandFailed as error:
            text = str(error)
            text = text if text.startswith(f"{self.name}: ") else f"{self.name}: {text}"
            raise CommandFailed(error.reply, text) from None
        return self._meaning(read_reply(self.name, reply))


def as_it_is(reply: Reply) -> Reply:
    """Return the reply itself."""
    return reply


def message_of(reply: Reply) -> str:
    """Return what PLUS says in a sentence."""
    return reply.message


def version() -> Request[str]:
    """Version: the version of PLUS."""
    return Request("Version", lambda reply: reply.values["PlusVersion"])


def device_ids(kind: str | None) -> Request[list[str]]:
    """RequestDeviceIds: the ids of the devices of a type; None: of all."""
    return Request("RequestDeviceIds", _ids, {"device_type": kind})


def channel_ids() -> Request[list[str]]:
    """RequestChannelIds: the ids of the output channels."""
    return Request("RequestChannelIds", _ids)


def _ids(reply: Reply) -> list[str]:
    return sorted(word for word in reply.message.split(",") if word)


def transform(name: str) -> Request[Matrix]:
    """GetTransform: the 4x4 of XToY, mm."""

    def matrix(reply: Reply) -> Matrix:
        text = reply.values.get(name)
        if text is None:
            raise CommandFailed(
                reply.raw, f"GetTransform: the reply has no metadata, and so no {name!r}; PLUS has "
                "not seen header version 2 of this client",
            )  # fmt: skip
        return np.reshape([float(word) for word in text.split()], (4, 4))

    return Request("GetTransform", matrix, {"transform_name": name})


def update_transform(
    name: str, matrix: npt.ArrayLike, persistent: bool, error: float | None, date: str | None
) -> Request[str]:
    """UpdateTransform: see `client.update_transform`."""
    m = np.asarray(matrix, np.float64)
    if m.shape != (4, 4):
        raise ValueError(f"the matrix must be (4, 4), not {m.shape}")
    return Request("UpdateTransform", message_of, {
        "transform_name": name, "transform_value": m, "transform_persistent": persistent,
        "transform_error": error, "transform_date": date,
    })  # fmt: skip


def save_config(filename: str | None) -> Request[str]:
    """SaveConfig: see `client.save_config`."""
    return Request("SaveConfig", message_of, {"filename": filename})


def start_recording(device: str, filename: str | None, compress: bool) -> Request[str]:
    """StartRecording: begin the file of a VirtualCapture device."""
    return Request("StartRecording", message_of, {
        "capture_device_id": device, "output_filename": filename, "enable_compression": compress,
    })  # fmt: skip


def stop_recording(device: str) -> Request[str]:
    """StopRecording: end that file."""
    return Request("StopRecording", message_of, {"capture_device_id": device})


def reconstruction(step: str, name: str, device: str | None) -> Request[str]:
    """Start, snapshot or stop the reconstruction of the volume that PLUS sends under this name."""
    command = {
        "start": "StartVolumeReconstruction", "snapshot": "GetVolumeReconstructionSnapshot",
        "stop": "StopVolumeReconstruction",
    }[step]  # fmt: skip
    return Request(command, message_of, {
        "volume_reconstructor_device_id": device, "output_vol_device_name": name,
    })  # fmt: skip


def get_parameter(device: str, name: str) -> Request[float | str]:
    """GetUsParameter: a number, or the text where it is not one."""

    def value(reply: Reply) -> float | str:
        text = reply.values[name]
        try:
            return float(text)
        except ValueError:
            return text.strip()

    inner = element("Parameter", {"Name": name})
    return Request("GetUsParameter", value, {"us_device_id": device}, inner=inner)


def set_parameter(device: str, name: str, value: object) -> Request[str]:
    """SetUsParameter: set one parameter of an ultrasound device."""
    inner = element("Parameter", {"Name": name, "Value": _text(value)})
    return Request("SetUsParameter", message_of, {"us_device_id": device}, inner=inner)


def losses(stats: Stats) -> Counter[str]:
    """Return the numbers of lost messages, by cause."""
    return Counter(stats.dropped) + Counter(stats.errors)
