"""`igtl command`: send a COMMAND and print the reply."""

from __future__ import annotations

import json
import sys

import click

import igtl
from igtl.cli import Failure, arguments
from igtl.cli.arguments import Address, Connection, connection
from igtl.cli.terminal import echo, waiting
from igtl.codec.xml import element
from igtl.log import named
from igtl.peers.plus.core import read_reply


@click.command("command")
@click.argument("address", type=Address())
@click.argument("what", metavar="COMMAND")
@click.argument("text", required=False)
@arguments.name
@arguments.timeout
@arguments.as_json
@connection
def command(
    address: tuple[str, int],
    what: str,
    text: str | None,
    name: str | None,
    timeout: float,
    as_json: bool,
    how: Connection,
) -> None:
    """Send a COMMAND and print the reply: its text, or what it says in XML, and its values.

    COMMAND is its name, TEXT its content, usually XML; - reads it from standard input.
    Default: <Command Name="COMMAND"/>, which is what PLUS reads. Header version 2 is offered first,
    since replies of version 1 have no values; --header-version 1 does not offer it.

    Exits with 1 if the peer says that it failed, with 4 if it says nothing.

    \b
    igtl command localhost:18944 RequestDeviceIds
    igtl command localhost:18944 SaveConfig '<Command Name="SaveConfig"/>'
    """
    if text is None:
        text = element("Command", {"Name": what})
    text = sys.stdin.read() if text == "-" else text
    how = how._replace(hello=how.version != 1)
    with how.open(address) as link, waiting(f"waiting for the reply of {named(address)}"):
        try:
            reply = link.command(what, text, device_name=name or "", timeout=timeout)
        except igtl.CommandFailed as error:
            if as_json and isinstance(error.reply, igtl.Message):
                echo(json.dumps(error.reply.to_dict(arrays=True)))
            raise Failure(f"{what} failed: {error}") from None
    if as_json:
        echo(json.dumps(reply.to_dict(arrays=True)))
        return
    told = read_reply(what, reply)
    # an element without content says all in its attributes
    in_xml = reply.text.lstrip().startswith("<CommandReply")
    lines = told.message.splitlines() if in_xml else reply.text.splitlines()
    echo(*lines, *(f"{key}: {value}" for key, value in told.values.items()))
