"""Serial ports: each line of text as SENSOR, STRING or TRANSFORM."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import numpy as np

from igtl.codec.message import Message
from igtl.codec.units import Unit
from igtl.devices.device import UNREADABLE, Device, Item, option
from igtl.extras import need
from igtl.geometry import Pose
from igtl.log import log
from igtl.messages.general import Sensor, String
from igtl.messages.tracking import Transform

_LONGEST: Final = 4096  # bytes of a line
_NAP: Final = 0.25  # seconds that a read waits
_BETWEEN: Final = re.compile(r"[,;\s]+")


@dataclass(frozen=True, kw_only=True)
class Serial(Device):
    """A serial port whose device writes lines of text."""

    name: str = option("Serial", "device name of the messages")
    baud: int = option(115200, "bits a second")
    format: Literal["sensor", "string", "transform"] = option(
        "sensor", "what a line is: numbers, text, or a pose"
    )
    unit: str = option("", "of SENSOR, as N or m/s^2")

    takes: ClassVar = "/dev/ttyUSB0, COM3, or an URL of pyserial"
    sends: ClassVar = "SENSOR, STRING or TRANSFORM, a line each"
    needs: ClassVar = {"serial": "serial"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.argument:
            raise ValueError("serial needs a port: serial:/dev/ttyUSB0, serial:COM3")
        if self.unit:
            Unit(self.unit)

    @classmethod
    def found(cls) -> list[str] | None:
        """Return the serial ports of this machine."""
        ports = need("serial.tools.list_ports", "serial").comports()
        return [f"{port.device} ({port.description})" for port in ports]

    def messages(self) -> Iterator[Item]:
        """Yield a SENSOR, STRING or TRANSFORM for each line."""
        serial = need("serial", "serial")
        with serial.serial_for_url(self.argument, self.baud, timeout=_NAP) as port:
            for line in _lines(port):
                yield None if line is None else self._message(*line)

    def _message(self, line: str, stamp: float) -> Item:
        try:
            return self._read(line, stamp)
        except ValueError as error:
            log(
                logging.WARNING, "device %s: %s: %r is left out", self.name, error, line,
                device=self.name, cause=error,
            )  # fmt: skip
            return UNREADABLE

    def _read(self, line: str, stamp: float) -> Message:
        if self.format == "string":
            return String(line, device_name=self.name, timestamp=stamp)
        words = _BETWEEN.split(line.strip())
        if self.format == "sensor":
            values = [float(word) for word in words]
            return Sensor(values, self.unit or 0, device_name=self.name, timestamp=stamp)
        name = self.name
        try:
            float(words[0])
        except ValueError:
            name, *words = words
        matrix = _pose_of([float(word) for word in words])
        return Transform(matrix, device_name=name, timestamp=stamp)


def _pose_of(values: list[float]) -> Any:
    """4x4 of the numbers of a line, mm.

    These are 16 or 12 of a matrix row by row, or x, y, z and a quaternion (x, y, z, w).
    """
    if len(values) == 7:
        return Pose.of(values[3:], values[:3]).matrix
    if len(values) not in (12, 16):
        raise ValueError(f"a pose has 7, 12 or 16 numbers, not {len(values)}")
    return Pose(np.reshape(values, (-1, 4))).matrix


def _lines(port: Any) -> Iterator[tuple[str, float] | None]:
    """Lines with the time at which they ended; None while no line is complete."""
    part = b""
    skipping = True  # the port may be opened in the middle of a line
    while True:
        part += port.read(max(1, port.in_waiting))
        now = time.time()
        *lines, part = part.split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").strip()
            if text and not skipping:
                yield text, now
            skipping = False
        if len(part) > _LONGEST:
            part, skipping = b"", True
        yield None
