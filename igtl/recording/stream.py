"""One stream of a recording: its messages, and the arrays that they make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from igtl.codec import batch
from igtl.codec.message import Message
from igtl.messages.tracking import TrackingData
from igtl.options import CRCPolicy
from igtl.recording.chunks import NS, Chunks, Stream, log_time
from igtl.recording.index import Index
from igtl.recording.playback import Recorded
from igtl.recording.rows import PICTURES, Frames, Numbers, Pictures, Rows


class RecordedStream:
    """The messages of one (type, device name) of a recording, or some of them.

    The rows of its arrays are the good messages in order of arrival; the first use of one reads
    the whole recording once, a part at a time. `stream[10:20]`, `stream[rows]` and
    `stream[stream.times > 5]` are streams of these rows, `stream[7]` is a message.

    Attributes:
        type_name, device_name: of the stream.
        file, numbers: where it is.
    """

    def __init__(
        self,
        file: Chunks,
        index: Index,
        stream: Stream,
        numbers: list[int],
        whole: RecordedStream | None = None,
        chosen: Numbers | None = None,
    ) -> None:
        self.type_name, self.device_name = stream
        self.file = file
        self.numbers = set(numbers)
        self._index = index
        self._whole = whole or self
        self._chosen = chosen

    def __len__(self) -> int:
        if self._chosen is not None:
            return len(self._chosen)
        counts = self.file.counts
        return sum(counts.get(n, 0) for n in self.numbers)

    def __iter__(self) -> Iterator[Recorded]:
        if self._chosen is None:
            return self.file.recorded(self.numbers, None, None)
        return map(self._at, self._chosen.tolist())

    @property
    def peers(self) -> list[str]:
        """The senders, as "host:port"."""
        channels = self.file.channels
        return sorted({channels[n].metadata.get("peer", "") for n in self.numbers})

    @cached_property
    def span_ns(self) -> tuple[int, int]:
        """Arrival of the first and the last message, nanoseconds since 1970."""
        file = self.file
        if self._chosen is not None:
            times = self.times_ns
            return (int(times.min()), int(times.max())) if len(times) else (0, 0)
        chunks = [c for c in file.chunks if self.numbers & c.channels]
        first, last = math.inf, -math.inf
        # another chunk is looked into only if it could change the answer
        for chunk in sorted(chunks, key=lambda c: c.start):
            if chunk.start >= first:
                break
            found = file.messages_of(chunk, self.numbers)
            first = min([first, *map(log_time, found)])
        for chunk in sorted(chunks, key=lambda c: c.end, reverse=True):
            if chunk.end <= last:
                break
            found = file.messages_of(chunk, self.numbers)
            last = max([last, *map(log_time, found)])
        return (int(first), int(last)) if first <= last else (0, 0)

    @property
    def rate(self) -> float:
        """Messages a second, from the first to the last; 0 of fewer than two."""
        first, last = self.span_ns
        return (len(self) - 1) * NS / (last - first) if last > first else 0.0

    def messages(self, *, crc: CRCPolicy = "verify") -> Iterator[Message]:
        """Yield each message as an object, with `received` and `peer`.

        Raises:
            ProtocolError: a message is bad; iterate over the stream's frames to read the rest.
        """
        for recorded in self:
            yield _decoded(recorded, crc)

    # -- rows

    @property
    def _rows(self) -> Rows:
        return self._index.rows((self.type_name, self.device_name))

    @property
    def _selected(self) -> Numbers:
        """(N,) the rows of the whole stream that this one has."""
        return np.arange(len(self._rows.times_ns)) if self._chosen is None else self._chosen

    def _at(self, row: int) -> Recorded:
        rows = self._rows
        chunk = self.file.chunks[rows.chunks[row]]
        return self.file.recorded_at(chunk.offset, int(rows.places[row]))

    @overload
    def __getitem__(self, key: int) -> Message: ...
    @overload
    def __getitem__(self, key: slice | npt.ArrayLike) -> RecordedStream: ...
    def __getitem__(self, key: Any) -> Message | RecordedStream:
        """Return the good message of a row, or a stream of several rows.

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
        return RecordedStream(
            self.file, self._index, stream, list(self.numbers), self._whole, chosen
        )

    def between(self, start: float = 0.0, end: float | None = None) -> RecordedStream:
        """Return the rows that arrived from `start` to `end`, both included.

        Args:
            start: seconds from the beginning of the recording, as in `times`.
            end: as `start`; default: the end of the recording.
        """
        first, last = self.file.limits(start, end)
        times = self.times_ns
        inside = np.ones(len(times), bool) if first is None else times >= first
        return self[inside if last is None else inside & (times <= last)]

    def instants(self, by: str) -> Numbers:
        """(N,) nanoseconds since 1970, "timestamp" or "arrival"."""
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
        kept = self._index.kept((self.type_name, self.device_name))
        if kept is not None:
            return batch.unpack(b"".join([kept[row] for row in rows]))
        # a single message tells whether there are columns, before all are read
        batch.unpack(b"".join(bytes(self._at(row).frame.data) for row in rows[:1]))
        return batch.unpack(b"".join(bytes(self._at(row).frame.data) for row in rows))

    @property
    def bad(self) -> int:
        """Number of messages of the whole stream that are not rows.

        These have a wrong CRC or body, or are VIDEO that cannot be shown for lack of a key frame.
        """
        return len(self._rows.bad_ns)

    def bad_between(self, start: float = 0.0, end: float | None = None) -> int:
        """Return how many of these arrived from `start` to `end`, as in `between`."""
        first, last = self.file.limits(start, end)
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
        return (self.times_ns - self.file.span[0]) / NS

    @property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """(N,) time stamps of the headers, seconds since 1970; NaN where not set."""
        stamps = self._rows.stamps_ns[self._selected]
        return np.where(stamps == 0, np.nan, stamps / NS)

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
        """(N, H, W[, C]), the pictures of the stream; each is read when it is indexed.

        IMAGE, VIDEO (decoded), TRACKEDFRAME and USMESSAGE have pictures; the arrays of NDARRAY
        count as such.

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
            KeyError: the tool is never seen.
            TypeError: this is not TDATA.
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


def _decoded(recorded: Recorded, crc: CRCPolicy) -> Message:
    message = recorded.frame.unpack(crc)
    message.received = recorded.time_ns / NS
    message.peer = recorded.peer
    return message
