"""Bags of ROS 2 without ROS, by rosbags: of recordings, and to recordings.

Beside what ROS knows, a bag has each frame of OpenIGTLink as it came: on topics
"/openigtlink/TYPE/device", as std_msgs/UInt8MultiArray whose first dimension has the label
"openigtlink", and whose second one has the peer as its label and the number of the connection as
its size. What happened to the connections is JSON in "/openigtlink/events" (std_msgs/String).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from igtl._core import Frame
from igtl.codec.message import Message
from igtl.errors import FileError, FileWarning, ProtocolError
from igtl.extras import need
from igtl.files.blame import blamed
from igtl.files.notes import collected, note
from igtl.files.part import Decoding, Part, Progress, told
from igtl.recording.recorder import Recorder
from igtl.ros.from_ros import READ, from_ros
from igtl.ros.names import RAW, Topics, topic_of
from igtl.ros.storage import BagFile
from igtl.ros.to_ros import to_ros

_LABEL: Final = "openigtlink"
_EVENTS: Final = f"{RAW}/events"
_BYTES: Final = "std_msgs/msg/UInt8MultiArray"
_STRING: Final = "std_msgs/msg/String"
_IMAGE: Final = "sensor_msgs/msg/Image"
_EMPTY: Final = np.zeros(0, np.uint8)
_NS: Final = 10**9
_MAX_RAW: Final = 4096  # topics of frames


class _Found(NamedTuple):
    """A frame, a message or an event of a bag."""

    time_ns: int
    what: Frame | Message | dict[str, Any]
    peer: str
    connection: int


@cache
def _typestore() -> Any:
    """Return the types of ROS 2 Humble: those used here are the same in later ones."""
    typesys = need("rosbags.typesys", "ros")
    return typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)


@cache
def _class(kind: str) -> Any:
    return _typestore().types[kind]


@cache
def _definition(kind: str) -> tuple[str, str]:
    """Return the definition of a type, and its hash."""
    store = _typestore()
    return store.generate_msgdef(kind, ros_version=2)[0], store.hash_rihs01(kind)


def _make(kind: str, **fields: Any) -> Any:
    return _class(kind)(**fields)


# ---- writing ------------------------------------------------------------------------------------


class _Writer:
    """The topics of a bag that is written, made when they are first used."""

    def __init__(self, bag: BagFile) -> None:
        self._bag = bag
        self._store = _typestore()
        self._topics = Topics()
        self._numbers: dict[tuple[str, str], int] = {}
        self._heads: dict[tuple[Any, ...], tuple[int, bytes]] = {}

    def _number(self, topic: str, kind: str) -> int:
        """Return the number of a topic; 0 if there are too many."""
        key = topic, kind
        if key not in self._numbers:
            named = self._topics.of(topic, kind)
            if named is None:
                note("there are too many topics: some are left out")
                return 0
            self._numbers[key] = self._added(named, kind)
        return self._numbers[key]

    def _raw_number(self, topic: str) -> int:
        """Return the number of a topic of frames.

        When there are too many, the rest share the last one.

        No frame may be left out.
        """
        key = (topic if len(self._heads) < _MAX_RAW else f"{RAW}/more"), _BYTES
        if key not in self._numbers:
            self._numbers[key] = self._added(*key)
        return self._numbers[key]

    def _added(self, topic: str, kind: str) -> int:
        return self._bag.add_topic(topic, kind, *_definition(kind))

    def write(self, topic: str, kind: str, time_ns: int, message: Any) -> None:
        """Write a message of ROS."""
        number = self._number(topic, kind)
        if not number:
            return
        if kind == _IMAGE:  # whose data are its last field: they are not copied
            data, message.data = message.data, _EMPTY
            head = self._store.serialize_cdr(message, kind)[:-4]
            self._bag.write(number, time_ns, head, len(data).to_bytes(4, "little"), data)
        else:
            self._bag.write(number, time_ns, self._store.serialize_cdr(message, kind))

    def write_frame(self, recorded: Any) -> None:
        """Write a frame as it came, behind a head that all of its stream share."""
        key = recorded.stream, recorded.peer, recorded.connection
        if key not in self._heads:
            dims = [
                _make("std_msgs/msg/MultiArrayDimension", label=label, size=size, stride=0)
                for label, size in ((_LABEL, 0), (recorded.peer, recorded.connection))
            ]
            layout = _make("std_msgs/msg/MultiArrayLayout", dim=dims, data_offset=0)
            empty = _make(_BYTES, layout=layout, data=_EMPTY)
            topic = f"{RAW}{topic_of('/'.join(recorded.stream))}"
            head = bytes(self._store.serialize_cdr(empty, _BYTES))[:-4]
            self._heads[key] = self._raw_number(topic), head
        number, head = self._heads[key]
        data = recorded.frame.data
        self._bag.write(number, recorded.time_ns, head, len(data).to_bytes(4, "little"), data)


def write(part: Part, path: Path) -> None:
    """Write a part of a recording to a bag: each frame as it came, and what it is in ROS."""
    left: set[tuple[str, str]] = set()
    damaged = 0
    decoded = Decoding()
    with BagFile(path, path.name.removesuffix(".part")) as bag:
        topics = _Writer(bag)
        for event in part.events():
            text = json.dumps({k: v for k, v in event.items() if k != "time_ns"})
            topics.write(_EVENTS, _STRING, event["time_ns"], _make(_STRING, data=text))
        for recorded in part.frames():
            topics.write_frame(recorded)
            if recorded.stream in left:
                continue
            published = 0
            try:
                message = decoded(recorded.frame.unpack())
                if message is None:
                    continue
                at = message.time_ns or recorded.time_ns
                for topic, kind, ros in to_ros(message, at, _make):
                    topics.write(topic, kind, recorded.time_ns, ros)
                    published += 1
            except ProtocolError:
                damaged += 1
                continue
            if not published and not _comes_and_goes(message):
                left.add(recorded.stream)
    if left:
        only = [stream for stream in part.streams if (stream.type_name, stream.device_name) in left]
        note(f"ROS has no message for {told(only)}: only in {RAW}")
    if damaged:
        note(f"{damaged} damaged messages are only in {RAW}")


def _comes_and_goes(message: Message) -> bool:
    """Return whether other messages of a stream may be in ROS.

    This one is not, for example tools out of sight.
    """
    return message.type_name in ("TRANSFORM", "TDATA", "QTDATA", "POSITION", "QTRANS", "BIND")


# ---- reading ------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Iterator[Message]:
    """Yield the messages of a bag in order, with `received`.

    They are those of OpenIGTLink if there are any, else what messages of ROS are in OpenIGTLink.

    Args:
        path: of the folder of a bag.

    Raises:
        FileError: the folder is not a bag, or it is damaged.
        OSError: it cannot be read.
        ModuleNotFoundError: rosbags is missing; the text says which package has it.

    Warns:
        FileWarning: types that OpenIGTLink does not know are left out, damaged messages too.
    """
    path = Path(path)
    messages = _messages(path)
    told: dict[str, None] = {}
    while True:
        with blamed(path), collected() as notes:  # those of this step: others' are not ours
            message = next(messages, None)
        told.update(dict.fromkeys(notes))
        if message is None:
            break
        yield message
    if told:
        warnings.warn(FileWarning(f"{path}: {'; '.join(told)}"), stacklevel=2)


def _messages(path: Path) -> Iterator[Message]:
    for time_ns, what, peer, _ in _found(path, lambda *_: None):
        if isinstance(what, dict):
            continue
        try:
            message = what.unpack() if isinstance(what, Frame) else what
        except ProtocolError:
            note("damaged messages are left out")
            continue
        message.received, message.peer = time_ns / _NS, peer
        yield message


def convert(path: Path, target: Path, progress: Progress) -> None:
    """Write a recording of a bag."""
    with Recorder(target, max_queued_bytes=8 << 20) as recorder:
        for time_ns, what, peer, connection in _found(path, progress):
            received = Fraction(time_ns, _NS)
            if isinstance(what, dict):
                facts = {key: value for key, value in what.items() if key != "time_ns"}
                recorder.event(str(facts.pop("event", "")), received=received, **facts)
            else:
                recorder.write(what, peer=peer, connection=connection, received=received)


def _found(path: Path, progress: Progress) -> Iterator[_Found]:
    rosbag2 = need("rosbags.rosbag2", "ros")
    store = _typestore()
    if not (path / "metadata.yaml").exists():
        raise FileError(path, "is not a ROS 2 bag: it has no metadata.yaml")
    with rosbag2.Reader(path) as reader:
        connections = list(reader.connections)
        ours = [c for c in connections if _is_ours(c)]
        chosen = ours or [c for c in connections if c.msgtype in READ]
        left = {c.msgtype for c in connections} - READ.keys()
        if left and not ours:
            note(f"OpenIGTLink has no message for {', '.join(sorted(left))}")
        total = sum(c.msgcount for c in chosen)
        if not chosen:
            return
        for done, (connection, time_ns, data) in enumerate(reader.messages(chosen), 1):
            try:
                ros = store.deserialize_cdr(data, connection.msgtype)
                found: Callable[..., Iterator[_Found]] = _raw if ours else _foreign
                yield from found(time_ns, connection, ros)
            except (ValueError, ProtocolError, _damage()) as error:
                note(f"{connection.topic} has damaged messages, or such as cannot be said: {error}")
            if done % 64 == 0 or done == total:
                progress("reading", done, total)


@cache
def _damage() -> type[Exception]:
    """Return the errors that rosbags raises for a message that is not what its type says."""
    kind: type[Exception] = need("rosbags.serde", "ros").SerdeError
    return kind


def _is_ours(connection: Any) -> bool:
    kind, topic = connection.msgtype, connection.topic
    return (kind == _BYTES and topic.startswith(f"{RAW}/")) or (topic, kind) == (_EVENTS, _STRING)


def _raw(time_ns: int, connection: Any, ros: Any) -> Iterator[_Found]:
    if connection.msgtype == _STRING:
        event = json.loads(ros.data)
        if not isinstance(event, dict):
            raise ValueError("an event is not a JSON object")
        yield _Found(time_ns, event, "", 0)
        return
    dims = ros.layout.dim
    if len(dims) != 2 or dims[0].label != _LABEL:
        raise ValueError(f"its first dimension has not the label {_LABEL!r}")
    frame = Frame.from_bytes(ros.data.tobytes())
    yield _Found(time_ns, frame, dims[1].label, dims[1].size)


def _foreign(time_ns: int, connection: Any, ros: Any) -> Iterator[_Found]:
    for message in from_ros(connection.topic, connection.msgtype, ros):
        yield _Found(time_ns, message, connection.topic, 0)
