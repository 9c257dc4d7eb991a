"""`igtl dump`: print what a server sends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime

import click

import igtl
from igtl.cli import arguments, brief
from igtl.cli.arguments import Address, Selection, ending, selecting
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import echo, first_that_fits, say, width

_WIDE = 98  # columns in which a pose and its angles have room


def line(message: igtl.Message, *, verbose: bool = False) -> str:
    """Return a message in one line: arrival, type, device, and its content in a few words.

    It is cut to the width of the terminal, if there is one.

    Args:
        message: the message.
        verbose: all of its repr instead, in full.
    """
    arrival = datetime.fromtimestamp(message.received or time.time()).strftime("%H:%M:%S.%f")[:-3]
    marks = "" if message.crc_ok is not False else "  WRONG CRC"
    if verbose:
        details = repr(message)[1:-1].partition(" ")[2]  # without <ClassName … >
        return f"{arrival}  {message.type_name:<12}  {details}{marks}"
    contents = brief.values(message)
    kind, device = message.type_name, message.device_name
    if (width() or _WIDE) >= _WIDE:
        before = [f"{arrival}  {kind:<9}  {device:<18}{marks} "]
    else:
        contents = contents[1:] or contents
        before = [f"{arrival} {kind:<9} {device:<14}{marks} "]
        if len(contents) > 1:  # a pose, which can be seen
            before.append(f"{arrival[:8]} {device}{marks} ")
    return first_that_fits(*(start + content for start in before for content in contents))


@click.command("dump")
@click.argument("address", type=Address(), default="localhost:18944")
@arguments.verbose
@arguments.as_json
@arguments.arrays
@click.option(
    "--crc", type=click.Choice(["verify", "warn", "off"]), default="verify", show_default=True,
    help="What to do about wrong CRCs.",
)  # fmt: skip
@ending
@selecting
@receiving
def command(
    address: tuple[str, int],
    verbose: bool,
    as_json: bool,
    arrays: bool,
    crc: igtl.CRCPolicy,
    count: int | None,
    seconds: float | None,
    selection: Selection,
    source: Callable[..., Source],
) -> None:
    """Print the messages a server sends, each in a line: arrival, type, device, and its content in
    a few words. Poses are x, y, z and the angles about x, y, z, applied in this order.

    ADDRESS is HOST:PORT, default localhost:18944. Bad messages are told on standard error.
    """
    end = None if seconds is None else time.monotonic() + seconds
    shown = 0
    limited = count is not None or seconds is not None
    with source(
        address, end=end, limited=limited, selection=selection, crc=crc, bad=_complain
    ) as incoming:
        for message in incoming.messages():
            if not selection.takes(message.type_name, message.device_name):
                continue
            echo(
                json.dumps(message.to_dict(arrays=arrays)) if as_json
                else line(message, verbose=verbose)
            )  # fmt: skip
            sys.stdout.flush()
            shown += 1
            if shown == count:
                break


def _complain(error: igtl.ProtocolError) -> None:
    say(f"bad message: {error}")
