"""Foxglove: recordings as files for it, and messages live, by foxglove-sdk.

    igtl.export("case.mcap", "case.foxglove.mcap")      # open it in Foxglove

    with igtl.foxglove.Server(port=8765) as server, igtl.connect("tracker") as link:
        for message in link:
            server.show(message)                        # Foxglove: ws://localhost:8765

Needs `pip install "igtl[foxglove]"`. Frames, names and units are those of `igtl.ros`: lengths in
m, axes as they are.
"""

from igtl.foxglove.server import Server

__all__ = ["Server"]
