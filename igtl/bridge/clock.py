"""How old a message is whose sender has another clock."""

from __future__ import annotations


class Clock:
    """The monotonic clock of another computer, seen from here.

    What is wanted is the offset between both clocks. Each message that arrives bounds it from one
    side: it was sent before it arrived. Each question for the other clock bounds it from both: the
    answer was made between question and arrival. The estimate is moved no further than these bounds
    ask for, so it follows clocks that drift, and one that stood still while its computer slept. An
    age is right to within the shortest round trip of such a question; wall clocks do not matter.

    Attributes:
        measured: whether the other clock has answered yet.
    """

    def __init__(self) -> None:
        self.measured = False
        self._offset: float | None = None  # time here minus time there

    def age(self, sent: float, now: float) -> float:
        """Return the seconds that a message took from there to here, beyond the shortest way."""
        offset = now - sent
        if self._offset is None or offset < self._offset:
            self._offset = offset
        return offset - self._offset

    def answered(self, asked: float, there: float, now: float) -> None:
        """Note that the other clock showed `there` between `asked` and `now` here."""
        least, most = asked - there, now - there
        offset = most if self._offset is None else self._offset
        self._offset = min(max(offset, least), most)
        self.measured = True
