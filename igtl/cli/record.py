"""`igtl record`: what servers send, into a recording."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import igtl
from igtl.cli import arguments
from igtl.cli.arguments import Address, Selection, ending, overwriting, selecting
from igtl.cli.files import sequences_too
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import say, size, styled
from igtl.log import named

if TYPE_CHECKING:
    from rich.text import Text


@click.command("record")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("addresses", nargs=-1, type=Address())
@click.option(
    "--compression", type=click.Choice(["lz4", "zstd", "none"]), default="lz4", show_default=True,
    help="Of the file.",
)  # fmt: skip
@click.option("--reconnect", is_flag=True, help="Go on when a server was away.")
@arguments.quiet
@ending
@selecting
@receiving
@overwriting("file")
@sequences_too
def command(
    file: Path,
    addresses: tuple[tuple[str, int], ...],
    compression: Any,
    reconnect: bool,
    quiet: bool,
    count: int | None,
    seconds: float | None,
    selection: Selection,
    source: Callable[..., Source],
) -> None:
    """Record what servers send, every byte with its time.

    FILE is a new MCAP file, readable by any reader of MCAP; what is older than a second is in it
    even if this program is killed. A FILE of the suffix .igs.mha, .igs.nrrd, .seq.mha or .seq.nrrd
    becomes a sequence of PLUS or 3D Slicer at the end: the images of one device, and transforms.
    ADDRESSES are HOST:PORT, as many as you like, default localhost:18944. Damaged messages are
    recorded too.

    \b
    igtl record case.mcap tracker:18944 ultrasound:18944
    igtl info case.mcap
    igtl replay case.mcap
    """
    places = addresses or (("localhost", 18944),)
    end = None if seconds is None else time.monotonic() + seconds
    limited = count is not None or seconds is not None
    stopped = threading.Event()
    errors: list[Exception] = []
    file.unlink(missing_ok=True)  # --force was given
    with igtl.Recorder(file, compression=compression) as recorder:

        def note(what: str, number: int, **facts: Any) -> None:
            with suppress(OSError):  # of the disk: close tells it
                recorder.event(what, connection=number, **facts)

        def follow(number: int, place: tuple[str, int]) -> None:
            def tell(text: str) -> None:
                note("connection", number, peer=named(place), text=text)
                say(text)

            def bad(error: igtl.ProtocolError) -> None:
                note("error", number, peer=named(place), text=str(error))
                say(f"{named(place)}: {error}")

            try:
                with source(
                    place, end=end, heal=reconnect, limited=limited, selection=selection,
                    tell=tell, bad=bad,
                ) as incoming:  # fmt: skip
                    sources.append(incoming)
                    note("connected", number, peer=incoming.peer)
                    for frame, peer in incoming.frames():
                        if stopped.is_set():
                            return
                        if not selection.takes(frame.type_name, frame.device_name):
                            continue
                        try:
                            recorder.write(frame, peer=peer, connection=number)
                        except OSError:  # of the disk: close tells it
                            stopped.set()
                            return
                        if count is not None and recorder.count >= count:
                            stopped.set()
                            return
                    note("disconnected", number, peer=incoming.peer)
                    if not (stopped.is_set() or limited):
                        say(f"{named(place)} has ended")
            except (igtl.IgtlError, OSError, click.ClickException) as error:
                if not stopped.is_set():
                    note("lost", number, peer=named(place), text=str(error))
                    errors.append(error)
                    if len(places) > 1:  # the others go on
                        say(str(error))

        sources: list[Source] = []
        threads = [
            threading.Thread(target=follow, args=(number, place), daemon=True)
            for number, place in enumerate(places, 1)
        ]
        try:
            for thread in threads:
                thread.start()
            _watch(recorder, file, threads, stopped, quiet)
        except KeyboardInterrupt:
            pass
        finally:
            stopped.set()
            for each in sources:
                each.close()
            for thread in threads:
                if thread.is_alive():
                    thread.join(2)
    if errors and not recorder.count:
        file.unlink()  # so that the next try is not in its way
        raise errors[0]
    if not quiet:
        say(f"{file}: {recorder.count} messages, {size(recorder.bytes)} in "
            f"{size(file.stat().st_size)}")  # fmt: skip
    if errors:
        raise errors[0]


def _watch(
    recorder: igtl.Recorder,
    file: Path,
    threads: list[threading.Thread],
    stopped: threading.Event,
    quiet: bool,
) -> None:
    """Until all sources have ended, or there is enough."""
    from rich.live import Live

    console = terminal(stderr=True)
    begun = time.monotonic()
    before = 0, begun

    def line() -> Text:
        nonlocal before
        now = time.monotonic()
        rate = (recorder.count - before[0]) / max(1e-3, now - before[1])
        before = recorder.count, now
        text = (
            f"{file.name}  {now - begun:.0f} s  {recorder.count} messages  {rate:.0f}/s  "
            f"{size(recorder.bytes)}   Ctrl-C ends"
        )
        return styled((text, "cyan"))

    shown = not quiet and console.is_terminal
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while any(thread.is_alive() for thread in threads) and not stopped.wait(0.25):
            if shown:
                live.update(line(), refresh=True)
