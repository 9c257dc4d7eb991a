"""Sending a recording again, at the times at which it came."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from igtl import _core
from igtl._core import Frame

_NS = 1_000_000_000
_PAUSE = 0.1  # seconds between the last message and the first of the next round


class Recorded(NamedTuple):
    """One message of a recording.

    Attributes:
        time_ns: arrival, nanoseconds since 1970.
        frame: the message as the bytes that were recorded.
        peer: the sender, "host:port".
        connection: number of its connection.
        stream: type and device name of the stream that it belongs to, as in `Recording.streams`.
    """

    time_ns: int
    frame: Frame
    peer: str
    connection: int
    stream: tuple[str, str]


class Playback:
    """Yields the frames of a recording when they are due; see `Recording.play`.

    The schedule is absolute: a late frame does not move the next one.

    Attributes:
        sent: frames that were yielded.
        rounds: times that the recording was begun.
        position: of the last frame, seconds from the beginning of the recording.
        lateness: of each frame, in seconds: how long after its time it was yielded.
    """

    def __init__(
        self,
        frames: Callable[[], Iterator[Recorded]],
        start_ns: int,
        *,
        speed: float | None = 1.0,
        loop: bool = False,
        restamp: bool = False,
    ) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise ValueError(f"speed must be above 0, or None, not {speed}")
        self._frames = frames
        self._start_ns = start_ns
        self._speed = speed
        self._loop = loop
        self._restamp = restamp
        self._running = self._run()
        self.sent = self.rounds = 0
        self.position = 0.0
        self.lateness = array("d")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        return next(self._running)

    def _run(self) -> Iterator[Frame]:
        while True:
            self.rounds += 1
            before = self.sent
            yield from self._round()
            if not self._loop or self.sent == before:
                return
            if self._speed is not None:
                time.sleep(_PAUSE / self._speed)

    def _round(self) -> Iterator[Frame]:
        first: int | None = None
        begun = time.perf_counter()
        for recorded in self._frames():
            if first is None:
                first, begun = recorded.time_ns, time.perf_counter()
            if self._speed is not None:
                due = begun + (recorded.time_ns - first) / _NS / self._speed
                wait = due - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                self.lateness.append(time.perf_counter() - due)
            self.sent += 1
            self.position = (recorded.time_ns - self._start_ns) / _NS
            yield _moved(recorded) if self._restamp else recorded.frame


def _moved(recorded: Recorded) -> Frame:
    """Return the frame with a time stamp as far before now as it was before the arrival.

    The CRC does not cover it, so the body stays as it is.
    """
    raw = recorded.frame.timestamp_raw
    if not raw:
        return recorded.frame
    wire = bytearray(recorded.frame.data)
    stamp = _core.time_ns_of(raw) + time.time_ns() - recorded.time_ns
    wire[34:42] = _core.timestamp_of(max(stamp, 1)).to_bytes(8, "big")
    return Frame.from_bytes(bytes(wire))
