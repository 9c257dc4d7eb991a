"""What happens to a frame on its way from a source to the sinks."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from igtl import _core
from igtl._core import Frame
from igtl.codec.message import Message
from igtl.errors import CRCError, IgtlError
from igtl.gateway.config import Entry
from igtl.gateway.conversions import POSES, Apart, Expressing, Film, Together
from igtl.gateway.parts import unforeseen
from igtl.log import log
from igtl.session.requests import name_fits
from igtl.tools.routing import Renaming, Stream, Streams, Thinner, renamed

Deliver = Callable[[Frame, str], None]
_HEADER: Final = 58
_MAX_AGE: Final = 1.0  # seconds


class Route:
    """A route: chooses frames, changes them if it is told to, and hands them to its sinks.

    A frame that nothing is asked for passes as it came, undecoded. The route works on one frame at
    a time, in the thread of its source.

    Args:
        fixed: poses that do not change, by name.
        deliver: takes each frame, with the name of its source.

    Attributes:
        received: frames that arrived.
        filtered: those that are not wanted.
        failed: those that could not be changed as was asked, or have a wrong CRC, by cause.
        converted: those that became other messages, or part of one.
        made: the messages that they became.
        passed: what was handed to the sinks, by stream. received = passed + filtered + failed +
            thinned + kept + converted - made.
    """

    def __init__(self, entry: Entry, fixed: Mapping[str, Any], deliver: Deliver) -> None:
        self.entry = entry
        self.name = entry.name
        get = entry.get
        self._types: tuple[str, ...] = get("types", ())
        self._names: tuple[str, ...] = get("names", ())
        self._crc: str = get("crc", "off")
        self._deliver = deliver
        self._rename = Renaming(get("rename")) if get("rename") else None
        self._expressing: Expressing | None = None
        if to_frame := get("to_frame"):
            max_age: float = get("max_age", _MAX_AGE)
            self._expressing = Expressing(to_frame, get("from_frame"), fixed, max_age)
        asked = get("convert", ())
        self._conversions: list[Apart | Together | Film] = []
        if "IMAGE to VIDEO" in asked:
            self._conversions.append(Film(get("codec", "VP90")))
        if "TDATA to TRANSFORM" in asked:
            self._conversions.append(Apart())
        if "TRANSFORM to TDATA" in asked:
            self._conversions.append(Together())
        self._decoded = frozenset[str]().union(
            *(each.TYPES for each in self._conversions),
            self._expressing.TYPES if self._expressing else (),
        )
        self._streams = Streams()
        self._lock = threading.RLock()
        self.received = self.filtered = self.converted = self.made = 0
        self.failed = Counter[str]()
        self.passed = Counter[Stream]()
        rate: float | None = get("max_rate")
        self._thinner = None if rate is None else Thinner(rate, self._pass)
        self._sources: dict[Stream, str] = {}

    def __str__(self) -> str:
        return f"route {self.name}"

    @property
    def thinned(self) -> int:
        """What was left out for the sake of the rate."""
        return self._thinner.thinned.total() if self._thinner else 0

    @property
    def kept(self) -> int:
        """What waits for its turn."""
        return self._thinner.kept if self._thinner else 0

    def forward(self, frame: Frame, source: str) -> None:
        """Take a frame of a source."""
        with self._lock:
            self.received += 1
            try:
                frames = self._changed(frame, source)
            except Exception as error:  # of a codec, say: the next frame may be right
                self._fail(frame, error)
                return
            for each in frames:
                try:
                    self._send(each, source)
                except Exception as error:
                    self._fail(each, error)

    def _fail(self, frame: Frame, error: Exception) -> None:
        """Count and log what cannot be done with a frame, by the name of the error."""
        self.failed[type(error).__name__] += 1
        log(
            logging.WARNING, "route %s: %s/%s is not passed on: %s", self.name,
            frame.type_name, frame.device_name, error, type=frame.type_name,
            device=frame.device_name, cause=error, error=unforeseen(error),
        )  # fmt: skip

    def _changed(self, frame: Frame, source: str) -> list[Frame]:
        """Return what becomes of a frame: itself, as a rule."""
        kind = frame.type_name
        expressing = self._expressing
        if not self._wants(kind, frame.device_name):
            self.filtered += 1
            if expressing and kind in POSES:  # which say where those are that are wanted
                with contextlib.suppress(IgtlError):
                    expressing.learn(frame.unpack())
            return []
        self._check_crc(frame)
        if kind not in self._decoded:
            return [frame]
        message = frame.unpack()
        if expressing and kind in expressing.TYPES:
            expressing.learn(message)
            message = expressing(message)
        for conversion in self._conversions:
            if kind in conversion.TYPES:
                made = [_packed(each, frame) for each in conversion(message, source)]
                self.converted += 1
                self.made += len(made)
                return made
        return [_packed(message, frame)]

    def _wants(self, kind: str, name: str) -> bool:
        return _fits(kind, self._types) and _fits(name, self._names)

    def _check_crc(self, frame: Frame) -> None:
        if self._crc == "off":
            return
        actual = _core.crc64(memoryview(frame.data)[_HEADER:])
        if actual == frame.crc:
            return
        error = CRCError(frame.crc, actual)
        if self._crc == "verify":
            raise error
        log(
            logging.WARNING, "route %s: %s/%s: %s", self.name, frame.type_name, frame.device_name,
            error, type=frame.type_name, device=frame.device_name, cause=error,
        )  # fmt: skip

    def _send(self, frame: Frame, source: str) -> None:
        if self._rename is not None and (new := self._rename(frame.device_name)) is not None:
            frame = renamed(frame, new)
        stream = self._streams.of(frame)
        if self._thinner is None:
            self._pass(frame, stream, source)
        else:
            self._sources[stream] = source
            self._thinner.offer(frame, stream)

    def _pass(self, frame: Frame, stream: Stream, source: str | None = None) -> None:
        """Hand a frame to the sinks; without a source, in the thread of the thinner."""
        with self._lock:  # which the thread of the thinner does not hold
            self.passed[stream] += 1
        self._deliver(frame, self._sources[stream] if source is None else source)

    def close(self) -> None:
        """Hand on what was kept. No thread may be in `forward`, nor call it again."""
        if self._thinner is not None:
            self._thinner.close()
        for conversion in self._conversions:
            if isinstance(conversion, Film):
                conversion.close()


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(name_fits(name, each) for each in patterns)


def _packed(message: Message, like: Frame) -> Frame:
    """Pack a message in the header version of a frame, unless it needs version 2."""
    return Frame.from_bytes(message.pack(version=2 if like.header_version == 2 else None))
