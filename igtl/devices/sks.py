"""Trackers of scikit-surgery: NDI Polaris, Vega and Aurora, ArUco, and others with `get_frame`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np

from igtl._core import fit
from igtl.devices.device import ALIVE, Device, Item, option
from igtl.extras import MissingExtra
from igtl.geometry import Pose
from igtl.log import log
from igtl.messages.tracking import Tool, ToolType, TrackingData, Transform
from igtl.tools.rate import Rate

_KNOWN: Final = {
    "nditracker": "sksurgerynditracker.nditracker:NDITracker",
    "arucotracker": "sksurgeryarucotracker.arucotracker:ArUcoTracker",
}
_FASTEST: Final = 1000.0  # Hz
_LONGEST: Final = 20 - len("ToTracker")  # bytes of a name of a tool


@dataclass(frozen=True, kw_only=True)
class Sks(Device):
    """A tracker of scikit-surgery (SKSBaseTracker)."""

    name: str = option("Tracker", "device name of TDATA and STATUS")
    config: str = option("{}", "configuration of the tracker: JSON, or the name of a .json file")
    hz: float = option(60.0, "how often get_frame is called")
    send: Literal["transform", "tdata"] = option("transform", "TRANSFORM each, or TDATA")
    tools: str = option("", "names of numbered tools in their order, as Probe+Stylus")

    takes: ClassVar = "nditracker, arucotracker, or MODULE:CLASS"
    sends: ClassVar = "TRANSFORM ToolToTracker, or TDATA; mm"
    stamp: ClassVar = "the tracker package: for NDI, when the host asked"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hz <= _FASTEST:
            raise ValueError(f"hz must be above 0 and up to {_FASTEST:g}, not {self.hz}")
        module, _, name = self._path.partition(":")
        if not module or not name:
            known = ", ".join(_KNOWN)
            raise ValueError(f"sks takes {known} or MODULE:CLASS, not {self.argument!r}")
        if long := [tool for tool in self._names if len(tool.encode()) > _LONGEST]:
            raise ValueError(f"{long[0]!r} is too long: tools have {_LONGEST} bytes at most")
        root = module.partition(".")[0]
        if find_spec(root) is None:
            package = root.replace("sksurgery", "scikit-surgery", 1)
            raise MissingExtra(f"{root} is not installed: pip install {package}", name=root)

    @property
    def _names(self) -> list[str]:
        return self.tools.split("+") if self.tools else []

    @property
    def _path(self) -> str:
        return _KNOWN.get(self.argument.lower().removeprefix("scikit-surgery"), self.argument)

    def messages(self) -> Iterator[Item]:
        """Yield a TRANSFORM for each tool, or a TDATA for each frame of the tracker."""
        config = self._config()
        module, _, name = self._path.partition(":")
        tracker = getattr(import_module(module), name)(config)
        try:
            if config.get("tracker type") != "dummy":  # whose start asks a device that is not there
                tracker.start_tracking()
            for _ in Rate(self.hz):
                yield from self._told(*tracker.get_frame())
        finally:
            for end in ("stop_tracking", "close"):
                try:
                    getattr(tracker, end)()
                except Exception as error:  # the other must be called all the same
                    log(logging.INFO, "device %s: %s: %s", self.name, end, error, device=self.name)

    def _config(self) -> dict[str, Any]:
        text = self.config
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text()
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError(f"config must be a JSON object, not {type(config).__name__}")
        return config

    def _name_of(self, k: int, port: Any) -> str:
        """Return the name of a tool of the tracker.

        A tool that the tracker does not name has a fixed place in its lists; others, as the tags of
        the ArUco tracker ("DICT_4X4_50:7"), come and go.
        """
        if isinstance(port, str):
            _, colon, number = port.rpartition(":")
            return f"Tool{number}" if colon else fit(port, _LONGEST)
        names = self._names
        return names[k] if k < len(names) else f"Tool{k + 1}"

    def _told(
        self, ports: Any, stamps: Any, numbers: Any, poses: Any, quality: Any
    ) -> Iterator[Item]:
        """Yield the messages of a frame of the tracker.

        A frame is lists with an entry for each tool; a pose that is not seen is NaN.
        """
        tools = []
        stamp = None
        for k, (port, at, number, pose, value) in enumerate(
            zip(ports, stamps, numbers, poses, quality, strict=True)
        ):
            matrix = _matrix_of(pose)
            if matrix is None:
                continue
            name = self._name_of(k, port)
            stamp = float(at)
            if self.send == "tdata":
                tools.append(Tool(name, ToolType.INSTRUMENT_6D, matrix))
            else:
                yield Transform(
                    matrix, device_name=f"{name}ToTracker", timestamp=stamp,
                    metadata={"FrameNumber": f"{float(number):g}", "Quality": f"{float(value):g}",
                              "Port": str(port)},
                )  # fmt: skip
        if self.send == "tdata":
            yield TrackingData(tools, device_name=self.name, timestamp=stamp)
        else:
            yield ALIVE


def _matrix_of(pose: Any) -> Any:
    """4x4 of a pose of a tracker, 4x4 or (qw, qx, qy, qz, x, y, z); None if it is not seen."""
    values = np.asarray(pose, float)
    if not np.isfinite(values).all():
        return None
    if values.size == 7:
        w, x, y, z, *position = values.ravel()
        return Pose.of((x, y, z, w), position).matrix
    return values.reshape(4, 4)
