"""What exchanges with a peer show of its clock, which stamps the replies: arithmetic only.

    this end   ── sent ─────────────────── received ──▶
    the peer          └── stamp of its reply ─┘

The stamp was made between the two, so the offset of the peer's clock lies within an interval as
wide as the round trip. A clock that drifts evenly is a line through all the intervals: the lines
that pass through them bound the drift, without an assumption about the network. A slow exchange
has a wide interval, which bounds nothing, so it does no harm, but is of no use. Where no line
passes through all, a clock was set meanwhile, and older exchanges are forgotten.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.errors import ClockUnknown

LEAST: Final = 3  # exchanges that show whether the stamps tick
_AGREE: Final = 4  # exchanges that agree show a new setting of a clock, and no chance
_BURST: Final = 8  # newest exchanges, whose scatter is measured
_DRIFT: Final = 1000.0  # ppm; clocks of computers stay within 100
_STEPS: Final = 1.0, 0.1, 0.01, 0.001  # seconds by which a clock may tick
EXACT: Final = 1e-6  # seconds; times since 1970 are exact to a quarter of this
OTHER_BASE: Final = 86400.0


class Sample(NamedTuple):
    """One exchange.

    Attributes:
        sent, received: times of the clock here.
        stamp: time of the peer's clock in between, as its reply says; 0: it says none.
    """

    sent: float
    stamp: float
    received: float


class Estimate(NamedTuple):
    """What exchanges show of a clock.

    Attributes:
        at: of each, its time by the clock here.
        offsets, errors: what the peer's clock showed more, and how wrong that may be, in seconds.
        least_drift, most_drift: what it gains, in seconds a second.
    """

    at: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64]
    least_drift: float
    most_drift: float

    @property
    def drift(self) -> float:
        """The middle of the two."""
        return (self.least_drift + self.most_drift) / 2

    @property
    def doubt(self) -> float:
        """How wrong that may be."""
        return (self.most_drift - self.least_drift) / 2


def estimate(samples: list[Sample], resolution: float) -> tuple[Estimate | ClockUnknown, int]:
    """Return what exchanges show, or why they show nothing.

    The number is that of the newest exchanges that count.
    """
    since = max((i for i, sample in enumerate(samples[:-1], 1) if not sample.stamp), default=0)
    samples = samples[since:]  # the peer has begun to stamp
    if reason := _useless([s.stamp for s in samples]):
        return ClockUnknown(reason), len(samples)
    sent, stamps, received = np.array(samples, np.float64).T
    tick = _tick(stamps)
    at = (sent + received) / 2
    low = stamps - received - resolution
    high = stamps - sent + resolution + tick

    def disagree(kept: int) -> bool:
        least, most = _drifts(at[-kept:], low[-kept:], high[-kept:])
        return least > most

    # the most of the newest ones through which a line passes: of more, there is none either
    kept = len(samples)
    if disagree(kept):
        counts = range(min(_AGREE, kept), kept)
        kept = max(counts.start, counts.start + bisect_left(counts, True, key=disagree) - 1)
    drifts = _drifts(at[-kept:], low[-kept:], high[-kept:])
    scatter = 0.0
    if drifts[0] > drifts[1]:  # the newest ones do not agree: the clock is coarse, and none was set
        kept, used = len(samples), min(_BURST, len(samples))
        at, low, high = at[-used:], low[-used:], high[-used:]
        scatter = 1.5 * _scatter(at, low, high)  # so few do not show the worst
        drifts = -_DRIFT * 1e-6, _DRIFT * 1e-6
    else:
        at, low, high = at[-kept:], low[-kept:], high[-kept:]
    if scatter > 1.0:
        text = f"the time stamps of its replies jump by {scatter:.2g} s: they do not tell its clock"
        return ClockUnknown(text), kept
    offsets = (low + high) / 2
    if abs(offsets[-1]) > OTHER_BASE:
        return ClockUnknown(
            f"the time stamps of its replies are {days(float(offsets[-1]))} from the clock here: "
            "they are of another time base, such as the start of its program, and so tell nothing "
            "of its other messages"
        ), kept  # fmt: skip
    return Estimate(at, offsets, (high - low) / 2 + scatter, *drifts), kept


def _useless(stamps: list[float]) -> str:
    """Return why these stamps, of the oldest reply to the newest, tell no clock; "" if they may."""
    newest = stamps[-LEAST:]
    if not newest[-1]:
        return "it sets no time stamp in its replies"
    if len(stamps) < LEAST:
        return f"{len(stamps)} exchanges do not show whether its stamps tick: it takes {LEAST}"
    if len(set(newest)) == 1:
        return "the time stamps of its replies stand still"
    if _tick(np.array(stamps[-_BURST:])) >= 1:
        return "the time stamps of its replies are whole seconds"
    return ""


def _tick(stamps: npt.NDArray[np.float64]) -> float:
    """Return the step in which a peer writes its stamps; 0 where none is seen."""
    for step in _STEPS:
        if (np.abs(stamps / step - np.round(stamps / step)) * step < EXACT).all():
            return step
    return 0.0


def _pairs(
    at: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], ...]:
    """Of each two exchanges: the time between them, the least and the most growth of the offset."""
    i, j = np.triu_indices(len(at), 1)
    return np.maximum(at[j] - at[i], 1e-9), low[j] - high[i], high[j] - low[i]


def _drifts(
    at: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Return the least and the greatest slope of a line that passes through all intervals.

    There is no line if the least is greater.
    """
    between, least, most = _pairs(at, low, high)
    limit = _DRIFT * 1e-6
    if not len(between):
        return -limit, limit
    return (
        max(-limit, float((least / between).max())),
        min(limit, float((most / between).min())),
    )


def _scatter(
    at: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> float:
    """By how much intervals miss each other, where no drift explains it."""
    between, least, most = _pairs(at, low, high)
    allowed = _DRIFT * 1e-6 * between
    return float(max((least - allowed).max(), (-most - allowed).max(), 0.0))


def days(duration: float) -> str:
    """Return a duration in words."""
    return f"{abs(duration) / 86400:.0f} days"
