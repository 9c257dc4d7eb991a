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
from igtl.cli import arguments
from igtl.cli.arguments import Selection, selecting, serving
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
@arguments.at("localhost:18944")
@click.option(
    "--feed", "feeds", multiple=True, type=Specification(), metavar="SPEC",
    help="Send what this device measures, as camera:/dev/video0; igtl devices lists them. May be "
    "given again.",
)  # fmt: skip
@arguments.name
@click.option("--on-request", is_flag=True, help="Send only to those who ask (GET_, STT_).")
@arguments.allow
@click.option(
    "--origin", "origins", multiple=True, help="At ws://: pages of this origin may connect."
)
@arguments.compress
@arguments.verbose
@arguments.as_json
@selecting
@serving
def command(
    files: tuple[str, ...],
    feeds: tuple[Device, ...],
    at: tuple[str, int],
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
    """Be a server: send FILES to each client that comes, and what devices send, answer requests
    for them, and print what clients send.

    3D Slicer connects to it as a client, and shows the files, images and poses. -t, -d, -v and
    --json are of what is printed. A device that fails is opened again; clients get a STATUS.

    \b
    igtl serve --feed camera:/dev/video0 --feed "serial:/dev/ttyUSB0?unit=N"
    """
    messages = [load(file, device_name=name) for file in files]
    server = igtl.serve(
        *at, ssl=context, allow=allow or None, origins=origins, compression=compress,
        policy="latest" if feeds else ServerOptions().policy, start=False,
    )  # fmt: skip
    broken: list[OSError] = []  # of standard output
    with ExitStack() as stack:
        stack.enter_context(server)
        tell(server)
        for message in messages:
            if not on_request:
                server.broadcast(message, latch=True)
        _provide(server, messages)
        sources = [stack.enter_context(open_device(device)) for device in feeds]
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
