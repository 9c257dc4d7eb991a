"""`igtl dump`: print what a server sends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime

import click

import igtl
from igtl.cli.arguments import Address, Selection, ending, selecting
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import echo, say


def line(message: igtl.Message) -> str:
    """A message in one line: arrival, type, and the rest of its repr."""
    arrival = datetime.fromtimestamp(message.received or time.time()).strftime("%H:%M:%S.%f")[:-3]
    marks = "" if message.crc_ok is not False else "  WRONG CRC"
    details = repr(message)[1:-1].partition(" ")[2]  # without <ClassName … >
    return f"{arrival}  {message.type_name:<12}  {details}{marks}"


@click.command("dump")
@click.argument("address", type=Address(), default="localhost:18944")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--arrays", is_flag=True, help="With --json: large arrays in full.")
@click.option(
    "--crc", type=click.Choice(["verify", "warn", "off"]), default="verify", show_default=True,
    help="What to do about wrong CRCs.",
)  # fmt: skip
@ending
@selecting
@receiving
def command(
    address: tuple[str, int],
    as_json: bool,
    arrays: bool,
    crc: igtl.CRCPolicy,
    count: int | None,
    seconds: float | None,
    selection: Selection,
    source: Callable[..., Source],
) -> None:
    """Print the messages a server sends.

    ADDRESS is HOST:PORT, default localhost:18944. Bad messages are told on standard error.
    """
    end = None if seconds is None else time.monotonic() + seconds
    shown = 0
    limited = count is not None or seconds is not None
    with source(address, end=end, limited=limited, crc=crc, bad=_complain) as incoming:
        for message in incoming.messages():
            if not selection.takes(message.type_name, message.device_name):
                continue
            echo(json.dumps(message.to_dict(arrays=arrays)) if as_json else line(message))
            sys.stdout.flush()
            shown += 1
            if shown == count:
                break


def _complain(error: igtl.ProtocolError) -> None:
    say(f"bad message: {error}")
