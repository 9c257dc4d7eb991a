"""Callbacks and latest values: a link that is read in a thread of its own.

    with igtl.subscribe(link, start=False) as incoming:

        @incoming.on(Transform, "Probe*")
        def _(message): ...

        incoming.start()
        pose = incoming.latest(Transform, "ProbeToTracker")

Handlers run in a second thread, so the connection is read whatever they do. In asyncio
`igtl.aio.subscribe(link)` does the same in tasks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from typing import Self

from igtl.blocking.changes import Changes, guarded
from igtl.blocking.link import Asking, Link
from igtl.blocking.steps import method, run
from igtl.session import subscribing
from igtl.session.subscribing import SubscriberOf


class Subscriber(SubscriberOf[Link], Asking):
    """Reads a link in a thread of its own; see `subscribe`.

    Others may send on the link, and ask with `query` and `command`, also in a handler. Keep the
    subscriber: its link is closed when nothing refers to it any more.

    Attributes: see `SubscriberOf`.
    """

    def __init__(self, link: Link, *, frames: bool) -> None:
        super().__init__(link, Changes(), guarded, frames=frames)
        receiving = self._receiving  # what the threads refer to
        works = {"subscriber": receiving.receive, "handlers": receiving.call_handlers}
        self._threads = [
            threading.Thread(target=lambda w=work: run(w()), name=f"igtl {name}", daemon=True)
            for name, work in works.items()
        ]

    def start(self) -> None:
        """Begin to receive, after `subscribe(start=False)`."""
        for thread in self._threads:
            thread.start()

    wait = method(subscribing.wait)

    def close(self) -> None:
        """Close the link, and wait for a handler that is at work."""
        self.link.close()
        for thread in self._threads:
            if thread.is_alive() and threading.current_thread() is not thread:
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        threads = getattr(self, "_threads", None)
        if threads is None or self._process != os.getpid():
            return
        if threads[0].is_alive() and not self.link.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            if not sys.is_finalizing():  # see DrainedLink
                with contextlib.suppress(OSError):
                    self.link.close()


def subscribe(link: Link, *, start: bool = True, frames: bool = False) -> Subscriber:
    """Read a link in a thread of its own: callbacks, and the newest message of each stream.

    A link that reconnects by itself goes on over all connections.

    Args:
        link: which the subscriber closes at its end.
        start: False: receive only from `start()` on, so that handlers registered before miss
            nothing.
        frames: give each message as it came, as a Frame: undecoded, its CRC unchecked, for
            relays and recorders. A handler is chosen by the class of the frame's type. Answers to
            `query` and `command` are not among them.
    """
    subscriber = Subscriber(link, frames=frames)
    if start:
        subscriber.start()
    return subscriber
