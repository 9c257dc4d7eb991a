"""The end of a bridge where the messages of sites come out."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, Self, Unpack

from igtl import _core
from igtl._core import Frame
from igtl._stream import Stats
from igtl.blocking.changes import Changes
from igtl.bridge.clock import Clock
from igtl.bridge.events import Events, joined
from igtl.bridge.hub import Hub, Refused, checked
from igtl.bridge.kept import asking
from igtl.bridge.lanes import is_kept, is_live
from igtl.bridge.names import (
    ALL,
    Stamp,
    Tally,
    beside,
    checked_site,
    clock_key,
    header_of,
    is_tally,
    messages_key,
    presence_key,
    publisher_of,
    request_key,
    site_of,
    type_of,
)
from igtl.codec.message import Message
from igtl.errors import CommandFailed, ConnectionClosed
from igtl.extras import need
from igtl.log import log
from igtl.options import LONGEST, SubscriberOptions, SubscriberSettings, seconds
from igtl.session.outbox import Outbox

MAX_STREAMS: Final = 200_000
"""Streams of all sites together whose gaps are counted."""
_RUNS: Final = 8  # runs of the publisher of one site that are told apart
_READ_AHEAD: Final = 256  # messages between Zenoh and this end
_CLOCK: Final = 10.0  # seconds between two questions for the clocks of the publishers
_FIRST: Final = 1.0  # seconds that the first answer of a clock is waited for
_LAST: Final = 60.0  # seconds for the last messages of all streams


class Received(NamedTuple):
    """A message and the site that it comes from."""

    frame: Frame
    site: str


class _Publisher:
    """What is known of one run of a publisher."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.since = time.monotonic()
        self.told: set[bool] = set()  # whether a tally has come, of what is live and of the rest


class _Stream:
    """What is known of one key.

    This is its site, and for each publisher the number up to which each message has come, is
    counted as lost, or was put before this end knew of it.
    """

    def __init__(self, site: str) -> None:
        self.site = site
        self.last: dict[int, int] = {}


