"""The clock of a peer that stamps its replies, and how a link measures it; without I/O."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from igtl.codec.message import Message
from igtl.errors import ClockUnknown
from igtl.messages.queries import GetStatus
from igtl.options import seconds
from igtl.session.offsets import EXACT, LEAST, OTHER_BASE, Estimate, Sample, days, estimate
from igtl.session.requests import Exchange

_KEPT: Final = 64
_PAUSE: Final = 0.02  # seconds between two exchanges; more than a tick of Windows' clock
_TICK: Final = max(time.get_clock_info(name).resolution for name in ("time", "monotonic"))
_names = itertools.cycle(range(10))  # few: each is a stream in the statistics of both ends


class Clock:
    """The clock of a peer, estimated from exchanges with it.

    `link.clock()` makes one. While the clock cannot be known, the estimates and conversions raise
    `ClockUnknown`, whose text says why. `known`, `reason`, `samples` and `round_trip` never do.

    Args:
        resolution: seconds by which the clock here ticks. Default: as Python knows it.
    """

    def __init__(self, *, resolution: float = _TICK) -> None:
        self._resolution = max(resolution, EXACT)
        self._samples: list[Sample] = []
        self._name = ""  # under which it is asked for, so that no other STATUS is a reply
        self._unanswered = False  # a late reply may still come to this name
        self._found: Estimate | ClockUnknown = ClockUnknown("the peer has not been asked")

    def add(self, sent: float, stamp: float | None, received: float) -> None:
        """Add one exchange. At most 64 are kept: of those that are closest in time the quicker.

        Args:
            sent: seconds since 1970 by the clock here.
            stamp: of the reply, by the peer's clock; 0 or None if it has none.
            received: seconds since 1970 by the clock here.

        Raises:
            ValueError: it was received before it was sent.
        """
        if received < sent:
            raise ValueError(f"received {sent - received:g} s before it was sent")
        samples = [*self._samples, Sample(sent, stamp or 0.0, received)]
        if len(samples) > _KEPT:
            gaps = [b.sent - a.sent for a, b in itertools.pairwise(samples[:-1])]
            at = gaps.index(min(gaps))
            slower = samples[at].received - samples[at].sent > (
                samples[at + 1].received - samples[at + 1].sent
            )
            del samples[at if slower else at + 1]
        self._found, kept = estimate(samples, self._resolution)
        self._samples = samples[len(samples) - kept :]

    @property
    def known(self) -> bool:
        """Whether the clock can be known."""
        return isinstance(self._found, Estimate)

    @property
    def reason(self) -> str:
        """Why it cannot be known; "" if it can."""
        return "" if isinstance(self._found, Estimate) else self._found.reason

    @property
    def samples(self) -> int:
        """Exchanges that are kept."""
        return len(self._samples)

    @property
    def round_trip(self) -> float:
        """Least time from a request to its reply, in seconds."""
        return min((s.received - s.sent for s in self._samples), default=float("inf"))

    @property
    def offset(self) -> float:
        """Peer's clock minus the clock here, in seconds, at the newest exchange.

        Negative if the peer's clock is behind.
        """
        return self._at(self._newest())[0]

    @property
    def uncertainty(self) -> float:
        """Largest error of `offset`, in seconds, in either direction.

        It is the sum of half the least round trip, the possible drift since that exchange, and the
        tick of a coarse clock.
        """
        return self._at(self._newest())[1]

    @property
    def drift(self) -> float:
        """Rate by which the peer's clock is faster than the one here, in ppm (3.6 ms an hour each).

        0 until exchanges are far enough apart in time to show it: see `drift_uncertainty`.
        """
        return 1e6 * self._estimate().drift

    @property
    def drift_uncertainty(self) -> float:
        """What `drift` may be wrong, in ppm, in either way; 1000 where nothing is known of it."""
        return 1e6 * self._estimate().doubt

    def to_local(self, timestamp: float) -> float:
        """Return the time here at which the peer's clock has shown this time.

        Both are in seconds since 1970.
        """
        return timestamp - self._at(timestamp - self.offset)[0]

    def to_peer(self, local: float) -> float:
        """Return what the peer's clock shows at this time of the clock here.

        Both are in seconds since 1970.
        """
        return local + self._at(local)[0]

    def uncertainty_at(self, local: float) -> float:
        """Return the uncertainty for another time of the clock here.

        The time is in seconds since 1970.

        It grows with the time since the last exchange, until the drift is known.
        """
        return self._at(local)[1]

    def delay(self, message: Message) -> float:
        """Seconds from the time stamp of a message to its arrival, both by the clock here.

        Raises:
            ClockUnknown: also where the message has no time stamp, or one of another time base.
        """
        return self.age(message, message.received)

    def age(self, message: Message, now: float | None = None) -> float:
        """Seconds since the time stamp of a message, by the clock here.

        Args:
            message: of the peer.
            now: seconds since 1970. Default: the time of the call.

        Raises:
            ClockUnknown: also where the message has no time stamp, or one of another time base.
        """
        what = f"the age of {message.type_name} {message.device_name!r}"
        if not message.timestamp:
            raise ClockUnknown("it has no time stamp", what)
        age = (time.time() if now is None else now) - self.to_local(message.timestamp)
        if abs(age) > OTHER_BASE:
            text = (
                f"its time stamp is {days(age)} away: it is of another time base than the replies"
            )
            raise ClockUnknown(text, what)
        return age

    def to_dict(self) -> dict[str, Any]:
        """Return the estimates as JSON-able values, in seconds and ppm; else the reason."""
        if self.reason:
            return {"known": False, "reason": self.reason}
        return {
            "known": True, "offset": self.offset, "uncertainty": self.uncertainty,
            "drift": self.drift, "drift_uncertainty": self.drift_uncertainty,
            "round_trip": self.round_trip,
        }  # fmt: skip

    def __str__(self) -> str:
        """Return the estimates in words."""
        if self.reason:
            return f"the clock of the peer cannot be known: {self.reason}"
        way = "ahead of" if self.offset > 0 else "behind"
        length, error = _length(abs(self.offset)), _length(self.uncertainty)
        return f"the clock of the peer is {length} ± {error} {way} the one here"

    def _estimate(self) -> Estimate:
        if isinstance(self._found, ClockUnknown):
            raise self._found.with_traceback(None)
        return self._found

    def _newest(self) -> float:
        return float(self._estimate().at[-1])

    def _at(self, local: float) -> tuple[float, float]:
        """Offset and its uncertainty at a time of the clock here, by the best exchange."""
        found = self._estimate()
        since = local - found.at
        errors = found.errors + found.doubt * np.abs(since)
        best = int(errors.argmin())
        offset = found.offsets[best] + found.drift * since[best]
        return float(offset), float(errors[best])

    def __repr__(self) -> str:
        if self.reason:
            return f"<Clock: cannot be known: {self.reason}>"
        return (
            f"<Clock {1e3 * self.offset:+.3f} ms ± {1e3 * self.uncertainty:.3f} ms, drift "
            f"{self.drift:+.1f} ± {self.drift_uncertainty:.1f} ppm, of {self.samples} exchanges>"
        )


def _length(duration: float) -> str:
    return f"{duration:.3f} s" if duration >= 1 else f"{1e3 * duration:.2f} ms"


class Measuring:
    """The exchanges of one `link.clock()`: yields the seconds to wait before each.

        for pause in measuring:
            sleep(pause)
            measuring.add(ask(measuring.exchange(), measuring.left()))

    Args:
        samples: how many.
        timeout: seconds for all of them.
        clock: what is measured is added to this one.
        device_name: whose status is asked for. None: a name that no device has, so that only the
            reply, or a STATUS without a name, can be taken for the reply.
    """

    def __init__(
        self, samples: int, timeout: float | None, clock: Clock | None, device_name: str | None
    ) -> None:
        if samples < 1 or (clock is None and samples < LEAST):
            raise ValueError(f"a clock needs at least {LEAST} samples, not {samples}")
        timeout = seconds("timeout", timeout)
        self.clock = Clock() if clock is None else clock
        self._count = samples
        self._device_name = device_name
        self._end = None if timeout is None else time.monotonic() + timeout
        self._sent = self._sent_monotonic = 0.0

    def __iter__(self) -> Iterator[float]:
        for i in range(self._count):
            yield _PAUSE if i else 0.0
        if not self.clock.known:
            raise ClockUnknown(self.clock.reason)

    def left(self) -> float | None:
        """Seconds that remain of the time-out."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def exchange(self) -> Exchange:
        """Return the next request, which is to be sent now."""
        clock, name = self.clock, self._device_name
        if name is None:
            if clock._unanswered or not clock._name:
                clock._name = f"igtl clock {next(_names)}"
            name = clock._name
        clock._unanswered = True
        exchange = Exchange(GetStatus(device_name=name))
        # in this order: what lies between makes the exchange seem longer, not shorter
        self._sent_monotonic, self._sent = time.monotonic(), time.time()
        return exchange

    def add(self, reply: Any) -> None:
        """Add the reply.

        Raises:
            ClockUnknown: it has no time stamp, so there is no need to ask again.
        """
        self.clock._unanswered = False
        # by the monotonic clock, since the other one may be set meanwhile
        took = max(0.0, reply.received_monotonic - self._sent_monotonic)
        self.clock.add(self._sent, reply.timestamp, self._sent + took)
        if not reply.timestamp:
            raise ClockUnknown(self.clock.reason)
