"""`igtl serve`: a server that hands out files and what devices send, and prints what it gets."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

import igtl
from igtl.cli.arguments import Address, Selection, serving
from igtl.cli.devices import Specification
from igtl.cli.dump import line
from igtl.cli.echo import tell
from igtl.cli.files import File, load
from igtl.cli.terminal import echo, say
from igtl.devices import Device, feed
from igtl.devices import open as open_device
from igtl.log import named
from igtl.options import ServerOptions

if TYPE_CHECKING:
    from ssl import SSLContext


@click.command("serve")
@click.argument("files", nargs=-1, type=File())
@click.option(
    "--at", "address", type=Address(), default="localhost:18944", show_default=True,
    help="Where to listen; host 0.0.0.0 accepts connections from other machines.",
)  # fmt: skip
@click.option(
    "--device", "devices", multiple=True, type=Specification(), metavar="SPEC",
    help="Serve a device, as camera:/dev/video0; igtl devices lists them. May be given again.",
)  # fmt: skip
@click.option("--name", help="Device name of the files; default the name of each.")
@click.option("--on-request", is_flag=True, help="Send only to those who ask (GET_, STT_).")
@click.option("--allow", multiple=True, help="Only these addresses or networks may connect.")
@click.option(
    "--origin", "origins", multiple=True, help="At ws://: pages of this origin may connect."
)
@click.option("--compress", is_flag=True, help="Compressed, to clients that ask for it.")
@click.option("-v", "--verbose", is_flag=True, help="Print matrices, metadata and all fields.")
@click.option("--json", "as_json", is_flag=True, help="Print what comes as JSON, one a line.")
@click.option(
    "-t", "--print-type", "types", multiple=True, help="Print only these (wildcards * ?)."
)
@click.option(
    "-d", "--print-device", "names", multiple=True, help="Print only of these (wildcards * ?)."
)
@serving
def command(
    files: tuple[str, ...],
    devices: tuple[Device, ...],
    address: tuple[str, int],
    name: str | None,
    on_request: bool,
    allow: tuple[str, ...],
    origins: tuple[str, ...],
    compress: bool,
    verbose: bool,
    as_json: bool,
    types: tuple[str, ...],
    names: tuple[str, ...],
    context: SSLContext | None,
) -> None:
    """Be a server: send FILES to each client that comes, and what devices send, answer requests
    for them, and print what clients send.

    3D Slicer connects to it as a client, and shows the files, images and poses. -t and -d choose
    what is printed. A device that fails is opened again; clients get a STATUS.

    \b
    igtl serve --device camera:/dev/video0 --device "serial:/dev/ttyUSB0?unit=N"
    """
    selection = Selection(types, names)
    messages = [load(file, device_name=name) for file in files]
    server = igtl.serve(
        *address, ssl=context, allow=allow or None, origins=origins, compression=compress,
        policy="latest" if devices else ServerOptions().policy, start=False,
    )  # fmt: skip
    broken: list[OSError] = []  # of standard output
    with ExitStack() as stack:
        stack.enter_context(server)
        tell(server)
        for message in messages:
            if not on_request:
                server.broadcast(message, latch=True)
        _provide(server, messages)
        sources = [stack.enter_context(open_device(device)) for device in devices]
        try:
            stack.enter_context(feed(server, *sources, on_request=on_request))
        except ValueError as error:
            raise click.UsageError(str(error)) from None

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
    for kind in (igtl.GetImage, igtl.GetPolyData, igtl.GetPoints):
        for message in messages:
            if type(message) is kind.answer:
                server.provides(kind, message.device_name)(partial(_answer, message))


def _answer(message: igtl.Message, request: igtl.Get[Any], peer: Any) -> igtl.Message:
    return message
