"""The end of a bridge where the messages of a site go in."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, Self, Unpack, get_args

from igtl import _core
from igtl._core import Frame
from igtl._stream import Stats
from igtl.bridge.asked import Asked
from igtl.bridge.events import Events
from igtl.bridge.hub import Hub, Refused, checked
from igtl.bridge.kept import Kept
from igtl.bridge.lanes import Bounds, Kind, Lane, is_kept, kind_of, quality
from igtl.bridge.names import (
    Stamp,
    Tally,
    checked_site,
    clock_key,
    message_key,
    messages_key,
    presence_key,
    publisher_of,
    request_key,
    stream_of,
    tally_key,
)
from igtl.codec.message import Message
from igtl.extras import need
from igtl.log import log
from igtl.options import PublisherOptions, PublisherSettings, seconds

MAX_STREAMS: Final = 4096
"""Streams of one publisher: a source that invents names shall not fill the memory."""
_TALLY: Final = 2.0  # seconds between two tallies, at least
_TALLY_RATE: Final = 10_000  # bytes of them a second, at most


class _Stream:
    """What is known of one key.

    This is its lane, which does not change, the number of the last message that has left the lane,
    and the key as Zenoh sends it.
    """

    def __init__(self, key: str, kind: Kind) -> None:
        self.key = key
        self.kind = kind
        self.number = 0
        self.short: Any = None


class _Item(NamedTuple):
    """One message that waits in a lane, and since when."""

    stream: _Stream
    frame: Frame
    at: float


class Publisher:
    """Puts the messages of a site on a bridge.

        with igtl.connect("tracker", reconnect=igtl.Backoff()) as link:
            with igtl.bridge.Publisher("or1", link, connect="tcp/hub:7447") as publisher:
                publisher.wait()

    While the hub cannot be reached, also at the beginning, messages wait within the bounds of their
    lanes. Of poses and images, only the newest of each stream waits.

    Args:
        site: name of this site.
        source: followed from the beginning, see `follow`; None: the caller puts.
        on_event: called with a line about the connection to the hub; from any thread.
        settings: see `igtl.options.PublisherOptions`; `connect=` is needed.

    Attributes:
        site: its name.
        stats: `sent` counts messages that the hub got, `dropped` the others by cause: "superseded"
            by a newer message of the stream, "overflow" of a lane, "no receiver" (the hub knew of
            none), "streams" (more than MAX_STREAMS), "unasked" (an answer that nothing waits for),
            "closed" (the message waited when this end was closed), "failed" (Zenoh refused it).

    Raises:
        ValueError, TypeError: the site or an option is not allowed.
        MissingExtra: the extra `igtl[bridge]` is missing.
    """

    def __init__(
        self,
        site: str,
        source: Any = None,
        *,
        on_event: Callable[[str], None] = lambda text: None,
        **settings: Unpack[PublisherSettings],
    ) -> None:
        options = checked(PublisherOptions.of(settings))
        self.site = checked_site(site)
        self.stats = Stats()
        self._options = options
        self._zenoh = need("zenoh", "bridge")
        self._id = secrets.randbits(64)
        self._source: Any = None
        self._lock = threading.Lock()
        self._lanes: dict[Kind, Lane[_Item]] = {}
        self._streams: dict[str, _Stream] = {}
        self._how = {kind: quality(self._zenoh, kind) for kind in get_args(Kind)}
        # of what is live, and of what is not: whether there are receivers, and whether they know
        # the numbers so far
        self._wanted: dict[bool, Any] = {}
        self._told: set[bool] = set()
        self._kept = Kept(self._id, options.max_queued_bytes)
        self._asked = Asked(options.request_timeout)
        self._others: set[int] = set()
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._closed = False
        self._events = Events(self.close)
        self._late = Events(self.close)  # its answers may be large, and take long
        self._presence = threading.Lock()
        self._generation = 0
        self._token: Any = None
        self._hub = Hub(
            options, [("put", self.site)],
            opened=self._opened, changed=self._changed, events=self._events, tell=on_event,
            idle=partial(self._tally, True),
        )  # fmt: skip
        # A hub reads a connection in order: so that no pose waits there behind an image for a slow
        # receiver, what is not live has a connection of its own.
        self._wide = Hub(
            options, (), opened=self._opened_wide, changed=self._changed, events=self._late,
            tell=None, idle=partial(self._tally, False),
        )  # fmt: skip
        for hub in (self._hub, self._wide):
            hub.start()
        if source is not None:
            self.follow(source)

    # -- messages

    def put(self, message: Message | Frame) -> None:
        """Publish a message; returns at once, from any thread.

        Args:
            message: its arrays may be changed afterwards. A frame is published unchanged, even with
                a wrong CRC.
        """
        at = time.monotonic()
        frame = message
        if not isinstance(frame, Frame):
            frame = Frame.from_bytes(frame.pack())
        if self._asked.answers(frame):
            return
        if frame.type_name.startswith("RTS_"):  # not for those that have not asked
            self.stats.count_dropped(frame, "unasked")
            return
        key = message_key(self.site, frame)
        with self._lock:
            if self._closed:
                self.stats.count_dropped(frame, "closed")
                return
            stream = self._streams.get(key)
            if stream is None:
                if len(self._streams) >= MAX_STREAMS:
                    self._count(frame, "streams")
                    return
                stream = self._streams[key] = _Stream(key, kind_of(frame))
            lane = self._lanes.get(stream.kind) or self._new_lane(stream.kind)
        lane.put(_Item(stream, frame, at), len(frame), _core.stream_key(frame))

    def _new_lane(self, kind: Kind) -> Lane[_Item]:
        bounds = Bounds(self._options.max_queued, self._options.max_queued_bytes)
        lane = self._lanes[kind] = Lane(kind, bounds, self._send, self._lost)
        lane.open(self._is_open(kind))
        return lane

    def _is_open(self, kind: Kind) -> bool:
        return self._hub.connected and (kind == "live" or self._wide.connected)

    def _lost(self, item: _Item, cause: str) -> None:
        if cause == "superseded":
            self.stats.count_dropped(item.frame, cause)
        else:
            self._count(item.frame, cause)

    def _count(self, frame: Frame, cause: str) -> None:
        self.stats.count_dropped(frame, cause)
        log(
            logging.WARNING, "site %s gives up messages: %s", self.site, cause,
            type=frame.type_name, device=frame.device_name, cause=cause,
        )  # fmt: skip

    def _send(self, item: _Item) -> None:
        """Hand a message to Zenoh; in the thread of its lane, waits where there is no room."""
        stream, frame, at = item
        stamp = Stamp(self._id, stream.number + 1, at)
        data = bytes(frame.data)
        if is_kept(frame.type_name):
            self._kept.keep(stream.key, data, stamp)
        live = stream.kind == "live"
        session = self._session(live)
        try:
            if stream.short is None:
                stream.short = session.declare_keyexpr(stream.key)
            wanted = self._is_wanted(live)
            if wanted:
                if live not in self._told:
                    self._tell(live)
                how = self._how[stream.kind]
                session.put(stream.short, data, attachment=stamp.pack(), **how)
        except self._zenoh.ZError as error:  # the session was closed
            self.stats.count_dropped(frame, "closed")
            log(logging.DEBUG, "not put: %s", error)
            return
        stream.number = stamp.number  # not before it is on its way: a tally must not overtake it
        if wanted:
            self.stats.count_sent(frame, len(frame))
        else:
            self.stats.count_dropped(frame, "no receiver")

    def _session(self, live: bool) -> Any:
        return (self._hub if live else self._wide).session

    def _is_wanted(self, live: bool) -> bool:
        """Return whether the hub knows of receivers."""
        # one question for all streams of the site: a publisher of Zenoh for each stream asks the
        # hub for each, which 20,000 of them do not survive
        wanted = bool(self._wanted[live].matching_status.matching)
        if not wanted:
            self._told.discard(live)
        return wanted

    # -- the tally: receivers learn what they miss when nothing follows it

    def _tally(self, live: bool) -> float:
        """Tell receivers the numbers so far; returns the seconds until they are told again."""
        try:
            size = self._tell(live) if self._is_wanted(live) else 0
        except self._zenoh.ZError as error:  # the session was closed
            log(logging.DEBUG, "not told: %s", error)
            size = 0
        return max(_TALLY, size / _TALLY_RATE)

    def _tell(self, live: bool, closing: bool = False) -> int:
        """Put a tally, behind the messages that it counts; returns its size."""
        with self._lock:
            streams = list(self._streams.values())
        numbers = {
            stream_of(s.key): s.number for s in streams if s.number and (s.kind == "live") == live
        }
        data = Tally(self._id, live, closing, numbers).pack()
        how = self._how["live" if live else "state"]
        self._session(live).put(tally_key(self.site), data, **how)
        self._told.add(live)
        return len(data)

    # -- the hub

    def _opened(self, session: Any) -> None:
        site, handler = self.site, self._events.handler
        self._wanted[True] = session.declare_publisher(tally_key(site))
        key = clock_key(site, self._id)
        session.declare_queryable(key, handler(_time_teller(key)))
        met = handler(self._met)
        session.liveliness().declare_subscriber(presence_key(site), met, history=True)

    def _opened_wide(self, session: Any) -> None:
        handler = self._late.handler
        self._wanted[False] = session.declare_publisher(tally_key(self.site))
        session.declare_queryable(messages_key(self.site), handler(self._kept.answer))
        if self._options.requests:
            session.declare_queryable(request_key(self.site), self._events.handler(self._ask))

    def _changed(self, connected: bool) -> None:
        self._told.clear()  # what was on its way may be lost
        with self._lock:
            for kind, lane in self._lanes.items():
                lane.open(self._is_open(kind))
        with self._presence:
            if self.connected:
                self._announce()
        if self._hub.refused is not None:
            self._end(self._hub.refused)

    def _announce(self) -> None:
        """Declare a new token, so that receivers ask for what they have missed."""
        before, self._generation = self._token, self._generation + 1
        key = presence_key(self.site, self._id, self._generation)
        self._token = self._hub.session.liveliness().declare_token(key)
        if before is not None:
            before.undeclare()

    def _met(self, sample: Any) -> None:
        """Note that another publisher, or this one, has come or gone."""
        other = publisher_of(str(sample.key_expr))
        if other == self._id or "DELETE" in str(sample.kind):
            self._others.discard(other)
        elif other not in self._others:
            self._others.add(other)
            self._hub.tell(
                f"there is another publisher of site {self.site!r}: receivers get the messages of "
                "both, mixed", logging.WARNING,
            )  # fmt: skip

    # -- requests

    def _ask(self, query: Any) -> None:
        """Hand a command or request from far away to the source."""
        try:
            if self._source is None:
                raise LookupError("there is none")
            message = self._asked.begin(query)
            if message is not None:
                self._source.send(message)
        except Exception as error:
            query.reply_err(f"site {self.site!r} cannot ask its source: {error}")

    # -- the source

    def follow(
        self, source: Any, takes: Callable[[str, str], bool] = lambda type_name, device_name: True
    ) -> None:
        """Publish what a source sends, in a thread, until the source ends; then `wait` returns.

        The caller still owns the source, and closes it. The source gets the commands and requests
        of other sites.

        Args:
            source: a link, or anything whose `frames()` gives frames (or pairs of a frame and its
                sender), and whose `send(message)` takes messages.
            takes: called with type and device name; returns whether such messages are published.
        """
        self._source = source
        threading.Thread(
            target=self._follow, args=(source, takes), name="igtl bridge source", daemon=True
        ).start()

    def _follow(self, source: Any, takes: Callable[[str, str], bool]) -> None:
        error: BaseException | None = None
        try:
            for found in source.frames():
                if self._closed:
                    return
                frame = found[0] if isinstance(found, tuple) else found
                if takes(frame.type_name, frame.device_name):
                    self.put(frame)
                else:
                    self._asked.answers(frame)
        except Exception as failed:
            error = failed
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._error = self._error or error
        self._over.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the source has ended, or this end was closed.

        Args:
            timeout: seconds; None waits without end.

        Returns:
            Whether that is so.

        Raises:
            Refused: the hub does not let this end in.
            Exception: what ended the source.
        """
        over = self._over.wait(seconds("timeout", timeout))
        if self._error is not None:
            raise self._error
        return over

    @property
    def connected(self) -> bool:
        """Whether the hub is there, and takes the messages of this site."""
        return self._hub.connected and self._wide.connected

    @property
    def refused(self) -> Refused | None:
        """Why the hub does not let this end in; None while it does, or is away."""
        return self._hub.refused

    @property
    def waiting(self) -> int:
        """Messages that wait to leave."""
        with self._lock:
            return sum(lane.waiting for lane in self._lanes.values())

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits to leave.

        Args:
            timeout: seconds; None waits without end.

        Returns:
            Whether that is so.
        """
        patience = seconds("timeout", timeout)
        end = None if patience is None else time.monotonic() + patience
        with self._lock:
            lanes = list(self._lanes.values())
        return all(
            lane.drain(None if end is None else max(0.0, end - time.monotonic())) for lane in lanes
        )

    def close(self) -> None:
        """Leave the bridge; messages that still wait after one second are dropped."""
        if self.connected:
            self.drain(1.0)
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.close()
        for live, hub in ((True, self._hub), (False, self._wide)):
            if hub.connected:
                with suppress(self._zenoh.ZError):
                    self._tell(live, closing=True)
            hub.close()
        for lane in lanes:
            lane.join()
        for events in (self._events, self._late):
            events.close()
        self._end(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Publisher of site {self.site!r} {self.stats}>"


def _time_teller(key: str) -> Callable[[Any], None]:
    def tell(query: Any) -> None:
        with query:
            query.reply(key, repr(time.monotonic()))

    return tell
