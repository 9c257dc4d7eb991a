"""`igtl simulate`: devices without hardware, behind a server."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

import igtl
from igtl.cli import Failure, arguments, listening
from igtl.cli.arguments import serving
from igtl.cli.echo import tell
from igtl.cli.terminal import say
from igtl.codec.formatting import printable
from igtl.log import named
from igtl.simulate import DEVICES, Stream, serve, sources
from igtl.simulate import plus as simulate_plus
from igtl.simulate import slicer as simulate_slicer
from igtl.simulate.slicer_node import Role

if TYPE_CHECKING:
    from ssl import SSLContext


def _table(devices: dict[str, str]) -> str:
    return "\n".join(f"    {name:<12}{text}" for name, text in devices.items())


@click.command(
    "simulate",
    help=f"""Serve simulated devices, to try a program without hardware.

    DEVICES are any of these; default tracker and ultrasound:

    \b
{_table(DEVICES)}

    COMMANDs are answered with their own text. What is sent depends on the seed and the time since
    the start alone. With --plus it is a PlusServer with three tools and an ultrasound image, which
    obeys CLIENTINFO, carries out PLUS' commands, and is stopped by what stops PLUS.

    With --slicer it is a connector of 3D Slicer instead, as it behaves on the network: it says what
    would be shown, ends with exit code 1 on what Slicer would crash on, and answers COMMANDs with
    their own text.
    """,
)
@click.argument("devices", nargs=-1, type=click.Choice(list(DEVICES)), metavar="[DEVICES]...")
@arguments.at("localhost:18944")
@arguments.peer
@arguments.udp
@click.option(
    "--slicer", type=click.Choice(["client", "server"]),
    help="Be 3D Slicer: as a client of --peer (default localhost), or as a server at --at.",
)  # fmt: skip
@click.option("--noise", type=click.FloatRange(0), default=0.0, help="Of the tracker, mm.")
@click.option(
    "--dropout", type=click.FloatRange(0, 1), default=0.0,
    help="Share of the time in which a tool of the tracker is out of sight.",
)  # fmt: skip
@click.option("--statuses", is_flag=True, help="Tell that in the metadata, as PLUS does.")
@click.option("--seed", type=int, default=0, help="Of all that is random.")
@click.option("--plus", is_flag=True, help="Be a PlusServer instead, as it was measured.")
@arguments.seconds()
@serving
def command(
    devices: tuple[str, ...],
    at: tuple[str, int],
    peer: tuple[str, int] | None,
    udp: bool,
    slicer: Role | None,
    noise: float,
    dropout: float,
    statuses: bool,
    seed: int,
    plus: bool,
    seconds: float | None,
    context: SSLContext | None,
) -> None:
    """Serve simulated devices; the help is above, for it lists them."""
    if plus and slicer is not None:
        raise click.UsageError("--plus and --slicer are two peers: give one of them")
    if plus:
        if devices or peer or udp or context or dropout or noise or statuses:
            raise click.UsageError("--plus takes --at and --seconds only")
        _be_plus(at, seconds)
        return
    if slicer is not None:
        if devices or udp:
            raise click.UsageError("--slicer goes with no devices, and not with --udp")
        if slicer == "server" and peer is not None:
            raise click.UsageError("--slicer server listens: it goes with --at, not with --peer")
        _be_slicer(slicer, at if slicer == "server" else peer or ("localhost", igtl.PORT), seconds)
        return
    if udp != (peer is not None):
        raise click.UsageError("--peer and --udp go together: simulated devices are servers else")
    devices = devices or ("tracker", "ultrasound")
    settings: dict[str, Any] = {
        "noise": noise, "dropout": dropout, "statuses": statuses, "seed": seed,
    }  # fmt: skip
    with ExitStack() as stack:
        if peer is not None:
            out = stack.enter_context(igtl.udp.Sender(*peer))
            streams = [
                Stream(source.produce, out.send, source.hz)
                for device in devices for source in sources(device, **settings)
            ]  # fmt: skip
            if not streams:
                raise click.UsageError("the CT is not for datagrams")
            for stream in streams:
                stack.callback(stream.stop)
            say(f"{', '.join(devices)} to {named(peer)} by UDP, Ctrl-C ends")
            time.sleep(seconds or 1e9)
            return
        host, port = at
        simulator = stack.enter_context(
            serve(*devices, host=host, port=port, ssl=context, **settings)
        )
        tell(simulator.server)
        place = named((simulator.host, simulator.port))
        say(f"{', '.join(devices)} on {place}, Ctrl-C ends")
        simulator.server.wait(seconds)


def _be_plus(address: tuple[str, int], seconds: float | None) -> None:
    with listening(named(address)):
        server = simulate_plus(*address)
    with server:
        say(f"PLUS, simulated, on {named((server.host, server.port))}, Ctrl-C ends")
        end = time.monotonic() + (seconds or 1e9)
        told = ""
        while time.monotonic() < end and not server.crashed:
            time.sleep(min(0.1, max(0.0, end - time.monotonic())))
            if server.frozen != told:
                told = server.frozen
                say(f"frozen, as PLUS would be: {told}")
        if server.crashed:
            raise Failure(f"ended, as PLUS would: {server.crashed}")


def _be_slicer(role: Role, address: tuple[str, int], seconds: float | None) -> None:
    end = float("inf") if seconds is None else time.monotonic() + seconds
    with listening(named(address)):
        node = simulate_slicer(role, *address)
    with node:
        node.handlers["*"] = lambda command: command.text
        where = named((node.host, node.port))
        say(f"3D Slicer as {role}, {'at' if role == 'server' else 'to'} {where}, Ctrl-C ends")
        shown: set[tuple[str, str]] = set()
        there = 0
        while time.monotonic() < end:
            if node.connections != there:
                there = node.connections
                say(f"{there} connected")
            for key in node.nodes.keys() - shown:
                shown.add(key)
                say(f"shows {key[0]} {printable(repr(key[1]))}")
            if node.crashed:
                raise Failure(f"3D Slicer would have crashed on {node.crashed}")
            time.sleep(0.02)
