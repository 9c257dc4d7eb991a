"""What a link does in steps (see `igtl.session.steps`): requests, streams, pairs, frames."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar
from typing import Protocol as Interface

from igtl.codec.message import Message, NoData
from igtl.errors import ConnectionClosed, MessageTooLarge
from igtl.messages.general import Command, CommandReply
from igtl.messages.queries import Get, Ready, Start
from igtl.options import seconds
from igtl.session.clock import Clock, Measuring
from igtl.session.facade import AnyLink
from igtl.session.pairing import By, Method, Pairing
from igtl.session.requests import (
    Exchange,
    Selection,
    StreamOf,
    new_command,
    selection,
    stop_for,
)  # fmt: skip
from igtl.session.steps import Steps

M = TypeVar("M", bound=Message)
R = TypeVar("R")
_STOP_TIMEOUT = 1.0  # seconds for a peer to acknowledge the end of a stream
OVER = ConnectionClosed, MessageTooLarge  # errors after which a link receives nothing more


class Asks(Interface):
    """Objects that can send a request and wait for its answer."""

    def request(self, exchange: Exchange, timeout: float | None) -> Any:
        """Send a request and wait for its answer."""

    def sleep(self, seconds: float, /) -> Any:
        """Wait."""


def query(link: Asks, request: Get[M], *, timeout: float | None = 5.0) -> Steps[M | NoData]:
    """Ask for one message and wait for it; other messages stay queued.

    Args:
        request: for example GetImage(device_name="CT"). An empty name accepts any.
        timeout: seconds; None waits without end.

    Returns:
        The answer; NoData if the peer has none (an empty answer, or STATUS "not found").

    Raises:
        CommandFailed: the peer answered with another error.
        TimeoutError: no answer arrived in time.
        ConnectionClosed: the link is closed.
    """
    exchange = Exchange(request)
    answer: M | NoData = exchange.result((yield link.request(exchange, timeout)))
    return answer


def ask(link: Asks, command: Command, *, timeout: float | None = 5.0) -> Steps[CommandReply]:
    """Return the same as `command`, for a Command that the caller has made."""
    exchange = Exchange(command)
    reply: CommandReply = exchange.result((yield link.request(exchange, timeout)))
    return reply


def command(
    link: Asks,
    name: str,
    text: str = "",
    *,
    device_name: str = "",
    timeout: float | None = 5.0,
) -> Steps[CommandReply]:
    """Send a COMMAND with an id of its own and wait for the reply with that id.

    Args:
        name: at most 128 bytes.
        text: usually XML.
        device_name: of the message.
        timeout: seconds; None waits without end.

    Raises:
        CommandFailed: the reply says so (in its metadata or XML); it is in `.reply`.
        TimeoutError, ConnectionClosed: see query.
    """
    return (yield from ask(link, new_command(name, text, device_name), timeout=timeout))


def clock(
    link: Asks,
    samples: int = 8,
    *,
    timeout: float | None = 5.0,
    update: Clock | None = None,
    device_name: str | None = None,
) -> Steps[Clock]:
    """Measure the peer's clock, as NTP does: the peer stamps its answers to GET_STATUS.

    The servers of igtl do, and programs of the official library that set the time stamp; PLUS
    writes 0. Never ask 3D Slicer: it crashes.

    Args:
        samples: exchanges, 20 ms apart.
        timeout: seconds for all of them; None waits without end.
        update: a clock that was measured before: these exchanges are added to it, and it is
            returned. Exchanges over a minute or more give the drift.
        device_name: whose status is asked for. Default: a name that no other STATUS has.
            A peer that answers for its own devices only wants one of them, or "".

    Raises:
        ClockUnknown: the peer sets no time stamp, or one that is not its clock; see `.reason`.
        TimeoutError: no answer arrived in time.
        ConnectionClosed: the link is closed.
    """
    measuring = Measuring(samples, timeout, update, device_name)
    for pause in measuring:
        yield link.sleep(pause)
        measuring.add((yield link.request(measuring.exchange(), measuring.left())))
    return measuring.clock


def latest(
    link: AnyLink,
    kind: type[M],
    name: str = "*",
    *,
    max_age: float | None = None,
    timeout: float | None = None,
) -> Steps[M]:
    """Return the newest message of a type and device name that has arrived, or else the next one.

    Older ones of that stream are dropped, and counted as "superseded".

    Args:
        kind: a message class.
        name: device name, with the wildcards * and ?.
        max_age: seconds since its arrival; an older one is not returned, but waited for.
        timeout: seconds to wait. None: the link's read_timeout.

    Raises:
        as recv.
    """
    wanted = selection(kind, name)
    max_age = seconds("max_age", max_age)

    def newest() -> Message | None:
        return link.newest(wanted, None if max_age is None else time.monotonic() - max_age)

    found: M = yield link.until(newest, wanted, link.patience(timeout))
    return found


def wait_compressed(link: AnyLink, timeout: float | None = 1.0) -> Steps[bool]:
    """Wait until the peer says that it reads compressed messages; other messages stay queued.

    For links that only send: a link that receives learns it by receiving.

    Args:
        timeout: seconds. A peer without the option `compression` never says so.

    Returns:
        Whether messages are compressed from now on.

    Raises:
        ConnectionClosed, RuntimeError: see recv.
    """

    def told() -> bool | None:
        link.session.sort()
        return link.session.protocol.peer_takes or None

    try:
        yield link.until(told, "offer", seconds("timeout", timeout))
        return True
    except TimeoutError:
        return False


def wait_version(link: AnyLink) -> Steps[None]:
    """Wait until a new peer has shown that it reads header version 2, or is taken not to.

    Raises:
        ConnectionClosed, RuntimeError: see recv.
    """

    def shown() -> bool | None:
        link.session.sort()
        return link.header_version == 2 or None

    if patience := link.session.undecided:
        with contextlib.suppress(TimeoutError):
            yield link.until(shown, "message of header version 2", patience)


class Streaming(Generic[M]):
    """The life of one stream that was asked for."""

    def __init__(self, link: AnyLink, start: Start[M]) -> None:
        self._link = link
        self._start = start
        self._acknowledged = self._refused = False

    def begin(self, timeout: float | None) -> Steps[None]:
        """Ask for it.

        Raises:
            CommandFailed: the peer refused.
            TimeoutError: no answer.
        """
        exchange = Exchange(self._start)
        reply: Message = yield self._link.request(exchange, timeout)
        self._acknowledged = isinstance(reply, Ready)
        if isinstance(reply, type(self._start).answer):
            with self._link.guard:
                self._link.session.inbox.put_back(reply, 0)
        else:
            self._refused = True
            exchange.result(reply)
            self._refused = False

    def end(self) -> Steps[None]:
        """End it, unless it was refused."""
        link = self._link
        if not link.leaves(self._start) or self._refused:
            return
        with contextlib.suppress(ConnectionClosed, OSError):
            stop = Exchange(stop_for(self._start))
            if self._acknowledged:
                with contextlib.suppress(TimeoutError):  # the peer ignores it
                    yield link.request(stop, _STOP_TIMEOUT)
            else:  # the peer will not acknowledge this either
                yield link.send(stop.request)
            link.drop_rest(StreamOf(self._start))


class StreamMessages(StreamOf[M]):
    """The messages of one stream; see `igtl.Link.stream`."""

    def __init__(self, link: AnyLink, start: Start[M]) -> None:
        super().__init__(start)
        self.link = link


class Synchronized(Generic[R]):
    """What can pair its messages: R iterates over the pairs.

    Attributes:
        reader: makes an R of a link and a pairing.
    """

    reader: Callable[[Any, Pairing], R]

    def sync(
        self,
        *streams: tuple[type[Message], str],
        tolerance: float,
        method: Method = "nearest",
        by: By = "timestamp",
    ) -> R:
        """Iterate over messages that belong to the same instant.

            for image, probe in link.sync(
                (Image, "Image_Reference"), (Transform, "ProbeToReference"), tolerance=0.005
            ): ...

        Args:
            streams: (class, device name) each. The first leads: for each of its messages the
                sample of the others that is nearest in time.
            tolerance: seconds between them at most. A message waits so long for a later sample.
            method: "interpolate" puts a rigid TRANSFORM between its neighbours by slerp.
            by: "timestamp" of the messages (their arrival where none is set), or "arrival".

        The iterator raises TimeoutError when there was no pair for the link's read_timeout; the
        text says how far the time stamps of the streams are apart.
        """
        wanted = [Selection(*stream) for stream in streams]
        return self.reader(self, Pairing(wanted, tolerance, method, by))


class Pairs:
    """Iterator over messages of the same instant; see `igtl.Link.sync`.

    Attributes:
        unmatched: messages without a partner so far, by their selection.
    """

    def __init__(self, link: AnyLink, pairing: Pairing) -> None:
        self._link = link
        self._pairing = pairing
        self._timeout = link.options.read_timeout
        self._since = time.monotonic()
        self.unmatched = pairing.unmatched

    def next_pair(self) -> Steps[tuple[Any, ...] | None]:
        """Return the next messages of one instant; None after a clean end.

        Raises:
            TimeoutError: there was no pair for the link's read_timeout; the text says how far the
                time stamps of the streams are apart.
        """
        pairing, take = self._pairing, self._link.session.take
        while (found := pairing.next(time.monotonic())) is None:
            wait = self._wait(time.monotonic())
            try:
                message: Message = yield self._link.until(partial(take, pairing), pairing, wait)
            except TimeoutError:
                continue
            except OVER as error:
                if (found := pairing.next(math.inf)) is not None:
                    break
                if self._link.ends_iteration(error):
                    return None
                raise
            pairing.add(message, time.monotonic())
        self._since = time.monotonic()
        return found

    def _wait(self, now: float) -> float | None:
        """Seconds until something must be looked at again; None: until a message arrives."""
        end = math.inf if self._timeout is None else self._since + self._timeout
        if now >= end:
            self._since = now
            text = f"no {self._pairing} within {self._timeout} s{self._pairing.gaps()}"
            raise TimeoutError(text)
        due = self._pairing.due()
        at = end if due is None else min(due, end)
        return None if at == math.inf else max(0.0, at - now)
