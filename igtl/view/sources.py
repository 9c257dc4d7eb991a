"""Threads that receive for the page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, IgtlError, MessageTooLarge, ProtocolError
from igtl.log import named
from igtl.view.feed import Feed

_POLL = 0.25  # seconds after which a thread looks whether it shall end


class Following:
    """Reads a link in a thread of its own, until this or the link is closed.

    Closing it does not close the link.
    """

    def __init__(self, feed: Feed, link: Any) -> None:
        self._feed = feed
        self._link = link
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="igtl view", daemon=True)
        if hasattr(link, "stats"):
            feed.watch(lambda: link.stats)
        self._thread.start()

    def _run(self) -> None:
        name = named(getattr(self._link, "peer", None)) or "the link"
        try:
            for message in self._messages():
                self._feed.take(message)
        except ConnectionClosed as error:
            if not self._closed.is_set():
                self._feed.note(str(error), source=name, severity="warn")
        except (IgtlError, OSError) as error:
            self._feed.note(str(error), source=name, severity="warn")

    def _messages(self) -> Iterator[Message]:
        while not self._closed.is_set():
            try:
                found = self._link.recv(timeout=_POLL)
            except TimeoutError:
                continue
            except MessageTooLarge:
                raise
            except ProtocolError:  # counted by the link
                continue
            yield found[0] if isinstance(found, tuple) else found  # of datagrams: with the sender

    def close(self) -> None:
        """End the thread, and wait for it."""
        self._closed.set()
        self._thread.join()
