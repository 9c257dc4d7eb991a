"""Callbacks that are called once, with the reason why a link has closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from igtl.log import logger

Callback = Callable[[Exception], Any]


class Once:
    """Callbacks that are called once, when something has ended; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callback] = []
        self._reason: Exception | None = None

    def add(self, callback: Callback) -> None:
        """Call a function with the reason at the end; at once if that was before."""
        with self._lock:
            if self._reason is None:
                self._callbacks.append(callback)
                return
        call(callback, self._reason)

    def tell(self, reason: Exception | None) -> None:
        """End with this reason, if it is one; only the first reason counts.

        What a callback raises is logged.
        """
        if reason is None:
            return
        with self._lock:
            self._reason = self._reason or reason
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            call(callback, self._reason)


def call(callback: Callable[..., Any], *args: Any) -> None:
    """Call what a user has registered; what it raises is logged."""
    try:
        callback(*args)
    except Exception:
        logger.exception("a callback failed")
