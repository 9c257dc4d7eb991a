"""A new link after each disconnect, in asyncio; see `igtl.reconnect`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Unpack

from igtl.aio.link import Link, connect_once
from igtl.options import PORT, AioConnectOptions, AioConnectSettings
from igtl.session.backoff import Backoff, OnEvent, Supervisor


def reconnect(
    host: str = "localhost",
    port: int = PORT,
    *,
    backoff: Backoff | None = None,
    on_event: OnEvent | None = None,
    **settings: Unpack[AioConnectSettings],
) -> AsyncGenerator[Link]:
    """Yield a new link after each disconnect:

        async for link in igtl.aio.reconnect("tracker"): ...

    See `igtl.reconnect`.
    """
    supervisor = Supervisor((host, port), backoff or Backoff(), on_event)
    return _links(host, port, supervisor, AioConnectOptions.of(settings).for_reconnecting())


async def _links(
    host: str, port: int, supervisor: Supervisor, options: AioConnectOptions
) -> AsyncGenerator[Link]:
    while True:
        try:
            link = await connect_once(host, port, options, ends_quietly=True)
        except OSError as error:
            await asyncio.sleep(supervisor.failed(error))
            continue
        supervisor.connected()
        try:
            yield link
        finally:
            await link.close()
        await asyncio.sleep(supervisor.lost(link.close_reason))
