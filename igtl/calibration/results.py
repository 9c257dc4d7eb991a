"""Calibrations: written to files, read from them, and sent to PLUS."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from igtl.calibration.plusconfig import PlusConfig, read_config, update_config
from igtl.calibration.steps import Outcome
from igtl.errors import FileError
from igtl.peers.plus.link import Plus

_KEY = "LocalTimeOffsetSec"


def save_outcome(
    outcome: Outcome, path: str | os.PathLike[str], *, device: str | None = None
) -> None:
    """Write what a calibration found.

    Args:
        outcome: the calibration.
        path: .xml: a configuration of PLUS, in which the transforms, or the time offset of a
            device, are set and all else stays as it is; made if there is none. .json: all of it.
        device: of PLUS, the tracker whose time offset is set; default: the only one.

    Raises:
        FileError: the suffix is another, the file is not one of PLUS, or has no such device.
        OSError: it cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        path.write_text(json.dumps(outcome.to_dict(), indent=1) + "\n", encoding="utf-8")
        return
    if suffix != ".xml":
        raise FileError(path, "no known suffix; known are .json, .xml")
    if _KEY not in outcome.facts:
        update_config(path, outcome.dated())
        return
    if not path.exists():
        raise FileError(path, "a time offset belongs to a device of a file that exists")
    if device is None:
        devices = read_config(path).devices
        if len(devices) != 1:
            raise FileError(path, f"choose the tracker of {', '.join(devices) or 'no devices'}")
        (device,) = devices
    update_config(path, offsets={device: outcome.facts[_KEY]})


def load_known(path: str | os.PathLike[str]) -> PlusConfig:
    """Read what earlier calibrations found.

    The file is one of `save_outcome`, or a configuration of PLUS.

    Raises:
        FileError: the file is neither, or damaged.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        return read_config(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["transforms"]
        transforms = {
            f"{each['from']}To{each['to']}": np.array(each["matrix"], np.float64).reshape(4, 4)
            for each in entries
        }
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(path, f"is not a result of a calibration: {error!r}") from None
    return PlusConfig(transforms)


def send_outcome(outcome: Outcome, plus: Plus) -> list[str]:
    """Set the transforms in a PlusServer (UpdateTransform); returns its reply for each.

    `plus.save_config()` makes PLUS keep them.

    Raises:
        ValueError: there is no transform: PLUS has no command for a time offset.
        CommandFailed, TimeoutError: as for any command.
    """
    if not outcome.transforms:
        raise ValueError("PLUS has no command for a time offset: write it to its configuration")
    return [
        plus.update_transform(t.name, t.matrix, error=t.error, date=t.date) for t in outcome.dated()
    ]
