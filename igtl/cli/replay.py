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
from igtl.cli import arguments
from igtl.cli.arguments import Connection, Selection, selecting, serving
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
@arguments.at("localhost:18944")
@arguments.peer
@arguments.udp
@click.option("--now", is_flag=True, help="Do not wait for a client.")
@click.option("--speed", type=_Speed(), default="1", show_default=True, help="A factor, or max.")
@arguments.loop
@arguments.span
@selecting
@click.option("--restamp", is_flag=True, help="Make the time stamps look new.")
@arguments.quiet
@serving
def command(
    file: Path,
    at: tuple[str, int],
    peer: tuple[str, int] | None,
    udp: bool,
    now: bool,
    speed: float | None,
    loop: bool,
    begin: float,
    end: float | None,
    selection: Selection,
    restamp: bool,
    quiet: bool,
    context: SSLContext | None,
) -> None:
    """Send a recording again: the same bytes at the same intervals, as a server that begins when
    the first client has come, or to a server (--peer). A file of images in time (.igs.mha,
    .seq.nrrd, .nii …) is sent as images and transforms.
    """
    if udp and peer is None:
        raise click.UsageError("--udp needs --peer, where the datagrams go")
    with ExitStack() as stack:
        recording = stack.enter_context(opened(file))
        if recording.truncated:
            say(f"{file} was cut: it is sent up to there")
        playback = recording.play(
            selection.of(recording), speed=speed, loop=loop, start=begin, end=end, restamp=restamp
        )
        send = _receiver(stack, at, peer, udp, now, quiet, context)
        _play(playback, send, recording, begin, end, loop, quiet)
    late = np.array(playback.lateness)
    timing = ""
    if len(late):
        p50, p99 = 1000 * np.percentile(late, [50, 99])
        timing = f"; late by {p50:.2f} ms (median), {p99:.2f} ms (99 %)"
    if not quiet:
        say(f"{playback.sent} sent{timing}")


def _receiver(
    stack: ExitStack,
    at: tuple[str, int],
    peer: tuple[str, int] | None,
    udp: bool,
    now: bool,
    quiet: bool,
    context: SSLContext | None,
) -> Callable[[igtl.Frame], Any]:
    """Return the function that sends each frame."""
    if peer is not None:
        if udp:
            return stack.enter_context(igtl.udp.Sender(*peer)).send
        return stack.enter_context(
            Connection(hello=False, version="auto", context=None).open(peer)
        ).send
    server = stack.enter_context(igtl.serve(*at, ssl=context, policy="block", start=False))
    if not quiet:
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
    begin: float,
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
        length = (recording.duration if end is None else end) - begin
        bar = progress.add_task("", total=None if loop else length, sent=0)
        try:
            for frame in playback:
                send(frame)
                if not hidden:
                    progress.update(bar, completed=playback.position - begin, sent=playback.sent)
        except KeyboardInterrupt:
            pass
