"""Names of OpenIGTLink and of ROS 2, and what both mappings know.

A transform "ProbeToTracker" has the frame "Probe" in the frame "Tracker"; what names no second
frame lies in "world". Metadata keep what a name of 20 bytes does not say.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Final

from igtl import _core
from igtl.codec.message import Message

WORLD: Final = "world"
RAW: Final = "/openigtlink"
"""Topics below this one hold the bytes of OpenIGTLink."""
CHILD, PARENT, TOPIC = "child_frame_id", "frame_id", "topic"
"""Keys of metadata."""
ENCODINGS: Final = {
    "mono8": ("u1", 1), "mono16": ("u2", 1), "rgb8": ("u1", 3), "rgba8": ("u1", 4),
    "16SC1": ("i2", 1), "32SC1": ("i4", 1), "32FC1": ("f4", 1), "64FC1": ("f8", 1),
    "8SC1": ("i1", 1), "rgb16": ("u2", 3), "rgba16": ("u2", 4), "32FC3": ("f4", 3),
}  # fmt: skip
"""Of sensor_msgs/Image, as igtl writes them: number type and components."""
_XTOY: Final = re.compile(r"([A-Z0-9]\w*?)To([A-Z0-9]\w*)")
_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9_/]+")
_NAME: Final = 20  # bytes
_MAX_TOPICS: Final = 4096


@lru_cache(4096)
def topic_of(name: str) -> str:
    """Return a name of OpenIGTLink as a topic.

    Characters that ROS does not allow become underscores.
    """
    parts = [part for part in _FORBIDDEN.sub("_", name).split("/") if part]
    return "/" + "/".join(f"_{p}" if p[0].isdigit() else p for p in parts or ["unnamed"])


@lru_cache(4096)
def frames_of(name: str) -> tuple[str, str]:
    """Child and parent frame of a transform, by its name."""
    match = _XTOY.fullmatch(name)
    return (match[1], match[2]) if match else (topic_of(name)[1:].replace("/", "_"), WORLD)


def is_pair(name: str) -> bool:
    """Return whether a name is that of a transform between two frames, XToY."""
    return _XTOY.fullmatch(name) is not None


def topic_of_message(message: Message) -> str:
    """Return the topic from which a message came, or that of its device name."""
    return topic_of(message.metadata.get(TOPIC, "") or message.device_name)


def name_message(message: Message, name: str, **facts: str) -> Message:
    """Give a message a name: one that is longer than 20 bytes is cut, with a mark of the rest.

    Args:
        message: which is changed.
        name: its new device name.
        facts: metadata.
    """
    if len(name.encode()) > _NAME:
        mark = f"~{zlib.crc32(name.encode()) & 0xFFFF:04x}"
        message.device_name = _core.fit(name, _NAME - len(mark)) + mark
    else:
        message.device_name = name
    message.metadata.update(facts)
    return message


def name_by_topic(message: Message, topic: str) -> Message:
    """Name a message after the topic from which it came."""
    name = topic.lstrip("/")
    known = len(name.encode()) <= _NAME and topic_of(name) == topic
    return name_message(message, name, **({} if known else {TOPIC: topic}))


class Topics:
    """The topics of one bag, node or file; each has one type.

    There are no more than 4096, since a peer could make any number.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def of(self, topic: str, kind: str) -> str | None:
        """Return the topic for messages of a type; None if there are too many.

        If another type has the topic already, the name of the type is added to it.
        """
        if self._kinds.get(topic, kind) != kind:
            topic = f"{topic}/{kind.rpartition('/')[2]}"
        if topic not in self._kinds:
            if len(self._kinds) >= _MAX_TOPICS:
                return None
            self._kinds[topic] = kind
        return topic
