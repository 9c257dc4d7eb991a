"""Devices on the desk as sources of messages: cameras, markers, trackers, serial ports, streams.

    with igtl.devices.open("camera:/dev/video0") as camera:
        for message in camera: ...

A device is a dataclass of its options that yields messages (`Device`); another package adds one by
an entry point of the group "igtl.devices". `igtl serve --feed SPEC` serves them to clients.
"""

from igtl.devices.check import Check, check
from igtl.devices.device import ALIVE, UNREADABLE, Device, Item, option
from igtl.devices.registry import device_class, names
from igtl.devices.serving import Feed, feed
from igtl.devices.source import Source, open
from igtl.devices.spec import Option, device_of, options_of

__all__ = [
    "ALIVE",
    "UNREADABLE",
    "Check",
    "Device",
    "Feed",
    "Item",
    "Option",
    "Source",
    "check",
    "device_class",
    "device_of",
    "feed",
    "names",
    "open",
    "option",
    "options_of",
]
