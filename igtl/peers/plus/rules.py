"""What freezes, ends or confuses PLUS, and why, in both roles. Measured with PlusServer 2.9."""

from __future__ import annotations

import re
from typing import Final

from igtl.codec.message import Message
from igtl.codec.xml import elements
from igtl.errors import EncodeError
from igtl.messages.general import Command, Status, String
from igtl.messages.plus import ClientInfo
from igtl.messages.queries import StartTrackingData
from igtl.messages.tracking import Transform
from igtl.peers.plus.selection import Client, check_transform

_LARGEST_ID: Final = 2**31 - 1
_LEGACY: Final = re.compile(r"CMD_(.*)", re.DOTALL)

_NEVER: Final = {
    "GET_POINT": "GET_POINT freezes PLUS for all its clients, or is answered by bytes of its "
    "memory",
    "BIND": "BIND ends the process of PLUS",
}
_LOSE: Final = ("NDARRAY", "SENSOR", "QTRANS", "COLORT")
_EMPTY: Final = ("GET_IMAGE", "GET_IMGMETA", "GET_POLYDATA")
_KNOWN: Final = frozenset((
    "CAPABILITY", "CLIENTINFO", "COMMAND", "GET_BIND", "GET_IMAGE", "GET_IMGMETA", "GET_POLYDATA",
    "GET_STATUS", "GET_TDATA", "IMGMETA", "LBMETA", "POINT", "POLYDATA", "POSITION", "QTDATA",
    "STATUS", "STP_TDATA", "STRING", "STT_TDATA", "TRAJ", "TRANSFORM",
))  # fmt: skip
"""What its server takes, or passes over without harm."""

_TO_DEVICES: Final = frozenset((
    "CAPABILITY", "IMAGE", "RTS_COMMAND", "RTS_TDATA", "STATUS", "STRING", "TDATA", "TRACKEDFRAME",
    "TRANSFORM",
))  # fmt: skip


def _harm_to_server(message: Message) -> str:
    """Return the harm that a message does to a PlusServer; "" if none."""
    kind = message.type_name
    if kind in _NEVER:
        return _NEVER[kind]
    if kind in _LOSE:
        return f"PLUS loses the framing at {kind}: it does not skip its body"
    if kind not in _KNOWN:
        return f"PLUS has no class for {kind}, and may lose the framing at its body"
    if kind in _EMPTY and message.message_id and not message.metadata:
        return (
            f"{kind} with a message id and without metadata freezes PLUS for all its clients, once "
            "this one leaves"
        )
    if kind in ("GET_TDATA", "GET_BIND") and (message.message_id or message.metadata):
        return f"PLUS loses the framing at {kind} of header version 2, needed for id or metadata"
    match message:
        case String(device_name=name) if (legacy := _LEGACY.fullmatch(name)) is not None:
            return _harm_of_legacy(legacy[1], message.string)
        case Command():
            return _harm_of_command(message.text)
        case ClientInfo():
            return _harm_of_selection(message)
        case StartTrackingData() if message.resolution_ms != 0:
            return (
                "PLUS sends no TDATA for a resolution other than 0: each message of any type "
                "starts its clock anew"
            )
    return ""


def _harm_of_legacy(number: str, text: str) -> str:
    if number.isdecimal() and int(number) > _LARGEST_ID:
        return f"a command id over {_LARGEST_ID} ends the process of PLUS"
    try:
        elements(text)
    except ValueError as error:
        return f"a command in a STRING ends the process of PLUS unless it is well-formed: {error}"
    return ""


def _harm_of_command(text: str) -> str:
    if not text:
        return "PLUS does not answer a COMMAND without text"
    try:
        found = elements(text)
    except ValueError as error:
        return f"PLUS cannot read the text of the COMMAND: {error}"
    if "Name" not in found[0][1]:
        return 'PLUS takes the command from the text, and there is no Name="…" in it'
    return ""


def _harm_of_selection(info: ClientInfo) -> str:
    try:
        client = Client.read(info)
    except ValueError as error:
        return f"PLUS sends nothing any more after a CLIENTINFO that it cannot read: {error}"
    if not client.types:
        return "PLUS sends nothing any more after a CLIENTINFO that selects nothing"
    return ""


def _harm_to_device(message: Message) -> str:
    """Return the harm that a message does to a device of PLUS, our client; "" if none."""
    kind = message.type_name
    if kind in ("SENSOR", "NDARRAY"):
        return f"{kind} ends the process of PLUS"
    if kind == "POSITION":
        return "PLUS reads the place of a POSITION as 0: send TRANSFORM"
    if kind not in _TO_DEVICES:
        return f"the devices of PLUS do not know {kind}"
    match message:
        case Transform():
            try:
                check_transform(message.device_name)
            except ValueError as error:
                return str(error)
            if not message.timestamp_raw:
                return "PLUS ignores a TRANSFORM without a time stamp"
        case Status() if not message.device_name:
            return "a STATUS should have a device name: others than PLUS crash without one"
    return ""


class PlusRefuses(EncodeError):
    """PLUS freezes, crashes or loses the framing at this message, or ignores it.

    Attributes:
        reason: what PLUS does with it, and that `force=True` sends it.
    """


def check_for_server(message: Message) -> None:
    """Refuse what harms a PlusServer.

    Raises:
        PlusRefuses: the message does harm; the text says how.
    """
    _check(message, _harm_to_server(message))


def check_for_device(message: Message) -> None:
    """Refuse what harms a device of PLUS (OpenIGTLinkTracker, OpenIGTLinkVideo) that is a client.

    Raises:
        PlusRefuses: the message does harm; the text says how.
    """
    _check(message, _harm_to_device(message))


def _check(message: Message, harm: str) -> None:
    if harm:
        raise PlusRefuses(type(message).__name__, "type_name", f"{harm}; force=True sends it")
