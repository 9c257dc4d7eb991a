"""Time-outs that callers give, checked where they are given."""

from __future__ import annotations

import math
from typing import Final

LONGEST: Final = 2_000_000.0
"""Seconds (23 days) of the longest time-out: the longest wait that every system can count."""


def seconds(name: str, value: float | None) -> float | None:
    """A time-out in seconds. 0 means at once; None and infinity mean that there is none. One over
    LONGEST is shortened to LONGEST.

    Args:
        name: of the argument, for the error.

    Raises:
        ValueError: it is negative or not a number.
        TypeError: it is no number at all.
    """
    if value is None or value == math.inf:
        return None
    if math.isnan(value) or value < 0:
        raise ValueError(
            f"{name} must be 0 seconds or more, or None for no time-out, not {value!r}"
        )
    return min(float(value), LONGEST)
