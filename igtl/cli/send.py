"""`igtl send`: messages and files to a server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import click

import igtl
from igtl.cli import Failure, arguments, compose, files
from igtl.cli.arguments import Address, Connection, connection
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import say, size
from igtl.codec.formatting import printable
from igtl.log import named

Item = tuple[str, Callable[[], Iterator[igtl.Message]]]
"""What to call it, and what makes its messages."""


def _items(words: tuple[str, ...], name: str | None, space: Any) -> list[Item]:
    """Return the items that the words of the command line name."""
    items: list[Item] = []
    left = list(words)
    while left:
        word = left.pop(0)
        cls = compose.class_of(word)
        if word == "-":
            items.append(("standard input", _lines))
        elif word.startswith("{"):
            items.append(("JSON", partial(_one, _json, word)))
        elif files.place(word) is not None:
            make = partial(files.load, device_name=name, space=space)
            items.append((word, partial(_one, make, word)))
        elif cls is not None:
            fields = []
            while left and "=" in left[0] and not left[0].startswith("{"):
                fields.append(left.pop(0))
            items.append((word, partial(_one, compose.from_words, cls, fields)))
        else:
            raise click.UsageError(f"{word!r} is no file, no message type, and no JSON object")
    return items


def _one(make: Callable[..., igtl.Message], *args: Any) -> Iterator[igtl.Message]:
    yield make(*args)


def _json(text: str) -> igtl.Message:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("is no JSON object")
    return compose.from_dict(values)


def _lines() -> Iterator[igtl.Message]:
    for number, text in enumerate(sys.stdin, 1):
        if text.strip():
            try:
                yield _json(text)
            except ValueError as error:
                raise Failure(f"line {number}: {error}") from None


@click.command("send")
@click.argument("items", nargs=-1, required=True)
@click.argument("address", type=Address())
@arguments.name
@click.option(
    "--space", type=click.Choice(["LPS", "RAS"]),
    help="What meshes are in whose files do not say; default LPS, as in 3D Slicer.",
)  # fmt: skip
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Again and again, so often a second, stamped anew.",
)
@arguments.count
@arguments.compress
@arguments.udp
@click.option(
    "--to-slicer", is_flag=True,
    help="To 3D Slicer: header version 2, and nothing that it crashes on or shows wrongly.",
)  # fmt: skip
@arguments.quiet
@connection
def command(
    items: tuple[str, ...],
    address: tuple[str, int],
    name: str | None,
    space: str | None,
    rate: float | None,
    count: int | None,
    compress: bool,
    udp: bool,
    to_slicer: bool,
    quiet: bool,
    how: Connection,
) -> None:
    """Send messages, images, meshes and fiducials to a server.

    Each of ITEMS is a file (see `igtl.files`; a folder is a DICOM series; takes pip install
    "igtl[imaging]" or "igtl[mesh]"), or a message: a type and its fields, a JSON object, or - for
    JSON objects on standard input, one a line, as `igtl dump --json --arrays` prints them. FILE[3]
    is the fourth image of a file of several.

    \b
    igtl send ct.nii.gz skin.stl localhost:18944
    igtl send STATUS code=OK message="all is well" localhost
    igtl send TRANSFORM device_name=Probe metadata.TransformStatus=OK \\
        matrix="[[1,0,0,5],[0,1,0,0],[0,0,1,0],[0,0,0,1]]" \\
        localhost --header-version 2
    igtl send '{"type": "STRING", "string": "hello"}' localhost --rate 10

    ADDRESS is HOST:PORT. --to-slicer refuses what 3D Slicer cannot take, with the reason and the
    remedy; integers of more than 16 bits are converted where all values fit.
    """
    found = _items(items, name, space)
    check = _for_slicer if to_slicer else _as_it_is
    if to_slicer:
        if udp:
            raise click.UsageError("3D Slicer takes no datagrams")
        how = how._replace(version=2)
    if count is not None and rate is None:
        raise click.UsageError("--count goes with --rate")
    with ExitStack() as stack:
        out: Any
        if udp:
            out = stack.enter_context(igtl.udp.Sender(*address))
        else:
            out = stack.enter_context(how.open(address, compression=compress))
            if compress:
                out.wait_compressed()
        try:
            if rate is None:
                sent = _once(out, found, name, quiet, check)
            else:
                told = f"sending to {named(address)}, {rate:g} times a second, Ctrl-C ends"
                sent = _again(out, found, name, rate, count, check, "" if quiet else told)
        except ValueError as error:
            if isinstance(error, igtl.IgtlError):
                raise
            raise click.UsageError(str(error)) from None
        bytes_sent = out.stats.sent_bytes
    if not quiet:
        say(f"{sent} sent, {size(bytes_sent)}")


def _as_it_is(message: igtl.Message) -> igtl.Message:
    return message


def _for_slicer(message: igtl.Message) -> igtl.Message:
    """Return a message that 3D Slicer takes.

    Integers and texts are converted where nothing is lost.

    Raises:
        SlicerRefuses: there is no way to send it.
    """
    from igtl.peers.slicer import adapted

    return adapted(message)


Check = Callable[[igtl.Message], igtl.Message]


def _once(out: Any, items: list[Item], name: str | None, quiet: bool, check: Check) -> int:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = terminal(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    sent = 0
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        for word, make in items:
            title = printable(word)
            bar = progress.add_task(f"reading {title}", total=None)
            for message in make():
                if name is not None:
                    message.device_name = name
                message = check(message)
                before = out.stats.sent_bytes
                progress.update(bar, description=f"sending {title}")
                out.send(message)
                progress.update(bar, advance=out.stats.sent_bytes - before)
                sent += 1
            done = progress.tasks[bar].completed
            progress.update(bar, description=f"sent {title}", total=done or 1, completed=done or 1)
    return sent


def _again(
    out: Any,
    items: list[Item],
    name: str | None,
    rate: float,
    count: int | None,
    check: Check,
    told: str,
) -> int:
    messages = [message for _, make in items for message in make()]
    for message in messages:
        if name is not None:
            message.device_name = name
    messages = [check(message) for message in messages]
    sent = 0
    with suppress(KeyboardInterrupt):  # what was sent until then is told
        if told:
            say(told)
        for _ in igtl.Rate(rate):
            for message in messages:
                message.timestamp = time.time()
                out.send(message)
                sent += 1
                if sent == count:
                    return sent
    return sent
