"""What the tests of the live page show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import igtl


def at(x: float, y: float, z: float) -> np.ndarray[Any, Any]:
    out = np.eye(4)
    out[:3, 3] = x, y, z
    return out


def pose(
    name: str, x: float = 0.0, y: float = 0.0, z: float = 0.0, **header: Any
) -> igtl.Transform:
    return igtl.Transform(at(x, y, z), device_name=name, **header)


def blocks() -> igtl.Image:
    """A volume of two values: 100 where x > 0 (the right of the patient), else 700; 40 mm wide."""
    voxels = np.full((20, 20, 20), 700, np.int16)
    voxels[:, :, 10:] = 100
    return igtl.Image.from_volume(voxels, spacing=(2, 2, 2), device_name="CT")


def record(path: Path) -> Path:
    """Ten seconds: a volume at the start, a tool that moves 10 mm a second, a text at the end."""
    with igtl.Recorder(path) as recorder:
        recorder.write(blocks(), received=1000.0)
        for k in range(501):
            moved = pose("ProbeToTracker", k / 5, timestamp=1000 + k / 50)
            recorder.write(moved, received=1000 + k / 50)
        recorder.write(igtl.String("the end"), received=1010.0)
    return path
