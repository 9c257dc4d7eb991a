"""Sites of a bridge as sources and sinks (`igtl[bridge]`)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from igtl._core import Frame
from igtl.bridge.publisher import Publisher
from igtl.bridge.subscriber import Subscriber
from igtl.errors import ConnectionClosed
from igtl.gateway.config import Entry
from igtl.gateway.parts import settle
from igtl.gateway.sinks import Sink
from igtl.gateway.sources import Source


def _settings(entry: Entry) -> dict[str, Any]:
    """Return how an end of a bridge reaches the hub."""
    files = {key: entry.get(key) for key in ("ca", "cert", "key")}
    return {"connect": entry.get("hub"), **files, **entry.options}


class FromSite(Source):
    """What a site puts on a bridge."""

    _subscriber: Any = None

    def run(self) -> None:
        """Hand on what the site puts, until it is closed."""
        with Subscriber(self.entry.place, **_settings(self.entry)) as subscriber:
            self._subscriber = subscriber
            self.opened()
            try:
                while not self.closed.is_set():
                    self.take(subscriber.recv_frame().frame)
            finally:
                self._subscriber = None
                settle(self._lost, subscriber.stats)

    @property
    def lost(self) -> Counter[str]:
        """What the subscriber has counted as lost, by cause, and what was lost before."""
        found = super().lost
        if (subscriber := self._subscriber) is not None:
            found.update(subscriber.stats.dropped)
            found.update(subscriber.stats.errors)
        return found

    @property
    def reason(self) -> str:
        """Whether the hub or the site is away; "" while both are there."""
        subscriber = self._subscriber
        if subscriber is None:
            return super().reason
        if not subscriber.connected:
            return "the hub is away"
        if self.entry.place not in ("*", *subscriber.sites):
            return f"site {self.entry.place!r} is not there"
        return super().reason

    def stop(self) -> None:
        """Leave the bridge."""
        if (subscriber := self._subscriber) is not None:
            subscriber.close()


class ToSite(Sink):
    """Puts messages on a bridge, as a site."""

    _publisher: Any = None

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self._sent = 0

    def run(self) -> None:
        """Be the site until it is closed."""
        with Publisher(self.entry.place, **_settings(self.entry)) as publisher:
            self._publisher = publisher
            self.opened()
            try:
                publisher.wait()
            finally:
                self._publisher = None
                publisher.close()
                self._sent += publisher.stats.sent
                self._dropped.update(publisher.stats.dropped)

    def send(self, frame: Frame, source: str) -> None:
        """Put a frame on the bridge; never waits."""
        publisher = self._publisher
        if publisher is None:
            raise ConnectionClosed
        publisher.put(frame)

    @property
    def reason(self) -> str:
        """Whether the hub is away; "" while it is there."""
        publisher = self._publisher
        if publisher is not None and not publisher.connected:
            return "the hub is away"
        return super().reason

    @property
    def delivered(self) -> int:
        """Messages that were handed to the hub."""
        publisher = self._publisher
        return self._sent + (0 if publisher is None else int(publisher.stats.sent))

    @property
    def dropped(self) -> Counter[str]:
        """What was not, by cause."""
        found = super().dropped
        if (publisher := self._publisher) is not None:
            found.update(publisher.stats.dropped)
        return found

    @property
    def waiting(self) -> int:
        """Messages that wait in the lanes."""
        publisher = self._publisher
        return 0 if publisher is None else int(publisher.waiting)

    def stop(self) -> None:
        """Leave the bridge."""
        if (publisher := self._publisher) is not None:
            publisher.close()
