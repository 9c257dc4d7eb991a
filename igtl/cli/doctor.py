"""`igtl doctor`: find out why nothing arrives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from igtl.cli import FAILED, TIMED_OUT, UNREACHABLE, arguments
from igtl.cli.arguments import Address, Connection, Selection, connection, overwriting, selecting
from igtl.cli.clock import option as clock_option
from igtl.cli.tables import counted, explain, table
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import echo, styled
from igtl.doctor import Diagnosis, examine, markdown

if TYPE_CHECKING:
    from rich.table import Table

_MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "problem": ("✗", "red")}
_LEVELS = tuple(_MARKS)  # the decisive ones last
_CODES = {
    "host": UNREACHABLE, "refused": UNREACHABLE, "unreachable": UNREACHABLE, "closed": UNREACHABLE,
    "address": FAILED, "no client": TIMED_OUT, "silent": TIMED_OUT,
}  # fmt: skip


@click.command("doctor")
@click.argument("address", type=Address(), default="localhost:18944")
@arguments.seconds("listen", 3.0, 0.1)
@selecting
@arguments.listen
@arguments.as_json
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path),
    help="Write all of it to this file too, in Markdown: findings, streams, versions.",
)  # fmt: skip
@overwriting("report")
@clock_option
@connection
def command(
    address: tuple[str, int],
    seconds: float,
    selection: Selection,
    listen: bool,
    as_json: bool,
    report: Path | None,
    ask_clock: bool,
    how: Connection,
) -> None:
    """Find out why nothing arrives: connect, listen for a while, and say what is likely wrong.

    Is the peer reachable? Does it speak OpenIGTLink, and which header version? Which types and
    names come, at which rates, with right CRCs and time stamps? With -t and -d, each once: does
    what you wait for come?

    It sends nothing that could harm a peer. Exits with 0 if all is well, 1 if something is wrong, 3
    if the peer cannot be reached or closes at once, 4 if it says nothing.
    """
    if ask_clock and listen:
        raise click.UsageError("--clock is for a server: a client is not asked")
    if len(selection.types) > 1 or len(selection.devices) > 1:
        raise click.UsageError("one stream at a time: give -t and -d once")
    type_name, device_name = (*selection.types, "*")[0], (*selection.devices, "*")[0]
    try:
        with _progress(seconds) as watch:
            diagnosis = examine(
                *address, seconds=seconds, type_name=type_name, device_name=device_name,
                hello=how.hello, ssl=how.context, server_hostname=how.server_name, listen=listen,
                ask_clock=ask_clock, watch=watch,
            )  # fmt: skip
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if report is not None:
        report.write_text(markdown(diagnosis), "utf-8")
    if as_json:
        echo(json.dumps(diagnosis.to_dict()))
    else:
        _show(diagnosis)
    if diagnosis.problems:
        raise click.exceptions.Exit(_CODES.get(diagnosis.cause, FAILED))


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[Diagnosis], None] | None]:
    """Show the progress, on standard error if that is a terminal."""
    console = terminal(stderr=True)
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[came]}")
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("connecting", total=seconds, came="")

        def watch(found: Diagnosis) -> None:
            number = sum(seen.count for seen in found.streams.values())
            came = f"{number} messages of {len(found.streams)} streams"
            progress.update(bar, description="listening", completed=found.seconds, came=came)

        yield watch


def _show(diagnosis: Diagnosis) -> None:
    """Print the streams, each finding once, the decisive ones last, and a summary."""
    console = terminal()
    if diagnosis.streams:
        console.print(_table(diagnosis, console.width))
    for wanted in _LEVELS:
        for level, _, text in diagnosis.findings:
            if level == wanted:
                console.print(_marked(level, text))
    if not diagnosis.problems:
        console.print(_marked("ok", diagnosis.verdict), style="green")
    elif len(diagnosis.findings) > 1:
        number = len(diagnosis.problems)
        which = "1 problem" if number == 1 else f"{number} problems, the likely cause first"
        console.print(styled((f"{which}: {', '.join(f.cause for f in diagnosis.problems)}", "red")))


def _marked(level: str, text: str) -> Any:
    from rich.table import Table

    grid = Table.grid(padding=(0, 1, 0, 0))
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
