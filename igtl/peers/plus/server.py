"""A server for the devices of PLUS that are clients, OpenIGTLinkTracker and OpenIGTLinkVideo."""

from __future__ import annotations

from typing import Any, Self, Unpack

from igtl.blocking.changes import Changes
from igtl.blocking.server import Server
from igtl.blocking.server import serve as serve_clients
from igtl.blocking.steps import method
from igtl.options import PORT, ServerSettings, seconds
from igtl.peers.plus import serving
from igtl.peers.plus.devices import SETTINGS, Device
from igtl.peers.plus.serving import Serving


class PlusServer(Serving):
    """Sends tools and frames to devices of PLUS; see `serve`.

    Its methods may be called in any thread.

    Attributes:
        server: the `igtl.Server`; handlers may be added to it.
        host, port: where it listens.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server, Changes(), method)
        server.start()

    send = method(serving.send)
    tool = method(serving.tool)
    frame = method(serving.frame)

    def wait_for_client(self, timeout: float | None = None) -> Device:
        """Return the first device that has said what it wants.

        Args:
            timeout: seconds; None waits without end.

        Raises:
            TimeoutError: no device connected in time.
        """

        def asked() -> Device | None:
            return next((d for d in self.devices.by_id.values() if d.has_asked), None)

        try:
            found: Device = self.changed.until(asked, seconds("timeout", timeout))
            return found
        except TimeoutError:
            raise TimeoutError(f"no device of PLUS within {timeout} s") from None

    def close(self) -> None:
        """Stop serving."""
        self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PlusServer on {self.host}:{self.port}, {len(self.clients)} devices>"


def serve(
    host: str = "127.0.0.1", port: int = PORT, **settings: Unpack[ServerSettings]
) -> PlusServer:
    """Serve devices of PLUS that are clients.

        with igtl.plus.serve(port=18944) as server:
            server.tool("StylusToTracker", pose, status="OK")
            server.frame(image, {"ProbeToTracker": pose})

    Each device gets what it asks for by CLIENTINFO and STT_TDATA. Messages have header version 2,
    which holds the statuses.

    Args:
        host: address to listen on; default loopback only, "0.0.0.0" for all.
        port: 0 takes a free one.
        settings: see `igtl.options.ServerOptions`.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
        OSError: the address cannot be used.
    """
    given: Any = {**SETTINGS, **settings}
    return PlusServer(serve_clients(host, port, start=False, **given))
