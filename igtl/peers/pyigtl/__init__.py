"""The names of pyigtl on igtl: scripts written for pyigtl run unchanged.

    import igtl.peers.pyigtl as pyigtl          # in place of: import pyigtl
    python -m igtl.peers.pyigtl script.py       # or without touching the script

What pyigtl does is kept: the newest message of each device name, a client that connects again by
itself, messages whose attributes can be set. These differences avoid faults of pyigtl:

* Several clients are served at once, and a client that stops reading stops no other.
* Waiting takes no processor time and returns as the message arrives, not up to 10 ms later.
* A time-out is logged with the names that did arrive.
* A message with a wrong CRC, of a wrong size or of a type that pyigtl does not know is left out,
  and the next one is read; pyigtl loses its place in the stream.
* A message is packed when it is given to `send_message`: an array may be reused at once.
* SIGINT and SIGTERM are left to the program.
* (j, i) images have their rows and columns as they are in memory, images with an offset are read,
  and PolyData are received, with their attributes.
* POSITION has one pose, as the specification and all other implementations have it.
"""

from igtl.peers.pyigtl.comm import OpenIGTLinkClient, OpenIGTLinkServer
from igtl.peers.pyigtl.messages import (
    ImageMessage,
    MessageBase,
    PointMessage,
    PolyDataMessage,
    PositionMessage,
    StringMessage,
    TransformMessage,
)

__all__ = [
    "ImageMessage",
    "MessageBase",
    "OpenIGTLinkClient",
    "OpenIGTLinkServer",
    "PointMessage",
    "PolyDataMessage",
    "PositionMessage",
    "StringMessage",
    "TransformMessage",
]
