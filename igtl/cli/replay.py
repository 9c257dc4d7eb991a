"""`igtl replay`: a recording, or a file of images in time, sent again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import igtl
from igtl.cli import Failure
from igtl.cli.arguments import Address, Connection, serving
from igtl.cli.echo import tell
from igtl.cli.files import opened
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import say
from igtl.log import named

if TYPE_CHECKING:
    from ssl import SSLContext


class _Speed(click.ParamType):  # type: ignore[type-arg]
    """A factor, or "max"."""

    name = "speed"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | None:
        if value == "max" or value is None:
            return None
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            self.fail(f"{value!r} is no factor above 0, nor max", param, ctx)
        return speed


@click.command("replay")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--at", "address", type=Address(), default="localhost:18944", show_default=True,
    help="Be a server there, and begin when the first client has come.",
)  # fmt: skip
@click.option("--to", type=Address(), help="Connect to this server instead.")
@click.option("--udp", type=Address(), help="Send datagrams to this address instead.")
@click.option("--now", is_flag=True, help="Do not wait for a client.")
@click.option("--speed", type=_Speed(), default="1", show_default=True, help="A factor, or max.")
@click.option("--loop", is_flag=True, help="Again and again.")
@click.option("--from", "start", type=click.FloatRange(0), default=0.0, help="Seconds to skip.")
@click.option("--until", "end", type=click.FloatRange(0), help="Seconds where to end.")
@click.option("-d", "--device", "streams", multiple=True, help="Only these device names or types.")
@click.option("--restamp", is_flag=True, help="Make the time stamps look new.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@serving
def command(
    file: Path,
    address: tuple[str, int],
    to: tuple[str, int] | None,
    udp: tuple[str, int] | None,
    now: bool,
    speed: float | None,
    loop: bool,
    start: float,
    end: float | None,
    streams: tuple[str, ...],
    restamp: bool,
    quiet: bool,
    context: SSLContext | None,
) -> None:
    """Send a recording again, as a server (default), a client (--to) or by UDP: the same bytes at
    the same intervals. A file of images in time (.igs.mha, .seq.nrrd, .nii …) is sent as images
    and transforms.
    """
    with ExitStack() as stack:
        recording = stack.enter_context(opened(file))
        if recording.truncated:
            say(f"{file} was cut: it is sent up to there")
        try:
            playback = recording.play(
                list(streams) or None, speed=speed, loop=loop, start=start, end=end,
                restamp=restamp,
            )  # fmt: skip
            for stream in streams:
                recording[stream]
        except KeyError as error:
            raise Failure(str(error.args[0])) from None
        send = _receiver(stack, address, to, udp, now, context)
        _play(playback, send, recording, start, end, loop, quiet)
    late = np.array(playback.lateness)
    timing = ""
    if len(late):
        p50, p99 = 1000 * np.percentile(late, [50, 99])
        timing = f"; late by {p50:.2f} ms (median), {p99:.2f} ms (99 %)"
    if not quiet:
        say(f"{playback.sent} sent{timing}")


def _receiver(
    stack: ExitStack,
    address: tuple[str, int],
    to: tuple[str, int] | None,
    udp: tuple[str, int] | None,
    now: bool,
    context: SSLContext | None,
) -> Callable[[igtl.Frame], Any]:
    """Return the function that sends each frame."""
    if udp is not None:
        return stack.enter_context(igtl.udp.Sender(*udp)).send
    if to is not None:
        return stack.enter_context(
            Connection(hello=False, version="auto", context=None).open(to)
        ).send
    server = stack.enter_context(igtl.serve(*address, ssl=context, policy="block", start=False))
    tell(server)
    arrived = threading.Event()
    server.on_connect(lambda peer: arrived.set())
    server.start()
    say(f"serving on {named((server.host, server.port))}" + ("" if now else ", for a client"))
    if not now:
        arrived.wait()
    return server.broadcast


def _play(
    playback: Any,
    send: Callable[[igtl.Frame], Any],
    recording: igtl.Recording,
    start: float,
    end: float | None,
    loop: bool,
    quiet: bool,
) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = terminal(stderr=True)
    columns = (
        BarColumn(), TextColumn("{task.fields[sent]} sent"), TimeElapsedColumn(),
        TextColumn("Ctrl-C ends"),
    )  # fmt: skip
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        length = (recording.duration if end is None else end) - start
        bar = progress.add_task("", total=None if loop else length, sent=0)
        try:
            for frame in playback:
                send(frame)
                if not hidden:
                    progress.update(bar, completed=playback.position - start, sent=playback.sent)
        except KeyboardInterrupt:
            pass
