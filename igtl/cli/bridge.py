"""`igtl bridge`: OpenIGTLink past one machine, over Eclipse Zenoh."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

import igtl
from igtl.cli import TIMED_OUT, UNREACHABLE, Failure, arguments, listening
from igtl.cli.arguments import Address, Selection, bridging, hub, selecting, serving_too
from igtl.cli.echo import tell
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import say
from igtl.log import named
from igtl.options import WaySettings

if TYPE_CHECKING:
    from ssl import SSLContext

_SECONDS = click.FloatRange(0, min_open=True)


class _Site(click.ParamType):  # type: ignore[type-arg]
    """The name of a site, or several with commas between them; * means all of them."""

    name = "site"

    def convert(self, value: str, param: object, ctx: object) -> list[str]:
        return [part.strip() for part in value.split(",")]


@click.group("bridge")
def command() -> None:
    """Connect OpenIGTLink sites past one machine, over Eclipse Zenoh.

    One computer is the hub; `put` runs where a source is, `get` where its messages are needed, as a
    plain OpenIGTLink server.

    \b
    igtl bridge router --endpoint tcp/0.0.0.0:7447              # the hub
    igtl bridge put or1 tracker:18944 --connect tcp/hub:7447
    igtl bridge get or1 --at :18945 --connect tcp/hub:7447
    """


def _needs(hub: tuple[str, ...]) -> None:
    if not hub:
        raise click.UsageError("--connect, or the variable IGTL_BRIDGE, names the hub")


def _counted(what: str, stats: igtl.Stats, number: int) -> None:
    lost = ", ".join(f"{n} {cause}" for cause, n in sorted(stats.dropped.items()))
    say(f"{number} messages {what}" + (f"; lost: {lost}" if lost else ""))


def _reached(connected: bool, hub: tuple[str, ...]) -> None:
    if not connected:
        raise Failure(f"no connection to the hub {' or '.join(hub)}", UNREACHABLE)


@command.command("put")
@click.argument("site")
@click.argument("source_address", metavar="SOURCE", type=Address())
@click.option("--no-requests", is_flag=True, help="Hand no commands and requests to the source.")
@click.option(
    "--request-timeout", type=_SECONDS, default=5.0, show_default=True,
    help="Seconds until a request is given up.",
)  # fmt: skip
@arguments.seconds()
@selecting
@hub
@bridging
@functools.partial(receiving, of="source-")
def put(
    site: str,
    source_address: tuple[str, int],
    no_requests: bool,
    request_timeout: float,
    seconds: float | None,
    selection: Selection,
    hub: tuple[str, ...],
    way: WaySettings,
    source: Callable[..., Source],
) -> None:
    """Put the messages of SOURCE on the bridge, as those of SITE. SOURCE is HOST:PORT; it and the
    hub are connected to again when they come back.

    Of poses and images the newest of each stream is sent, as fast as the way to the hub allows; of
    all other messages each one, in order, and the last of each stream to receivers that come later.
    Commands and GET_ requests of receivers go to the source, unless --no-requests.

    \b
    igtl bridge put or1 tracker:18944 --connect tcp/hub:7447
    igtl bridge put or1 tracker:18944 --connect tls/hub:7447 \\
        --ca ca.pem --cert or1.pem --key or1.key
    """
    _needs(hub)
    with ExitStack() as stack:
        incoming = source(source_address, heal=True, bad=lambda error: say(f"bad message: {error}"))
        stack.enter_context(incoming)
        try:
            publisher = igtl.bridge.Publisher(
                site, connect=hub, on_event=say, requests=not no_requests,
                request_timeout=request_timeout, **way,
            )  # fmt: skip
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        stack.enter_context(publisher)
        stopped = False
        try:
            say(f"{named(source_address)} -> site {site!r}, Ctrl-C ends")
            publisher.follow(incoming, takes=selection.takes)
            publisher.wait(seconds)
        except KeyboardInterrupt:
            stopped = True
        connected = publisher.connected
        publisher.close()
        _counted("put", publisher.stats, publisher.stats.sent)
        if not stopped:
            incoming.check()
            _reached(connected, hub)


@command.command("get")
@click.argument("sites", metavar="SITE[,SITE…]", type=_Site())
@arguments.at("localhost:18945")
@click.option(
    "--max-age", type=click.FloatRange(0), default=0.2, show_default=True,
    help="Seconds after which a pose is not handed out any more; 0 hands out all.",
)  # fmt: skip
@click.option(
    "--request-timeout", type=_SECONDS, default=5.0, show_default=True,
    help="Seconds until a request is given up.",
)  # fmt: skip
@arguments.seconds()
@serving_too
@hub
@bridging
def get(
    sites: list[str],
    at: tuple[str, int],
    max_age: float,
    request_timeout: float,
    seconds: float | None,
    allow: tuple[str, ...] | None,
    context: SSLContext | None,
    hub: tuple[str, ...],
    way: WaySettings,
) -> None:
    """Hand out the messages of SITE, or several of them, as a plain OpenIGTLink server; * means all
    sites.

    With one site, device names stay as they are; with several they become SITE_DEVICE, cut to 20
    bytes. Clients may send COMMAND and GET_: the site is the beginning of the device name, or the
    only one.

    \b
    igtl bridge get or1 --at :18945 --connect tcp/hub:7447
    igtl bridge get or1,or2 --connect tls/hub:7447 \\
        --ca ca.pem --cert ward.pem --key ward.key
    """
    _needs(hub)
    with igtl.serve(*at, ssl=context, allow=allow, start=False) as server:
        tell(server)
        try:
            outlet = igtl.bridge.Outlet(
                server, sites, connect=hub, on_event=say, max_age=max_age or None,
                request_timeout=request_timeout, **way,
            )  # fmt: skip
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        with outlet:
            server.start()
            stopped = False
            try:
                say(f"{', '.join(sites)} -> {named((server.host, server.port))}, Ctrl-C ends")
                outlet.subscriber.wait(seconds)
            except KeyboardInterrupt:
                stopped = True
            connected = outlet.subscriber.connected
            _counted("handed out", outlet.stats, outlet.passed)
            if lost := outlet.subscriber.lost:
                say(f"never arrived: {', '.join(f'{n} of {s!r}' for s, n in sorted(lost.items()))}")
            if not stopped:
                _reached(connected, hub)
                if not outlet.subscriber.stats.received:
                    raise Failure(
                        f"nothing came of {', '.join(sites)}; igtl bridge router says which sites "
                        "there are", TIMED_OUT,
                    )  # fmt: skip


@command.command("router")
@click.option(
    "--endpoint", "endpoints", multiple=True, default=["tcp/127.0.0.1:7447"], show_default=True,
    metavar="ENDPOINT", help="Where ends of the bridge connect; may be repeated.",
)  # fmt: skip
@click.option(
    "--rule", "rules", multiple=True, metavar="RULE|FILE",
    help="NAME put=SITES get=SITES ask=SITES for the common name of a certificate, or a file with "
    "such lines; may be repeated. Default: every connection may do everything.",
)  # fmt: skip
@click.option(
    "--join", "hubs", multiple=True, metavar="ENDPOINT", help="Another hub of the same bridge."
)
@arguments.seconds()
@bridging
def router(
    endpoints: tuple[str, ...],
    rules: tuple[str, ...],
    hubs: tuple[str, ...],
    seconds: float | None,
    way: WaySettings,
) -> None:
    """Be the hub of a bridge, or one of several that are connected to each other.

    With tls/ endpoints, every end needs a certificate of --ca; --rule says what it may do there.

    \b
    igtl bridge router --endpoint tcp/0.0.0.0:7447
    igtl bridge router --endpoint tls/0.0.0.0:7447 --ca ca.pem --cert hub.pem --key hub.key \\
        --rule "or1-gateway put=or1" --rule "ward get=or1,or2 ask=or1"
    """
    lines: list[str] | None = None
    for each in rules:
        path = Path(each)
        lines = (lines or []) + (path.read_text().splitlines() if path.is_file() else [each])
    try:
        with listening(", ".join(endpoints)):
            opened = igtl.bridge.Router(
                listen=endpoints, connect=hubs, allow=lines, on_event=say, **way
            )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise Failure(str(error)) from None
    with opened:
        if lines is None:
            say("every computer that reaches this port may put, get and ask; see docs/bridge.md")
        say(f"hub at {', '.join(endpoints)}, Ctrl-C ends")
        threading.Event().wait(seconds)