class Subscriber:
    """Gets the messages of sites from a bridge.

        with igtl.bridge.Subscriber("or1", connect="tcp/hub:7447") as subscriber:
            for frame, site in subscriber:
                print(site, frame.unpack())

    The last message of each stream that is neither a pose nor a value of a sensor arrives at the
    beginning, and after a cut, if this end does not have it yet.

    Args:
        sites: names of sites; `*` for all of them.
        on_frame: called with each `Received`, instead of `recv`, `recv_frame` and iteration. One
            thread at a time calls it; while it runs, no other message arrives. Its exceptions are
            logged.
        on_site: called with the name of a site and True when it appears, False when it leaves.
        on_event: called with a line about the connection to the hub, and about sites.
        settings: see `igtl.options.SubscriberOptions`; `connect=` is needed.

    Attributes:
        stats: `received` counts messages that arrived. `dropped` counts by cause: "gap" (the site
            put it, and it never arrived), "stale" (it arrived older than `max_age`), "unread" (the
            program did not take it in time). `errors`: "wrong" (not a message of a bridge).
        lost: messages that never arrived ("gap"), by site.
        before: messages put before this end first heard of their publisher. After the last report
            of the publishers, before + received + gap equals their sent + "no receiver".

    Raises:
        ValueError, TypeError: a site or an option is not allowed.
        MissingExtra: the extra `igtl[bridge]` is missing.
    """

    def __init__(
        self,
        sites: str | Iterable[str] = ALL,
        *,
        on_frame: Callable[[Received], Any] | None = None,
        on_site: Callable[[str, bool], Any] = lambda site, there: None,
        on_event: Callable[[str], Any] = lambda text: None,
        **settings: Unpack[SubscriberSettings],
    ) -> None:
        options = checked(SubscriberOptions.of(settings))
        names = [sites] if isinstance(sites, str) else list(sites)
        self.names = [ALL] if ALL in names else [checked_site(name) for name in names]
        if not self.names:
            raise ValueError("no site is named; * means all of them")
        self.stats = Stats()
        self.lost = Counter[str]()
        self.before = 0
        self._zenoh = need("zenoh", "bridge")
        self._options = options
        self._on_frame = on_frame
        self._on_site = on_site
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}
        self._publishers: dict[int, _Publisher] = {}
        self._present: dict[str, dict[int, set[str]]] = {}  # site -> publisher -> its tokens
        self._news: set[str] = set()  # sites whose last messages are not here yet
        self._box: Outbox[Received] = Outbox(
            "drop_oldest", options.max_queued, options.max_queued_bytes,
            lambda lost, cause: self.stats.count_dropped(lost.frame, "unread"), max_age=None,
        )  # fmt: skip
        self._changed = Changes()
        self._closed = False
        self._readers: list[threading.Thread] = []
        self._events = Events(self.close)
        self._asking = self._zenoh.CancellationToken()
        self._hub = Hub(
            options, [("get", name) for name in self.names],
            opened=self._opened, changed=self._connected, events=self._events, tell=on_event,
        )  # fmt: skip
        self._hub.start()
        self._asker = threading.Thread(target=self._ask, name="igtl bridge clock", daemon=True)
        self._asker.start()

    # -- the hub

    def _opened(self, session: Any) -> None:
        met = self._events.handler(self._met)
        for name in self.names:
            # Zenoh waits, and so does the other end, where this one does not keep up
            channel = self._zenoh.handlers.FifoChannel(_READ_AHEAD)
            subscription = session.declare_subscriber(messages_key(name), channel)
            reader = threading.Thread(
                target=self._read, args=(subscription,), name="igtl bridge reader", daemon=True
            )
            self._readers.append(reader)
            reader.start()
            session.liveliness().declare_subscriber(presence_key(name), met, history=True)

    def _connected(self, connected: bool) -> None:
        if not connected:
            self._asking.cancel()  # Zenoh waits for an answer that the lost hub has
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @property
    def connected(self) -> bool:
        """Whether the hub is there, and hands out what this end wants."""
        return self._hub.connected

    @property
    def refused(self) -> Refused | None:
        """Why the hub does not let this end in; None while it does, or is away."""
        return self._hub.refused

    @property
    def sites(self) -> list[str]:
        """The sites that are there now."""
        with self._lock:
            return sorted(self._present)

    # -- what arrives

    def _read(self, subscription: Any) -> None:
        try:
            for sample in subscription:
                if self._closed:
                    return
                self._came(sample)
        except self._zenoh.ZError:  # the session was closed
            return

    def _came(self, sample: Any) -> None:
        now, key = time.monotonic(), str(sample.key_expr)
        try:
            data = sample.payload.to_bytes()
            if is_tally(key):
                tally = Tally.unpack(data)
                with self._lock:
                    self._told(key, tally)
                self._wake()
                return
            frame = Frame.from_bytes(data)
            if sample.attachment is None:
                raise ValueError("it has no stamp")
            stamp = Stamp.unpack(sample.attachment.to_bytes())
        except ValueError as error:
            self.stats.count_error("wrong")
            log(logging.WARNING, "not a message of a bridge: %s: %s", key, error)
            return
        with self._lock:
            site = self._noted(key, frame, stamp, now)
            if site is not None:
                self._hand_on(Received(frame, site))

    def _noted(self, key: str, frame: Frame, stamp: Stamp, now: float) -> str | None:
        """Count a message and return its site; None if the message is not to be passed on."""
        live = is_live(frame.type_name)
        publisher = self._publisher(stamp.publisher)
        stream = self._stream(key)
        if stream is not None:
            if stamp.number <= stream.last.get(stamp.publisher, 0):
                return None  # kept for those that come later, and here already
            self._missed(key, stream, stamp.publisher, stamp.number - 1, live in publisher.told)
            stream.last[stamp.publisher] = stamp.number
        self.stats.count_received(frame, now)
        age = publisher.clock.age(stamp.sent, now)
        limit = self._options.max_age
        if limit is not None and live:
            waits = not publisher.clock.measured and now - publisher.since < _FIRST
            if age > limit or waits:
                self.stats.count_dropped(frame, "stale")
                return None
        return site_of(key) if stream is None else stream.site

    def _told(self, key: str, tally: Tally) -> None:
        """Note that all that a publisher has put before has arrived, or will not by itself."""
        publisher = self._publisher(tally.publisher)
        knows = tally.live in publisher.told
        for of, number in tally.numbers.items():
            stream = self._stream(its := beside(key, of))
            if stream is not None:
                kept = not tally.closing and is_kept(type_of(its))  # then the last one can be had
                self._missed(its, stream, tally.publisher, number - kept, knows)
                if stream.last[tally.publisher] < number:
                    self._news.add(stream.site)
        publisher.told.add(tally.live)

    def _missed(self, key: str, stream: _Stream, run: int, number: int, knows: bool) -> None:
        """Count as lost what has not come of a stream.

        Args:
            key: of the messages of the stream.
            stream: what is known of it.
            run: of a publisher.
            number: up to which this is so.
            knows: whether the numbers of its streams were told before, so that this one has begun
                since then.
        """
        last = stream.last.get(run)
        if last is None:
            if len(stream.last) >= _RUNS:
                oldest = next(iter(stream.last))
                del stream.last[oldest]
                self._publishers.pop(oldest, None)
            last = 0 if knows else number
            self.before += last
        if number > last:
            self.lost[stream.site] += number - last
            self.stats.count_dropped(header_of(key), "gap", number - last)
        stream.last[run] = max(last, number)

    def _stream(self, key: str) -> _Stream | None:
        """Return what is known of a key; None if there are too many already."""
        stream = self._streams.get(key)
        if stream is None and len(self._streams) < MAX_STREAMS:
            stream = self._streams[key] = _Stream(site_of(key))
        return stream

    def _publisher(self, run: int) -> _Publisher:
        publisher = self._publishers.get(run)
        if publisher is None:
            publisher = self._publishers[run] = _Publisher()
        return publisher

    def _hand_on(self, received: Received) -> None:
        if self._on_frame is not None:
            try:
                self._on_frame(received)
            except Exception as error:
                log(logging.ERROR, "a handler failed", cause=error, error=error)
            return
        frame = received.frame
        stream = _core.stream_key(frame) + received.site.encode()
        with self._changed:
            self._box.put(received, len(frame), stream)
            self._changed.notify_all()

    # -- which sites are there

    def _met(self, sample: Any) -> None:
        """Note that a token of a publisher has come or gone."""
        key, there = str(sample.key_expr), "PUT" in str(sample.kind)
        site, publisher = site_of(key), publisher_of(key)
        with self._lock:
            before = len(self._present.get(site, ()))
            publishers = self._present.setdefault(site, {})
            tokens = publishers.setdefault(publisher, set())
            (tokens.add if there else tokens.discard)(key)
            if not tokens:
                del publishers[publisher]
            if not publishers:
                del self._present[site]
            now = len(publishers)
            if there:
                self._news.add(site)
        if there:
            self._wake()
        if (before > 0) != (now > 0):
            self._hub.tell(f"site {site!r} is {'there' if now else 'gone'}")
            try:
                self._on_site(site, now > 0)
            except Exception as error:
                log(logging.ERROR, "a handler failed", cause=error, error=error)
        if now > max(1, before):
            self._hub.tell(
                f"there are {now} publishers of site {site!r}: their messages arrive mixed",
                logging.WARNING,
            )

    def _ask(self) -> None:
        """Ask publishers for their clocks, and for the last messages of their streams."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or (self._news and self._hub.connected), timeout=_CLOCK
                )
                if self._closed:
                    return
            if not self._hub.connected:
                continue
            with self._lock:
                news, self._news = self._news, set()
            self._asking = self._zenoh.CancellationToken()
            try:
                self._ask_clocks()
                if ALL in self.names and len(news) > 1:
                    news = {ALL}
                for site in news:
                    self._ask_last(site)
            except self._zenoh.ZError as error:  # the session was closed
                log(logging.DEBUG, "not asked: %s", error)

    def _ask_clocks(self) -> None:
        zenoh = self._zenoh
        for name in self.names:
            asked = time.monotonic()
            replies = self._hub.session.get(
                clock_key(name), target=zenoh.QueryTarget.ALL, priority=zenoh.Priority.REAL_TIME,
                consolidation=zenoh.ConsolidationMode.NONE, timeout=_FIRST, express=True,
            )  # fmt: skip
            for reply in replies:
                now = time.monotonic()
                if reply.ok is None:
                    continue
                number = publisher_of(str(reply.ok.key_expr))
                there = float(reply.ok.payload.to_string())
                with self._lock:
                    self._publisher(number).clock.answered(asked, there, now)

    def _ask_last(self, site: str) -> None:
        zenoh = self._zenoh
        known: dict[str, dict[str, int]] = {}
        with self._lock:
            for key, stream in self._streams.items():
                if site in (ALL, stream.site):
                    for publisher, number in stream.last.items():
                        known.setdefault(f"{publisher:x}", {})[key] = number
        replies = self._hub.session.get(
            messages_key(site), target=zenoh.QueryTarget.ALL, payload=asking(known),
            consolidation=zenoh.ConsolidationMode.NONE, priority=zenoh.Priority.DATA_LOW,
            congestion_control=zenoh.CongestionControl.BLOCK, timeout=_LAST,
            cancellation_token=self._asking,
        )  # fmt: skip
        for reply in replies:
            if reply.ok is not None:
                self._came(reply.ok)

    # -- requests

    def request(self, site: str, message: Message, *, timeout: float | None = None) -> Frame:
        """Ask the source of a site: a Command or a Get message. Other threads may ask meanwhile.

        Args:
            site: the name of one.
            message: the request.
            timeout: seconds; default: `request_timeout`.

        Returns:
            The answer, as bytes.

        Raises:
            TimeoutError: the site has not answered in time.
            LookupError: the site is not there, or takes no requests.
            Refused: the hub does not let this end ask the site.
            ConnectionClosed: the hub is away.
            CommandFailed: the site cannot ask its source; the text says why.
        """
        if not self._hub.connected:
            raise ConnectionClosed("the hub of the bridge is away")
        patience = self._options.request_timeout if timeout is None else seconds("timeout", timeout)
        zenoh = self._zenoh
        replies = self._hub.session.get(
            request_key(site), payload=message.pack(), timeout=patience or LONGEST,
            priority=zenoh.Priority.DATA_LOW,
            congestion_control=zenoh.CongestionControl.BLOCK,
        )  # fmt: skip
        for reply in replies:
            if reply.ok is not None:
                return Frame.from_bytes(reply.ok.payload.to_bytes())
            text = reply.err.payload.to_string()
            if text == "Timeout":
                raise TimeoutError(f"site {site!r} has not answered within {patience} s")
            raise CommandFailed(None, text)
        refused = self._hub.forbids("ask", site)
        if refused is not None:
            raise refused
        there = "takes no requests" if site in self.sites else "is not there"
        raise LookupError(f"site {site!r} {there}")

    # -- receiving

    def recv_frame(self, *, timeout: float | None = None) -> Received:
        """Return the next message as bytes, and its site.

        Args:
            timeout: seconds; None waits without end.

        Raises:
            TimeoutError: there was none within so many seconds.
            Refused: the hub does not let this end in.
            ConnectionClosed: this end was closed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._box) or self._closed or self._hub.refused,
                seconds("timeout", timeout),
            )
            received = self._box.get()
            if received is not None:
                return received
        if self._hub.refused is not None:
            raise self._hub.refused
        if self._closed:
            raise ConnectionClosed("this subscriber was closed")
        raise TimeoutError(f"no message within {timeout} s")

    def recv(self, *, timeout: float | None = None) -> tuple[Message, str]:
        """Return the next message, and its site.

        Args:
            timeout: seconds; None waits without end.

        Raises:
            ProtocolError: it is malformed; the next one can be received.
            TimeoutError, Refused, ConnectionClosed: as `recv_frame`.
        """
        frame, site = self.recv_frame(timeout=timeout)
        return frame.unpack(), site

    def __iter__(self) -> Iterator[Received]:
        while True:
            try:
                yield self.recv_frame()
            except ConnectionClosed:
                return

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this end was closed.

        Args:
            timeout: seconds; None waits without end.

        Returns:
            Whether it is closed.

        Raises:
            Refused: the hub does not let this end in.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._hub.refused, seconds("timeout", timeout)
            )
        if self._hub.refused is not None:
            raise self._hub.refused
        return self._closed

    def close(self) -> None:
        """Leave the bridge."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._hub.close()
        for thread in (*self._readers, self._asker):
            joined(thread)
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Subscriber to {', '.join(self.names)} {self.stats}>"
