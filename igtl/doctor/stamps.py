"""What is wrong with the time stamps of a stream."""

from __future__ import annotations

import statistics
import time
from typing import Final

from igtl.doctor.diagnosis import Diagnosis, Seen
from igtl.doctor.session import Session

_ENOUGH: Final = 20  # stamps that show a rule
_YEAR: Final = 365.25 * 86400


def judge_stamps(diagnosis: Diagnosis, session: Session) -> None:
    """Add the findings that follow from the time stamps of all streams."""
    for (kind, device), seen in sorted(diagnosis.streams.items()):
        _judge_steps(diagnosis, f"{kind} {device!r}", seen)
    _judge_clock(diagnosis, session)


def _judge_steps(diagnosis: Diagnosis, which: str, seen: Seen) -> None:
    if len(seen.stamps) == 1 < seen.repeated():
        diagnosis.found(
            "problem", "clock",
            f"The time stamp of {which} stands still: the sender repeats one message, or does not "
            "set it anew.",
        )  # fmt: skip
        return
    fractions = [stamp & 0xFFFFFFFF for stamp in seen.stamps]
    if len(fractions) > 1 and not any(fractions):
        diagnosis.found(
            "note", "clock",
            f"The time stamps of {which} are whole seconds: the sender leaves the fraction at 0, "
            "so that messages cannot be matched by them.",
        )  # fmt: skip
    elif len(fractions) >= _ENOUGH and max(fractions) < 10**9:
        diagnosis.found(
            "note", "clock",
            f"The fractions in the time stamps of {which} are all below 0.233 s: the sender writes "
            f"{'micro' if max(fractions) < 10**6 else 'nano'}seconds where 2^-32 s are meant.",
        )  # fmt: skip
    elif seen.repeated() > 2:
        diagnosis.found(
            "note", "clock",
            f"{seen.repeated()} {which} after another have the same time stamp: its clock ticks "
            "more slowly than it sends.",
        )  # fmt: skip


def _judge_clock(diagnosis: Diagnosis, session: Session) -> None:
    offsets = [s.offset for s in diagnosis.streams.values() if s.offset is not None]
    if not offsets:
        asked = ", so its clock cannot be known, and is not asked for" if session.ask_clock else ""
        diagnosis.found("note", "clock", f"It sets no time stamps (3D Slicer never does){asked}.")
        return
    offset = statistics.median(offsets)
    if diagnosis.clock.known:
        diagnosis.found(
            "ok", "clock",
            f"{str(diagnosis.clock).capitalize()}. By it messages arrive "
            f"{1000 * (offset + diagnosis.clock.offset):.1f} ms after their time stamps.",
        )  # fmt: skip
        return
    if diagnosis.clock_failure:
        diagnosis.found("note", "clock", f"Its clock cannot be known: {diagnosis.clock_failure}.")
    hint = "" if session.ask_clock else ", or the clock of the peer is asked for: --clock"
    if abs(offset) > _YEAR:
        day = time.strftime("%Y-%m-%d", time.gmtime(max(0.0, time.time() - offset)))
        diagnosis.found(
            "note", "clock",
            f"Its time stamps are of {day}: they do not count from 1970 (but from the start of the "
            "device, perhaps), or its clock was never set. Latencies that are computed from them "
            f"mean nothing until the clocks are set by NTP{hint}.",
        )  # fmt: skip
    elif abs(offset) > 1:
        way = "behind" if offset > 0 else "ahead of"
        diagnosis.found(
            "note", "clock",
            f"Its time stamps are {abs(offset):.1f} s {way} the clock here: latencies that are "
            f"computed from them mean nothing until the clocks are set by NTP{hint}.",
        )  # fmt: skip
    else:
        diagnosis.found("ok", "clock", f"Arrivals are {1000 * offset:.1f} ms behind time stamps.")
