"""`igtl relay`: one source, many clients."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

import igtl
from igtl.cli import arguments
from igtl.cli.arguments import Address, Selection, ending, selecting, serving_too
from igtl.cli.echo import tell
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import say
from igtl.log import named
from igtl.tools.relay import Relay
from igtl.tools.routing import HeaderVersion, Renaming

if TYPE_CHECKING:
    from ssl import SSLContext

_VERSIONS: dict[str, HeaderVersion] = {
    "as-is": "as is", "auto": "auto", "1": 1, "2": 2,
}  # fmt: skip


class _Renaming(click.ParamType):  # type: ignore[type-arg]
    """OLD=NEW."""

    name = "old=new"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        old, equals, new = str(value).partition("=")
        if not equals or not old or not new:
            self.fail(f"{value!r} is not OLD=NEW", param, ctx)
        try:
            Renaming({old: new})
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        return old, new


@click.command("relay")
@click.argument("address", type=Address())
@arguments.at("localhost:18945")
@click.option(
    "--rename", multiple=True, type=_Renaming(), help="Another device name: OLD=NEW; * is any text."
)
@click.option(
    "--to-version", type=click.Choice(list(_VERSIONS)), default="as-is", show_default=True,
    help="Header version for the clients. auto: 1 for each until it has sent 2.",
)  # fmt: skip
@click.option(
    "--max-rate", type=click.FloatRange(0, min_open=True),
    help="Messages a second of one stream at most; the newest are passed on.",
)  # fmt: skip
@click.option(
    "--both-ways", is_flag=True,
    help="Also send to the source what clients send; it answers their commands and requests.",
)  # fmt: skip
@serving_too
@ending
@selecting
@receiving
def command(
    address: tuple[str, int],
    at: tuple[str, int],
    rename: tuple[tuple[str, str], ...],
    to_version: str,
    max_rate: float | None,
    both_ways: bool,
    allow: tuple[str, ...] | None,
    context: SSLContext | None,
    count: int | None,
    seconds: float | None,
    selection: Selection,
    source: Callable[..., Source],
) -> None:
    """Pass on what the source at ADDRESS sends to many clients, each with its own queue: one that
    stalls delays no other. The source is connected to again when it comes back.

    Frames stay as they are, unless an option changes them. -t and -d choose what is passed on.

    \b
    igtl relay tracker:18944 --at 0.0.0.0:18945 -t TRANSFORM --max-rate 30
    igtl relay plus:18944 --hello --to-version 1   # for old libraries
    igtl relay far:18944 --ca clinic.pem --rename Probe=ProbeToTracker
    """
    end = None if seconds is None else time.monotonic() + seconds
    with ExitStack() as stack:
        server = stack.enter_context(igtl.serve(*at, ssl=context, allow=allow, start=False))
        tell(server)
        relay = stack.enter_context(
            Relay(
                server, takes=selection.takes, rename=dict(rename),
                version=_VERSIONS[to_version], max_rate=max_rate,
            )
        )  # fmt: skip
        incoming = source(
            address, end=end, heal=True, selection=selection,
            bad=lambda error: say(f"bad message: {error}"),
        )  # fmt: skip
        if both_ways:
            relay.both_ways(partial(_back, incoming))
        server.start()
        warned: set[int] = set()
        forwarded = 0
        try:
            say(f"{named(address)} -> {named((server.host, server.port))}, Ctrl-C ends")
            stack.enter_context(incoming)
            for frame, _ in incoming.frames():
                relay.forward(frame)
                if to_version == "as-is" and frame.header_version == 2:
                    _warn(server, warned)
                forwarded += 1
                if forwarded == count:
                    break
        except KeyboardInterrupt:
            pass
        finally:
            _summarize(relay)


def _back(incoming: Source, message: igtl.Message) -> None:
    try:
        incoming.send(message)
    except igtl.EncodeError as error:
        say(f"not sent to the source: {error}")


def _warn(server: igtl.Server, warned: set[int]) -> None:
    """Old libraries lose framing at version 2, and show no reason why nothing arrives."""
    for peer in server.clients:
        if peer.header_version == 1 and peer.id not in warned:
            warned.add(peer.id)
            say(f"{named(peer.peer)} gets header version 2, though it has not sent it: an old "
                "library loses framing. --to-version auto helps.")  # fmt: skip


def _summarize(relay: Relay) -> None:
    counts = {"passed on": relay.passed, "not wanted": relay.filtered, "thinned": relay.thinned}
    words = [f"{counter.total()} {what}" for what, counter in counts.items() if counter]
    say(", ".join(words) or "nothing came")
    if relay.lost:
        lost = " and ".join(f"{what} of {n}" for what, n in sorted(relay.lost.items()))
        say(f"left out for header version 1: {lost} messages")
