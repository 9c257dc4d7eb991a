"""`igtl doctor`: find out why nothing arrives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from igtl.cli import FAILED, UNREACHABLE
from igtl.cli.arguments import Address, Connection, connection
from igtl.cli.clock import option as clock_option
from igtl.cli.tables import counted, explain, table
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import echo, styled
from igtl.doctor import Diagnosis, examine

if TYPE_CHECKING:
    from rich.table import Table

_MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "problem": ("✗", "red")}
_AWAY = ("host", "refused", "unreachable", "no client", "address")


@click.command("doctor")
@click.argument("address", type=Address(), default="localhost:18944")
@click.option(
    "-s", "--seconds", type=click.FloatRange(0.1), default=3.0, show_default=True,
    help="How long to listen.",
)  # fmt: skip
@click.option("-t", "--type", "type_name", default="*", help="The type you wait for.")
@click.option("-d", "--device", "device_name", default="*", help="The device name you wait for.")
@click.option("--listen", is_flag=True, help="Be the server: wait at ADDRESS for one client.")
@click.option("--json", "as_json", is_flag=True, help="The findings as a JSON object.")
@clock_option
@connection
def command(
    address: tuple[str, int],
    seconds: float,
    type_name: str,
    device_name: str,
    listen: bool,
    as_json: bool,
    ask_clock: bool,
    how: Connection,
) -> None:
    """Find out why nothing arrives: connect, listen for a while, and say what is likely wrong.

    Is the peer reachable? Does it speak OpenIGTLink, and which header version? Which types and
    names come, at which rates, with right CRCs and time stamps? With -t and -d: does what you wait
    for come?

    It sends nothing that could harm a peer. Exits with 0 if all is well, 1 if something is wrong, 3
    if the peer cannot be reached.
    """
    if ask_clock and listen:
        raise click.UsageError("--clock is for a server: a client is not asked")
    try:
        diagnosis = examine(
            *address, seconds=seconds, type_name=type_name, device_name=device_name,
            hello=how.hello, ssl=how.context, server_hostname=how.server_name, listen=listen,
            ask_clock=ask_clock,
        )  # fmt: skip
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        echo(json.dumps(diagnosis.to_dict()))
    else:
        _show(diagnosis)
    if diagnosis.problems:
        away = diagnosis.cause in _AWAY
        raise click.exceptions.Exit(UNREACHABLE if away else FAILED)


def _show(diagnosis: Diagnosis) -> None:
    console = terminal()
    for level, _, text in diagnosis.findings:
        console.print(_marked(level, text))
    if diagnosis.streams:
        console.print(_table(diagnosis, console.width))
    # the sentence to take away, unless it has just been said
    if diagnosis.findings[-1:] != diagnosis.problems:
        level, style = ("problem", "red") if diagnosis.problems else ("ok", "green")
        console.print(_marked(level, diagnosis.verdict), style=style)


def _marked(level: str, text: str) -> Any:
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_row(styled(_MARKS[level]), styled(text))
    return grid


def _shown(duration: float | None) -> str:
    return "–" if duration is None else f"{1000 * duration:.1f}"


def _table(diagnosis: Diagnosis, width: int) -> Table:
    known = diagnosis.clock.known
    late, meaning = ("delay", "by the peer's clock") if known else ("offset", "clocks not compared")
    titles = ("device", "type", "number", "Hz", "jitter", "age", late, "bytes", "CRC")
    rows = [
        (
            device, kind, str(seen.count), f"{seen.rate:.1f}", f"{1000 * seen.jitter:.2f}",
            f"{1000 * seen.age:.0f}",
            _shown(diagnosis.delay(seen) if known else seen.offset),
            f"{seen.bytes / max(1, seen.count):.0f}", counted(seen.wrong_crc),
        )
        for (kind, device), seen in sorted(
            diagnosis.streams.items(), key=lambda item: item[0][::-1]
        )
    ]  # fmt: skip
    drop = ["bytes", "jitter", "age", late, "CRC", "number"]
    out = table(titles, rows, left=2, width=width, drop=drop)
    means = {
        "jitter": "ms", "age": "ms", late: f"arrival after time stamp in ms, {meaning}",
        "CRC": "wrong ones",
    }  # fmt: skip
    out.caption = explain(out, **means)
    out.caption_justify = "left"
    return out
