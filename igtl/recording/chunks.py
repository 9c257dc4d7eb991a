"""The file of a recording: where its chunks lie, and what is in them."""

from __future__ import annotations

import io
import os
import struct
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, NamedTuple

from igtl._core import Frame
from igtl.errors import FileError, naming
from igtl.extras import need
from igtl.recording.playback import Recorded

Stream = tuple[str, str]
"""Type and device name."""
NS: Final = 1_000_000_000
_MAGIC: Final = b"\x89MCAP0\r\n"
_CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _DATA_END, _FOOTER = 0x04, 0x05, 0x06, 0x07, 0x0F, 0x02
_RECORD: Final = struct.Struct("<BQ")  # opcode, length
_MESSAGE_HEAD: Final = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK_HEAD: Final = struct.Struct("<QQ")  # times of its first and last message
_INDEX_HEAD: Final = struct.Struct("<HI")  # channel, bytes of its entries, 16 for each message
_OPEN: Final = 16 << 20  # bytes of chunks that are kept for the next row


class Chunk(NamedTuple):
    """Where a chunk lies, the times of its first and last message, and of which channels it has."""

    offset: int
    start: int
    end: int
    channels: set[int]


class Chunks:
    """The chunks of one file, and their records.

    Attributes:
        path: of the file.
        file: the file itself.
        truncated: whether the file was cut.
        channels: by number.
        counts: the messages of each channel.
        chunks: in the order of the index.
        damaged: number of parts that could not be read so far.

    Raises:
        FileError: the file is not an MCAP file.
        OSError: it cannot be read.
        ModuleNotFoundError: the package mcap is missing.
    """

    def __init__(self, path: str) -> None:
        self._stream_reader = need("mcap.stream_reader", "record")
        self.records = need("mcap.records", "record")
        self._data_stream = need("mcap.data_stream", "record")
        self.path = path
        self.truncated = False
        self.damaged: set[tuple[int, ...]] = set()
        self.channels: dict[int, Any] = {}
        self.counts: dict[int, int] = {}  # messages by channel
        self.chunks: list[Chunk] = []
        self._reading = threading.Lock()
        # the records of chunks and their bytes, the latest last
        self._opened: OrderedDict[int, tuple[list[Any], int]] = OrderedDict()
        self._opening = threading.Lock()
        self.file = open(path, "rb")  # noqa: SIM115  (until close)
        try:
            with naming(path):
                if self.file.read(len(_MAGIC)) != _MAGIC:
                    raise FileError(path, "is not an MCAP file")
                if not self._take_summary():
                    self.truncated = True
                    self._scan()
        except BaseException:
            self.file.close()
            raise

    def _take_summary(self) -> bool:
        """Read the index at the end of the file; whether there is one."""
        size = os.fstat(self.file.fileno()).st_size
        tail = 9 + 20 + len(_MAGIC)
        if size < len(_MAGIC) + tail:
            return False
        self.file.seek(size - tail)
        footer = self.file.read(tail)
        if not footer.endswith(_MAGIC) or footer[0] != _FOOTER:
            return False
        start = int.from_bytes(footer[9:17], "little")
        if not len(_MAGIC) <= start < size:
            return False
        self.file.seek(start)
        unchunked = False
        reader = self._stream_reader.StreamReader(self.file, skip_magic=True)
        try:
            for record in reader.records:
                if isinstance(record, self.records.Channel):
                    self.channels[record.id] = record
                elif isinstance(record, self.records.ChunkIndex):
                    channels = set(record.message_index_offsets)
                    times = record.message_start_time, record.message_end_time
                    self.chunks.append(Chunk(record.chunk_start_offset, *times, channels))
                elif isinstance(record, self.records.Statistics):
                    self.counts = dict(record.channel_message_counts)
                    unchunked = record.message_count and not record.chunk_count
        except OSError:  # of the disk
            raise
        except Exception:  # whatever a damaged index makes of it: scan the file instead
            for index in (self.channels, self.chunks, self.counts):
                index.clear()
            return False
        if unchunked:
            raise FileError(self.path, "has no chunks, as a recording of igtl has")
        return True

    def _scan(self) -> None:
        """Make the index of a file that has none, up to where it was cut.

        It is made of the heads of the chunks and the indexes behind them. A chunk is read as a
        whole only if these do not tell everything.
        """
        size = os.fstat(self.file.fileno()).st_size
        at = len(_MAGIC)
        chunk = -1  # the one to which indexes belong
        numbers: dict[int, int] = {}  # of its messages by channel
        while at + 9 <= size:
            self.file.seek(at)
            opcode, length = _RECORD.unpack(self.file.read(_RECORD.size))
            if opcode in (_DATA_END, _FOOTER) or at + 9 + length > size:
                break
            if opcode == _MESSAGE_INDEX and chunk >= 0 and length >= _INDEX_HEAD.size:
                channel, entries = _INDEX_HEAD.unpack(self.file.read(_INDEX_HEAD.size))
                numbers[channel] = numbers.get(channel, 0) + entries // 16
            else:
                self._scan_chunk(chunk, numbers)
                chunk, numbers = (at if opcode == _CHUNK else -1), {}
            if opcode == _CHANNEL:
                with self._damage_of(at):
                    stream = self._data_stream.ReadDataStream(self.file)
                    found = self.records.Channel.read(stream)
                    self.channels[found.id] = found
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
            self.damaged.add((at,))

    def _scan_chunk(self, at: int, numbers: dict[int, int]) -> None:
        """Add a chunk to the index.

        Args:
            at: where it lies, or -1 for none.
            numbers: of messages by channel, as its index says; empty if it has none.
        """
        if at < 0:
            return
        self.file.seek(at + 9)
        start, end = _CHUNK_HEAD.unpack(self.file.read(_CHUNK_HEAD.size))
        if not numbers or not numbers.keys() <= self.channels.keys():
            numbers, times = {}, []
            with self._damage_of(at):
                for record in self._chunk_records(at):
                    if isinstance(record, self.records.Channel):
                        self.channels[record.id] = record
                    elif isinstance(record, self.records.Message):
                        numbers[record.channel_id] = numbers.get(record.channel_id, 0) + 1
                        times.append(record.log_time)
            if not times:
                return
            start, end = min(times), max(times)
        for channel, n in numbers.items():
            self.counts[channel] = self.counts.get(channel, 0) + n
        self.chunks.append(Chunk(at, start, end, set(numbers)))

    def _chunk_records(self, at: int) -> list[Any]:
        with self._reading, naming(self.path):
            self.file.seek(at + 9)
            chunk = self.records.Chunk.read(self._data_stream.ReadDataStream(self.file))
        stream, size = self._stream_reader.get_chunk_data_stream(chunk, validate_crc=True)
        content = stream.read(size)
        return list(self._records_in(content))

    def _records_in(self, content: bytes) -> Iterator[Any]:
        """Channels and messages of a chunk.

        Most of the time of reading small messages is spent here, which is why the package's own
        reader is not used.
        """
        at, message = 0, self.records.Message
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
                yield self.records.Channel.read(record)
            at = end

    # -- what is in it

    @cached_property
    def span(self) -> tuple[int, int]:
        """Times of the first and the last entry, nanoseconds since 1970."""
        return (
            min((chunk.start for chunk in self.chunks), default=0),
            max((chunk.end for chunk in self.chunks), default=0),
        )

    def limits(self, start: float, end: float | None) -> tuple[int | None, int | None]:
        """Return the nanoseconds since 1970 for seconds from the beginning; None: no limit."""
        first = self.span[0] + round(start * NS) if start else None
        return first, None if end is None else self.span[0] + round(end * NS)

    def recorded(self, chosen: set[int], first: int | None, last: int | None) -> Iterator[Recorded]:
        """Yield the messages of these channels within these times, in order of arrival."""
        for record in self.messages(chosen, first, last):
            recorded = self._with_facts(record)
            if recorded is not None:
                yield recorded

    def _with_facts(self, record: Any) -> Recorded | None:
        facts = self.channels[record.channel_id].metadata
        try:
            frame = Frame.from_bytes(record.data)
        except ValueError:
            self.damaged.add((record.channel_id, record.log_time, record.sequence))
            return None
        number = facts.get("connection", "")
        return Recorded(
            record.log_time, frame, facts.get("peer", ""),
            int(number) if number.isdecimal() else 0, stream_of(facts),
        )  # fmt: skip

    def messages(self, chosen: set[int], first: int | None, last: int | None) -> Iterator[Any]:
        """Yield the messages in order of arrival, which may differ from that of the file.

        Messages of equal times are in the order of the file.
        """
        fitting = [
            chunk for chunk in sorted(self.chunks, key=lambda c: (c.start, c.offset))
            if chosen & chunk.channels
            and (first is None or chunk.end >= first) and (last is None or chunk.start <= last)
        ]  # fmt: skip
        waiting: list[Any] = []
        for n, chunk in enumerate(fitting):
            waiting += self.messages_of(chunk, chosen)
            waiting.sort(key=log_time)
            due = len(waiting)
            if n + 1 < len(fitting):  # no message that is to come is earlier
                due = bisect_left(waiting, fitting[n + 1].start, key=log_time)
            for record in waiting[:due]:
                if (first is None or record.log_time >= first) and (
                    last is None or record.log_time <= last
                ):
                    yield record
            del waiting[:due]

    def messages_of(self, chunk: Chunk, chosen: set[int]) -> list[Any]:
        """Return the messages of a chunk that are of these channels."""
        wanted = self.records.Message
        return [
            record for record in self.records_of(chunk.offset)
            if isinstance(record, wanted) and record.channel_id in chosen
        ]  # fmt: skip

    def records_of(self, offset: int) -> list[Any]:
        """Return all records of a chunk; none if it is damaged."""
        try:
            return self._chunk_records(offset)
        except OSError:  # of the disk
            raise
        except Exception:  # of the decompressors, which raise anything
            self.damaged.add((offset,))
            return []

    def recorded_at(self, offset: int, place: int) -> Recorded:
        """Return a good message, by its place; the chunks that were opened last are in memory."""
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

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def stream_of(facts: dict[str, str]) -> Stream:
    """Return the stream of a channel."""
    return facts.get("type", ""), facts.get("device_name", "")


def log_time(record: Any) -> int:
    """When a message arrived, nanoseconds since 1970."""
    time: int = record.log_time
    return time
