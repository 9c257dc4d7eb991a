"""The self-test of a device: does it open, what does it send, how old is it?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from igtl.devices.device import Device
from igtl.devices.source import open
from igtl.errors import ConnectionClosed
from igtl.messages.general import Status


class Stream(NamedTuple):
    """One stream that a device sent.

    Attributes:
        number: of messages.
        hz: messages a second; 0 of a single one.
        age: seconds from the time stamp of a message to its arrival, the mean.
        example: a message, in words.
    """

    number: int
    hz: float
    age: float
    example: str


@dataclass
class Check:
    """What a self-test has found.

    Attributes:
        opened: seconds until the first message; None: there was none.
        streams: messages that arrived, by type and device name.
        error: why the device does not work; "" if it does.
        unreadable, dropped: counters of the source.
    """

    opened: float | None = None
    streams: dict[tuple[str, str], Stream] = field(default_factory=dict)
    error: str = ""
    unreadable: int = 0
    dropped: int = 0

    @property
    def works(self) -> bool:
        """Whether messages arrived and the device did not fail."""
        return bool(self.streams) and not self.error


def check(spec: str | Device, *, seconds: float = 3.0, patience: float = 10.0) -> Check:
    """Open a device, and look at what it sends.

    Args:
        spec: see `open`.
        seconds: how long to listen from the first message on.
        patience: seconds to wait for the first message.

    Raises:
        ValueError, ModuleNotFoundError: as `open`.
    """
    found = Check()
    begun = time.monotonic()
    with open(spec) as source:
        end = begun + patience
        seen: dict[tuple[str, str], list[tuple[float, float]]] = {}
        texts: dict[tuple[str, str], str] = {}
        while (left := end - time.monotonic()) > 0:
            try:
                message = source.recv(left)
            except (TimeoutError, ConnectionClosed):
                break
            now = time.monotonic()
            if isinstance(message, Status) and message.device_name == source.device.name:
                found.error = "" if message.is_ok else message.message
                if found.opened is None and not message.is_ok:
                    break
                continue
            if found.opened is None:
                found.opened = now - begun
                end = now + seconds
            stamp = message.timestamp
            key = message.type_name, message.device_name
            seen.setdefault(key, []).append((now, 0.0 if stamp is None else time.time() - stamp))
            texts[key] = message.summary()
        found.streams = {key: _stream(times, texts[key]) for key, times in seen.items()}
        found.unreadable, found.dropped = source.unreadable, source.dropped
    if not found.streams and not found.error:
        found.error = "it has opened, and nothing has come"
    return found


def _stream(times: list[tuple[float, float]], example: str) -> Stream:
    took = times[-1][0] - times[0][0]
    hz = (len(times) - 1) / took if took > 0 else 0.0
    return Stream(len(times), hz, sum(age for _, age in times) / len(times), example)
