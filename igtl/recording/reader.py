"""Reading a recording."""

from __future__ import annotations

import io
import json
import math
import os
import struct
import sys
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, Self, overload

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
from igtl.recording.rows import PICTURES, Frames, Numbers, Pictures, Rows, RowsBuilder

Stream = tuple[str, str]
"""Type and device name."""
_MAGIC: Final = b"\x89MCAP0\r\n"
_CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _DATA_END, _FOOTER = 0x04, 0x05, 0x06, 0x07, 0x0F, 0x02
_RECORD: Final = struct.Struct("<BQ")  # opcode, length
_MESSAGE_HEAD: Final = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK_HEAD: Final = struct.Struct("<QQ")  # times of its first and last message
_INDEX_HEAD: Final = struct.Struct("<HI")  # channel, bytes of its entries, 16 for each message
_NS: Final = 1_000_000_000
_OPEN: Final = 16 << 20  # bytes of chunks that are kept for the next row
_SMALL: Final = 4096  # messages up to this size are kept while the index is made,
_KEPT: Final = 64 << 20  # as long as all of them are no more than this


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
        self._kept: dict[Stream, list[bytes]] = {}  # the rows of small messages, for `batch`
        # the records of chunks and their bytes, the latest last
        self._opened: OrderedDict[int, tuple[list[Any], int]] = OrderedDict()
        self._opening = threading.Lock()
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
        """Make the index of a file that has none, up to where it was cut: of the heads of its
        chunks and the indexes behind them. A chunk is read as a whole only if these do not say
        all."""
        size = os.fstat(self._file.fileno()).st_size
        at = len(_MAGIC)
        chunk = -1  # the one to which indexes belong
        numbers: dict[int, int] = {}  # of its messages by channel
        while at + 9 <= size:
            self._file.seek(at)
            opcode, length = _RECORD.unpack(self._file.read(_RECORD.size))
            if opcode in (_DATA_END, _FOOTER) or at + 9 + length > size:
                break
            if opcode == _MESSAGE_INDEX and chunk >= 0 and length >= _INDEX_HEAD.size:
                channel, entries = _INDEX_HEAD.unpack(self._file.read(_INDEX_HEAD.size))
                numbers[channel] = numbers.get(channel, 0) + entries // 16
            else:
                self._scan_chunk(chunk, numbers)
                chunk, numbers = (at if opcode == _CHUNK else -1), {}
            if opcode == _CHANNEL:
                with self._damage_of(at):
                    stream = self._data_stream.ReadDataStream(self._file)
                    found = self._records.Channel.read(stream)
                    self._channels[found.id] = found
            at += 9 + length
        self._scan_chunk(chunk, {})  # of the last one, indexes may be missing

    @contextmanager
    def _damage_of(self, at: int) -> Iterator[None]:
        """Count a record as damaged if it cannot be read."""
        try:
            yield
        except OSError:  # of the disk
            raise
        except Exception:  # of the decompressors, or whatever a damaged record makes of it
            self._damaged.add((at,))

    def _scan_chunk(self, at: int, numbers: dict[int, int]) -> None:
        """Add a chunk to the index.

        Args:
            at: where it lies, or -1 for none.
            numbers: of messages by channel, as its index says; empty if it has none.
        """
        if at < 0:
            return
        self._file.seek(at + 9)
        start, end = _CHUNK_HEAD.unpack(self._file.read(_CHUNK_HEAD.size))
        if not numbers or not numbers.keys() <= self._channels.keys():
            numbers, times = {}, []
            with self._damage_of(at):
                for record in self._chunk_records(at):
                    if isinstance(record, self._records.Channel):
                        self._channels[record.id] = record
                    elif isinstance(record, self._records.Message):
                        numbers[record.channel_id] = numbers.get(record.channel_id, 0) + 1
                        times.append(record.log_time)
            if not times:
                return
            start, end = min(times), max(times)
        for channel, n in numbers.items():
            self._counts[channel] = self._counts.get(channel, 0) + n
        self._chunks.append(_Chunk(at, start, end, set(numbers)))

    def _chunk_records(self, at: int) -> list[Any]:
        with self._reading, naming(self.path):
            self._file.seek(at + 9)
            chunk = self._records.Chunk.read(self._data_stream.ReadDataStream(self._file))
        stream, size = self._stream_reader.get_chunk_data_stream(chunk, validate_crc=True)
        content = stream.read(size)
        return list(self._records_in(content))

    def _records_in(self, content: bytes) -> Iterator[Any]:
        """Channels and messages of a chunk: most of the time of reading small messages passes
        here, which is why the package's own reader is not used."""
        at, message = 0, self._records.Message
        while at < len(content):
            opcode, length = _RECORD.unpack_from(content, at)
            at += _RECORD.size
            end = at + length
            if end > len(content):
                raise ValueError("a record is longer than its chunk")
            if opcode == _MESSAGE:
                channel, sequence, log_time, stamp = _MESSAGE_HEAD.unpack_from(content, at)
                data = content[at + _MESSAGE_HEAD.size : end]
                yield message(channel, log_time, data, stamp, sequence)
            elif opcode == _CHANNEL:
                record = self._data_stream.ReadDataStream(io.BytesIO(content[at:end]))
                yield self._records.Channel.read(record)
            at = end

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
        return self._recorded(chosen, *self._limits(start, end))

    def _limits(self, start: float, end: float | None) -> tuple[int | None, int | None]:
        """Nanoseconds since 1970, of seconds from the beginning."""
        first = self.start_ns + round(start * _NS) if start else None
        return first, None if end is None else self.start_ns + round(end * _NS)

    def _recorded(
        self, chosen: set[int], first: int | None, last: int | None
    ) -> Iterator[Recorded]:
        for record in self._messages(chosen, first, last):
            recorded = self._with_facts(record)
            if recorded is not None:
                yield recorded

    def _with_facts(self, record: Any) -> Recorded | None:
        facts = self._channels[record.channel_id].metadata
        try:
            frame = Frame.from_bytes(record.data)
        except ValueError:
            self._damaged.add((record.channel_id, record.log_time, record.sequence))
            return None
        number = facts.get("connection", "")
        return Recorded(
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
        wanted = self._records.Message
        return [
            record for record in self._records_of(chunk.offset)
            if isinstance(record, wanted) and record.channel_id in chosen
        ]  # fmt: skip

    # -- rows

    def read_index(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Read the file once, to find the rows of all streams: what `times`, `frames`, `sync` and
        the like do at their first use. Later calls do nothing.

        A part of the file at a time is in memory; 24 bytes of each message stay, 48 of VIDEO, and
        messages of no more than 4 KiB as long as all of them take no more than 64 MiB.

        Args:
            progress: called with how many messages were read, and how many there are.

        Raises:
            OSError: the file cannot be read.
        """
        if "_index" not in self.__dict__:
            self._index = self._read_index(progress)

    @cached_property
    def _index(self) -> dict[Stream, Rows]:
        return self._read_index(None)

    def _read_index(self, progress: Callable[[int, int], object] | None) -> dict[Stream, Rows]:
        builders = {stream: RowsBuilder() for stream in self.streams}
        kept: dict[Stream, list[tuple[int, bytes]]] | None = {stream: [] for stream in builders}
        room, done = _KEPT, 0
        of = {n: key for key, stream in self.streams.items() for n in stream._numbers}
        # in the order of the file: of equal times, so are the rows
        for number, chunk in sorted(enumerate(self._chunks), key=lambda each: each[1].offset):
            if not chunk.channels & of.keys():
                continue
            for place, record in enumerate(self._records_of(chunk.offset)):
                if not isinstance(record, self._records.Message) or record.channel_id not in of:
                    continue
                done += 1
                stream = of[record.channel_id]
                builder = builders[stream]
                try:
                    message = Frame.from_bytes(record.data).unpack()
                except (ProtocolError, ValueError):
                    builder.add_bad(record.log_time)
                    continue
                builder.add(record.log_time, number, place, message)
                if kept is not None and len(record.data) <= _SMALL:
                    kept[stream].append((record.log_time, record.data))
                    room -= sys.getsizeof(record.data)
                    kept = kept if room >= 0 else None
            if progress is not None:
                progress(done, self.count)
        found = {stream: builder.rows() for stream, builder in builders.items()}
        for stream, small in (kept or {}).items():
            if small and len(small) == len(found[stream].times_ns):
                small.sort(key=_time_of_pair)
                self._kept[stream] = [data for _, data in small]
        return found

    def _records_of(self, offset: int) -> list[Any]:
        """All records of a chunk; none of one that is damaged."""
        try:
            return self._chunk_records(offset)
        except OSError:  # of the disk
            raise
        except Exception:  # of the decompressors, which raise anything
            self._damaged.add((offset,))
            return []

    def _recorded_at(self, offset: int, place: int) -> Recorded:
        """A good message, by its place; the chunks that were opened last are at hand."""
        with self._opening:
            if offset not in self._opened:
                records = self._chunk_records(offset)
                size = sum(len(getattr(record, "data", b"")) + 100 for record in records)
                self._opened[offset] = records, size
                # a chunk of many bytes is one message that is longer than a chunk
                while len(self._opened) > 1 and sum(n for _, n in self._opened.values()) > _OPEN:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(offset)
            records, _ = self._opened[offset]
        found = self._with_facts(records[place])
        assert found is not None  # rows are good
        return found

    def sync(
        self,
        *streams: str | Stream | RecordedStream,
        tolerance: float = 0.05,
        by: Literal["timestamp", "arrival"] = "timestamp",
    ) -> tuple[RecordedStream, ...]:
        """What belongs to the same instant, row by row: `images, poses = recording.sync("Image",
        "ProbeToTracker")`.

        Each row of the first stream is given the nearest row of every other one; rows without a
        partner are left out. For poses between those of the tracker see
        `igtl.geometry.interpolate`.

        Args:
            streams: two or more, each as in `recording[...]`, or streams of this recording, such
                as `recording["Image"].between(2, 5)`. The first one leads.
            tolerance: largest distance in time, in seconds; default 0.05.
            by: "timestamp" (default; the arrival where none is set), or "arrival", for streams
                whose time stamps come from different clocks.

        Returns:
            A stream for each, all of the same length.

        Raises:
            KeyError: as recording[...] has it.
            ValueError: nothing belongs together; the text says how far the streams are apart.
        """
        if len(streams) < 2:
            raise ValueError("sync puts two or more streams together")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be 0 s or more, not {tolerance}")
        if by not in ("timestamp", "arrival"):
            raise ValueError(f"by must be 'timestamp' or 'arrival', not {by!r}")
        chosen = [each if isinstance(each, RecordedStream) else self[each] for each in streams]
        if any(each._recording is not self for each in chosen):
            raise ValueError("a stream is of another recording")
        lead, *others = (each._instants(by) for each in chosen)
        together = np.ones(len(lead), bool)
        partners = []
        apart = []
        for other, stream in zip(others, chosen[1:], strict=True):
            partner, distance = _nearest(lead, other)
            together &= distance <= round(tolerance * _NS)
            partners.append(partner)
            nearest = f"{distance.min() / _NS:.3g} s apart" if len(distance) else "no message"
            apart.append(f"{stream.type_name} {stream.device_name!r}: {nearest} at best")
        if not together.any():
            hint = "; by='arrival' pairs by the time of arrival" if by == "timestamp" else ""
            raise ValueError(f"no messages are within {tolerance} s: {'; '.join(apart)}{hint}")
        return chosen[0][together], *(
            stream[partner[together]] for stream, partner in zip(chosen[1:], partners, strict=True)
        )

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
    """The messages of one (type, device name) of a recording, or some of them.

    The rows of its arrays are the good messages in order of arrival; the first use of one reads
    the whole recording once, a part at a time. `stream[10:20]`, `stream[rows]` and
    `stream[stream.times > 5]` are streams of these rows, `stream[7]` is a message.

    Attributes:
        type_name, device_name: of the stream.
    """

    def __init__(
        self,
        recording: Recording,
        stream: Stream,
        numbers: list[int],
        whole: RecordedStream | None = None,
        chosen: Numbers | None = None,
    ) -> None:
        self.type_name, self.device_name = stream
        self._recording = recording
        self._numbers = set(numbers)
        self._whole = whole or self
        self._chosen = chosen

    def __len__(self) -> int:
        if self._chosen is not None:
            return len(self._chosen)
        counts = self._recording._counts
        return sum(counts.get(n, 0) for n in self._numbers)

    def __iter__(self) -> Iterator[Recorded]:
        if self._chosen is None:
            return self._recording._recorded(self._numbers, None, None)
        return map(self._at, self._chosen.tolist())

    @property
    def peers(self) -> list[str]:
        """Who sent it."""
        channels = self._recording._channels
        return sorted({channels[n].metadata.get("peer", "") for n in self._numbers})

    @cached_property
    def span_ns(self) -> tuple[int, int]:
        """Arrival of the first and the last, nanoseconds since 1970."""
        recording = self._recording
        if self._chosen is not None:
            times = self.times_ns
            return (int(times.min()), int(times.max())) if len(times) else (0, 0)
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

    # -- rows

    @property
    def _rows(self) -> Rows:
        return self._recording._index[self.type_name, self.device_name]

    @property
    def _selected(self) -> Numbers:
        """(N,) the rows of the whole stream that this one has."""
        return np.arange(len(self._rows.times_ns)) if self._chosen is None else self._chosen

    def _at(self, row: int) -> Recorded:
        rows = self._rows
        chunk = self._recording._chunks[rows.chunks[row]]
        return self._recording._recorded_at(chunk.offset, int(rows.places[row]))

    @overload
    def __getitem__(self, key: int) -> Message: ...
    @overload
    def __getitem__(self, key: slice | npt.ArrayLike) -> RecordedStream: ...
    def __getitem__(self, key: Any) -> Message | RecordedStream:
        """The good message of a row, or a stream of several rows.

        Args:
            key: a number; or a slice, an array of numbers, or an array of bool for each row.

        Raises:
            IndexError: there is no such row.
        """
        if isinstance(key, list | tuple):
            key = np.asarray(key, None if len(key) else np.int64)
        chosen = self._selected[key]
        if np.ndim(chosen) == 0:
            return _decoded(self._at(int(chosen)), "verify")
        stream = self.type_name, self.device_name
        return RecordedStream(self._recording, stream, list(self._numbers), self._whole, chosen)

    def between(self, start: float = 0.0, end: float | None = None) -> RecordedStream:
        """The rows that arrived from `start` to `end`, both included.

        Args:
            start, end: seconds from the beginning of the recording, as in `times`.
        """
        first, last = self._recording._limits(start, end)
        times = self.times_ns
        inside = np.ones(len(times), bool) if first is None else times >= first
        return self[inside if last is None else inside & (times <= last)]

    def _instants(self, by: str) -> Numbers:
        """(N,) nanoseconds since 1970."""
        rows, chosen = self._rows, self._selected
        arrivals = rows.times_ns[chosen]
        if by == "arrival":
            return arrivals
        stamps = rows.stamps_ns[chosen]
        return np.where(stamps == 0, arrivals, stamps)

    # -- as arrays

    @cached_property
    def batch(self) -> batch.Batch:
        """All rows as columns, see `igtl.batch`; read once, and kept.

        Raises:
            TypeError, ValueError: the type has no columns, or the messages differ in shape.
        """
        rows = self._selected.tolist()  # first, since it makes the index
        kept = self._recording._kept.get((self.type_name, self.device_name))
        if kept is not None:
            return batch.unpack(b"".join([kept[row] for row in rows]))
        # a single message tells whether there are columns, before all are read
        batch.unpack(b"".join(bytes(self._at(row).frame.data) for row in rows[:1]))
        return batch.unpack(b"".join(bytes(self._at(row).frame.data) for row in rows))

    @property
    def bad(self) -> int:
        """Messages of the whole stream that are no rows: with a wrong CRC or body, and VIDEO that
        cannot be shown for want of a key frame."""
        return len(self._rows.bad_ns)

    def bad_between(self, start: float = 0.0, end: float | None = None) -> int:
        """How many of these arrived from `start` to `end`, as `between` has them."""
        first, last = self._recording._limits(start, end)
        bad = self._rows.bad_ns
        low = 0 if first is None else np.searchsorted(bad, first)
        high = len(bad) if last is None else np.searchsorted(bad, last, side="right")
        return max(0, int(high - low))

    @property
    def times_ns(self) -> npt.NDArray[np.int64]:
        """(N,) arrivals, nanoseconds since 1970."""
        return self._rows.times_ns[self._selected]

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """(N,) arrivals in seconds from the beginning of the recording."""
        return (self.times_ns - self._recording.start_ns) / _NS

    @property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """(N,) time stamps of the headers, seconds since 1970; NaN where not set."""
        stamps = self._rows.stamps_ns[self._selected]
        return np.where(stamps == 0, np.nan, stamps / _NS)

    @property
    def matrices(self) -> npt.NDArray[Any]:
        """(N, 4, 4), mm, of TRANSFORM."""
        found: npt.NDArray[Any] = self.batch["matrix"]
        return found

    @property
    def has_frames(self) -> bool:
        """Whether the type is one of those that have `frames`."""
        return any(kind.type_name == self.type_name for kind in PICTURES)

    @property
    def frames(self) -> Frames:
        """(N, H, W[, C]), the pictures of IMAGE, VIDEO (decoded), TRACKEDFRAME and USMESSAGE, and
        the arrays of NDARRAY: read when they are asked for.

        Raises:
            TypeError: the type has no pictures; `batch` has the columns of others.
        """
        if not self.has_frames:
            raise TypeError(f"{self.type_name} has no pictures; see batch")
        return Frames(self._whole._pictures, self._selected)

    @cached_property
    def _pictures(self) -> Pictures:
        return Pictures(self._rows, lambda row: _decoded(self._at(row), "off"))

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


def _time_of_pair(pair: tuple[int, bytes]) -> int:
    return pair[0]


def _nearest(times: Numbers, others: Numbers) -> tuple[Numbers, Numbers]:
    """For each of `times` which of the others is nearest, and how far it is."""
    if not len(others):
        return np.zeros(len(times), np.int64), np.full(len(times), np.iinfo(np.int64).max)
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    after = np.searchsorted(ordered, times).clip(0, len(ordered) - 1)
    before = (after - 1).clip(0)
    later = np.abs(ordered[after] - times)
    earlier = np.abs(ordered[before] - times)
    return order[np.where(earlier <= later, before, after)], np.minimum(earlier, later)


def _decoded(recorded: Recorded, crc: CRCPolicy) -> Message:
    message = recorded.frame.unpack(crc)
    message.received = recorded.time_ns / _NS
    message.peer = recorded.peer
    return message
