"""Messages as lines of the page's log; names of patients are hidden unless they are wanted."""

from __future__ import annotations

from typing import Final

from igtl.codec.message import Message, NoData
from igtl.messages.general import Capability, Command, CommandReply, Status, StatusCode, String
from igtl.messages.imaging import ImageMeta, LabelMeta, VideoMeta

_MAX: Final = 400  # characters of a line
HIDDEN: Final = "hidden"


def line(message: Message, *, patients: bool) -> tuple[str, str] | None:
    """Return the severity ("info", "warn") and the text of a message.

    None for one that is not logged.
    """
    found = _line(message, patients)
    if found is None:
        return None
    severity, text = found
    text = " ".join(text.split())
    return severity, text if len(text) <= _MAX else text[: _MAX - 1] + "…"


def _line(message: Message, patients: bool) -> tuple[str, str] | None:
    match message:
        case Status():
            known = message.code in StatusCode._value2member_map_
            name = StatusCode(message.code).name if known else str(message.code)
            rest = " ".join(t for t in (message.error_name, message.message) if t and t != name)
            return ("info" if message.is_ok else "warn"), f"{name} {rest}"
        case String():
            return "info", message.string
        case Command() | CommandReply():
            return "info", f"{message.name} #{message.command_id} {message.text}"
        case Capability():
            return "info", ", ".join(message.types)
        case ImageMeta():
            listed = [
                f"{i.name} ({i.modality}) of {_who(i.patient_name, i.patient_id, patients)}"
                for i in message.images
            ]
            return "info", "; ".join(listed)
        case VideoMeta():
            listed = [
                f"{v.name} of {_who(v.patient_name, v.patient_id, patients)}"
                for v in message.videos
            ]
            return "info", "; ".join(listed)
        case LabelMeta():
            return "info", "; ".join(f"{label.name} ({label.label})" for label in message.labels)
        case NoData():
            return "warn", "no data"
    return None


def _who(name: str, number: str, patients: bool) -> str:
    if not name and not number:
        return "no patient"
    return f"{name} {number}".strip() if patients else f"a patient ({HIDDEN})"
