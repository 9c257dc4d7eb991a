"""3D Slicer, by its extension OpenIGTLinkIF, in both roles.

    with igtl.slicer.serve(port=18944) as slicer:       # or igtl.slicer.connect("localhost")
        slicer.transform("NeedleToReference", matrix, status="OK")
        slicer.volume("CT", array, ijk_to_world=affine)
        slicer.labels("Seg", array, like="CT")

        @slicer.on(igtl.Image)
        def _(image, peer): ...

        @slicer.answers("Segment")
        def _(command): return {"Volume": "12 ml"}

A Slicer that was restarted gets all that was shown once more. `check(message)` says why Slicer
cannot take a message. `igtl.slicer.aio` is the same in asyncio. Tested with Slicer's connector
node, headless; docs/guide/slicer.md goes through both roles.
"""

from igtl.peers.slicer import aio
from igtl.peers.slicer.convert import adapted
from igtl.peers.slicer.rules import HANDLED, SlicerRefuses, check
from igtl.peers.slicer.scene import Camera, Node
from igtl.peers.slicer.threads import Slicer, connect, serve

__all__ = [
    "HANDLED",
    "Camera",
    "Node",
    "Slicer",
    "SlicerRefuses",
    "adapted",
    "aio",
    "check",
    "connect",
    "serve",
]
