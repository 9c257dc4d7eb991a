"""What relays and gateways change in frames that they pass on.

They change the device name, the header version and the rate. Frames are changed in their bytes;
none is decoded.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

from igtl import _core
from igtl._core import Frame
from igtl.blocking.changes import Changes
from igtl.blocking.server import Peer
from igtl.errors import ConnectionClosed
from igtl.session.packed import in_version

Stream = tuple[str, str]
"""Type and device name."""
HeaderVersion = Literal["as is", "auto", 1, 2]
"""Header version of forwarded messages: "as is" keeps it; "auto" writes 1 to each peer until that
peer has sent 2; 1 and 2 write that one."""
MAX_STREAMS: Final = 4096
"""Streams that are counted apart: a source that invents names shall not fill the memory."""
_OTHERS: Final = "*", "*"


def renamed(frame: Frame, device_name: str) -> Frame:
    """Return the frame with another device name; the CRC does not cover the name.

    Raises:
        EncodeError: the name does not fit 20 bytes.
    """
    name = _core.encode_field(device_name, 20, "Frame", "device_name")
    wire = bytes(frame.data)
    return Frame.from_bytes(wire[:14] + name.ljust(20, b"\0") + wire[34:])


class Renaming:
    """New device names for old ones.

    Args:
        names: new names by old ones. An old one may hold `*`, which stands for any text; each `*`
            of the new one is what the `*` at the same place of the old one stands for. The first
            that fits counts.

    Raises:
        EncodeError: a new name is longer than 20 bytes.
        ValueError: a new name has more `*` than the old one.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._exact: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], list[str]]] = []
        for old, new in names.items():
            _core.encode_field(new.replace("*", ""), 20, "Renaming", "device_name")
            if new.count("*") > old.count("*"):
                raise ValueError(f"{new!r} has more * than {old!r}")
            if "*" not in old and not self._patterns:
                self._exact[old] = new
            else:
                pattern = "(.*)".join(map(re.escape, old.split("*")))
                self._patterns.append((re.compile(pattern, re.DOTALL), new.split("*")))

    def __call__(self, device_name: str) -> str | None:
        """Return the new name; None if there is none."""
        if (new := self._exact.get(device_name)) is not None:
            return new
        for pattern, parts in self._patterns:
            if found := pattern.fullmatch(device_name):
                texts = [*found.groups()[: len(parts) - 1], ""]
                return "".join(part + text for part, text in zip(parts, texts, strict=True))
        return None


class Streams:
    """Under which name each frame is counted: its own, for MAX_STREAMS of them."""

    def __init__(self) -> None:
        self._known: set[Stream] = set()

    def of(self, frame: Frame) -> Stream:
        """Type and device name, or ("*", "*") where there are too many."""
        stream = frame.type_name, frame.device_name
        if stream not in self._known:
            if len(self._known) >= MAX_STREAMS:
                return _OTHERS
            self._known.add(stream)
        return stream


class Thinner:
    """Passes on so many messages of a stream a second at most.

    Of those in between it passes on the newest when it is due, and leaves out the others.

    Args:
        max_rate: messages a second.
        send: takes each frame with its stream; called in the thread of `offer`, or in the one of
            the thinner. ConnectionClosed ends the latter.

    Attributes:
        thinned: what was left out, by stream.

    Raises:
        ValueError: the rate is not above 0.
    """

    def __init__(self, max_rate: float, send: Callable[[Frame, Stream], None]) -> None:
        if not 0 < max_rate < float("inf"):
            raise ValueError(f"max_rate must be above 0, not {max_rate}")
        self.thinned = Counter[Stream]()
        self._send = send
        self._interval = 1 / max_rate
        self._changed = Changes()
        self._due: dict[Stream, float] = {}
        self._kept: dict[Stream, Frame] = {}
        self._leaving: set[Stream] = set()  # streams of which the thread sends a frame now
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="igtl thinner", daemon=True)
        self._thread.start()

    @property
    def kept(self) -> int:
        """Messages that wait until they are due."""
        return len(self._kept)

    def offer(self, frame: Frame, stream: Stream) -> None:
        """Pass on a frame, or keep it until it is due."""
        with self._changed:
            now = time.monotonic()
            if stream in self._kept:
                self.thinned[stream] += 1
            if now < self._due.get(stream, 0.0) or stream in self._leaving:
                self._kept[stream] = frame
                self._changed.notify()
                return
            self._kept.pop(stream, None)  # its time had come, and the thread was late
            self._take_turn(stream, now)
        self._send(frame, stream)

    def _take_turn(self, stream: Stream, now: float) -> None:
        # the schedule does not drift, unless the stream was slower than it may be
        due = self._due.get(stream, 0.0) + self._interval
        self._due[stream] = due if due > now else now + self._interval

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                ripe = [stream for stream in self._kept if self._due[stream] <= now]
                frames = [(self._kept.pop(stream), stream) for stream in ripe]
                self._leaving = set(ripe)
                for stream in ripe:
                    self._take_turn(stream, now)
                if not frames:
                    waits = [self._due[stream] - now for stream in self._kept]
                    self._changed.wait(min(waits, default=None))
                    continue
            for frame, stream in frames:
                try:
                    self._send(frame, stream)
                except ConnectionClosed:  # what takes them was closed
                    return
            with self._changed:
                self._leaving = set()

    def close(self) -> None:
        """Pass on what was kept, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            left = [(frame, stream) for stream, frame in self._kept.items()]
            self._kept.clear()
        self._thread.join()
        for frame, stream in left:
            self._send(frame, stream)


class Versions:
    """Frames in the header version that their receivers get.

    Attributes:
        lost: how often "metadata" and "message id" were removed, since version 1 cannot hold them.

    Raises:
        ValueError: there is no such version.
    """

    def __init__(self, version: HeaderVersion) -> None:
        if version not in ("as is", "auto", 1, 2):
            raise ValueError(f"version must be 'as is', 'auto', 1 or 2, not {version!r}")
        self.version = version
        self.lost = Counter[str]()

    def of(self, frame: Frame, spoken: int) -> Frame:
        """Return the frame for a peer.

        Args:
            frame: the message as bytes.
            spoken: the version that "auto" writes to this peer.
        """
        if self.version == "as is":
            return frame
        form = in_version(bytes(frame.data), spoken if self.version == "auto" else self.version)
        self.lost.update(form.lost)
        return Frame.from_bytes(form.wire)

    def send_to_each(self, frame: Frame, peers: Iterable[Peer]) -> None:
        """Send to peers, to each in its own version."""
        frames: dict[int, Frame] = {}
        for peer in peers:
            spoken = peer.header_version
            if spoken not in frames:
                frames[spoken] = self.of(frame, spoken)
            try:
                peer.send(frames[spoken])
            except ConnectionClosed:  # this one is gone
                continue
