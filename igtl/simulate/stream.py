"""A device that sends at its rate, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.tools.rate import Rate


class Stream:
    """Sends what a device shows at a fixed rate, in a thread of its own; the message id counts.

    Args:
        produce: the message for a time in seconds since the start.
        send: takes each message.
        hz: messages per second.

    Attributes:
        sent: messages so far.
        seconds: time of the last one since the start.
    """

    def __init__(
        self, produce: Callable[[float], Message], send: Callable[[Message], Any], hz: float
    ) -> None:
        self._produce = produce
        self._send = send
        self._rate = Rate(hz)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0
        self.seconds = 0.0
        self._thread.start()

    def _run(self) -> None:
        for tick in self._rate:
            if self._stop.is_set():
                return
            self.seconds = tick * self._rate.period
            message = self._produce(self.seconds)
            message.message_id = self.sent + 1
            try:
                self._send(message)
            except (ConnectionClosed, OSError):
                return
            self.sent += 1

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stop.set()
        self._thread.join()
