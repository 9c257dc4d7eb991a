"""One connection to which the doctor listens."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Final

from igtl._core import Frame
from igtl.codec.message import Message
from igtl.doctor.diagnosis import Diagnosis, Seen
from igtl.doctor.reaching import Connection
from igtl.errors import ClockUnknown, MessageTooLarge, ProtocolError, VersionError
from igtl.messages.general import Status
from igtl.messages.plus import TrackedFrame, tool_states
from igtl.session.clock import Measuring
from igtl.session.protocol import Protocol, hello_message
from igtl.session.requests import Exchange

_QUIET: Final = 1.0  # seconds of silence before the STATUS is sent
_TICK: Final = 0.1  # seconds between two calls of who watches
_CLOCK_TIMEOUT: Final = 3.0
_HEADER: Final = 58
TLS: Final = "a TLS server: connect by TLS (--tls, or --ca with its authority)"
_STARTS: Final = {
    b"HTTP/": ("http", "a web server (it answers in HTTP)"),
    b"<": ("http", "a web server (it answers in HTML)"),
    b"\x15\x03": ("tls", TLS),
    b"\x16\x03": ("tls", TLS),
    b"SSH-": ("other", "an SSH server"),
    b"220 ": ("other", "a mail or FTP server"),
    b"RFB ": ("other", "a VNC server"),
}


class Session:
    """One connection to which the doctor listens."""

    def __init__(
        self,
        diagnosis: Diagnosis,
        sock: Connection,
        seconds: float,
        hello: bool,
        ask_clock: bool = False,
        watch: Callable[[Diagnosis], None] | None = None,
    ) -> None:
        self.diagnosis = diagnosis
        self.hello = hello
        self.first = b""  # bytes that came
        self.bytes = 0
        self.probed = False
        self.closed_after: float | None = None
        self.reset = False
        self.foreign: tuple[str, str] | None = None
        self.error: ProtocolError | None = None
        self.wrong_versions: set[int] = set()
        self.pending = False  # a message that has not ended
        self.alive = 0  # keep-alives of PLUS
        self.is_plus = False
        self.statuses: dict[str, str] = {}  # of tools, as PLUS tells them
        self._sock = sock
        self._seconds = seconds
        self._watch = watch
        self.ask_clock = ask_clock
        self._asked: Exchange | None = None  # for the clock, and not answered yet
        self._reply: Message | None = None
        self._protocol = Protocol()

    def run(self) -> None:
        """Listen for the given seconds, or until it is clear that the peer is something else."""
        start = time.monotonic()
        end = start + self._seconds
        if self.hello:
            self._send(hello_message())
        quiet = start + min(_QUIET, self._seconds / 2)
        while self.foreign is None and self.error is None and (now := time.monotonic()) < end:
            until = end
            if not self.bytes and not self.probed:
                if now >= quiet:
                    self._probe()
                else:
                    until = quiet
            if self._watch is not None:
                self.diagnosis.seconds = now - start
                self._watch(self.diagnosis)
                until = min(until, now + _TICK)
            if not self._receive(until - now):
                self.closed_after = time.monotonic() - start
                break
        else:
            self._measure_clock()
        self.diagnosis.seconds = time.monotonic() - start
        for seen in self.diagnosis.streams.values():
            seen.age = time.monotonic() - seen.arrivals[-1]

    def _measure_clock(self) -> None:
        """Ask for the clock, unless the peer sets no time stamps.

        Such a peer may be 3D Slicer, which crashes at a question.
        """
        diagnosis = self.diagnosis
        if not self.ask_clock or not any(seen.stamps for seen in diagnosis.streams.values()):
            return
        measuring = Measuring(8, _CLOCK_TIMEOUT, diagnosis.clock, None)
        try:
            for pause in measuring:
                self._listen_until(time.monotonic() + pause)
                self._reply, self._asked = None, measuring.exchange()
                self._send(self._asked.request.pack(version=1))
                self._listen_until(time.monotonic() + (measuring.left() or 0.0))
                if self._reply is None:
                    diagnosis.clock_failure = "it does not answer GET_STATUS"
                    return
                measuring.add(self._reply)
        except ClockUnknown as error:
            diagnosis.clock_failure = error.reason
        finally:
            self._asked = None

    def _listen_until(self, end: float) -> None:
        """Take what comes, until that time or until the reply of an exchange has come."""
        while self._reply is None or self._asked is None:
            left = end - time.monotonic()
            if left <= 0 or not self._receive(left):
                return

    def _probe(self) -> None:
        """Send a STATUS, which OpenIGTLink ignores; its empty lines make a web server answer."""
        self.probed = True
        status = Status.ok("igtl doctor\r\n\r\n", device_name="igtl")
        self._send(status.pack(version=1))

    def _send(self, wire: bytes) -> None:
        with contextlib.suppress(OSError):  # the next receive shows the reason
            self._sock.settimeout(2)
            self._sock.sendall(wire)

    def _receive(self, timeout: float) -> bool:
        """Take what comes; returns whether the connection is still open."""
        self._sock.settimeout(max(0.001, timeout))
        try:
            chunk = self._sock.recv(1 << 20)
        except TimeoutError:
            return True
        except OSError:
            self.reset = True
            return False
        if not chunk:
            return False
        self.bytes += len(chunk)
        if len(self.first) < _HEADER:
            self.first += chunk[: _HEADER - len(self.first)]
            self.foreign = _foreign(self.first)
            if self.foreign is not None:
                return True
        self._protocol.receive_data(chunk)
        for frame in self._frames():
            self.diagnosis.versions.add(frame.header_version)
            found: Message | ProtocolError
            name = frame.device_name
            try:
                found = frame.unpack()
                if self._answers(found):
                    continue
                name = found.device_name  # may be longer than a header can hold
                self._look_for_plus(found)
            except ProtocolError as error:
                found = error
            key = frame.type_name, name
            self.diagnosis.streams.setdefault(key, Seen()).add(frame, found, time.monotonic())
        self.pending = not self._protocol.at_boundary
        return True

    def _answers(self, message: Message) -> bool:
        """Return whether this is the reply of an exchange that waits."""
        if self._asked is None or self._reply is not None or not self._asked.matches(message):
            return False
        message.received_monotonic = time.monotonic()
        self._reply = message
        return True

    def _look_for_plus(self, message: Message) -> None:
        """Look for keep-alives of PLUS, its own type, and metadata that no other peer writes."""
        alive = (
            isinstance(message, Status) and message.is_ok and not message.device_name
            and not message.timestamp_raw
        )  # fmt: skip
        self.alive += alive
        own = isinstance(message, TrackedFrame) or "TransformValid" in message.metadata
        self.is_plus = self.is_plus or alive or own
        with contextlib.suppress(ProtocolError):  # fields that are not well-formed
            for tool in tool_states(message):
                self.statuses[tool.name] = tool.status

    def _frames(self) -> Iterator[Frame]:
        while True:
            try:
                frame = self._protocol.next_frame()
            except VersionError as error:
                self.wrong_versions.add(error.version)
                continue
            except MessageTooLarge as error:
                self.error = error
                return
            if frame is None:
                return
            yield frame


def _foreign(first: bytes) -> tuple[str, str] | None:
    """Return the kind of a peer whose first bytes are not a header."""
    for start, found in _STARTS.items():
        if first.startswith(start):
            return found
    if len(first) < 14:
        return None
    version = int.from_bytes(first[:2], "big")
    if version < 16 and re.fullmatch(rb"[\x21-\x7e]{1,12}(\0.*)?", first[2:14], re.DOTALL):
        return None
    readable = "".join(chr(c) if 32 <= c < 127 else "." for c in first[:24])
    return "other", f"something else: its first bytes are {first[:12].hex(' ')} ({readable!r})"
