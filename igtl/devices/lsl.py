"""Streams of the Lab Streaming Layer: each sample as SENSOR or STRING."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from igtl.codec.units import Unit
from igtl.devices.device import ALIVE, Device, Item, option
from igtl.extras import need
from igtl.log import log
from igtl.messages.general import Sensor, String

T = TypeVar("T")
_NAP: Final = 0.25  # seconds that liblsl waits at once
_LOOK: Final = 3.0  # seconds to look for a stream, and for each thing that its sender tells
_CLOCKS: Final = 5.0  # seconds between two looks at the sender's clock
_MOST: Final = 255  # channels of a SENSOR
_SAMPLES: Final = 1024  # taken at once
_BUFFERED: Final = 10  # seconds (or hundreds of samples, without a rate) that wait in liblsl


@dataclass(frozen=True, kw_only=True)
class Lsl(Device):
    """A stream of the Lab Streaming Layer."""

    name: str = option("LSL", "device name of the messages")
    by: str = option("name", "what the argument is: name, type, source_id")
    unit: str = option("", "of SENSOR, as N or uV; default what the stream says, if all are equal")
    labels: bool = option(True, "tell the names of the channels in the metadata (header version 2)")

    takes: ClassVar = "name of the stream, or its type with by=type"
    sends: ClassVar = "SENSOR a sample; STRING of a stream of text"
    stamp: ClassVar = "the sender's, corrected by LSL's clock offsets"
    needs: ClassVar = {"pylsl": "lsl"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.argument:
            raise ValueError("lsl needs the name of a stream: lsl:MyStream, or lsl:EEG?by=type")
        if self.unit:
            Unit(self.unit)

    @classmethod
    def found(cls) -> list[str] | None:
        """Return the streams on this network, after a second of listening."""
        streams = need("pylsl", "lsl").resolve_streams(wait_time=1.0)
        return [f"{s.name()} ({s.type()}, {s.channel_count()} channels)" for s in streams]

    def messages(self) -> Iterator[Item]:
        """Yield a SENSOR for each sample, or a STRING of a stream of text.

        Raises:
            OSError: there is no such stream.
            ValueError: it has more channels than a SENSOR has numbers.
        """
        lsl = need("pylsl", "lsl")
        info = yield from self._found(lsl)
        if info is None:
            raise OSError(f"no stream with {self.by} {self.argument!r} on this network")
        if info.channel_count() > _MOST:
            raise ValueError(f"{self.argument}: {info.channel_count()} channels, at most {_MOST}")
        # a stream that is lost raises, and is looked for again by its name
        inlet = lsl.StreamInlet(info, max_buflen=_BUFFERED, recover=False)
        try:
            yield from self._samples(lsl, inlet)
        finally:
            inlet.close_stream()

    def _found(self, lsl: Any) -> Generator[Item, None, Any]:
        end = time.monotonic() + _LOOK
        while time.monotonic() < end:
            found = lsl.resolve_byprop(self.by, self.argument, timeout=_NAP)
            if found:
                return found[0]
            yield None
        return None

    def _samples(self, lsl: Any, inlet: Any) -> Iterator[Item]:
        info = yield from _told(inlet.info)
        unit = Unit(self.unit) if self.unit else _unit_of(info, self.name)
        metadata = _labels_of(info) if self.labels else {}
        silent = None if info.nominal_srate() else ALIVE  # one of events may be silent for long
        offset, looked = 0.0, -math.inf
        while True:
            now = time.monotonic()
            if now - looked >= _CLOCKS:
                # from the sender's clock to liblsl's here, and from that to seconds since 1970
                correction = yield from _told(inlet.time_correction)
                offset = correction + time.time() - lsl.local_clock()
                looked = now
            samples, stamps = inlet.pull_chunk(timeout=_NAP, max_samples=_SAMPLES)
            if not stamps:
                yield silent
            for values, stamp in zip(samples, stamps, strict=True):
                if isinstance(values[0], str):
                    yield String("\t".join(values), device_name=self.name, timestamp=stamp + offset)
                else:
                    yield Sensor(
                        values, unit, device_name=self.name, timestamp=stamp + offset,
                        metadata=metadata,
                    )  # fmt: skip


def _told(ask: Callable[[float], T]) -> Generator[Item, None, T]:
    """Wait in naps for what the sender tells, so that the device can be closed meanwhile.

    Raises:
        RuntimeError: it has told nothing, or is lost.
    """
    end = time.monotonic() + _LOOK
    while True:
        try:
            return ask(_NAP)
        except RuntimeError as error:  # pylsl does not export its TimeoutError
            if type(error).__name__ != "TimeoutError" or time.monotonic() >= end:
                raise
        yield None


def _channels(info: Any, key: str) -> list[str]:
    found = []
    channel = info.desc().child("channels").child("channel")
    for _ in range(info.channel_count()):
        found.append(channel.child_value(key) or "")
        channel = channel.next_sibling()
    return found


def _labels_of(info: Any) -> dict[str, str]:
    labels = _channels(info, "label")
    return {f"Channel{k + 1}": label for k, label in enumerate(labels) if label}


def _unit_of(info: Any, device: str) -> Unit:
    """Return the unit of all channels; none if they differ, or if OpenIGTLink does not know it."""
    units = set(_channels(info, "unit"))
    text = {"microvolts": "uV", "millivolts": "mV", "volts": "V"}.get(min(units), min(units))
    if len(units) != 1 or not text:
        return Unit(0)
    try:
        return Unit(text)
    except ValueError as error:
        log(logging.INFO, "device %s: %s", device, error, device=device)
        return Unit(0)
