"""`igtl serve`: a server that hands out files and prints what it gets."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

import igtl
from igtl.cli.arguments import Address, Selection, selecting, serving
from igtl.cli.dump import line
from igtl.cli.echo import tell
from igtl.cli.files import File, load
from igtl.cli.terminal import echo, say
from igtl.log import named

if TYPE_CHECKING:
    from ssl import SSLContext


@click.command("serve")
@click.argument("files", nargs=-1, type=File())
@click.option(
    "--at", "address", type=Address(), default="localhost:18944", show_default=True,
    help="Where to listen; host 0.0.0.0 accepts connections from other machines.",
)  # fmt: skip
@click.option("--name", help="Device name of the files; default the name of each.")
@click.option("--on-request", is_flag=True, help="Send files only to those who ask (GET_).")
@click.option("--allow", multiple=True, help="Only these addresses or networks may connect.")
@click.option(
    "--origin", "origins", multiple=True, help="At ws://: pages of this origin may connect."
)
@click.option("--compress", is_flag=True, help="Compressed, to clients that ask for it.")
@click.option("-v", "--verbose", is_flag=True, help="Print matrices, metadata and all fields.")
@click.option("--json", "as_json", is_flag=True, help="Print what comes as JSON, one a line.")
@selecting
@serving
def command(
    files: tuple[str, ...],
    address: tuple[str, int],
    name: str | None,
    on_request: bool,
    allow: tuple[str, ...],
    origins: tuple[str, ...],
    compress: bool,
    verbose: bool,
    as_json: bool,
    selection: Selection,
    context: SSLContext | None,
) -> None:
    """Be a server: send FILES to each client that comes, answer requests for them, and print what
    clients send.

    3D Slicer connects to it as a client, and shows the files. -t and -d choose what is printed.
    """
    messages = [load(file, device_name=name) for file in files]
    server = igtl.serve(
        *address, ssl=context, allow=allow or None, origins=origins, compression=compress,
        start=False,
    )  # fmt: skip
    broken: list[OSError] = []  # of standard output
    with server:
        tell(server)
        for message in messages:
            if not on_request:
                server.broadcast(message, latch=True)
        _provide(server, messages)

        @server.on()
        def _(message: igtl.Message, peer: Any) -> None:
            if not broken and selection.takes(message.type_name, message.device_name):
                try:
                    as_text = json.dumps(message.to_dict()) if as_json else (
                        line(message, verbose=verbose)
                    )  # fmt: skip
                    echo(as_text)
                    sys.stdout.flush()
                except OSError as error:
                    broken.append(error)
                    threading.Thread(target=server.close).start()  # it waits for this handler

        server.start()
        say(f"serving on {named((server.host, server.port))}, Ctrl-C ends")
        server.wait()
    if broken:
        raise broken[0]


def _provide(server: igtl.Server, messages: list[igtl.Message]) -> None:
    """Answer requests with these, by type and name; a request without a name gets the first."""

    def answered(request: igtl.Get[Any], peer: Any) -> igtl.Message | None:
        fitting = [m for m in messages if type(m) is type(request).answer]
        named_so = [m for m in fitting if m.device_name == request.device_name]
        found = named_so or ([] if request.device_name else fitting)
        return found[0] if found else None

    for kind in (igtl.GetImage, igtl.GetPolyData, igtl.GetPoints):
        if any(type(m) is kind.answer for m in messages):
            server.provides(kind)(answered)
