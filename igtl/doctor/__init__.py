"""Why nothing arrives: `examine` connects, listens, and says what is likely wrong.

It sends nothing that could harm a peer: no request unless the caller asks for the clock, and then
only to a peer that sets time stamps (3D Slicer sets none, and crashes at requests); no header
version 2 unless the caller asks for it (an old library loses its place in the stream), and to a
peer that is silent one STATUS of version 1, which OpenIGTLink ignores, and to which web and TLS
servers answer in their own way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from igtl.addresses import websocket_address
from igtl.doctor.diagnosis import Diagnosis, Finding, Seen
from igtl.doctor.judging import judge
from igtl.doctor.reaching import (
    Connection,
    accepted,
    by_tls,
    by_websocket,
    connected,
    speaks_tls,
)  # fmt: skip
from igtl.doctor.report import markdown
from igtl.doctor.session import TLS, Session
from igtl.extras import need
from igtl.options import PORT

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Diagnosis", "Finding", "Seen", "examine", "markdown"]


def examine(
    host: str = "localhost",
    port: int = PORT,
    *,
    seconds: float = 3.0,
    type_name: str = "*",
    device_name: str = "*",
    hello: bool = False,
    ssl: SSLContext | None = None,
    server_hostname: str | None = None,
    listen: bool = False,
    ask_clock: bool = False,
    watch: Callable[[Diagnosis], None] | None = None,
) -> Diagnosis:
    """Connect to a server, listen for a while, and say what is likely wrong.

    What it finds raises no error: it is in the diagnosis.

    Args:
        host: of the server; with `listen` where to wait for a client. "ws://host:port/path"
            and "wss://…" are WebSockets (`igtl[websocket]`).
        port: of the server, or to listen on.
        seconds: how long to listen.
        type_name: the type that you are waiting for (wildcards * and ?).
        device_name: the device that you are waiting for (wildcards * and ?).
        hello: offer header version 2 first. Not to libraries before 3.0: they lose their place in
            the stream.
        ssl: a context makes it TLS.
        server_hostname: name to check the certificate against; default host.
        listen: be the server, and wait for one client.
        ask_clock: ask a server that sets time stamps for its clock, by GET_STATUS. Not 3D Slicer:
            it crashes. A peer that sets no time stamps is not asked, as Slicer sets none.
        watch: called ten times a second while it listens, with what was found so far.

    Raises:
        ValueError: a WebSocket is to be served, or does not fit `ssl`.
        MissingExtra: the host is a WebSocket, and the package for that is not installed.
    """
    url = websocket_address(host, port)
    if url is None:
        diagnosis = Diagnosis(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    else:
        if listen:
            raise ValueError("a WebSocket is examined as its client, not as its server")
        if ssl is not None and not url.secure:
            raise ValueError("ws:// has no TLS: ssl= is for wss://")
        need("websockets", "websocket")
        diagnosis = Diagnosis(str(url))
        host, port = url.host, url.port
        if url.secure and ssl is None:
            from igtl.session import tls

            ssl = tls.client()

    def session(hello: bool) -> Session | None:
        sock = (
            accepted(diagnosis, host, port, seconds) if listen else connected(diagnosis, host, port)
        )
        if sock is not None and ssl is not None:
            sock = by_tls(diagnosis, sock, ssl, server_hostname or host, listen)
        through: Connection | None = sock
        if sock is not None and url is not None:
            through = by_websocket(diagnosis, sock, url)
        if through is None:
            return None
        with contextlib.closing(through):
            found = Session(diagnosis, through, seconds, hello, ask_clock and not listen, watch)
            found.run()
        return found

    first = session(hello)
    if first is None:
        return diagnosis
    if hello and not listen and not diagnosis.streams and first.foreign is None:
        again = session(False)  # is it the hello?
        if again is not None and diagnosis.streams:
            diagnosis.found(
                "problem", "version",
                "It says nothing when it is offered header version 2, but sends when it is not: "
                "its library is of version 1. Leave out --hello.",
            )  # fmt: skip
            first = again
    hung_up = first.closed_after is not None and first.probed and not first.bytes
    if hung_up and ssl is None and url is None and not listen and speaks_tls(host, port):
        # OpenIGTLink ignores a STATUS; OpenSSL hangs up without a word at what is not TLS
        first.foreign = "tls", TLS
    judge(diagnosis, first, type_name, device_name)
    return diagnosis
