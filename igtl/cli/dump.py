"""`igtl dump`: print what a server sends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from fnmatch import fnmatchcase

import click

import igtl
from igtl.cli.arguments import Address


def _arrivals(
    address: tuple[str, int], udp: bool, start: str | None, hello: bool, crc: igtl.CRCPolicy
) -> Iterator[igtl.Message]:
    """Messages as they arrive; bad ones are reported on stderr and passed over."""
    host, port = address
    if udp:
        with igtl.udp.Receiver(port, host, crc=crc) as receiver:
            for message, _ in receiver:
                yield message
        return
    with igtl.connect(host, port, hello=hello, crc=crc) as link:
        if start == "TDATA":
            link.send(igtl.StartTrackingData())
        elif start == "QTDATA":
            link.send(igtl.StartQuaternionTrackingData())
        while True:
            try:
                yield link.recv()
            except igtl.ConnectionClosed as closed:
                if not closed.clean:
                    raise click.ClickException(str(closed)) from None
                return
            except igtl.MessageTooLarge as error:
                raise click.ClickException(str(error)) from None
            except igtl.ProtocolError as error:
                click.echo(f"bad message: {error}", err=True)


def _line(message: igtl.Message) -> str:
    arrival = datetime.fromtimestamp(message.received or time.time()).strftime("%H:%M:%S.%f")[:-3]
    marks = "" if message.crc_ok is not False else "  WRONG CRC"
    details = repr(message)[1:-1].partition(" ")[2]  # without <ClassName … >
    return f"{arrival}  {message.type_name:<12}  {details}{marks}"


@click.command("dump")
@click.argument("address", type=Address(), default="localhost:18944")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--arrays", is_flag=True, help="With --json: large arrays in full.")
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many messages.")
@click.option("-s", "--seconds", type=click.FloatRange(0, min_open=True), help="End after so long.")
@click.option("-t", "--type", "types", multiple=True, help="Only these types (wildcards * ?).")
@click.option("-d", "--device", default="*", help="Only these devices (wildcards * ?).")
@click.option("--udp", is_flag=True, help="Receive datagrams on ADDRESS instead.")
@click.option("--start", type=click.Choice(["TDATA", "QTDATA"]), help="Ask for this stream first.")
@click.option("--hello", is_flag=True, help="Offer header version 2 (PLUS, 3D Slicer, igtl).")
@click.option(
    "--crc", type=click.Choice(["verify", "warn", "off"]), default="verify", show_default=True,
    help="What to do about wrong CRCs.",
)  # fmt: skip
def command(
    address: tuple[str, int],
    as_json: bool,
    arrays: bool,
    count: int | None,
    seconds: float | None,
    types: tuple[str, ...],
    device: str,
    udp: bool,
    start: str | None,
    hello: bool,
    crc: igtl.CRCPolicy,
) -> None:
    """Print the messages a server sends.

    ADDRESS is HOST:PORT, default localhost:18944.
    """
    end = None if seconds is None else time.monotonic() + seconds
    shown = 0
    try:
        for message in _arrivals(address, udp, start, hello, crc):
            if end is not None and time.monotonic() >= end:
                break
            if types and not any(fnmatchcase(message.type_name, t) for t in types):
                continue
            if not fnmatchcase(message.device_name, device):
                continue
            if as_json:
                click.echo(json.dumps(message.to_dict(arrays=arrays)))
            else:
                click.echo(_line(message))
            sys.stdout.flush()
            shown += 1
            if shown == count:
                break
    except KeyboardInterrupt:
        pass
    except OSError as error:
        raise click.ClickException(f"{address[0]}:{address[1]}: {error}") from None
