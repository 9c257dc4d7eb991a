"""The data of the page: the newest message of each stream.

Filled by the threads that receive, read by the tasks of the browsers; does no I/O.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from igtl._stream import Stats
from igtl.codec.message import Message
from igtl.geometry.graph import TransformGraph
from igtl.messages.general import Bind, Sensor
from igtl.messages.geometry import Points, PolyData, Trajectories
from igtl.messages.imaging import Image, Video
from igtl.messages.tracking import (
    Position,
    QuaternionTrackingData,
    QuaternionTransform,
    TrackingData,
    Transform,
)
from igtl.session.clock import Clock
from igtl.video import VideoDecoder
from igtl.view import shapes, wire, words

Key = tuple[str, str]
"""Type and name: of the device, or of a tool of a tracking frame."""
MAX_STREAMS: Final = 1000
STALE: Final = 1.0  # seconds
_HISTORY: Final = 500  # samples of a plot; lines of the log
_MAX_DECODERS: Final = 32  # video streams
_MAX_PARTS: Final = 2  # volumes that arrive in parts
_MAX_UNFINISHED: Final = 1 << 29  # bytes of each of them
_REST: Final = ("*", "*")  # counts the messages of further streams
_RECENT: Final = 64  # arrivals from which rate and jitter are computed


class Stream:
    """One (type, name), and how regularly it comes.

    Attributes:
        number: stands for it in binary frames.
        shown: the newest message is for the page: a pose, an image, a shape, a sample.
        newest: the newest message.
        changed: number of the change with which it came; see `Feed.changes`.
        packed: of a pose: its 64 bytes.
        drawn: of a shape: the facts for the page, once it is prepared.
    """

    def __init__(self, number: int, key: Key) -> None:
        self.number = number
        self.key = key
        self.count = self.missing = self.changed = self.last_id = 0
        self.bytes = 0
        self.newest: Any = None
        self.timestamp = 0.0
        self.packed = b""
        self.valid = True
        self.drawn: tuple[int, dict[str, Any]] | None = None
        self.delays: deque[float] = deque(maxlen=_RECENT)
        self._by_clock = False  # whether the delays are by the clock of the sender
        self.samples: deque[tuple[int, list[float]]] = deque(maxlen=_HISTORY)
        self._arrivals: deque[float] = deque(maxlen=_RECENT)

    def arrived(
        self, now: float, message: Message, received: float | None, clock: Clock | None
    ) -> None:
        """Count a message."""
        self.count += 1
        self._arrivals.append(now)
        number = message.message_id
        if self.last_id and number > self.last_id:
            self.missing += number - self.last_id - 1
        self.last_id = number
        if message.timestamp and received:
            stamp = message.timestamp
            by_clock = clock is not None and clock.known
            if by_clock != self._by_clock:
                self._by_clock = by_clock
                self.delays.clear()
            if clock is not None and by_clock:
                stamp = clock.to_local(stamp)
            self.delays.append(received - stamp)

    def row(self, now: float, lost: int) -> list[Any]:
        """Return the row of the table.

        It has number, messages, rate in Hz, jitter and age in ms, losses, delay in ms, validity.
        """
        times = list(self._arrivals)
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        mean = span / (len(times) - 1) if span else 0.0
        rate = 1 / max(mean, now - times[-1]) if mean and now - times[-1] < 10 * mean + 1 else 0.0
        gaps = [abs(b - a - mean) for a, b in pairwise(times)]
        jitter = sum(gaps) / len(gaps) if gaps else 0.0
        age = 1e3 * (now - times[-1]) if times else None
        delay = 1e3 * min(self.delays) if self.delays else None
        return [
            self.number, self.count, round(rate, 1), round(1e3 * jitter, 2),
            None if age is None else round(age), lost + self.missing,
            None if delay is None or not math.isfinite(delay) else round(delay, 1),
            int(self.valid),
        ]  # fmt: skip


class Line(NamedTuple):
    """A line of the log."""

    number: int
    time: float
    severity: str
    source: str
    text: str


class Feed:
    """The newest message of each stream. `take` may be called in any thread.

    Args:
        patients: whether names of patients are shown.
        on_change: called after each change, in the thread that made it.
        clock: gives the time in seconds; default the monotonic clock.

    Attributes:
        changes: number of changes so far.
        streams: all that came, in order of their numbers.
        lines: the newest lines of the log.
        blobs: the arrays of shapes.
        resets: times that the past was forgotten: another place of a recording is shown.
        paused: no stream is stale, because nothing is due.
        taps: called with each message too.
    """

    def __init__(
        self,
        *,
        patients: bool = False,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changes = self.resets = 0
        self.streams: dict[Key, Stream] = {}
        self.lines: deque[Line] = deque(maxlen=_HISTORY)
        self.blobs = shapes.Blobs()
        self.paused = False
        self.taps: list[Callable[[Message], None]] = []
        self._patients = patients
        self._on_change = on_change
        self._clock = clock
        self._lock = threading.Lock()
        self._logged = 0
        self._table: tuple[float, dict[str, Any]] | None = None
        self._stats: list[Callable[[], Stats]] = []
        self._decoders: dict[str, VideoDecoder] = {}
        self._tools: dict[Key, set[str]] = {}
        self._parts: dict[Key, tuple[np.ndarray[Any, Any], float]] = {}

    # -- filling

    def take(
        self, message: Message, *, received: float | None = None, clock: Clock | None = None
    ) -> None:
        """Take a message of any type.

        Args:
            message: the message.
            received: when it came, seconds since 1970; default what the link noted.
            clock: of its sender, by which its delay is computed.
        """
        for tap in tuple(self.taps):
            tap(message)
        received = received or message.received
        with np.errstate(all="ignore"):  # a message from the wire may hold anything
            try:
                image = self._decoded(message) if isinstance(message, Video) else None
                with self._lock:
                    self._take(message, received, image, clock)
            except Exception as error:  # of this message: the next ones are shown
                with self._lock:
                    self._note_once(f"{message.type_name} {message.device_name}", str(error))
        self._on_change()

    def note(self, text: str, *, source: str = "igtl", severity: str = "info") -> None:
        """Add a line to the log."""
        with self._lock:
            self._note(severity, source, text)
        self._on_change()

    def watch(self, stats: Callable[[], Stats]) -> None:
        """Count the losses of a link, from its counters."""
        self._stats.append(stats)

    def reset(self) -> None:
        """Forget trails and plots: the next messages are of another time."""
        with self._lock:
            self.resets += 1
            self.changes += 1
            for stream in self.streams.values():
                stream.samples.clear()
                stream.delays.clear()
                stream.last_id = 0
            self._decoders.clear()

    def draw(self, stream: Stream, changed: int, drawn: dict[str, Any]) -> None:
        """Note the facts of a shape that is prepared."""
        with self._lock:
            self.changes += 1
            stream.drawn = self.changes, {**drawn, "id": stream.number, "from": changed}
        self._on_change()

    def _decoded(self, message: Video) -> Image | None:
        """Return the image of a VIDEO; called without the lock, since it takes long.

        One thread receives a stream.

        Raises:
            BodyError: the message is damaged.
            ValueError: there are too many streams.
        """
        decoder = self._decoders.get(message.device_name)
        if decoder is None:
            if len(self._decoders) >= _MAX_DECODERS:
                raise ValueError(f"at most {_MAX_DECODERS} video streams are decoded")
            decoder = self._decoders[message.device_name] = VideoDecoder()
        return decoder.image(message)

    def _take(
        self,
        message: Message,
        received: float | None,
        image: Image | None = None,
        clock: Clock | None = None,
    ) -> None:
        now = self._clock()
        stream = self._stream(message.type_name, message.device_name)
        stream.arrived(now, message, received, clock)
        if stream.key == _REST:
            return
        match message:
            case Transform() | Position() | QuaternionTransform():
                valid = message.metadata.get("TransformStatus", "OK") == "OK"
                self._pose(stream, message, valid, message.matrix)
            case TrackingData() | QuaternionTrackingData():
                self._tracking(message, now, received, clock)
            case Image():
                self._image(stream, message, now)
            case Video():
                if image is not None:
                    self._image(stream, image, now)
            case PolyData() | Points() | Trajectories():
                self._change(stream, message)
            case Sensor():
                values = [v if math.isfinite(v) else 0.0 for v in message.values.tolist()]
                self.changes += 1
                at = message.timestamp or received or time.time()
                stream.samples.append((self.changes, [at, *values[:16]]))
                self._change(stream, message)
            case Bind():
                for child in message.children[:100]:
                    self._take(child, received, clock=clock)
            case _:
                found = words.line(message, patients=self._patients)
                if found is not None:
                    name = f"{message.type_name} {message.device_name}"
                    self._note(found[0], name, found[1])

    def _stream(self, type_name: str, name: str) -> Stream:
        key = type_name, name
        stream = self.streams.get(key)
        if stream is None:
            if len(self.streams) >= MAX_STREAMS:
                key = _REST
            stream = self.streams.setdefault(key, Stream(len(self.streams), key))
            self.changes += 1
        return stream

    def _change(self, stream: Stream, message: Message) -> None:
        self.changes += 1
        stream.newest, stream.changed = message, self.changes
        stream.timestamp = message.timestamp or 0.0

    def _pose(self, stream: Stream, message: Message, valid: bool, matrix: Any) -> None:
        stream.valid = valid
        stream.packed = wire.pose(stream.number, valid, message.timestamp or 0.0, matrix)
        self._change(stream, message)

    def _tracking(
        self,
        message: TrackingData | QuaternionTrackingData,
        now: float,
        received: float | None,
        clock: Clock | None,
    ) -> None:
        key = message.type_name, message.device_name
        seen: set[str] = set()
        for tool in message.tools:
            stream = self._stream(message.type_name, tool.name)
            if tool.name != message.device_name:
                stream.arrived(now, message, received, clock)
            if stream.key == _REST:
                continue
            valid = message.metadata.get(f"{tool.name}Status", "OK") == "OK"
            self._pose(stream, message, valid, tool.matrix)
            seen.add(tool.name)
        for name in self._tools.get(key, set()) - seen:  # out of sight: where it was last
            stream = self._stream(message.type_name, name)
            stream.valid = False
            stream.packed = stream.packed[:2] + bytes(2) + stream.packed[4:]
            self._change(stream, message)
        self._tools[key] = seen | self._tools.get(key, set())

    def _image(self, stream: Stream, image: Image, now: float) -> None:
        if not all(image.size):
            return
        if image.space == "LPS":
            image = image.to("RAS")
        if shapes.is_volume(image) and (image.size != image.sub_size).any():
            whole = self._pasted(stream, image, now)
            if whole is None:
                return
            image = whole
        self._change(stream, image)

    def _pasted(self, stream: Stream, part: Image, now: float) -> Image | None:
        """Return the volume of which this is a part.

        Once a second and with its last part; else None.

        Raises:
            ValueError: it is too large.
        """
        i, j, k = (int(n) for n in part.size)
        pixels = part.array
        shape = (k, j, i, *pixels.shape[3:])
        whole, shown = self._parts.pop(stream.key, (None, now))
        if whole is None or whole.shape != shape or whole.dtype != pixels.dtype:
            if math.prod(shape) * pixels.itemsize > _MAX_UNFINISHED:
                raise ValueError(f"a volume of {i} × {j} × {k} in parts is too large to be shown")
            whole = np.zeros(shape, pixels.dtype)
        x, y, z = (int(n) for n in part.offset)
        w, h, d = (int(n) for n in part.sub_size)
        whole[z : z + d, y : y + h, x : x + w] = pixels
        last = (x + w, y + h, z + d) == (i, j, k)
        due = last or now - shown >= 1.0
        if not last:
            self._parts[stream.key] = whole, now if due else shown
            while len(self._parts) > _MAX_PARTS:  # the oldest is dropped
                del self._parts[next(iter(self._parts))]
        if not due:
            return None
        return Image.from_volume(
            whole, ijk_to_world=part.ijk_to_world, device_name=part.device_name,
            timestamp=part.timestamp,
        )  # fmt: skip

    def _note_once(self, source: str, text: str) -> None:
        if not any(line.source == source and line.text == text for line in self.lines):
            self._note("warn", source, text)

    def _note(self, severity: str, source: str, text: str) -> None:
        self._logged += 1
        self.changes += 1
        self.lines.append(Line(self._logged, time.time(), severity, source, text))

    # -- reading

    def after(self, change: int) -> list[Stream]:
        """Streams with something newer than a change."""
        with self._lock:
            return [s for s in self.streams.values() if s.changed > change]

    def all(self) -> list[Stream]:
        """Return all streams, in order of their numbers."""
        with self._lock:
            return list(self.streams.values())

    def table(self) -> dict[str, Any]:
        """Return the rows of the table, the links between frames, and what is wrong with them.

        Made at most five times a second, for all browsers.
        """
        now = self._clock()
        if self._table is None or now - self._table[0] > 0.2:
            self._table = now, self._tabled(now)
        return self._table[1]

    def _tabled(self, now: float) -> dict[str, Any]:
        lost: dict[Key, int] = {}
        for stats in self._stats:
            for key, counted in dict(stats().streams).items():
                lost[key] = lost.get(key, 0) + sum(counted.lost.values())
        with self._lock:
            streams = list(self.streams.values())
            rows = [s.row(now, lost.get(s.key, 0)) for s in streams if s.count]
            posed = {s.key: s.newest for s in streams if s.packed and isinstance(s.newest, Message)}
        graph, problems = _graph(posed.values(), None if self.paused else 2 * STALE)
        rest = sum(n for key, n in lost.items() if key not in self.streams)
        return {
            "rows": rows, "links": graph, "problems": problems + self._clocks(streams),
            "lost_elsewhere": rest, "paused": self.paused,
        }  # fmt: skip

    def _clocks(self, streams: Iterable[Stream]) -> list[str]:
        """Time stamps that cannot be right: the clock of a sender differs from ours."""
        if self.paused:
            return []
        found = []
        for stream in streams:
            least = min(list(stream.delays), default=0.0)
            if len(stream.delays) > 4 and not -0.25 < least < 2.0:
                how = "behind" if least > 0 else "ahead of"
                found.append(f"time stamps of {stream.key[1]} are {abs(least):.3g} s {how} ours")
        return found[:5]


def _graph(messages: Iterable[Message], max_age: float | None) -> tuple[list[str], list[str]]:
    """Links between frames, and what is wrong with them."""
    graph = TransformGraph(max_age=max_age)
    problems = []
    for message in {id(m): m for m in messages}.values():
        try:
            graph.add(message)
        except ValueError as error:
            problems.append(f"{message.device_name}: {error}")
    return graph.names, problems + [p.text for p in graph.problems()]
