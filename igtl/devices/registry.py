"""Which kinds of devices there are: those of igtl, and those of other packages.

Other packages add kinds by entry points of the group "igtl.devices".
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Final

from igtl.devices.device import Device
from igtl.log import log

GROUP: Final = "igtl.devices"
BUILT_IN: Final = {
    "aruco": "aruco:Aruco",
    "camera": "camera:Camera",
    "lsl": "lsl:Lsl",
    "natnet": "natnet:NatNet",
    "screen": "camera:Screen",
    "serial": "serial:Serial",
    "sks": "sks:Sks",
}
"""The kinds of igtl: module in this package, and class. Each module is loaded when it is used."""


def names() -> list[str]:
    """Return all kinds that there are, sorted."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def device_class(kind: str) -> type[Device]:
    """Return the class of a kind of device.

    Raises:
        ValueError: there is no such kind; the text lists those that there are.
        ImportError: another package offers it, and it cannot be loaded, or is not a device.
    """
    added = entry_points(group=GROUP, name=kind)
    if kind in BUILT_IN:
        if added:
            log(logging.WARNING, "the device %r of %s is ignored: igtl has one of this name", kind,
                next(iter(added)).value)  # fmt: skip
        module, _, name = BUILT_IN[kind].partition(":")
        cls: type[Device] = getattr(import_module(f"igtl.devices.{module}"), name)
        return cls
    if not added:
        raise ValueError(f"there is no device {kind!r}{meant(kind, names())}")
    point = next(iter(added))
    try:
        found = point.load()
    except Exception as error:
        raise ImportError(f"{point.value} cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Device)):
        raise ImportError(f"{point.value} is not a class of igtl.devices.Device")
    return found


def meant(word: str, words: Iterable[str]) -> str:
    """Return the end of an error's text: a similar word, and all that there are."""
    words = list(words)
    near = difflib.get_close_matches(word, words, 1)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    return f"{guess} There are {', '.join(words)}"
