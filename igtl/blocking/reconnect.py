"""A new link after each disconnect: `reconnect`."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from typing import Unpack

from igtl.blocking.link import Link
from igtl.blocking.opening import connect_once
from igtl.blocking.steps import run
from igtl.options import PORT, ConnectOptions, ConnectSettings
from igtl.session.backoff import Backoff, OnEvent, Reconnecting, Supervisor


def reconnect(
    host: str = "localhost",
    port: int = PORT,
    *,
    backoff: Backoff | None = None,
    on_event: OnEvent | None = None,
    **settings: Unpack[ConnectSettings],
) -> Generator[Link]:
    """Yield a new link after each disconnect, for ever.

        for link in igtl.reconnect("tracker", backoff=igtl.Backoff(0.1, 30)):
            for message in link: ...

    Iterating over such a link ends on any disconnect, whose cause is `link.close_reason`. The next
    turn closes the link, waits, and connects again.

    Args:
        host: of the server.
        port: of the server.
        backoff: default Backoff().
        on_event: called with a LinkEvent each time.
        settings: see `igtl.options.ConnectOptions`; a hello is sent on each connection.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
        OSError, ssl.SSLError, ProtocolError: the last error, when the backoff gives up.
    """
    options = ConnectOptions.of(settings).for_reconnecting()
    supervisor = Supervisor((host, port), backoff or Backoff(), on_event)
    open_link = partial(connect_once, host, port, options, ends_quietly=True)
    return _links(Reconnecting(supervisor, open_link, time.sleep))


def _links(reconnecting: Reconnecting) -> Generator[Link]:
    try:
        while True:
            yield run(reconnecting.next_link())
    finally:
        run(reconnecting.close())
