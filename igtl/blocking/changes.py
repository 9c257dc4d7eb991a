"""What threads that share something wait for, and how they call functions of the user."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from igtl.log import logger

T = TypeVar("T")
_WINDOWS = sys.platform == "win32"


class Changes(threading.Condition):
    """Held by a thread that uses what is shared, and told when something has happened."""

    def __exit__(self, *raised: Any) -> None:
        try:
            super().__exit__(*raised)
        except RuntimeError:  # Ctrl-C came within `wait`, where the lock is given up
            if raised[0] is None:
                raise

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as a condition does; Ctrl-C interrupts it on Windows too, unlike a lock."""
        if not _WINDOWS:
            return super().wait(timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            if super().wait(min(0.2, left)):
                return True
        return False

    def tell(self) -> None:
        """Wake all threads that wait."""
        with self:
            self.notify_all()

    def until(self, take: Callable[[], T | None], timeout: float | None) -> T:
        """Wait until `take` returns something, and return that.

        Raises:
            TimeoutError: that took longer than `timeout` seconds; None waits without end.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        with self:
            while (found := take()) is None:
                left = end - time.monotonic()
                if left <= 0 or not self.wait(None if left == math.inf else left):
                    raise TimeoutError
            return found


def guarded(handler: Callable[..., Any], *args: Any, peer: Any = None) -> None:
    """Call a function of the user; what it raises is logged."""
    try:
        handler(*args)
    except BaseException as error:  # SystemExit would end the thread, and every handler with it
        fields = {"peer": peer, "cause": error}
        logger.error("a handler failed", exc_info=error, extra=fields)
