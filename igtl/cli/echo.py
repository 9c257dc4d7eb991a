"""`igtl echo`: send everything back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import igtl
from igtl.cli.arguments import Address, serving
from igtl.cli.terminal import say
from igtl.log import named

if TYPE_CHECKING:
    from ssl import SSLContext


@click.command("echo")
@click.argument("address", type=Address(), default="localhost:18944")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of clients that come and go.")
@serving
def command(address: tuple[str, int], quiet: bool, context: SSLContext | None) -> None:
    """Send every message back to the client it came from: to try a program, or for `igtl bench`.

    ADDRESS is where to listen, HOST:PORT, default localhost:18944.
    """
    with igtl.serve(*address, ssl=context, start=False) as server:
        server.on()(lambda message, peer: peer.send(message))
        if not quiet:
            tell(server)
        server.start()
        say(f"echo on {named((server.host, server.port))}, Ctrl-C ends")
        server.wait()


def tell(server: igtl.Server) -> None:
    """Say on standard error who comes and goes."""

    @server.on_connect
    def _(peer: Any) -> None:
        say(f"+ {named(peer.peer)}")

    @server.on_disconnect
    def _(peer: Any) -> None:
        counted = f"{peer.stats.received} received, {peer.stats.sent} sent"
        lost = f", {peer.stats.lost} lost {dict(peer.stats.dropped)}" if peer.stats.lost else ""
        say(f"- {named(peer.peer)}: {counted}{lost}; {peer.close_reason}")
