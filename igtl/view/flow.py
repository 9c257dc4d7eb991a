"""What one browser gets next, and when. Does no I/O: `page` moves the bytes.

The browser acknowledges each tick after it has drawn it. What is not yet acknowledged is bounded by
a window that shrinks when the network takes longer than it has to, and images become smaller while
they are what takes so long. Meanwhile only the newest of each stream is kept: a slow browser gets
fewer messages, not older ones, and delays no other.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Final, NamedTuple

from igtl.messages.imaging import Image
from igtl.view import shapes
from igtl.view.feed import Feed, Stream
from igtl.view.wire import EXACT, QUALITIES, SIZES, Quality

_TABLE: Final = 0.5  # seconds between tables
_PLOTS: Final = 0.2
_SLACK: Final = 0.06  # seconds that the network may take longer than at its best
_LATE: Final = 0.04  # the same of ticks with images: more makes the next ones smaller
_JUDGED: Final = 0.3  # seconds of images from which the quality of the next ones is derived
_NOISE: Final = 3  # ticks of which the quickest counts: a busy machine is slow at times
_STEADY: Final = 1.0  # seconds before it becomes better
_MAX_WINDOW: Final = 12.0  # ticks
_MAX_IMAGES: Final = 2  # images on their way


class Tick(NamedTuple):
    """What goes out at once.

    Attributes:
        number: what the browser acknowledges.
        texts: JSON texts, before all.
        images: a stream, its image, and the number of its change.
        poses: 64 bytes each.
    """

    number: int
    texts: list[str]
    images: list[tuple[Stream, Image, int]]
    poses: list[bytes]


class _Sent(NamedTuple):
    at: float
    images: int


class Flow:
    """The state of one browser.

    Args:
        feed: what is shown.
        hz: ticks a second, at most.
        now: the time, by the clock that all methods are given.

    Attributes:
        quality: of the images now.
        round_trip: seconds from sending to acknowledging, without the time for drawing.
    """

    def __init__(self, feed: Feed, *, hz: float = 60.0, now: float = 0.0) -> None:
        self.exact = False
        self.round_trip = 0.0
        self._feed = feed
        self._period = 1 / hz
        self._due = self._table_due = self._plots_due = now
        self._seen = -1  # change up to which all but images has been sent
        self._known = 0  # streams whose names have been sent
        self._reset = feed.resets
        self._line = 0
        self._images: dict[int, int] = {}  # change of the image sent last, by stream
        self._sampled: dict[int, int] = {}  # and of the last sample of a plot
        self._sent = 0
        self._flying: dict[int, _Sent] = {}
        self._window = 3.0
        self._hold = 0.0  # the window does not shrink again before
        self._floor: list[tuple[float, float]] = []  # the best recent round trips
        self._level = 0
        self._excess: deque[float] = deque(maxlen=_NOISE)  # of the newest ticks
        self._judged: list[tuple[float, float]] = []  # time, excess of images of this quality
        self._since = now  # when it was chosen
        self._state: dict[str, Any] = {}
        self._news: list[dict[str, Any]] = []

    @property
    def quality(self) -> Quality:
        """How images are sent."""
        return EXACT if self.exact else QUALITIES[self._level]

    @property
    def waiting_images(self) -> int:
        """Images on their way."""
        return sum(sent.images for sent in self._flying.values())

    def tell(self, **news: Any) -> None:
        """Add news to the next tick."""
        self._news.append(news)

    def delay(self, now: float) -> float | None:
        """Seconds until the next tick may be made; None: not before a change."""
        if len(self._flying) >= int(self._window):
            return None
        wait = max(0.0, self._due - now)
        if self._feed.changes > self._seen or self._waiting_image() or self._news:
            return wait
        return max(wait, self._table_due - now)

    def tick(self, now: float, state: dict[str, Any]) -> Tick:
        """Return the next tick.

        Args:
            now: the time, by the clock of this flow.
            state: what all browsers get when it changes, by name.
        """
        feed = self._feed
        self._due = max(self._due + self._period, now)
        seen, self._seen = self._seen, feed.changes
        texts = [*self._news, *self._changed(state, now), *self._shapes(seen)]
        self._news = []
        if now >= self._plots_due:
            self._plots_due = now + _PLOTS
            texts += self._samples()
        if now >= self._table_due:
            self._table_due = now + _TABLE
            texts.append({"table": feed.table(), "flow": self._report()})
        images = self._newer_images()
        poses = [s.packed for s in feed.after(seen) if s.packed]
        self._sent += 1
        self._flying[self._sent] = _Sent(now, len(images))
        encoded = [json.dumps(text, separators=(",", ":")) for text in texts]
        return Tick(self._sent, encoded, images, poses)

    def acknowledge(self, number: int, held: float, now: float) -> None:
        """Note that the browser has drawn a tick.

        Args:
            number: of the tick.
            held: seconds that the browser had it before it answered.
            now: the time, by the clock of this flow.
        """
        sent = self._flying.pop(number, None)
        if sent is None:
            return
        took = max(0.0, now - sent.at - max(0.0, held))
        self.round_trip += 0.1 * (took - self.round_trip)
        self._floor = [f for f in self._floor if f[0] > now - 10 and f[1] < took]
        self._floor.append((now, took))
        excess = took - self._floor[0][1]
        self._excess.append(excess)
        least = min(self._excess)
        if least > _SLACK and now > self._hold:
            self._window = max(1.0, self._window * 0.7)
            self._hold = now + took
        elif least <= _SLACK:
            self._window = min(_MAX_WINDOW, self._window + 0.25)
        if sent.images:
            self._judge(excess, took, now)

    def _judge(self, excess: float, took: float, now: float) -> None:
        """Decide whether images are too large for this network, or could be better.

        As in `acknowledge`, the quickest of the newest ticks counts.
        """
        if now < self._since:  # those on their way are of another quality
            return
        self._judged.append((now, excess))
        if len(self._judged) < 2 or now - self._judged[0][0] < _JUDGED:
            return
        least = min(excess for _, excess in self._judged)
        self._judged.clear()
        level = self._level
        if least > _LATE:
            fitting = SIZES[level] * _LATE / least
            level = next((k for k, size in enumerate(SIZES) if size <= fitting), len(SIZES) - 1)
        elif level and now - self._since > _STEADY:
            growth = SIZES[level - 1] / SIZES[level]
            level -= least * growth < _LATE
        if level != self._level:
            self._level, self._since = level, now + took

    # -- the parts of a tick

    def _changed(self, state: dict[str, Any], now: float) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        feed = self._feed
        if feed.resets != self._reset:
            self._reset = feed.resets
            out.append({"reset": feed.resets})
        streams = feed.all()
        if len(streams) > self._known:
            out.append({"streams": [[s.number, *s.key] for s in streams[self._known :]]})
            self._known = len(streams)
        lines = [line for line in list(feed.lines) if line.number > self._line]
        if lines:
            self._line = lines[-1].number
            out.append({"log": lines[-200:]})
        new = {name: value for name, value in state.items() if self._state.get(name) != value}
        if new:
            self._state.update(new)
            out.append(new)
        return out

    def _shapes(self, seen: int) -> list[dict[str, Any]]:
        drawn = [s.drawn for s in self._feed.all() if s.drawn is not None]
        return [{"shape": facts} for change, facts in drawn if change > seen]

    def _samples(self) -> list[dict[str, Any]]:
        plots: dict[int, Any] = {}
        for stream in self._feed.all():
            after = self._sampled.get(stream.number, 0)
            samples = [sample for sample in list(stream.samples) if sample[0] > after]
            rows = [row for _, row in samples]
            if rows:
                self._sampled[stream.number] = samples[-1][0]
                unit = str(getattr(stream.newest, "unit", ""))
                plots[stream.number] = {"unit": unit, "rows": rows}
        return [{"plots": plots}] if plots else []

    def _is_newer_image(self, stream: Stream) -> bool:
        return (
            isinstance(stream.newest, Image)
            and stream.changed > self._images.get(stream.number, 0)
            and not shapes.is_volume(stream.newest)
        )

    def _waiting_image(self) -> bool:
        return self._room() > 0 and any(self._is_newer_image(s) for s in self._feed.all())

    def _room(self) -> int:
        most = _MAX_IMAGES if self.round_trip < 0.05 else 1
        return most - self.waiting_images

    def _newer_images(self) -> list[tuple[Stream, Image, int]]:
        waiting = [s for s in self._feed.all() if self._is_newer_image(s)]
        waiting.sort(key=lambda s: self._images.get(s.number, 0))  # that of longest ago first
        out = []
        for stream in waiting[: max(0, self._room())]:
            self._images[stream.number] = stream.changed
            out.append((stream, stream.newest, stream.changed))
        return out

    def _report(self) -> dict[str, Any]:
        return {
            "round_trip": round(1e3 * self.round_trip, 1), "window": round(self._window, 1),
            "quality": self._level,
        }  # fmt: skip
