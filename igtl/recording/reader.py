"""Reading a recording."""

from __future__ import annotations

import json
import math
import os
import threading
from bisect import bisect_left
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from igtl._core import Frame
from igtl.codec import batch
from igtl.codec.message import Message
from igtl.errors import FileError, ProtocolError, naming
from igtl.extras import need
from igtl.messages.tracking import TrackingData
from igtl.options import CRCPolicy
from igtl.recording.playback import Playback, Recorded
from igtl.recording.recorder import ENCODING, EVENTS

Stream = tuple[str, str]
"""Type and device name."""
_MAGIC: Final = b"\x89MCAP0\r\n"
_CHANNEL, _CHUNK, _DATA_END, _FOOTER = 0x04, 0x06, 0x0F, 0x02
_NS: Final = 1_000_000_000


class _Chunk(NamedTuple):
    """Where a chunk lies, the times of its first and last message, and of which channels it has."""

    offset: int
    start: int
    end: int
    channels: set[int]


class Recording:
    """A recording; open it as a context manager, or close() it. Only the index is in memory.

    Iterating yields each message as `Recorded`, in order of arrival, whatever the order in the
    file; parts of the file that overlap in time are in memory together then.

    Args:
        path: of the file. One that was cut (the recording process was killed, the disk was full)
            opens up to the cut.

    Attributes:
        path: of the file.
        truncated: whether the file was cut.
        streams: what was recorded, by (type, device name).
        events: what happened to the connections, as dicts: "time_ns", "event", "peer", ….

    Raises:
        FileError: it is no recording of OpenIGTLink. OSError: it cannot be read.
        ModuleNotFoundError: the package mcap is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._stream_reader = need("mcap.stream_reader", "record")
        self._records = need("mcap.records", "record")
        self._data_stream = need("mcap.data_stream", "record")
        self.path = os.fspath(path)
        self.truncated = False
        self._damaged: set[tuple[int, ...]] = set()
        self._channels: dict[int, Any] = {}
        self._counts: dict[int, int] = {}  # messages by channel
        self._chunks: list[_Chunk] = []
        self._reading = threading.Lock()
        self._file = open(self.path, "rb")  # noqa: SIM115  (until close)
        try:
            with naming(self.path):
                if self._file.read(len(_MAGIC)) != _MAGIC:
                    raise FileError(self.path, "is no MCAP file")
                if not self._take_summary():
                    self.truncated = True
                    self._scan()
            self._sort()
        except BaseException:
            self._file.close()
            raise

    # -- the index

    def _take_summary(self) -> bool:
        """Read the index at the end of the file; whether there is one."""
        size = os.fstat(self._file.fileno()).st_size
        tail = 9 + 20 + len(_MAGIC)
        if size < len(_MAGIC) + tail:
            return False
        self._file.seek(size - tail)
        footer = self._file.read(tail)
        if not footer.endswith(_MAGIC) or footer[0] != _FOOTER:
            return False
        start = int.from_bytes(footer[9:17], "little")
        if not len(_MAGIC) <= start < size:
            return False
        self._file.seek(start)
        unchunked = False
        reader = self._stream_reader.StreamReader(self._file, skip_magic=True)
        try:
            for record in reader.records:
                if isinstance(record, self._records.Channel):
                    self._channels[record.id] = record
                elif isinstance(record, self._records.ChunkIndex):
                    channels = set(record.message_index_offsets)
                    times = record.message_start_time, record.message_end_time
                    self._chunks.append(_Chunk(record.chunk_start_offset, *times, channels))
                elif isinstance(record, self._records.Statistics):
                    self._counts = dict(record.channel_message_counts)
                    unchunked = record.message_count and not record.chunk_count
        except OSError:  # of the disk
            raise
        except Exception:  # whatever a damaged index makes of it: scan the file instead
            for index in (self._channels, self._chunks, self._counts):
                index.clear()
            return False
        if unchunked:
            raise FileError(self.path, "has no chunks, as a recording of igtl has")
        return True

    def _scan(self) -> None:
        """Make the index of a file that has none, up to where it was cut."""
        size = os.fstat(self._file.fileno()).st_size
        at = len(_MAGIC)
        while at + 9 <= size:
            self._file.seek(at)
            head = self._file.read(9)
            opcode, length = head[0], int.from_bytes(head[1:], "little")
            if opcode in (_DATA_END, _FOOTER) or at + 9 + length > size:
                break
            try:
                if opcode == _CHUNK:
                    self._scan_chunk(at)
                elif opcode == _CHANNEL:
                    stream = self._data_stream.ReadDataStream(self._file)
                    channel = self._records.Channel.read(stream)
                    self._channels[channel.id] = channel
            except OSError:  # of the disk
                raise
            except Exception:  # of the decompressors, or whatever a damaged record makes of it
                self._damaged.add((at,))
            at += 9 + length

    def _scan_chunk(self, at: int) -> None:
        records = self._chunk_records(at)
        channels: dict[int, int] = {}
        times = []
        for record in records:
            if isinstance(record, self._records.Channel):
                self._channels[record.id] = record
            elif isinstance(record, self._records.Message):
                channels[record.channel_id] = channels.get(record.channel_id, 0) + 1
                times.append(record.log_time)
        for channel, n in channels.items():
            self._counts[channel] = self._counts.get(channel, 0) + n
        if times:
            self._chunks.append(_Chunk(at, min(times), max(times), set(channels)))

    def _chunk_records(self, at: int) -> list[Any]:
        with self._reading, naming(self.path):
            self._file.seek(at + 9)
            chunk = self._records.Chunk.read(self._data_stream.ReadDataStream(self._file))
        found: list[Any] = self._stream_reader.breakup_chunk(chunk, validate_crc=True)
        return found

    def _sort(self) -> None:
        ours = {n: c for n, c in self._channels.items() if c.message_encoding == ENCODING}
        if not ours and any(c.topic != EVENTS for c in self._channels.values()):
            raise FileError(self.path, "is MCAP, but holds no OpenIGTLink")
        groups: dict[Stream, list[int]] = {}
        for n, channel in ours.items():
            groups.setdefault(_stream_of(channel.metadata), []).append(n)
        self.streams = {
            stream: RecordedStream(self, stream, groups[stream]) for stream in sorted(groups)
        }

    # -- what is in it

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """What happened to the connections."""
        chosen = {n for n, channel in self._channels.items() if channel.topic == EVENTS}
        return [
            {"time_ns": record.log_time, **json.loads(record.data)}
            for record in self._messages(chosen, None, None)
        ]

    @property
    def damaged(self) -> int:
        """Parts of the file that could not be read so far, and are left out."""
        return len(self._damaged)

    @property
    def count(self) -> int:
        """How many messages it holds."""
        return sum(len(stream) for stream in self.streams.values())

    def __len__(self) -> int:
        return self.count

    @cached_property
    def _span(self) -> tuple[int, int]:
        return (
            min((chunk.start for chunk in self._chunks), default=0),
            max((chunk.end for chunk in self._chunks), default=0),
        )

    @property
    def start_ns(self) -> int:
        """Time of the first entry, nanoseconds since 1970; 0 of an empty one."""
        return self._span[0]

    @property
    def duration(self) -> float:
        """Seconds from the first entry to the last."""
        return (self._span[1] - self._span[0]) / _NS

    def __getitem__(self, key: str | Stream) -> RecordedStream:
        """A stream: by device name or type, if that says which, or by (type, device name).

        Raises:
            KeyError: there is none, or more than one; the text lists what there is.
        """
        if isinstance(key, tuple):
            found = [s for s in self.streams if s == key]
        else:
            found = [s for s in self.streams if s[1] == key] or [
                s for s in self.streams if s[0] == key
            ]
        if len(found) == 1:
            return self.streams[found[0]]
        what = "fits more than one stream" if found else "is not recorded"
        there = ", ".join(f"{kind} {device!r}" for kind, device in found or self.streams)
        raise KeyError(f"{key!r} {what}; there are {there or 'none'}")

    def __iter__(self) -> Iterator[Recorded]:
        return self.frames()

    def frames(
        self,
        streams: Collection[str | Stream] | None = None,
        *,
        start: float = 0.0,
        end: float | None = None,
    ) -> Iterator[Recorded]:
        """The messages in order of arrival.

        Args:
            streams: only these, each as in `recording[...]`; default all.
            start, end: seconds from the beginning of the recording.
        """
        if streams is None:
            chosen = {n for stream in self.streams.values() for n in stream._numbers}
        else:
            chosen = {n for key in streams for n in self[key]._numbers}
        first = self.start_ns + round(start * _NS) if start else None
        last = None if end is None else self.start_ns + round(end * _NS)
        return self._recorded(chosen, first, last)

    def _recorded(
        self, chosen: set[int], first: int | None, last: int | None
    ) -> Iterator[Recorded]:
        for record in self._messages(chosen, first, last):
            facts = self._channels[record.channel_id].metadata
            try:
                frame = Frame.from_bytes(record.data)
            except ValueError:
                self._damaged.add((record.channel_id, record.log_time, record.sequence))
                continue
            number = facts.get("connection", "")
            yield Recorded(
                record.log_time, frame, facts.get("peer", ""),
                int(number) if number.isdecimal() else 0, _stream_of(facts),
            )  # fmt: skip

    def _messages(self, chosen: set[int], first: int | None, last: int | None) -> Iterator[Any]:
        """In order of arrival, which may differ from that of the file; of equal times, in the
        order of the file."""
        fitting = [
            chunk for chunk in sorted(self._chunks, key=lambda c: (c.start, c.offset))
            if chosen & chunk.channels
            and (first is None or chunk.end >= first) and (last is None or chunk.start <= last)
        ]  # fmt: skip
        waiting: list[Any] = []
        for n, chunk in enumerate(fitting):
            waiting += self._messages_of(chunk, chosen)
            waiting.sort(key=_log_time)
            due = len(waiting)
            if n + 1 < len(fitting):  # no message that is to come is earlier
                due = bisect_left(waiting, fitting[n + 1].start, key=_log_time)
            for record in waiting[:due]:
                if (first is None or record.log_time >= first) and (
                    last is None or record.log_time <= last
                ):
                    yield record
            del waiting[:due]

    def _messages_of(self, chunk: _Chunk, chosen: set[int]) -> list[Any]:
        try:
            records = self._chunk_records(chunk.offset)
        except OSError:  # of the disk
            raise
        except Exception:  # of the decompressors, which raise anything
            self._damaged.add((chunk.offset,))
            return []
        wanted = self._records.Message
        return [r for r in records if isinstance(r, wanted) and r.channel_id in chosen]

    def play(
        self,
        streams: Collection[str | Stream] | None = None,
        *,
        speed: float | None = 1.0,
        loop: bool = False,
        start: float = 0.0,
        end: float | None = None,
        restamp: bool = False,
    ) -> Playback:
        """An iterator that yields the frames when they are due: `for frame in recording.play():
        link.send(frame)`.

        Args:
            streams: see `frames`.
            speed: 2 is twice as fast; None: without waiting.
            loop: begin again at the end, for ever.
            start, end: seconds from the beginning of the recording.
            restamp: move the time stamps of the headers by as much as the message is late, so that
                they look new. Default: the bytes are those that were recorded.
        """
        return Playback(
            lambda: self.frames(streams, start=start, end=end), self.start_ns,
            speed=speed, loop=loop, restamp=restamp,
        )  # fmt: skip

    # -- end

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        cut = ", cut" if self.truncated else ""
        return f"<Recording {self.path}: {self.count} messages, {self.duration:.1f} s{cut}>"


class RecordedStream:
    """The messages of one (type, device name) of a recording.

    Attributes:
        type_name, device_name: of the stream.
    """

    def __init__(self, recording: Recording, stream: Stream, numbers: list[int]) -> None:
        self.type_name, self.device_name = stream
        self._recording = recording
        self._numbers = set(numbers)

    def __len__(self) -> int:
        counts = self._recording._counts
        return sum(counts.get(n, 0) for n in self._numbers)

    def __iter__(self) -> Iterator[Recorded]:
        return self._recording._recorded(self._numbers, None, None)

    @property
    def peers(self) -> list[str]:
        """Who sent it."""
        channels = self._recording._channels
        return sorted({channels[n].metadata.get("peer", "") for n in self._numbers})

    @cached_property
    def span_ns(self) -> tuple[int, int]:
        """Arrival of the first and the last, nanoseconds since 1970."""
        recording = self._recording
        chunks = [c for c in recording._chunks if self._numbers & c.channels]
        first, last = math.inf, -math.inf
        # another chunk is looked into only if it could change the answer
        for chunk in sorted(chunks, key=lambda c: c.start):
            if chunk.start >= first:
                break
            found = recording._messages_of(chunk, self._numbers)
            first = min([first, *map(_log_time, found)])
        for chunk in sorted(chunks, key=lambda c: c.end, reverse=True):
            if chunk.end <= last:
                break
            found = recording._messages_of(chunk, self._numbers)
            last = max([last, *map(_log_time, found)])
        return (int(first), int(last)) if first <= last else (0, 0)

    @property
    def rate(self) -> float:
        """Messages a second, from the first to the last; 0 of fewer than two."""
        first, last = self.span_ns
        return (len(self) - 1) * _NS / (last - first) if last > first else 0.0

    def messages(self, *, crc: CRCPolicy = "verify") -> Iterator[Message]:
        """Each message as an object, with `received` and `peer`.

        Raises:
            ProtocolError: a message is bad; the rest can be had by iterating over frames.
        """
        for recorded in self:
            yield _decoded(recorded, crc)

    # -- as arrays

    @cached_property
    def _arrays(self) -> tuple[npt.NDArray[np.int64], batch.Batch, int]:
        recorded = list(self)
        bad = 0
        try:
            found = batch.unpack(b"".join(bytes(r.frame.data) for r in recorded))
        except ProtocolError:
            good = [r for r in recorded if _is_good(r)]
            bad = len(recorded) - len(good)
            recorded = good
            found = batch.unpack(b"".join(bytes(r.frame.data) for r in recorded))
        return np.array([r.time_ns for r in recorded], np.int64), found, bad

    @property
    def batch(self) -> batch.Batch:
        """All good messages as columns, see `igtl.batch`; read once, and kept.

        Raises:
            TypeError, ValueError: the type has no columns, or the messages differ in shape.
        """
        return self._arrays[1]

    @property
    def bad(self) -> int:
        """Messages with a wrong CRC or body, which `batch`, `times` and `matrices` leave out."""
        return self._arrays[2]

    @property
    def times_ns(self) -> npt.NDArray[np.int64]:
        """(N,) arrivals, nanoseconds since 1970, of the rows of `batch`."""
        return self._arrays[0]

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """(N,) arrivals in seconds from the beginning of the recording."""
        return (self.times_ns - self._recording.start_ns) / _NS

    @property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """(N,) time stamps of the headers, seconds since 1970; NaN where not set."""
        stamps = self.batch.time_ns
        return np.where(stamps == 0, np.nan, stamps / _NS)

    @property
    def matrices(self) -> npt.NDArray[Any]:
        """(N, 4, 4), mm, of TRANSFORM."""
        found: npt.NDArray[Any] = self.batch["matrix"]
        return found

    def tool(self, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
        """Arrivals (M,) as `times`, and matrices (M, 4, 4), of one tool of TDATA, where it is seen.

        Raises:
            KeyError: it never is. TypeError: this is not TDATA.
        """
        if self.batch.kind is not TrackingData or self.batch.offsets is None:
            raise TypeError(f"{self.type_name} has no tools")
        tools = self.batch["tools"]
        (rows,) = np.nonzero(np.array(tools.names) == name)
        if not len(rows):
            raise KeyError(f"no tool {name!r}; there are {', '.join(sorted(set(tools.names)))}")
        of = np.searchsorted(self.batch.offsets, rows, side="right") - 1
        return self.times[of], tools.matrices[rows]

    def __repr__(self) -> str:
        return f"<{len(self)} {self.type_name} {self.device_name!r}, {self.rate:.1f} Hz>"


def _stream_of(facts: dict[str, str]) -> Stream:
    return facts.get("type", ""), facts.get("device_name", "")


def _log_time(record: Any) -> int:
    time: int = record.log_time
    return time


def _decoded(recorded: Recorded, crc: CRCPolicy) -> Message:
    message = recorded.frame.unpack(crc)
    message.received = recorded.time_ns / _NS
    message.peer = recorded.peer
    return message


def _is_good(recorded: Recorded) -> bool:
    try:
        recorded.frame.unpack()
    except ProtocolError:
        return False
    return True
