"""Where messages come from: a server, a client that connects, datagrams, or a site of a bridge.

All commands that receive use these.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final, Self, TypeVar

import click

import igtl
from igtl.cli import TIMED_OUT, UNREACHABLE, Failure, arguments, listening
from igtl.cli.arguments import Connection, Selection, connection, hub
from igtl.cli.clock import PeerClock
from igtl.cli.news import News
from igtl.cli.terminal import say
from igtl.log import named
from igtl.options import SITE
from igtl.peers.plus.selection import Select

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
_PATIENCE: Final = 3.0  # seconds without a message, after which that is told
_STARTS: dict[str, Callable[[], igtl.Message]] = {
    "TDATA": igtl.StartTrackingData, "QTDATA": igtl.StartQuaternionTrackingData,
}  # fmt: skip


class Source:
    """One source of messages, opened by `with`.

    Args:
        address: of the server; with `listen` and `udp` our own; or a site of a bridge.
        heal: go on when the connection is lost: connect again, or wait for the next client.
        select: what PLUS is asked for.
        ask_clock: ask the server for its clock.
        hub: endpoints of the hub of the bridge.
        limited: the user has set the end, so a peer that ends before, even in order, is lost.
        selection: what the caller waits for. If none of it has come when the time is up, or the
            peer ends without any message, the source ends with a Failure.
        tell: called with what happens to the connection.
        bad: called with each message that is bad.

    Attributes:
        peer: the sender.
        came: messages that came, bad ones too.
        stats: counters of the link.
        clock: the clock of the server, with `ask_clock`.
    """

    def __init__(
        self,
        address: tuple[str, int],
        how: Connection,
        *,
        listen: bool = False,
        udp: bool = False,
        start: str | None = None,
        select: Select | None = None,
        hub: tuple[str, ...] = (),
        crc: igtl.CRCPolicy = "verify",
        end: float | None = None,
        ask_clock: bool = False,
        heal: bool = False,
        limited: bool = False,
        selection: Selection | None = None,
        tell: Callable[[str], None] = say,
        bad: Callable[[igtl.ProtocolError], None] = lambda error: None,
    ) -> None:
        self.address = address
        self.peer: Any = named(address)
        self.came = 0
        self._how = how
        self._listen = listen
        self._udp = udp
        self._start = start
        self._select = select
        self._hub = hub
        self._site = address[0].removeprefix(SITE) if address[0].startswith(SITE) else None
        self._crc: igtl.CRCPolicy = crc
        self._end = end
        self._heal = heal
        self._limited = limited
        self._selection = selection or Selection((), ())
        self._fitting = 0
        self._tell = tell
        self._news = News(tell)
        self._before = 0  # messages on earlier connections
        self._bad = bad
        self.clock = PeerClock(self._measure, tell) if ask_clock else None
        self._open = ExitStack()
        self._closing = False
        self._patience = threading.Timer(_PATIENCE, self._nothing_yet)
        self._patience.daemon = True
        self._from: Any = None
        self._listener: Any = None

    def __enter__(self) -> Self:
        try:
            self._from = self._open.enter_context(self._opened())
        except BaseException:
            self._open.close()
            raise
        self._patience.start()
        if self._closing:  # by another thread, while it was opened
            self.close()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop receiving, from any thread."""
        self._closing = True
        self._patience.cancel()
        if self.clock is not None:
            self.clock.close()
        if self._from is not None:
            self._from.close()
        self._open.close()

    def _opened(self) -> Any:
        if self._site is not None:
            return self._of_site(self._site)
        if self._udp:
            host, port = self.address
            with listening(named(self.address)):
                return igtl.udp.Receiver(port, host, crc=self._crc, on_error="raise")
        if self._listen:
            listener = self._open.enter_context(
                igtl.listen(*self.address, crc=self._crc, on_error="raise", compression=True)
            )
            self._listener = listener
            return self._accepted()
        settings: dict[str, Any] = {}
        how = self._how
        if self._select is not None:  # of PLUS, which begins a message anew that it could not send
            how, settings = how._replace(hello=True), {"resync": True}
        if self._heal:
            settings |= {"reconnect": igtl.Backoff(0.1, 5.0), "on_event": self._happened}
        link = how.open(self.address, crc=self._crc, **settings)
        self.peer = link.peer or named(self.address)
        if self._select is not None:
            message = self._select.message()
            if isinstance(link, igtl.ReconnectingLink):
                link.send(message, latch=True)
            else:
                link.send(message)
        if self._start is not None:
            link.send(_STARTS[self._start]())
        return link

    def _measure(self, samples: int, update: igtl.Clock) -> igtl.Clock:
        clock: igtl.Clock = self._from.clock(samples, update=update)
        return clock

    def _of_site(self, site: str) -> Any:
        if not self._hub:
            raise click.UsageError("site:NAME needs --connect, or the variable IGTL_BRIDGE")
        if self._listen or self._udp or self._select or self._start or self.clock:
            raise click.UsageError(
                "--listen, --udp, --start, --select and --clock are not for a site"
            )
        self.peer = named(self.address)
        try:
            return igtl.bridge.Subscriber(
                site, connect=self._hub, on_event=self._told, max_age=None, **self._how.files
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    def _told(self, text: str) -> None:
        self._news.away = text
        self._tell(text)

    def _accepted(self) -> igtl.Link:
        self._tell(f"waiting for a client on {named((self._listener.host, self._listener.port))}")
        link: igtl.Link = self._listener.accept(timeout=self._left())
        self.peer = link.peer
        self._tell(f"{named(link.peer)} has connected")
        if self._start is not None:
            link.send(_STARTS[self._start]())
        return link

    def _happened(self, event: igtl.LinkEvent) -> None:
        self.peer = event.peer
        received = 0 if self._from is None else self.stats.received
        self._news.happened(event, received > self._before)
        self._before = received
        if self.clock is not None:
            self.clock.changed()

    def _goes_on(self, closed: igtl.ConnectionClosed) -> bool:
        """Return whether another link follows the one that has closed."""
        if self._closing:
            return False
        if not (self._heal and self._listen):
            if not closed.clean:
                raise Failure(str(closed), UNREACHABLE) from None
            if not self.came:
                text = f"{named(self.address)} closed the connection without a message"
                raise Failure(text, UNREACHABLE) from None
            if self._limited:
                text = f"{named(self.address)} closed the connection early"
                raise Failure(text, UNREACHABLE) from None
            return False
        self._tell(str(closed))
        self._from.close()
        self._from = self._open.enter_context(self._accepted())
        return True

    @property
    def stats(self) -> igtl.Stats:
        """Counters of the link."""
        return self._from.stats  # type: ignore[no-any-return]

    @property
    def away(self) -> str:
        """Why the connection is lost, while it is made again; "" while there is one."""
        return "" if self._site is not None and self._from.connected else self._news.away

    def check(self) -> None:
        """Raise a Failure if nothing has come: the peer is away, or says nothing."""
        if not self.came:
            raise Failure(self.away or self.nothing, UNREACHABLE if self.away else TIMED_OUT)

    @property
    def _pairs(self) -> bool:
        """Whether each message comes with its sender."""
        return self._udp or self._site is not None

    def _left(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def send(self, message: igtl.Message) -> None:
        """Send to the peer, if it is connected and is neither a site nor a sender of datagrams."""
        if self._from is not None and not self._pairs:
            self._from.send(message)

    def messages(self) -> Iterator[igtl.Message]:
        """Yield each message, until the source ends or the time is up."""
        for found in self._each(lambda: self._from.recv(timeout=self._left())):
            message = found[0] if self._pairs else found
            if self.clock is not None:
                self.clock.saw(message)
            self._fitting += self._selection.takes(message.type_name, message.device_name)
            yield message

    def frames(self) -> Iterator[tuple[igtl.Frame, Any]]:
        """Yield each message as it came, and its sender."""
        for found in self._each(lambda: self._from.recv_frame(timeout=self._left())):
            frame, peer = found if self._pairs else (found, self.peer)
            self._fitting += self._selection.takes(frame.type_name, frame.device_name)
            yield frame, peer

    def _each(self, take: Callable[[], T]) -> Iterator[T]:
        while True:
            try:
                found = take()
            except TimeoutError as error:
                if error.errno is not None:
                    raise
                if self.away:
                    raise Failure(self.away, UNREACHABLE) from None
                if not self._fitting:
                    raise Failure(self.nothing, TIMED_OUT) from None
                return  # the time is up
            except igtl.ConnectionClosed as closed:
                if not self._goes_on(closed):
                    return
                continue
            except igtl.MessageTooLarge:
                raise
            except igtl.ProtocolError as error:
                self._arrived()
                self._bad(error)
                continue
            self._arrived()
            yield found

    def _arrived(self) -> None:
        self.came += 1
        self._news.message(named(self.peer))

    def _nothing_yet(self) -> None:
        if not (self.came or self.away or self._closing):
            self._tell(f"{named(self.address)}: nothing has come yet; {self.advice}")

    @property
    def nothing(self) -> str:
        """The text that nothing came, and how to find out why."""
        what = f"nothing of what was asked for among {self.came} messages" if self.came else (
            "nothing came"
        )  # fmt: skip
        return f"{named(self.address)}: {what}; {self.advice}"

    @property
    def advice(self) -> str:
        """What to do when nothing comes."""
        if self._site is not None:
            return "igtl bridge router says which sites there are"
        return f"see igtl doctor {named(self.address)}"


def receiving(command: F, *, of: str = "") -> F:
    """Add the options of a command that receives; it gets `source`.

    That makes a Source from the address and other arguments of `Source`.

    Args:
        command: the command.
        of: as of `connection`; then the command itself knows the hub of a bridge.
    """

    @arguments.listen
    @arguments.udp
    @click.option("--start", type=click.Choice(sorted(_STARTS)), help="Ask for this stream first.")
    @click.option(
        "--select", "names", multiple=True,
        help="Ask PLUS for this only: XToY, Image_Frame, TRACKEDFRAME, TDATA, or another type.",
    )  # fmt: skip
    @functools.wraps(command)
    def wrapped(
        *args: Any, listen: bool, udp: bool, start: str | None, names: tuple[str, ...],
        how: Connection, **others: Any,
    ) -> Any:  # fmt: skip
        if listen and udp:
            raise click.UsageError("--listen is for TCP")
        if names and (listen or udp):
            raise click.UsageError("--select is for a server")
        if others.get("ask_clock") and (listen or udp):
            raise click.UsageError("--clock is for a server: a client or datagrams are not asked")
        try:
            select = Select.of(names) if names else None
        except ValueError as error:
            raise click.UsageError(f"--select: {error}") from None
        source = functools.partial(
            Source,
            how=how,
            listen=listen,
            udp=udp,
            start=start,
            select=select,
            hub=others["hub"] if of else others.pop("hub"),
        )
        return command(*args, source=source, **others)

    connecting = connection(wrapped, of=of)
    return connecting if of else hub(connecting)  # type: ignore[return-value]
