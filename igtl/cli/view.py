"""`igtl view`: a live page in a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

import igtl
from igtl.cli import Failure, arguments, listening
from igtl.cli.arguments import Address, Place
from igtl.cli.clock import option as clock_option
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import echo, say
from igtl.log import named

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@click.command("view")
@click.argument("sources", type=Place(), nargs=-1, metavar="[ADDRESS | FILE]...")
@arguments.at("localhost:8080")
@click.option("--token", help="What a browser has to know. Default: a new one each time.")
@click.option("--control", is_flag=True, help="Browsers may record too, not only look.")
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".",
    help="Where the record button makes its files.",
)  # fmt: skip
@click.option("--patients", is_flag=True, help="Show the names of patients.")
@click.option(
    "--max-browsers", type=click.IntRange(1), default=8, show_default=True,
    help="Browsers that may watch at once.",
)  # fmt: skip
@arguments.loop
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser of this machine.")
@arguments.serve_cert
@click.option(
    "--foxglove", type=click.IntRange(0, 65535), is_flag=False, flag_value=8765, metavar="[PORT]",
    help="Serve Foxglove instead, at this port of this machine; 8765 if none is given.",
)  # fmt: skip
@arguments.seconds()
@clock_option
@receiving
def command(
    sources: tuple[Path | tuple[str, int], ...],
    at: tuple[str, int],
    token: str | None,
    control: bool,
    folder: Path,
    patients: bool,
    max_browsers: int,
    loop: bool,
    opens: bool,
    serve_cert: Path | None,
    serve_key: Path | None,
    foxglove: int | None,
    seconds: float | None,
    ask_clock: bool,
    source: Callable[..., Source],
) -> None:
    """See what servers send, or a recording, live in a browser: tools, images, volumes, meshes,
    plots, a table of the streams.

    ADDRESS is HOST:PORT, default localhost:18944; several are shown together, and connected to
    again when they come back. A FILE is a recording. Open the printed address in a browser; the
    part behind # lets it in. With --foxglove (after the sources), Foxglove shows it instead:
    "Open connection", "Foxglove WebSocket", and the printed address.
    """
    files = [s for s in sources if isinstance(s, Path)]
    addresses = [s for s in sources if not isinstance(s, Path)]
    if len(files) > 1 or (files and addresses):
        raise click.UsageError("one recording, or any number of addresses")
    if not sources:
        addresses = [Address().convert("localhost", None, None)]
    if foxglove is not None:
        if ask_clock:
            raise click.UsageError("--clock is for the page: Foxglove shows no delays")
        _serve_foxglove(foxglove, files, addresses, loop, seconds, source)
        return
    try:
        with listening(named(at)):
            view = igtl.View(
                host=at[0], port=at[1], token=token, control=control, folder=folder,
                patients=patients, max_browsers=max_browsers, cert=serve_cert, key=serve_key,
            )  # fmt: skip
    except (OSError, ValueError) as error:
        raise Failure(f"{named(at)}: {error}") from None
    followed: list[Source] = []
    with ExitStack() as stack:
        stack.enter_context(view)
        for path in files:
            view.play(path, loop=loop)
        if at[0] not in _LOOPBACK:
            say(f"anyone who knows the address below can watch from {at[0]}; see docs/view.md")
        echo(view.url)
        if opens:
            click.launch(view.url)
        for address in addresses:
            following = partial(source, ask_clock=ask_clock)
            followed.append(_follow(stack, following, address, view))
        threading.Event().wait(seconds)
        _check(followed)


def _serve_foxglove(
    port: int,
    files: list[Path],
    addresses: list[tuple[str, int]],
    loop: bool,
    seconds: float | None,
    source: Callable[..., Source],
) -> None:
    with ExitStack() as stack:
        with listening(f"port {port}"):
            server = stack.enter_context(igtl.foxglove.Server(port=port))
        for path in files:
            server.play(path, loop=loop)
        echo(server.url)
        followed = [_follow(stack, source, address, server) for address in addresses]
        threading.Event().wait(seconds)
        _check(followed)


def _check(followed: list[Source]) -> None:
    """Fail if nothing came of any server."""
    if followed and not any(each.came for each in followed):
        next((each for each in followed if each.away), followed[0]).check()


def _follow(
    stack: ExitStack,
    source: Callable[..., Source],
    address: tuple[str, int],
    view: igtl.View | igtl.foxglove.Server,
) -> Source:
    """Show what a server sends, in a thread."""
    incoming = _source(source, address, view)
    stack.callback(incoming.close)
    threading.Thread(
        target=_receive, args=(incoming, address, view), name="igtl view", daemon=True
    ).start()
    return incoming


def _source(
    source: Callable[..., Source],
    address: tuple[str, int],
    view: igtl.View | igtl.foxglove.Server,
) -> Source:
    def tell(text: str) -> None:
        say(text)
        view.note(text, source=named(address))

    return source(address, heal=True, crc="warn", tell=tell)


def _receive(
    incoming: Source, address: tuple[str, int], view: igtl.View | igtl.foxglove.Server
) -> None:
    """Show what a source sends; in a thread, for a source may wait for its client."""
    try:
        with incoming:
            if isinstance(view, igtl.foxglove.Server):
                for message in incoming.messages():
                    view.show(message)
                return
            view.watch(lambda: incoming.stats)
            clock = incoming.clock
            for message in incoming.messages():
                view.show(message, clock=None if clock is None else clock.clock)
    except (igtl.IgtlError, OSError, click.ClickException) as error:
        text = error.message if isinstance(error, click.ClickException) else str(error)
        say(text)
        view.note(text, source=named(address))
