"""What was found, and what it means in a sentence."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from igtl._core import Frame
from igtl.codec.formatting import printable
from igtl.codec.message import Message
from igtl.doctor.content import distortion, impossible, measured
from igtl.errors import CRCError, ProtocolError
from igtl.session.clock import Clock

Level = Literal["ok", "note", "problem"]


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        level: "ok", "note", or "problem".
        cause: in one word: "refused", "unreachable", "host", "silent", "closed", "crc", "body",
            "pose", "frozen", "version", "http", "tls", "other", "cut", "large", "names", "stopped",
            "clock", ….
        text: in a sentence.
    """

    level: Level
    cause: str
    text: str


class Seen:
    """The messages of one (type, device name).

    Attributes:
        count, bytes: messages, and their bytes.
        wrong_crc, zero_crc, bad: messages with a wrong CRC; those of them whose CRC is 0; those
            that could not be decoded.
        impossible, distorted, by_rows: messages that hold no pose, though their type is of poses;
            TRANSFORM that do more than turn and move; those that do not if they are read by rows.
        distortion: what the last of them does: "scaled", "mirrored" or "sheared".
        surplus: bytes of the first message that its type has no place for.
        rate, jitter: messages a second, and standard deviation of the intervals in seconds.
        age: seconds from the last one to the end of the examination.
        offset: arrival minus time stamp, median, in seconds; None where none is set.
    """

    def __init__(self) -> None:
        self.count = self.bytes = self.wrong_crc = self.zero_crc = self.bad = 0
        self.impossible = self.distorted = self.by_rows = self.surplus = 0
        self.distortion = ""
        self._contents: set[int | None] = set()
        self.arrivals: list[float] = []
        self.offsets: list[float] = []
        self.stamps: set[int] = set()
        self.age = 0.0
        self.reason = self.impossible_reason = ""

    def add(self, frame: Frame, found: Message | ProtocolError, now: float) -> None:
        """Count a message; `found` is what it was decoded to, or why it was not."""
        self.count += 1
        self.bytes += len(frame)
        self.arrivals.append(now)
        if frame.timestamp_raw:
            self.offsets.append(time.time() - frame.timestamp_raw / 2**32)
            self.stamps.add(frame.timestamp_raw)
        match found:
            case CRCError():
                self.wrong_crc += 1
                self.zero_crc += frame.crc == 0
            case ProtocolError():
                self.bad += 1
                self.reason = str(found)
            case message:
                self._look_into(message)

    def _look_into(self, message: Message) -> None:
        if self.count == 1:
            self.surplus = len(message.surplus)
        if reason := impossible(message):
            self.impossible += 1
            self.impossible_reason = reason
        elif (more := distortion(message)) == "by rows":
            self.by_rows += 1
        elif more:
            self.distorted += 1
            self.distortion = more
        if len(self._contents) < 2:  # more than one is all that is asked
            self._contents.add(measured(message))

    def _gaps(self) -> list[float]:
        return [b - a for a, b in pairwise(self.arrivals)]

    @property
    def rate(self) -> float:
        """Messages a second; 0 for a single one."""
        span = self.arrivals[-1] - self.arrivals[0] if self.arrivals else 0.0
        return (self.count - 1) / span if span > 0 else 0.0

    @property
    def jitter(self) -> float:
        """Standard deviation of the intervals between messages, in seconds."""
        return statistics.pstdev(self._gaps()) if self.count > 2 else 0.0

    @property
    def offset(self) -> float | None:
        """Arrival minus time stamp, median, in seconds; None where no time stamp is set."""
        return statistics.median(self.offsets) if self.offsets else None

    def repeated(self) -> int:
        """Return how many messages share one time stamp; 1 if none do."""
        regular = self.count >= 5 and self.arrivals[-1] - self.arrivals[0] >= 0.3
        return self.count // len(self.stamps) if regular and self.stamps else 1

    def is_frozen(self) -> bool:
        """Return whether all of many messages hold the same measured content."""
        lasted = self.count >= 20 and self.arrivals[-1] - self.arrivals[0] >= 1.0
        return lasted and len(self._contents) == 1 and None not in self._contents

    def has_stopped(self) -> bool:
        """Return whether messages arrived regularly, and then stopped."""
        if self.count < 3:
            return False
        gaps = sorted(self._gaps())
        return self.age > max(0.5, 8 * gaps[len(gaps) * 9 // 10])  # one hiccup does not count


class Diagnosis:
    """What `examine` found.

    Attributes:
        address: "host:port".
        findings: all of it, in the order in which it was found out.
        streams: the messages that arrived, by (type, device name).
        versions: header versions that arrived.
        seconds: how long it listened.
        clock: of the peer, if it was asked and can be known.
        clock_failure: why it cannot be known, though it was asked; else "".
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.findings: list[Finding] = []
        self.streams: dict[tuple[str, str], Seen] = {}
        self.versions: set[int] = set()
        self.seconds = 0.0
        self.clock = Clock()
        self.clock_failure = ""

    def delay(self, seen: Seen) -> float | None:
        """Median seconds from time stamp to arrival, by the clock of the peer.

        None if that clock is not known, or no time stamp is set.
        """
        if seen.offset is None or not self.clock.known:
            return None
        return seen.offset + self.clock.offset

    def found(self, level: Level, cause: str, text: str) -> None:
        """Add a finding; its text is escaped for a terminal."""
        self.findings.append(Finding(level, cause, printable(text)))

    @property
    def problems(self) -> list[Finding]:
        """The findings that explain why nothing, or not the right thing, arrives."""
        return [finding for finding in self.findings if finding.level == "problem"]

    @property
    def cause(self) -> str:
        """Cause of the first problem; "" if there is none."""
        return self.problems[0].cause if self.problems else ""

    @property
    def verdict(self) -> str:
        """The diagnosis in one sentence."""
        if self.problems:
            return self.problems[0].text
        count = sum(seen.count for seen in self.streams.values())
        return (
            f"All is well: {count} messages of {len(self.streams)} streams in {self.seconds:.1f} s."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return {
            "address": self.address,
            "cause": self.cause,
            "verdict": self.verdict,
            "header_versions": sorted(self.versions),
            "clock": self.clock.to_dict(),
            "findings": [finding._asdict() for finding in self.findings],
            "streams": [
                {
                    "type": kind, "device_name": device, "count": s.count, "bytes": s.bytes,
                    "rate": s.rate, "jitter": s.jitter, "age": s.age, "offset": s.offset,
                    "delay": self.delay(s),
                    "wrong_crc": s.wrong_crc, "bad": s.bad,
                }
                for (kind, device), s in sorted(self.streams.items())
            ],
        }  # fmt: skip
