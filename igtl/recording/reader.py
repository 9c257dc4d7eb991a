"""Reading a recording."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from igtl.errors import FileError
from igtl.recording.chunks import NS, Chunks, Stream, stream_of
from igtl.recording.index import Index
from igtl.recording.playback import Playback, Recorded
from igtl.recording.recorder import ENCODING, EVENTS
from igtl.recording.rows import Numbers
from igtl.recording.stream import RecordedStream

__all__ = ["RecordedStream", "Recording"]


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
        FileError: the file is not a recording of OpenIGTLink.
        OSError: it cannot be read.
        ModuleNotFoundError: the package mcap is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = Chunks(self.path)
        try:
            self._sort()
        except BaseException:
            self._file.close()
            raise

    @property
    def truncated(self) -> bool:
        """Whether the file was cut."""
        return self._file.truncated

    def _sort(self) -> None:
        ours = {n: c for n, c in self._file.channels.items() if c.message_encoding == ENCODING}
        if not ours and any(c.topic != EVENTS for c in self._file.channels.values()):
            raise FileError(self.path, "is MCAP, but holds no messages of OpenIGTLink")
        groups: dict[Stream, list[int]] = {}
        for n, channel in ours.items():
            groups.setdefault(stream_of(channel.metadata), []).append(n)
        self._index = Index(self._file, groups)
        self.streams = {
            stream: RecordedStream(self._file, self._index, stream, groups[stream])
            for stream in sorted(groups)
        }

    # -- what is in it

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """What happened to the connections."""
        chosen = {n for n, channel in self._file.channels.items() if channel.topic == EVENTS}
        return [
            {"time_ns": record.log_time, **json.loads(record.data)}
            for record in self._file.messages(chosen, None, None)
        ]

    @property
    def damaged(self) -> int:
        """Parts of the file that could not be read so far, and are left out."""
        return len(self._file.damaged)

    @property
    def count(self) -> int:
        """How many messages it holds."""
        return sum(len(stream) for stream in self.streams.values())

    def __len__(self) -> int:
        return self.count

    @property
    def start_ns(self) -> int:
        """Time of the first entry, nanoseconds since 1970; 0 of an empty recording."""
        return self._file.span[0]

    @property
    def duration(self) -> float:
        """Seconds from the first entry to the last."""
        return (self._file.span[1] - self._file.span[0]) / NS

    def __getitem__(self, key: str | Stream) -> RecordedStream:
        """Return a stream: by device name or type, if that is unique, or by (type, device name).

        Raises:
            KeyError: no stream fits, or more than one; the text lists all streams.
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
        """Return the messages in order of arrival.

        Args:
            streams: only these, each as in `recording[...]`; default all.
            start: seconds from the beginning of the recording.
            end: as `start`; default: the end of the recording.

        Raises:
            KeyError: a stream does not exist.
        """
        if streams is None:
            chosen = {n for stream in self.streams.values() for n in stream.numbers}
        else:
            chosen = {n for key in streams for n in self[key].numbers}
        return self._file.recorded(chosen, *self._file.limits(start, end))

    def read_index(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Read the file once, to find the rows of all streams; later calls do nothing.

        `times`, `frames`, `sync` and others call it at their first use. A part of the file at a
        time is in memory; 24 bytes of each message stay, 48 of VIDEO, and messages of no more than
        4 KiB as long as all of them take no more than 64 MiB.

        Args:
            progress: called with how many messages were read, and how many there are.

        Raises:
            OSError: the file cannot be read.
        """
        self._index.read(progress)

    def sync(
        self,
        *streams: str | Stream | RecordedStream,
        tolerance: float = 0.05,
        by: Literal["timestamp", "arrival"] = "timestamp",
    ) -> tuple[RecordedStream, ...]:
        """Return the messages of several streams that belong to the same instants, row by row.

            images, poses = recording.sync("Image", "ProbeToTracker")

        Each row of the first stream gets the nearest row of every other one; rows without a partner
        are left out. For poses between those of the tracker see `igtl.geometry.interpolate`.

        Args:
            streams: two or more, each as in `recording[...]`, or streams of this recording, such
                as `recording["Image"].between(2, 5)`. The first one leads.
            tolerance: largest distance in time, in seconds; default 0.05.
            by: "timestamp" (default; the arrival where none is set), or "arrival", for streams
                whose time stamps come from different clocks.

        Returns:
            A stream for each, all of the same length.

        Raises:
            KeyError: a stream does not exist.
            ValueError: nothing belongs together; the text says how far the streams are apart.
        """
        if len(streams) < 2:
            raise ValueError("sync puts two or more streams together")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be 0 s or more, not {tolerance}")
        if by not in ("timestamp", "arrival"):
            raise ValueError(f"by must be 'timestamp' or 'arrival', not {by!r}")
        chosen = [each if isinstance(each, RecordedStream) else self[each] for each in streams]
        if any(each.file is not self._file for each in chosen):
            raise ValueError("a stream is of another recording")
        lead, *others = (each.instants(by) for each in chosen)
        together = np.ones(len(lead), bool)
        partners = []
        apart = []
        for other, stream in zip(others, chosen[1:], strict=True):
            partner, distance = _nearest(lead, other)
            together &= distance <= round(tolerance * NS)
            partners.append(partner)
            nearest = f"{distance.min() / NS:.3g} s apart" if len(distance) else "no message"
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
        """Return an iterator that yields the frames when they are due.

            for frame in recording.play(): link.send(frame)

        Args:
            streams: see `frames`.
            speed: 2 is twice as fast; None: without waiting.
            loop: begin again at the end, for ever.
            start: seconds from the beginning of the recording.
            end: as `start`; default: the end of the recording.
            restamp: move the time stamps of the headers by as much as the message is late, so that
                they look new. Default: the bytes are those that were recorded.

        Raises:
            ValueError: the speed is not above 0.
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

    def _repr_html_(self) -> str:
        from igtl import notebook  # with its table of entities, for notebooks only

        return notebook.table(
            repr(self),
            ("type", "device", "messages", "Hz", "from"),
            (
                (s.type_name, s.device_name, len(s), s.rate, ", ".join(s.peers))
                for s in self.streams.values()
            ),
        )


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
