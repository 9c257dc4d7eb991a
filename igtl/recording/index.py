"""Which message of a recording is which row of its stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

from igtl._core import Frame
from igtl.errors import ProtocolError
from igtl.recording.chunks import Chunks, Stream
from igtl.recording.rows import Rows, RowsBuilder

_SMALL: Final = 4096  # messages up to this size are kept while the index is made,
_KEPT: Final = 64 << 20  # as long as all of them are no more than this


class Index:
    """The rows of all streams of a file, which is read once for them, at the first use.

    Args:
        file: the file.
        numbers: the channels of each stream.
    """

    def __init__(self, file: Chunks, numbers: Mapping[Stream, list[int]]) -> None:
        self._file = file
        self._numbers = numbers
        self._found: dict[Stream, Rows] | None = None
        self._kept: dict[Stream, list[bytes]] = {}  # the rows of small messages, for `batch`

    def rows(self, stream: Stream) -> Rows:
        """Return the rows of a stream."""
        return self.read()[stream]

    def kept(self, stream: Stream) -> list[bytes] | None:
        """Return the messages of all its rows, if they are in memory."""
        return self._kept.get(stream)

    def read(self, progress: Callable[[int, int], object] | None = None) -> dict[Stream, Rows]:
        """Read the file, unless that was done before."""
        if self._found is not None:
            return self._found
        builders = {stream: RowsBuilder() for stream in self._numbers}
        kept: dict[Stream, list[tuple[int, bytes]]] | None = {stream: [] for stream in builders}
        room, done = _KEPT, 0
        count = sum(
            self._file.counts.get(n, 0) for numbers in self._numbers.values() for n in numbers
        )
        of = {n: key for key, numbers in self._numbers.items() for n in numbers}
        # in the order of the file: of equal times, so are the rows
        for number, chunk in sorted(enumerate(self._file.chunks), key=lambda each: each[1].offset):
            if not chunk.channels & of.keys():
                continue
            for place, record in enumerate(self._file.records_of(chunk.offset)):
                if (
                    not isinstance(record, self._file.records.Message)
                    or record.channel_id not in of
                ):
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
                progress(done, count)
        found = {stream: builder.rows() for stream, builder in builders.items()}
        for stream, small in (kept or {}).items():
            if small and len(small) == len(found[stream].times_ns):
                small.sort(key=_time_of_pair)
                self._kept[stream] = [data for _, data in small]
        self._found = found
        return found


def _time_of_pair(pair: tuple[int, bytes]) -> int:
    return pair[0]
