"""OpenIGTLink past one machine, over Eclipse Zenoh (`igtl[bridge]`); see docs/bridge.md.

with igtl.bridge.Router(listen="tcp/0.0.0.0:7447"): ...              # the hub, on one computer
with igtl.bridge.Publisher("or1", link, connect="tcp/hub:7447"): ...  # where a tracker is
with igtl.bridge.Subscriber("or1", connect="tcp/hub:7447"): ...       # where it is needed
"""

from __future__ import annotations

from igtl.bridge.hub import Refused
from igtl.bridge.outlet import Outlet
from igtl.bridge.publisher import Publisher
from igtl.bridge.router import Router
from igtl.bridge.subscriber import Received, Subscriber

__all__ = ["Outlet", "Publisher", "Received", "Refused", "Router", "Subscriber"]
