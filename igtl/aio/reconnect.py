"""A new link after each disconnect, in asyncio; see `igtl.reconnect`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Unpack

from igtl.aio.link import Link, connect_once
from igtl.aio.steps import run
from igtl.options import PORT, AioConnectOptions, AioConnectSettings
from igtl.session.backoff import Backoff, OnEvent, Reconnecting, Supervisor


def reconnect(
    host: str = "localhost",
    port: int = PORT,
    *,
    backoff: Backoff | None = None,
    on_event: OnEvent | None = None,
    **settings: Unpack[AioConnectSettings],
) -> AsyncGenerator[Link]:
    """Yield a new link after each disconnect.

        async for link in igtl.aio.reconnect("tracker"): ...

    Arguments are those of `igtl.reconnect`.
    """
    options = AioConnectOptions.of(settings).for_reconnecting()
    supervisor = Supervisor((host, port), backoff or Backoff(), on_event)
    open_link = partial(connect_once, host, port, options, ends_quietly=True)
    return _links(Reconnecting(supervisor, open_link, asyncio.sleep))


async def _links(reconnecting: Reconnecting) -> AsyncGenerator[Link]:
    try:
        while True:
            yield await run(reconnecting.next_link())
    finally:
        await run(reconnecting.close())
