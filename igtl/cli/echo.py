"""`igtl echo`: send everything back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import igtl
from igtl.cli import arguments
from igtl.cli.arguments import serving
from igtl.cli.news import reason
from igtl.cli.terminal import say
from igtl.log import named

if TYPE_CHECKING:
    from ssl import SSLContext


@click.command("echo")
@arguments.at("localhost:18944")
@arguments.quiet
@serving
def command(at: tuple[str, int], quiet: bool, context: SSLContext | None) -> None:
    """Send every message back to the client it came from: to try a program, or for `igtl bench`."""
    with igtl.serve(*at, ssl=context, start=False) as server:
        server.on()(lambda message, peer: peer.send(message))
        if not quiet:
            tell(server)
        server.start()
        say(f"echo on {named((server.host, server.port))}, Ctrl-C ends")
        server.wait()


def tell(server: igtl.Server) -> None:
    """Print on standard error which clients connect and leave."""

    @server.on_connect
    def _(peer: Any) -> None:
        say(f"{named(peer.peer)} connected")

    @server.on_disconnect
    def _(peer: Any) -> None:
        stats = peer.stats
        causes = ", ".join(f"{number} {cause}" for cause, number in stats.dropped.items())
        lost = f", {stats.lost} lost ({causes})" if stats.lost else ""
        say(
            f"{named(peer.peer)} is gone: {reason(peer.close_reason)}; {stats.received} received, "
            f"{stats.sent} sent{lost}"
        )
