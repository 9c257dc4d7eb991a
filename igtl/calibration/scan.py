"""A freehand scan: pictures and poses as they arrive, into a volume."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.calibration.tracks import By, Pictures, Tracks, frame_of, inverses, time_of
from igtl.codec.message import Message
from igtl.geometry.calibration import CalibrationError
from igtl.geometry.pose import Floats
from igtl.geometry.reconstruction import Reconstruction
from igtl.messages.imaging import Image
from igtl.messages.plus import TrackedFrame

_BATCH: Final = 20  # pictures that are placed together
_WAITING: Final = 200  # pictures that wait for their poses, at most


class _Waiting(NamedTuple):
    time: float
    picture: npt.NDArray[Any]


class Scan:
    """Pastes pictures where they were taken.

    Feed it all messages of a source by `add`, and call `finish` at the end: a picture waits until a
    later pose has arrived, since its own place lies between two.

    Args:
        volume: what is made of it.
        image: device name of the pictures; default: the only one that sends pictures.
        tool: name of the pose of the probe (ProbeToReference); default: pictures say themselves
            where they are, as IMAGE from PLUS with a frame in its name does (Image_Reference).
        reference: name of the pose from which the probe is seen, if the scanned body moves.
        transforms: what is known, 4x4 by name: ImageToProbe, if there is a tool.
        lag: seconds by which the time stamps of the poses are late; see
            `igtl.geometry.calibrate_time`.
        by: which time of the messages counts.

    Attributes:
        unplaced: pictures that were left out, since no pose was near.
    """

    def __init__(
        self,
        volume: Reconstruction,
        image: str | None = None,
        tool: str | None = None,
        reference: str | None = None,
        *,
        transforms: dict[str, Floats] | None = None,
        lag: float = 0.0,
        by: By = "timestamp",
    ) -> None:
        self.volume = volume
        self.unplaced = 0
        self._known = transforms or {}
        self._tool = tool
        self._reference = reference
        self._lag = lag
        self._by: By = by
        self._tracks = Tracks(by)
        self._pictures = Pictures(image)
        self._waiting: list[_Waiting] = []

    def add(self, message: Message) -> None:
        """Take a message; messages other than pictures and poses are ignored.

        Raises:
            CalibrationError: pictures of several devices, or where the pixels are is not known.
            ReconstructionError: the volume would become too large; it stays as it is.
        """
        if self._tool is not None:
            self._tracks.add(message)
        if (picture := self._pictures.take(message)) is None:
            return
        if self._tool is None:
            if isinstance(message, Image):
                matrix = message.to("RAS").array_to_world
            elif isinstance(message, TrackedFrame):
                matrix = message.ijk_to_world
            else:
                raise CalibrationError(
                    f"{message.type_name} does not say where it is: choose a pose by --tool"
                )
            self.volume.add(picture, matrix)
            return
        self._waiting.append(_Waiting(time_of(message, self._by), np.array(picture)))
        if len(self._waiting) >= _BATCH:
            self._place(last=False)

    @property
    def damaged(self) -> int:
        """Messages that could not be used."""
        return self._tracks.damaged + self._pictures.damaged

    def finish(self) -> None:
        """Place the pictures that still wait.

        Raises:
            CalibrationError: the poses that were named have not arrived.
        """
        if self._waiting:
            self._place(last=True)

    def _names(self) -> list[str]:
        return [name for name in (self._tool, self._reference) if name is not None]

    def _place(self, *, last: bool) -> None:
        names = self._names()
        until = np.inf
        for name in names:
            if last:
                self._tracks.chosen(name, "--tool")
            else:
                until = min(until, self._tracks.newest(name) - self._lag)
        ready = [each for each in self._waiting if each.time <= until]
        self._waiting = [each for each in self._waiting if each.time > until]
        if (late := len(self._waiting) - _WAITING) > 0:
            self.unplaced += late
            del self._waiting[:late]
        if not ready:
            return
        for each, matrix in zip(ready, self._matrices([e.time for e in ready]), strict=True):
            if np.isfinite(matrix).all():
                self.volume.add(each.picture, matrix)
            else:
                self.unplaced += 1
        self._tracks.forget(max(each.time for each in ready) + self._lag)

    def _matrices(self, times: list[float]) -> Floats:
        """(n, 4, 4) from pixels to the frame of the volume; NaN where no pose is near."""
        assert self._tool is not None
        link = f"{self._pictures.frame}To{frame_of(self._tool)}"
        if link not in self._known:
            there = ", ".join(sorted(self._known)) or "none"
            raise CalibrationError(
                f"{link} is not known: it comes from igtl calibrate probe, and is read by "
                f"--config; there are {there}"
            )
        self._tracks.same_base(*self._names())
        when = np.array(times) + self._lag
        poses = self._tracks.at(self._tool, when)
        if self._reference is not None:
            poses = inverses(self._tracks.at(self._reference, when)) @ poses
        return poses @ self._known[link]
