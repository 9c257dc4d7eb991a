"""What Zenoh reports, handled in a thread of our own.

Zenoh calls Python from threads of its own, which the interpreter cannot wait for: one that runs
Python code while the interpreter ends aborts the process, and one that waits holds up the
connection. So they only queue what they report.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from igtl.extras import need
from igtl.log import log

_MOST: Final = 100_000  # reports that wait; further ones are refused
_PATIENCE: Final = 2.0  # seconds for what a thread does when it is to end


class Events:
    """Queues reports of Zenoh, and handles them one after the other.

    Args:
        close: of the end of the bridge, called when the interpreter ends without it.
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._zenoh = need("zenoh", "bridge")
        self._queue: queue.Queue[Any] = queue.Queue(_MOST)
        self._close = close
        atexit.register(close)
        self._thread = threading.Thread(target=self._run, name="igtl bridge events", daemon=True)
        self._thread.start()

    def handler(self, work: Callable[[Any], Any]) -> Any:
        """Make what Zenoh takes as a callback; `work` gets each report."""

        def put(report: Any) -> None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait((work, report))

        return self._zenoh.handlers.Callback(put, indirect=False)

    def _run(self) -> None:
        while (found := self._queue.get()) is not None:
            work, report = found
            try:
                work(report)
            except Exception as error:
                log(logging.ERROR, "the bridge fails: %s", error, cause=error, error=error)

    def close(self) -> None:
        """Handle no more."""
        atexit.unregister(self._close)
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)
        joined(self._thread)


def joined(thread: threading.Thread) -> None:
    """Wait for a thread that was told to end, unless it is this one, or does not come back."""
    if thread is not threading.current_thread():
        thread.join(_PATIENCE)
