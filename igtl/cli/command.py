"""`igtl command`: send a COMMAND and print the reply."""

from __future__ import annotations

import json
import sys

import click

import igtl
from igtl.cli import Failure
from igtl.cli.arguments import Address, Connection, connection
from igtl.cli.terminal import echo


@click.command("command")
@click.argument("address", type=Address())
@click.argument("name")
@click.argument("text", default="")
@click.option("-d", "--device", default="", help="Device name of the command.")
@click.option(
    "--timeout", type=click.FloatRange(0), default=5.0, show_default=True, help="Seconds to wait."
)
@click.option("--json", "as_json", is_flag=True, help="The reply as a JSON object.")
@connection
def command(
    address: tuple[str, int],
    name: str,
    text: str,
    device: str,
    timeout: float,
    as_json: bool,
    how: Connection,
) -> None:
    """Send a COMMAND and print the text of the reply.

    NAME is that of the command, TEXT its content, usually XML; - reads it from standard input.
    Exits with 1 if the peer says that it failed, with 4 if it says nothing.

    \b
    igtl command localhost:18944 RequestDeviceIds
    igtl command localhost:18944 SetUsParameter '<Command><Parameter Name="Depth" …/></Command>'
    """
    text = sys.stdin.read() if text == "-" else text
    with how.open(address) as link:
        try:
            reply = link.command(name, text, device_name=device, timeout=timeout)
        except igtl.CommandFailed as error:
            if as_json and isinstance(error.reply, igtl.Message):
                echo(json.dumps(error.reply.to_dict(arrays=True)))
            raise Failure(f"{name} failed: {error}") from None
    if as_json:
        echo(json.dumps(reply.to_dict(arrays=True)))
    else:
        echo(*reply.text.splitlines())
