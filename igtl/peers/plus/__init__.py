"""PLUS as a peer: a client of a PlusServer (`connect`), and a server for clients (`serve`).

The clients are devices of PLUS. In asyncio: `igtl.plus.aio`. Both refuse messages that freeze, end
or confuse PLUS, with the reason in a sentence; `force=True` sends them all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from igtl.messages.plus import TrackedTransform
from igtl.peers.plus.core import SILENT, Reply, Tools
from igtl.peers.plus.devices import Device
from igtl.peers.plus.link import Frames, Plus, Reconstruction, connect
from igtl.peers.plus.rules import PlusRefuses, check_for_device, check_for_server
from igtl.peers.plus.selection import Client, Select

if TYPE_CHECKING:
    from igtl.peers.plus import aio
    from igtl.peers.plus.server import PlusServer, serve

__all__ = [
    "SILENT",
    "Client",
    "Device",
    "Frames",
    "Plus",
    "PlusRefuses",
    "PlusServer",
    "Reconstruction",
    "Reply",
    "Select",
    "Tools",
    "TrackedTransform",
    "aio",
    "check_for_device",
    "check_for_server",
    "connect",
    "serve",
]
_OF_SERVER = ("PlusServer", "serve")  # loaded when used: it needs asyncio


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _OF_SERVER:
        return getattr(import_module("igtl.peers.plus.server"), name)
    if name == "aio":
        return import_module("igtl.peers.plus.aio")
    raise AttributeError(f"module 'igtl.plus' has no attribute {name!r}")
