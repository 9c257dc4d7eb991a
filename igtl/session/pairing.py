"""Messages of several streams put together by their time stamps, without I/O.

The first stream leads: each of its messages is given the sample of every other stream that
belongs to the same instant. See `Link.sync`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

from igtl.codec.message import Message
from igtl.messages.tracking import Transform
from igtl.session.requests import Selection

Method = Literal["nearest", "interpolate"]
By = Literal["timestamp", "arrival"]
_MOST = 1000  # samples kept of each stream


class _Sample(NamedTuple):
    time: float  # seconds since 1970
    arrived: float  # monotonic
    message: Message


def time_of(message: Message) -> float:
    """Time stamp in seconds; the arrival where none is set."""
    return float(message.timestamp or message.received or 0.0)


class Pairing:
    """The state of one `sync`.

    Args:
        streams: what to put together; the first one leads.
        tolerance: largest distance in time, in seconds; also how long a message of the leading
            stream waits for a later sample of the others.
        method: "nearest", or "interpolate": between the two neighbours of a rigid TRANSFORM, both
            within the tolerance; else nearest.
        by: what time counts: the "timestamp" of the message (its arrival where none is set), or
            its "arrival", for streams whose time stamps come from different clocks.

    Attributes:
        unmatched: messages that found no partner, by what they were selected by. Of the other
            streams too, most of which is natural where they are faster.
    """

    def __init__(
        self,
        streams: Sequence[Selection],
        tolerance: float,
        method: Method = "nearest",
        by: By = "timestamp",
    ) -> None:
        if len(streams) < 2:
            raise ValueError("sync puts two or more streams together")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be 0 s or more, not {tolerance}")
        if method not in ("nearest", "interpolate"):
            raise ValueError(f"method must be 'nearest' or 'interpolate', not {method!r}")
        if by not in ("timestamp", "arrival"):
            raise ValueError(f"by must be 'timestamp' or 'arrival', not {by!r}")
        self.unmatched: Counter[str] = Counter()
        self._by = by
        self._newest: list[float | None] = [None] * len(streams)
        self._streams = streams
        self._tolerance = tolerance
        self._method = method
        self._leading: deque[_Sample] = deque()
        self._others: list[deque[_Sample]] = [deque() for _ in streams[1:]]
        self._used: set[int] = set()  # ids of samples that were part of a result

    def matches(self, m: Message) -> bool:
        """Return whether m belongs to one of the streams."""
        return any(s.matches(m) for s in self._streams)

    def __str__(self) -> str:
        return " with ".join(map(str, self._streams))

    def add(self, m: Message, now: float) -> None:
        """Take a message that arrived."""
        moment = float(m.received or 0.0) if self._by == "arrival" else time_of(m)
        sample = _Sample(moment, now, m)
        for k, stream in enumerate(self._streams):
            if stream.matches(m):
                self._newest[k] = moment
        if self._streams[0].matches(m):
            self._leading.append(sample)
            if len(self._leading) > _MOST:
                self._leading.popleft()
                self.unmatched[str(self._streams[0])] += 1
            return
        for k, stream in enumerate(self._streams[1:]):
            if stream.matches(m):
                self._others[k].append(sample)
                if len(self._others[k]) > _MOST:
                    self._forget(k)

    def gaps(self) -> str:
        """Return why there may be no pair, for an error.

        It names the stream that is missing, and how far the newest time stamps of the others are
        from those of the first.
        """
        first = self._newest[0]
        texts = []
        for stream, newest in zip(self._streams, self._newest, strict=True):
            if newest is None:
                texts.append(f"no {stream} came")
            elif first is not None and abs(newest - first) > self._tolerance:
                where = "behind" if newest < first else "ahead of"
                texts.append(f"{stream} is {abs(newest - first):.3g} s {where} {self._streams[0]}")
        if texts and self._by == "timestamp" and None not in self._newest:
            texts.append("sync(..., by='arrival') pairs by the time of arrival")
        return "".join(f"; {text}" for text in texts)

    def due(self) -> float | None:
        """When (monotonic) the first waiting message is decided in any case."""
        return self._leading[0].arrived + self._tolerance if self._leading else None

    def next(self, now: float) -> tuple[Message, ...] | None:
        """Return the next set that is complete, or None."""
        while self._leading:
            lead = self._leading[0]
            late = now >= lead.arrived + self._tolerance
            seen = all(any(s.time >= lead.time for s in other) for other in self._others)
            if not (late or seen):
                return None
            self._leading.popleft()
            found = [self._partner(lead, other) for other in self._others]
            for k, other in enumerate(self._others):
                while other and other[0].time < lead.time - self._tolerance:
                    self._forget(k)
            if all(m is not None for m in found):
                return (lead.message, *(m for m in found if m is not None))
            self.unmatched[str(self._streams[0])] += 1
        return None

    def _forget(self, k: int) -> None:
        sample = self._others[k].popleft()
        if id(sample) in self._used:
            self._used.discard(id(sample))
        else:
            self.unmatched[str(self._streams[k + 1])] += 1

    def _partner(self, lead: _Sample, other: deque[_Sample]) -> Message | None:
        near = [s for s in other if abs(s.time - lead.time) <= self._tolerance]
        if not near:
            return None
        best = min(near, key=lambda s: abs(s.time - lead.time))
        if self._method == "interpolate" and best.time != lead.time:
            before = max(
                (s for s in near if s.time < lead.time), key=lambda s: s.time, default=None
            )
            after = min((s for s in near if s.time > lead.time), key=lambda s: s.time, default=None)
            if before and after:
                share = (lead.time - before.time) / (after.time - before.time)
                between = interpolated(before.message, after.message, share)
                if between is not None:
                    between.timestamp = lead.time
                    self._used |= {id(before), id(after)}
                    return between
        self._used.add(id(best))
        return best.message


def interpolated(a: Message, b: Message, share: float) -> Transform | None:
    """Return the pose at `share` (0…1) of the way from a to b, by slerp.

    None if they are not both a TRANSFORM with a rotation and nothing else.
    """
    if not (isinstance(a, Transform) and isinstance(b, Transform)):
        return None
    from igtl.geometry.pose import Pose, is_rigid  # for this only

    if not (is_rigid(a.matrix) and is_rigid(b.matrix)):
        return None
    nearer = a if share < 0.5 else b
    between = Pose(a.matrix).to(Pose(b.matrix), share)
    result = Transform(between.matrix, device_name=a.device_name, message_id=nearer.message_id)
    if nearer.metadata:
        result.metadata = nearer.metadata
    for name in ("received", "received_monotonic", "peer"):
        setattr(result, name, getattr(nearer, name))
    return result
